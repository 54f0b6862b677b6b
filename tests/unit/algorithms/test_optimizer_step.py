"""One optimizer step over micro-batches: the loss by hand, and gradients that do not depend on how the batch is cut."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.policy import PolicyObjective, policy_update, token_sums
from openr1.algorithms.token_ops import TokenOutputs

LN2 = math.log(2)
VOCABULARY = 11
SETTINGS = PolicyObjective("ppo", ClipBounds(0.2, 0.3), kl_coef=0.1)
LONGEST = 16
"""Of a response, for weights that are constant."""


class PlainEngine(nn.Module):
    """A bigram model with plain SGD: what DeepSpeed does on one rank, without DeepSpeed."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))
        self.calls: list[str] = []
        self.gradient = torch.zeros_like(self.table)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> TokenOutputs:
        """Token t is drawn from the softmax of the row of token t - 1."""
        logits = self.table[input_ids].roll(1, dims=1)
        distribution = torch.distributions.Categorical(logits=logits)
        log_probs = distribution.log_prob(input_ids) * response_mask
        return TokenOutputs(log_probs, distribution.entropy().detach(), torch.zeros_like(log_probs))

    def backward(self, loss: Tensor) -> None:
        """Accumulate."""
        self.calls.append("backward")
        loss.backward()

    def step(self) -> None:
        """Keep the gradient for the test, apply it, clear it."""
        self.calls.append("step")
        assert self.table.grad is not None
        self.gradient = self.table.grad.clone()
        with torch.no_grad():
            self.table.sub_(0.1 * self.table.grad)
        self.table.grad = None


class FixedEngine(nn.Module):
    """Log-probs that are themselves the parameters: loss and gradient are then sums by hand."""

    def __init__(self, log_probs: Tensor) -> None:
        super().__init__()
        self.log_probs = nn.Parameter(log_probs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> TokenOutputs:
        """The same whatever the tokens."""
        return TokenOutputs(self.log_probs, torch.ones_like(response_mask).float(), self.log_probs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate."""
        loss.backward()

    def step(self) -> None:
        """Keep everything as it is, for the test to look at."""


def make_batch() -> TrainBatch:
    """Eight rows of different lengths, some ratios out of bounds, and a reference."""
    generator = torch.Generator().manual_seed(1)
    rows = [
        (torch.randint(0, VOCABULARY, (2 + index % 3,), generator=generator).tolist(), [1] * length)
        for index, length in enumerate((3, 9, 1, 12, 7, 5, 2, 6))
    ]
    batch = TrainBatch.from_tokens(rows).with_advantages(torch.randn(8, generator=generator))
    outputs = PlainEngine()(batch.input_ids, batch.attention_mask, batch.response_mask)
    noise = 0.4 * torch.randn(batch.input_ids.shape, generator=generator)
    old_log_probs = (outputs.log_probs.detach() + noise) * batch.response_mask
    ref_log_probs = (outputs.log_probs.detach() - 0.5 * noise) * batch.response_mask
    batch = replace(batch, old_log_probs=old_log_probs, ref_log_probs=ref_log_probs)
    return batch.with_loss_weights("token", LONGEST)


def update(
    micro_batches: Sequence[TrainBatch], settings: PolicyObjective, num_ranks: int = 1
) -> tuple[Tensor, dict[str, float]]:
    """Gradient and sums of one update from the same initial weights."""
    engine = PlainEngine()
    sums = policy_update(engine, micro_batches, settings, num_ranks)
    assert engine.calls == ["backward"] * len(micro_batches) + ["step"]
    return engine.gradient, sums


def test_cutting_into_micro_batches_changes_nothing() -> None:
    """Catches a mean per micro-batch, a step after each of them, and sums that leave one out."""
    batch = make_batch()
    gradient, sums = update([batch], SETTINGS)
    assert 0 < sums["clipped"] < sums["tokens"]
    cut = [batch.select(rows) for rows in ([3, 1], [0, 7, 4], [6, 5, 2], [])]
    cut_gradient, cut_sums = update(cut, SETTINGS)
    torch.testing.assert_close(cut_gradient, gradient, rtol=1e-5, atol=1e-6)
    assert cut_sums == pytest.approx(sums, rel=1e-5)


def test_sharing_over_ranks_changes_nothing() -> None:
    """Catches a mean per rank: the ranks hold 33 and 12 tokens, and the average of their means is not the mean."""
    batch = make_batch()
    gradient, sums = update([batch], SETTINGS)
    shares = [batch.select([1, 3, 4, 5]), batch.select([0, 2, 6, 7])]
    assert [share.num_response_tokens for share in shares] == [33, 12]
    (first, first_sums), (second, second_sums) = (update([share], SETTINGS, num_ranks=2) for share in shares)
    # What data parallelism does with gradients: it averages them.
    torch.testing.assert_close((first + second) / 2, gradient, rtol=1e-5, atol=1e-6)
    assert {name: first_sums[name] + second_sums[name] for name in sums} == pytest.approx(sums, rel=1e-5)


def hand_batch() -> TrainBatch:
    """Two rows: two response tokens with advantage 1, one with advantage -1; ratios 1, 3/2 and 1/2, see below."""
    batch = TrainBatch.from_tokens([([5, 5], [1, 2]), ([5], [3])])
    # [B, T] = [2, 4]. Log-probs in test_loss_by_hand: tokens (0, 2), (0, 3) and (1, 1).
    ratios = torch.tensor([[1.0, 1.0, 1.0, 1.5], [1.0, 0.5, 1.0, 1.0]])
    return replace(
        batch.with_advantages(torch.tensor([1.0, -1.0])),
        old_log_probs=(HAND_LOG_PROBS - ratios.log()) * batch.response_mask,
        loss_weights=batch.response_mask / 3,
    )


HAND_LOG_PROBS = torch.tensor([[0.0, 0.0, -1.0, -2.0], [0.0, -3.0, 0.0, 0.0]])


def test_loss_by_hand() -> None:
    """Catches a sum over padding, a wrong sign, a KL term that is not weighed, and a division by the wrong count."""
    batch = hand_batch()
    # other - policy = ln 2 everywhere: k3 = 2 - ln 2 - 1 = 1 - ln 2 for each of the three tokens.
    batch = replace(batch, ref_log_probs=(HAND_LOG_PROBS + LN2) * batch.response_mask)
    engine = FixedEngine(HAND_LOG_PROBS.clone())
    sums = policy_update(engine, [replace(batch, loss_weights=batch.response_mask / 6)], SETTINGS, num_ranks=1)
    # Surrogates, bounds 0.8 and 1.3: -1 * 1 = -1; -min(1.5, 1.3) = -1.3, clipped; -min(-0.5, -0.8) = 0.8, clipped.
    assert sums["loss"] == pytest.approx((-1 - 1.3 + 0.8 + 0.1 * 3 * (1 - LN2)) / 6, rel=1e-5)
    assert sums["kl"] == pytest.approx(3 * (1 - LN2), rel=1e-5)
    assert (sums["clipped"], sums["tokens"], sums["entropy"]) == (2, 3, 3)
    # Gradient of the surrogate: -ratio * A where it is not clipped. Of the KL term: 0.1 * (1 - exp(ln 2)) = -0.1.
    expected = torch.tensor([[0.0, 0.0, -1.0 - 0.1, -0.1], [0.0, -0.1, 0.0, 0.0]]) / 6
    torch.testing.assert_close(engine.log_probs.grad, expected)


def test_loss_without_reference_by_hand() -> None:
    """Catches a KL term against missing log-probs, which would be 0 and so a certainty."""
    engine = FixedEngine(HAND_LOG_PROBS.clone())
    sums = policy_update(engine, [hand_batch()], SETTINGS, num_ranks=1)
    assert sums["loss"] == pytest.approx((-1 - 1.3 + 0.8) / 3, rel=1e-5)
    assert sums["kl"] == 0
    expected = torch.tensor([[0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]) / 3
    torch.testing.assert_close(engine.log_probs.grad, expected)


def test_first_update_has_ratio_one() -> None:
    """Catches a ratio to the engine's log-probs, or a gradient lost with it, where no old log-probs are given."""
    batch = replace(hand_batch(), old_log_probs=None)
    engine = FixedEngine(HAND_LOG_PROBS.clone())
    sums = policy_update(engine, [batch], SETTINGS, num_ranks=2)
    # Ratio 1: -A a token, so -1 - 1 + 1; the gradient is -A too, times 2 ranks / 3 tokens.
    assert sums["loss"] == pytest.approx(-1 / 3)
    assert sums["clipped"] == 0
    expected = torch.tensor([[0.0, 0.0, -1.0, -1.0], [0.0, 1.0, 0.0, 0.0]]) * 2 / 3
    torch.testing.assert_close(engine.log_probs.grad, expected)


def test_token_sums_by_hand() -> None:
    """Catches a mismatch in the wrong direction, an average of averages, and padding that counts."""
    batch = TrainBatch.from_tokens([([5], [1, 2]), ([5], [3])])
    mask = batch.response_mask
    rollout_log_probs = torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, 0.0]])
    difference = torch.tensor([[0.0, LN2, -2 * LN2], [0.0, 0.0, 0.0]])
    # NaN outside the mask, which must not be read.
    outside = torch.where(mask, 0.0, float("nan"))
    batch = replace(batch, rollout_log_probs=rollout_log_probs + outside)
    sums = token_sums(batch, rollout_log_probs + difference)
    # k3 of KL(engine || trainer) for ln 2, -2 ln 2 and 0: (2 - ln 2 - 1) + (1/4 + 2 ln 2 - 1) + 0 = ln 2 + 1/4.
    # Importance weights 2, 1/4 and 1: sum 3.25, squares 4 + 1/16 + 1 = 5.0625.
    expected = {
        "mismatch_abs": 3 * LN2,
        "mismatch_kl": LN2 + 0.25,
        "weight": 3.25,
        "weight_squared": 5.0625,
        "tokens": 3.0,
    }
    assert sums == pytest.approx(expected, rel=1e-5)


def test_mismatch_is_taken_before_the_update() -> None:
    """Catches a mismatch that grows with what this step has already learned, not with an engine that is wrong."""
    batch = replace(hand_batch(), rollout_log_probs=HAND_LOG_PROBS.clone())
    engine = FixedEngine(HAND_LOG_PROBS.clone())
    sums = policy_update(engine, [batch], SETTINGS, num_ranks=1)
    # Old minus rollout log-probs = minus log ratio: ln 3/2 and ln 2 in size.
    assert sums["mismatch_abs"] == pytest.approx(math.log(1.5) + LN2, rel=1e-5)
