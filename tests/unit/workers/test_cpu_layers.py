"""bfloat16 models on CPUs without instructions for bfloat16: the same results, by float32 arithmetic."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from openr1.config.sections import LoraConfig, ModelConfig
from openr1.rollout import engine
from openr1.rollout.engine import engine_dtype
from openr1.workers import cpu_layers
from openr1.workers.cpu_layers import attend_in_float32
from openr1.workers.lora import add_adapters
from openr1.workers.model import LogProbModel, load_causal_lm


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Pretends that this CPU multiplies bfloat16 or not; the attention of others is put back."""

    def pretend(multiplies: bool) -> None:
        for module in (cpu_layers, engine):
            monkeypatch.setattr(module, "cpu_multiplies_bfloat16", lambda: multiplies)
        AttentionInterface.register("sdpa", sdpa_attention_forward)

    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    yield pretend
    AttentionInterface.register("sdpa", before)


def replaced(model: nn.Module) -> set[str]:
    """Names of the layers whose forward pass is not their own."""
    return {name for name, layer in model.named_modules() if "forward" in vars(layer)}


def linear(model: nn.Module) -> set[str]:
    """Names of all linear layers."""
    return {name for name, layer in model.named_modules() if type(layer) is nn.Linear}


def log_probs_and_gradients(settings: ModelConfig) -> tuple[Tensor, Tensor]:
    """Of three rows of different lengths."""
    lm = load_causal_lm(settings)
    ids = torch.randint(3, 200, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(12) < torch.tensor([12, 9, 12])[:, None]
    result = LogProbModel(lm, 1.0)(ids, mask, mask & (torch.arange(12) > 3)).log_probs
    result.sum().backward()
    gradients = [parameter.grad.flatten().float() for parameter in lm.parameters() if parameter.grad is not None]
    return result.detach(), torch.cat(gradients)


@pytest.mark.parametrize("packing", [False, True])
def test_results_are_those_of_bfloat16(
    tiny_model: Callable[[bool], Path], cpu: Callable[[bool], None], packing: bool
) -> None:
    """Catches a layer that computes something else, and one that the gradient does not pass; padded and packed."""
    settings = ModelConfig(path=tiny_model(False), packing=packing)
    cpu(True)
    expected, gradient = log_probs_and_gradients(settings)
    cpu(False)
    found, own = log_probs_and_gradients(settings)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attend_in_float32
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)
    assert torch.cosine_similarity(own, gradient, 0) > 0.999
    assert float(own.norm()) == pytest.approx(float(gradient.norm()), rel=0.01)


def test_which_layers_and_when(tiny_model: Callable[[bool], Path], cpu: Callable[[bool], None]) -> None:
    """Catches adapters that stay slow, a head that loses its float32 logits, and a change on CPUs that need none."""
    settings = ModelConfig(path=tiny_model(False), packing=False)
    cpu(True)
    assert replaced(load_causal_lm(settings)) == {"lm_head"}
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
    cpu(False)
    assert replaced(load_causal_lm(settings.model_copy(update={"dtype": "float32"}))) == {"lm_head"}
    lm = load_causal_lm(settings)
    head = lm.lm_head.forward
    assert replaced(lm) == linear(lm)
    adapted = add_adapters(lm, LoraConfig(rank=2))
    assert replaced(adapted) == linear(adapted)
    assert sum("lora_" in name for name in replaced(adapted)) == 28  # A and B of seven layers in two blocks.
    assert lm.lm_head.forward is head
    assert lm(torch.tensor([[5, 6]])).logits.dtype == torch.float32


def test_a_gpu_needs_none_of_it(
    tiny_model: Callable[[bool], Path], cpu: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches float32 arithmetic on a GPU, because of the CPU beside it."""
    cpu(False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert replaced(load_causal_lm(ModelConfig(path=tiny_model(True), attention="sdpa"))) == {"lm_head"}


def test_attention_with_a_mask() -> None:
    """Catches masks of float that do not fit the copies, and a result in another data type."""
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(2, 3, 6, 8, generator=generator).bfloat16() for _ in range(3))
    mask = torch.zeros(2, 1, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    layer = nn.Module()
    found, _ = attend_in_float32(layer, query, key, value, mask.bfloat16())
    expected, _ = sdpa_attention_forward(layer, query.float(), key.float(), value.float(), mask)
    assert torch.equal(found, expected.bfloat16())


@pytest.mark.parametrize(
    ("dtype", "on_gpu", "multiplies", "expected"),
    [
        ("bfloat16", False, True, "bfloat16"),
        ("bfloat16", False, False, "float32"),
        ("bfloat16", True, False, "bfloat16"),
        ("float32", False, False, "float32"),
    ],
)
def test_data_type_of_an_engine(
    cpu: Callable[[bool], None], dtype: str, on_gpu: bool, multiplies: bool, expected: str
) -> None:
    """Catches an engine on a GPU that doubles its weights, and one on a CPU that multiplies in plain loops."""
    cpu(multiplies)
    assert engine_dtype(dtype, on_gpu) == expected
