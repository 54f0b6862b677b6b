#!/usr/bin/env bash
# The same PEFT call gives bfloat16 adapters on a device and float32 adapters on meta (PEFT 0.21.2).
#
# With autocast_adapter_dtype=False an adapter is meant to have the data type of the layer that it is added to. Models are
# built on the meta device to plan their memory, or to load their weights later.
# Guess before the run: the data types are those of the base on both.
# Seen: on meta adapters stay float32 beside a bfloat16 base, so that a count of bytes there is too high, and a model that
# is filled from meta multiplies in float32. PEFT converts adapters while it moves them to the base layer's device, and
# it does not move them to meta.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
torch=torch==2.13.0+cpu
install "$torch" 2>/dev/null || install --index-url https://download.pytorch.org/whl/cpu "$torch"
install numpy transformers==5.19.0 peft==0.21.2
"$folder/venv/bin/python" - <<'PYTHON'
import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

shape = LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64, tie_word_embeddings=True
)


def adapter_types(device):
    """Data types of the base's weights and of the adapters."""
    with torch.device(device):
        model = LlamaForCausalLM._from_config(shape, dtype=torch.bfloat16)
        settings = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, settings, autocast_adapter_dtype=False)
    types = {"base": set(), "adapters": set()}
    for name, parameter in model.named_parameters():
        types["adapters" if "lora_" in name else "base"].add(str(parameter.dtype))
    return types


found = {device: adapter_types(device) for device in ("cpu", "meta")}
print("peft", peft.__version__)
for device, types in found.items():
    print(device, types)
assert found == {
    "cpu": {"base": {"torch.bfloat16"}, "adapters": {"torch.bfloat16"}},
    "meta": {"base": {"torch.bfloat16"}, "adapters": {"torch.float32"}},
}, "the behaviour has changed"
PYTHON
