"""Adapters: merged weights against PEFT's own, and a whole run that trains nothing else."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from openr1.config.sections import LoraConfig, ModelConfig
from openr1.errors import ConfigError
from openr1.workers.lora import add_adapters, full_weights
from openr1.workers.model import load_causal_lm
from tests.running import read_jsonl, run_grpo, write_config

TOKENS = torch.tensor([[5, 17, 99, 301, 42, 7]])


def log_probs(model: torch.nn.Module) -> torch.Tensor:
    """Log-softmax over the vocabulary at every position, in float32."""
    with torch.no_grad():
        return torch.log_softmax(model(TOKENS).logits.float(), dim=-1)


@pytest.mark.parametrize("tied", [True, False])
def test_merged_weights_are_those_of_peft(tied: bool, tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches a forgotten scaling, A and B swapped, names with traces of PEFT, and tied weights that come twice.

    PEFT reads the saved adapters into a fresh model and merges them itself.
    """
    base = tiny_model(tied)
    lm = load_causal_lm(ModelConfig(path=base, dtype="float32"))
    before = log_probs(lm)
    adapted = add_adapters(lm, LoraConfig(rank=4, alpha=12.0))
    torch.testing.assert_close(log_probs(lm), before)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path)
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = [name for name, _ in fresh.named_parameters()]
    by_peft = peft.PeftModel.from_pretrained(fresh, tmp_path).merge_and_unload()
    merged = {weight.name: weight.merged() for weight in full_weights(lm)}
    assert list(merged) == names
    for name, parameter in by_peft.named_parameters():
        torch.testing.assert_close(merged[name], parameter.data)
    plain = load_causal_lm(ModelConfig(path=base, dtype="float32"))
    plain.load_state_dict(merged, strict=False)
    torch.testing.assert_close(log_probs(plain), log_probs(by_peft), rtol=0, atol=1e-5)
    assert (log_probs(plain) - before).abs().max() > 0.01, "the adapters change nothing; the test has no power"


def test_merging_adds_in_float32(tiny_model: Callable[[bool], Path]) -> None:
    """Catches an update that is rounded to bfloat16 before it is added: 256 + 1.5 + 1.5 is 259, here rounded once."""
    lm = load_causal_lm(ModelConfig(path=tiny_model(True), dtype="bfloat16"))
    add_adapters(lm, LoraConfig(rank=2, alpha=2.0, target_modules=["q_proj"]))
    weight = next(weight for weight in full_weights(lm) if weight.adapter is not None)
    assert weight.adapter is not None
    a, b, scaling = weight.adapter
    assert scaling == 1.0
    weight.base.data.fill_(256.0)
    a.data.fill_(1.0)
    b.data.fill_(1.5)
    # bfloat16 has a spacing of 2 from 256 on; 259 lies between and is rounded to the even neighbour, 260.
    assert weight.merged().dtype == torch.bfloat16
    assert weight.merged().float().unique().tolist() == [260.0]


@pytest.mark.parametrize(
    ("modules", "told"), [(["nothing_like_it"], "nothing_like_it"), (["embed_tokens"], "not a linear layer")]
)
def test_layers_that_cannot_have_adapters(modules: list[str], told: str, tiny_model: Callable[[bool], Path]) -> None:
    """Catches a traceback of PEFT's for a wrong name, and embeddings whose merge would be wrong."""
    with pytest.raises(ConfigError, match=told):
        add_adapters(load_causal_lm(ModelConfig(path=tiny_model(True))), LoraConfig(target_modules=modules))


@pytest.mark.parametrize("zero_stage", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_run_trains_adapters_alone(
    zero_stage: int, tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path
) -> None:
    """Catches base weights that move, engines that never see the adapters, and an export that PEFT reads otherwise.

    A mismatch of engine and trainer after the first update would show that what was pushed is not what trains. The
    weights are random, so that no reward differs: the reward is the KL term alone, whose gradient is 0 only in step 1.
    """
    base = Path("data/models/tiny_base").resolve()
    config = write_config(
        tmp_path / "config.yaml",
        base,
        countdown_files,
        model={"lora": {"rank": 4, "alpha": 8.0}, "dtype": "float32"},
        data={"held_out": None},
        optimizer={"learning_rate": 1.0e-2},
        policy={"zero_stage": zero_stage},
        num_steps=3,
    )
    run_grpo(config)
    run = tmp_path / "runs/small"
    metrics = read_jsonl(run / "metrics.jsonl")
    assert all(row["rollout/mismatch_abs_mean"] < 1e-4 for row in metrics)
    exported = run / "checkpoints/step_000003/model"
    before, after = load_file(base / "model.safetensors"), load_file(exported / "model.safetensors")
    assert before.keys() == after.keys()
    changed = set()
    for name in before:
        difference = after[name].float() - before[name].float()
        if difference.abs().max() > 0:
            changed.add(name.split(".")[-2])
            singular = torch.linalg.svdvals(difference)
            assert int((singular > 1e-4 * singular[0]).sum()) <= 4, name
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    by_peft = peft.PeftModel.from_pretrained(plain, exported / "adapter").merge_and_unload()
    for name, parameter in by_peft.named_parameters():
        torch.testing.assert_close(after[name], parameter.data, rtol=1e-4, atol=1e-5)
