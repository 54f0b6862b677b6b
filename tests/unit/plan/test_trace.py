"""Traced passes against formulas by hand, and against the memory that the real model takes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from openr1.config.sections import LoraConfig, ModelConfig
from openr1.packing.attention import PACKED_ROWS
from openr1.plan.shapes import read_shape
from openr1.plan.trace import Cost, MicroBatch, TracedModel
from openr1.workers import cpu_layers
from openr1.workers.model import LogProbModel, load_causal_lm
from tests.running import ROOT

TINY = ROOT / "data/models/tiny_base"
# The shape of tiny_base: hidden, layers, key/value width, intermediate, vocabulary.
HIDDEN, LAYERS, KV, INTERMEDIATE, VOCAB = 192, 4, 96, 512, 512
BATCH = MicroBatch(rows=16, length=128, response_length=96)


def traced(values: bool = False, **settings: Any) -> TracedModel:
    config = ModelConfig(path=TINY, **settings)
    return TracedModel(read_shape(config), config, None, values)


def flops_by_kind(cost: Cost) -> Counter[str]:
    total: Counter[str] = Counter()
    for operation, count in cost.operations.items():
        total[operation.kind] += count * operation.flops
    return total


def test_flops_are_those_of_the_products() -> None:
    """Catches products that are not counted or counted twice, a head on prompt tokens, attention of another size.

    By hand: two operations per weight and token, in the layers for all tokens, in the head for those trained on;
    attention multiplies queries by keys and weights by values, over all pairs of a row. Entropies are products of
    probabilities and their logs.
    """
    layer = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * INTERMEDIATE
    forward = flops_by_kind(traced().cost(BATCH, backward=False))
    assert forward["bfloat16"] == 2 * BATCH.tokens * LAYERS * layer
    assert forward["float32"] == 2 * BATCH.rows * BATCH.response_length * (HIDDEN * VOCAB + VOCAB)
    assert forward["attention"] == 2 * 2 * BATCH.rows * BATCH.length**2 * HIDDEN * LAYERS


def test_backward_is_twice_the_forward_pass_and_checkpointing_repeats_it() -> None:
    """Catches a backward pass that is not traced, and recomputation that is not."""
    forward = flops_by_kind(traced().cost(BATCH, backward=False))["bfloat16"]
    both = flops_by_kind(traced().cost(BATCH, backward=True))["bfloat16"]
    # Nothing needs the gradient of the embedded tokens' own input, but that of the first layer's input is needed.
    assert both == 3 * forward
    again = flops_by_kind(traced(gradient_checkpointing=True).cost(BATCH, backward=True))["bfloat16"]
    # The last product of a layer is not needed for its backward pass, and recomputation stops before it.
    last = 2 * BATCH.tokens * LAYERS * HIDDEN * INTERMEDIATE
    assert again == 4 * forward - last


@pytest.mark.parametrize(
    "settings",
    [{}, {"dtype": "float32"}, {"packing": True}, {"gradient_checkpointing": True}],
    ids=["bfloat16", "float32", "packing", "checkpointing"],
)
def test_peak_is_what_the_real_model_takes(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches activations that are forgotten, or kept by tracing alone. PyTorch's profiler watches the real pass."""
    # As on a GPU: without the float32 copies that some CPUs need.
    monkeypatch.setattr(cpu_layers, "cpu_multiplies_bfloat16", lambda: True)
    config = ModelConfig(path=TINY, **settings)
    model = LogProbModel(load_causal_lm(config), 1.0).train()
    if config.packing:
        model.lm.set_attn_implementation(PACKED_ROWS)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(drop_gradient)
    ids = torch.randint(3, VOCAB, (BATCH.rows, BATCH.length))
    responses = torch.ones_like(ids, dtype=torch.bool)
    responses[:, : BATCH.length - BATCH.response_length] = False
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model(ids, torch.ones_like(responses), responses, entropy="value").log_probs.sum().backward()
    kineto: Any = profiled.profiler
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    predicted = traced(**settings).cost(BATCH, backward=True).peak_bytes
    # Most differ by 6 to 7 %, to the safe side: the kernels' outputs are laid out so that a copy is saved.
    assert 0.98 < predicted / peak < 1.1


def drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def test_adapters_alone_are_trained() -> None:
    """Catches frozen weights that count as trained, and adapters that do not.

    By hand, rank 16 on all linear layers: 16 x (inputs + outputs) of each.
    """
    model = traced(lora=LoraConfig(rank=16))
    layer = 2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + KV) + 3 * (HIDDEN + INTERMEDIATE)
    assert model.trained_elements == 16 * LAYERS * layer
    whole = traced()
    assert model.weight_bytes == whole.weight_bytes + 2 * model.trained_elements


def test_the_shape_of_a_published_model() -> None:
    """Catches a shape that is not Qwen2.5-1.5B's: 1,543,714,304 parameters (its model card: 1.54B), and 28 layers of
    two heads of 128 for keys and values."""
    config = ModelConfig(path=Path("models/Qwen2.5-1.5B"), packing=True)
    model = TracedModel(read_shape(config), config, 80 * 2**30)
    assert model.weight_bytes == 2 * 1_543_714_304
    assert model.kv_bytes == 28_672


def test_a_critic_has_no_vocabulary() -> None:
    """Catches a critic that is planned with a policy's head."""
    cost = traced(values=True).cost(BATCH, backward=False)
    assert flops_by_kind(cost)["float32"] == 2 * BATCH.rows * BATCH.response_length * HIDDEN
