"""Bytes of a rank by ZeRO stage, derived by hand."""

from collections import Counter
from dataclasses import dataclass

import pytest

from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.plan.memory import rank_memory
from openr1.plan.trace import Cost
from openr1.plan.traces import largest_micro_batch
from tests.running import ROOT


@dataclass(frozen=True)
class Model:
    """1,000 parameters in bfloat16, all of them trained."""

    itemsize: int = 2
    weight_bytes: int = 2000
    trained_elements: int = 1000


# Larger than any gradient, so that the backward pass is the peak.
COST = Cost(100_000, Counter())
WHOLE = {"weights": 2000, "activations": 100_000}


@pytest.mark.parametrize(
    ("stage", "ranks", "expected"),
    [
        # No ZeRO: float32 weights are updated in place.
        (0, 2, {"optimizer moments": 8000, "gradients": 4000}),
        (1, 1, {"master weights": 4000, "optimizer moments": 8000, "gradients": 4000}),
        # Stage 1 shares the optimizer state, stage 2 also the gradient, stage 3 all.
        (1, 4, {"master weights": 1000, "optimizer moments": 2000, "gradients": 4000}),
        (2, 4, {"master weights": 1000, "optimizer moments": 2000, "gradients": 1000}),
        (
            3,
            4,
            {
                "weights": 500,
                "gathered weights": 2000,
                "master weights": 1000,
                "optimizer moments": 2000,
                "gradients": 1000,
                "reduction bucket": 4000,
            },
        ),
    ],
)
def test_shares_of_a_rank(stage: int, ranks: int, expected: dict[str, int]) -> None:
    """Catches state that is shared where DeepSpeed keeps it whole, or the other way round, and bytes per element."""
    memory = rank_memory(Model(), COST, stage, ranks, "none", on_gpu=False)  # type: ignore[arg-type]
    assert memory.device == WHOLE | expected
    assert memory.host == {}


def test_offload_moves_the_optimizer_state() -> None:
    """Catches offloaded state that counts on the GPU, a gradient of stage 3 there, and host memory that is left out."""
    memory = rank_memory(Model(), COST, 3, 1, "cpu", on_gpu=True)  # type: ignore[arg-type]
    assert memory.device == WHOLE | {"reduction bucket": 4 * 10**8}
    assert memory.host == {
        "master weights": 4000,
        "optimizer moments": 8000,
        "gradients": 4000,
        "staged weights": 2000,
    }


def test_the_end_of_an_update_is_the_peak_of_small_micro_batches() -> None:
    """Catches a peak that is always in the backward pass: copies of the gradient come when activations are gone."""
    memory = rank_memory(Model(), Cost(10, Counter()), 2, 1, "none", on_gpu=False)  # type: ignore[arg-type]
    assert "activations" not in memory.device
    assert memory.device["reduction bucket"] + memory.device["gradient copies"] == 8000


@pytest.mark.parametrize(
    ("tokens", "batch", "expected"),
    [
        # Rows have 224 tokens at most, 160 of them of a response. 8192 / 224 = 36.6: 37 rows of 221 tokens fill it.
        (8192, 256, (37, 221, 157)),
        # One row is more than the budget, and is not cut.
        (100, 256, (1, 224, 160)),
        # There are only four rows.
        (8192, 4, (4, 224, 160)),
    ],
)
def test_the_largest_micro_batch(tokens: int, batch: int, expected: tuple[int, int, int]) -> None:
    """Catches a micro-batch that leaves part of its budget unplanned, and one with more rows than there are."""
    config = load_config(TrainConfig, ROOT / "scripts/configs/grpo_countdown_tiny.yaml", [])
    policy = config.policy.model_copy(update={"micro_batch_tokens": tokens, "train_batch_size": batch})
    made = largest_micro_batch(config.model_copy(update={"policy": policy}), 1)
    assert (made.rows, made.length, made.response_length) == expected
