"""What PEFT gets wrong with some settings, and that none of these can be reached through `model.lora`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, PreTrainedModel

from openr1.config.sections import LoraConfig, ModelConfig
from openr1.errors import ConfigError
from openr1.workers.lora import adapted_layers, add_adapters, check_targets, factors, full_weights
from openr1.workers.model import load_causal_lm

TOKENS = torch.tensor([[5, 17, 99, 301, 42, 7]])
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def trained(model: Path, dtype: str = "bfloat16") -> tuple[PreTrainedModel, peft.PeftModel]:
    """A model whose adapters add something."""
    lm = load_causal_lm(ModelConfig.model_validate({"path": model, "dtype": dtype, "packing": False}))
    adapted = add_adapters(lm, LoraConfig(rank=4, alpha=12.0))
    generator = torch.Generator().manual_seed(0)
    for factor in factors(lm):
        factor.parameter.data = (0.1 * torch.randn(factor.parameter.shape, generator=generator)).to(lm.dtype)
    return lm, adapted


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["q_proj", "nope"], "no layer is called nope; take some of down_proj, gate_proj"),
        (["proj"], "no layer is called proj;"),
        (["lm_head"], "lm_head is not a linear layer of the backbone"),
        (["q_proj", "embed_tokens"], "model.embed_tokens is not a linear layer"),
        (["embed_tokens", "lm_head"], "embed_tokens is not a linear layer"),
        (["self_attn"], "self_attn is not a linear layer"),
        (["all-linear"], "no layer is called all-linear"),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_targets_that_are_refused(
    tied: bool, targets: list[str], told: str, tiny_model: Callable[[bool], Path]
) -> None:
    """Catches a name that PEFT ignores beside one that it knows, and tied weights, to which merging adds B A twice."""
    settings = ModelConfig(path=tiny_model(tied), lora=LoraConfig(target_modules=targets))
    with pytest.raises(ConfigError, match=told):
        add_adapters(load_causal_lm(settings), LoraConfig(target_modules=targets))
    with pytest.raises(ConfigError, match=told):
        adapted_layers(settings)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        ("all-linear", LINEAR),
        (["q_proj", "down_proj"], {"q_proj", "down_proj"}),
        (["self_attn.v_proj", "layers.1.mlp.up_proj"], {"v_proj", "up_proj"}),
    ],
)
def test_the_layers_that_get_adapters(
    tied: bool, targets: Any, layers: set[str], tiny_model: Callable[[bool], Path]
) -> None:
    """Catches a head or embedding among "all-linear", and an engine without room for adapters that PEFT makes."""
    settings = ModelConfig(path=tiny_model(tied), lora=LoraConfig(target_modules=targets))
    assert adapted_layers(settings) == layers
    lm = load_causal_lm(settings)
    assert check_targets(lm, LoraConfig(target_modules=targets)) == layers
    add_adapters(lm, LoraConfig(target_modules=targets))
    assert {factor.name.split(".")[-3] for factor in factors(lm)} == layers


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("alpha_pattern", {"q_proj": 64}),
        ("rank_pattern", {"q_proj": 64}),
        ("use_dora", True),
        ("use_rslora", True),
        ("modules_to_save", ["lm_head"]),
        ("ensure_weight_tying", True),
        ("dropout", 0.1),
        ("target_modules", []),
        ("target_modules", ".*q_proj"),
        ("rank", 513),
    ],
)
def test_settings_that_do_not_exist(key: str, value: object) -> None:
    """Catches initialisations that run again, at random, when an adapter is loaded; patterns that PEFT saves in another
    order than it applies them; a magnitude in bfloat16 (DoRA); and a rank that no engine has room for.
    """
    with pytest.raises(ValidationError, match=key):
        LoraConfig.model_validate({key: value})


def test_adapters_are_plain(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches a default of PEFT's that changes: what is saved must be B A times one scale, on an unchanged base."""
    _, adapted = trained(tiny_model(True))
    adapted.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (saved["init_lora_weights"], saved["use_dora"], saved["use_rslora"], saved["lora_bias"]) == (
        True,
        False,
        False,
        False,
    )
    assert not any(saved[key] for key in ("alpha_pattern", "rank_pattern", "modules_to_save", "lora_dropout"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_base_stays_as_it_was(dtype: str, tiny_model: Callable[[bool], Path]) -> None:
    """Catches pushes, exports and reference passes that merge into the model: taking a rounded sum apart again leaves
    other weights, and a reference pass would leave the base model for the next push.
    """
    model = tiny_model(True)
    lm, adapted = trained(model, dtype)
    base = load_causal_lm(ModelConfig.model_validate({"path": model, "dtype": dtype})).state_dict()
    with torch.no_grad():
        before, values = lm(TOKENS).logits, {factor.name: factor.value() for factor in factors(lm)}
        for _ in range(3):
            assert len([weight.merged() for weight in full_weights(lm)]) > 0
            with adapted.disable_adapter():
                reference = lm(TOKENS).logits
            assert not torch.equal(reference, before)
            assert torch.equal(lm(TOKENS).logits, before)
    for factor in factors(lm):
        assert torch.equal(factor.value(), values[factor.name])
    for weight in full_weights(lm):
        assert torch.equal(weight.base.data, base[weight.name]), weight.name


def test_a_saved_adapter_is_loaded_as_it_was(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches an adapter that PEFT loads as another one: its log-probs are those before it was saved, bit by bit."""
    model = tiny_model(True)
    lm, adapted = trained(model, "float32")
    adapted.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, lm(TOKENS).logits, rtol=0, atol=1e-5)
