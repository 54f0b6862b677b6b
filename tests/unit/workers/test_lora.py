"""Adapters: merged weights against PEFT's own, and a whole run that trains nothing else."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks.model_families import family, write_family
from openr1.config.sections import LoraConfig, ModelConfig
from openr1.workers.lora import KeptUpdate, add_adapters, factors, full_weights
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
    lm = load_causal_lm(ModelConfig(path=base, dtype="float32", packing=False))
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
    plain = load_causal_lm(ModelConfig(path=base, dtype="float32", packing=False))
    plain.load_state_dict(merged, strict=False)
    torch.testing.assert_close(log_probs(plain), log_probs(by_peft), rtol=0, atol=1e-5)
    assert (log_probs(plain) - before).abs().max() > 0.01, "the adapters change nothing; the test has no power"


def test_experts_and_routers_get_no_adapters(tmp_path: Path) -> None:
    """Catches PEFT's all-linear, which takes the tensors of all experts for linear layers: engines refuse these."""
    write_family(family("Qwen3 MoE"), False, tmp_path)
    lm = load_causal_lm(ModelConfig(path=tmp_path, dtype="float32"))
    add_adapters(lm, LoraConfig(rank=4))
    adapted = {factor.name.split(".")[-3] for factor in factors(lm)}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {weight.name for weight in full_weights(lm)} == {
        name for name, _ in load_causal_lm(ModelConfig(path=tmp_path, dtype="float32")).named_parameters()
    }


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
    ("base", "update", "share"),
    [
        # bfloat16 has a spacing of 2 from 256 on, of 1/64 from 2 on, and of 1/128 from 1 on.
        ([256.0, 256.0], 0.5, 0.0),
        ([1.0, 1.0], 0.5, 1.0),
        ([256.0, 1.0], 0.5, 0.5),
        ([256.0, 256.0], 1.5, 2 / 1.5),
        ([1.0, 1.0], 0.0, 1.0),
    ],
)
def test_how_much_of_an_update_is_left(
    base: list[float], update: float, share: float, tiny_model: Callable[[bool], Path]
) -> None:
    """Catches a share that counts what was trained for what was kept: half of the rows have each weight."""
    lm = load_causal_lm(ModelConfig(path=tiny_model(True), dtype="bfloat16"))
    add_adapters(lm, LoraConfig(rank=1, alpha=1.0, target_modules=["q_proj"]))
    kept = KeptUpdate()
    for weight in full_weights(lm):
        if weight.adapter is None:
            continue
        half = weight.base.shape[0] // 2
        weight.base.data[:half], weight.base.data[half:] = base[0], base[1]
        weight.adapter[0].data.fill_(1.0)
        weight.adapter[1].data.fill_(update)
        kept.add(weight, weight.merged())
    assert kept.share == pytest.approx(share)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_engines_get_what_the_trainer_multiplies_with(dtype: str, tiny_model: Callable[[bool], Path]) -> None:
    """Catches an update that is lost before it reaches the engine: 2^-20 is nothing to a merged weight in bfloat16.

    The scale is 12 / 4 = 3, and B is 2^-20: scaled B is 3 x 2^-20, exact in both types.
    """
    lm = load_causal_lm(ModelConfig.model_validate({"path": tiny_model(True), "dtype": dtype}))
    add_adapters(lm, LoraConfig(rank=4, alpha=12.0))
    for factor in factors(lm):
        if ".lora_B." in factor.name:
            factor.parameter.data.fill_(2.0**-20)
    values = {factor.name: factor.value() for factor in factors(lm)}
    assert len(values) == 2 * 7 * 2
    for name, value in values.items():
        assert value.dtype == lm.dtype
        if ".lora_B." in name:
            assert value.float().unique().tolist() == [3 * 2.0**-20]
        else:
            assert torch.equal(value, lm.get_parameter(name.replace(".weight", ".default.weight")).data)


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
    assert "100.0% of the adapter's update is left" in (exported / "README.md").read_text(encoding="utf-8")
    assert "base_model: tiny_base" in (exported / "adapter/README.md").read_text(encoding="utf-8")
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
