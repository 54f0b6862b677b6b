"""Losses, gradients and sums of one optimizer step, worked out by hand for each objective.

That they do not depend on how a batch is cut is in test_objectives.py.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.base import StepStats, combine_ranks
from openr1.algorithms.objectives.dpo import DpoObjective, DpoSums
from openr1.algorithms.objectives.policy import PolicyObjective, PolicySums
from openr1.algorithms.objectives.sft import SftObjective, SftSums
from openr1.algorithms.objectives.value import ValueObjective, ValueSums
from openr1.algorithms.off_policy import OffPolicyCorrection
from openr1.algorithms.optimizer_step import optimizer_step
from openr1.errors import ConfigError
from tests.unit.algorithms.plain import Fixed, FixedValues, PlainBackend

LN2, LN3 = math.log(2), math.log(3)
OBJECTIVE = PolicyObjective("ppo", ClipBounds(0.2, 0.3), kl_coef=0.1)
HAND_LOG_PROBS = torch.tensor([[0.0, 0.0, -1.0, -2.0], [0.0, -3.0, 0.0, 0.0]])


def hand_batch() -> TrainBatch:
    """Two rows: two response tokens with advantage 1, one with advantage -1; ratios 1, 3/2 and 1/2, see below."""
    batch = TrainBatch.from_tokens([([5, 5], [1, 2]), ([5], [3])])
    # [B, T] = [2, 4]. Log-probs in HAND_LOG_PROBS: tokens (0, 2), (0, 3) and (1, 1).
    ratios = torch.tensor([[1.0, 1.0, 1.0, 1.5], [1.0, 0.5, 1.0, 1.0]])
    return replace(
        batch.with_advantages(torch.tensor([1.0, -1.0])),
        old_log_probs=(HAND_LOG_PROBS - ratios.log()) * batch.response_mask,
        loss_weights=batch.response_mask / 3,
    )


def gradients_of(backend: PlainBackend) -> list[Tensor]:
    """Gradients of the parameters that have one, in their order; the step must have been made."""
    assert backend.calls == ["backward", "step"]
    return backend.gradients


# The loop


def test_ranks_undo_the_average_by_hand() -> None:
    """Catches a factor of the ranks in the reported loss, and a norm or rate that the backend has not told yet.

    The gradient is multiplied by the 2 ranks, over which it is then averaged; the loss is this rank's own part.
    """
    batch = replace(hand_batch(), values=torch.zeros(2, 4), returns=torch.ones(2, 4))
    backend = PlainBackend(FixedValues(torch.zeros(2, 4)))
    stats = optimizer_step(backend, [batch], ValueObjective(None), num_ranks=2)
    # Half of 1 squared for each of three tokens, weighed by a third; the slope is -1.
    assert stats == StepStats(pytest.approx(0.5), ValueSums(tokens=3), applied=True)
    torch.testing.assert_close(gradients_of(backend), [batch.response_mask * -2 / 3])


def test_micro_batches_are_made_as_they_are_needed() -> None:
    """Catches a loop that takes all micro-batches at once, with which all of them would be on the device together."""
    batch = replace(hand_batch(), values=torch.zeros(2, 4), returns=torch.ones(2, 4))
    backend = PlainBackend(FixedValues(torch.zeros(2, 4)))

    def micro_batches() -> Iterator[TrainBatch]:
        for done in range(3):
            assert backend.calls == ["backward"] * done
            yield batch

    optimizer_step(backend, micro_batches(), ValueObjective(None))
    assert backend.calls == ["backward"] * 3 + ["step"]


def test_ranks_add_up_by_hand() -> None:
    """Catches a norm or a rate that is added up, and a loss or sums that are averaged or taken from one rank."""
    ranks = [
        StepStats(0.5, DpoSums(1, 2, 3, 4, 5), grad_norm=7.0, learning_rate=0.1, applied=True),
        StepStats(0.25, DpoSums(10, 20, 30, 40, 50), grad_norm=7.0, learning_rate=0.1, applied=True),
    ]
    assert combine_ranks(ranks) == StepStats(0.75, DpoSums(11, 22, 33, 44, 55), 7.0, 0.1, applied=True)
    assert combine_ranks([StepStats(0.5, SftSums(2))]) == StepStats(0.5, SftSums(2), 0.0, 0.0, applied=False)


# Policy


def test_policy_loss_by_hand() -> None:
    """Catches a sum over padding, a wrong sign, a KL term that is not weighed, and a division by the wrong count."""
    batch = hand_batch()
    # other - policy = ln 2 everywhere: k3 = 2 - ln 2 - 1 = 1 - ln 2 for each of the three tokens.
    batch = replace(batch, ref_log_probs=(HAND_LOG_PROBS + LN2) * batch.response_mask)
    backend = PlainBackend(Fixed(HAND_LOG_PROBS))
    stats = optimizer_step(backend, [replace(batch, loss_weights=batch.response_mask / 6)], OBJECTIVE)
    # Surrogates, bounds 0.8 and 1.3: -1 * 1 = -1; -min(1.5, 1.3) = -1.3, clipped; -min(-0.5, -0.8) = 0.8, clipped.
    assert stats.loss == pytest.approx((-1 - 1.3 + 0.8 + 0.1 * 3 * (1 - LN2)) / 6, rel=1e-5)
    assert stats.sums.kl == pytest.approx(3 * (1 - LN2), rel=1e-5)
    assert (stats.sums.clipped, stats.sums.tokens, stats.sums.entropy) == (2, 3, 3)
    # Gradient of the surrogate: -ratio * A where it is not clipped. Of the KL term: 0.1 * (1 - exp(ln 2)) = -0.1.
    expected = torch.tensor([[0.0, 0.0, -1.0 - 0.1, -0.1], [0.0, -0.1, 0.0, 0.0]]) / 6
    torch.testing.assert_close(gradients_of(backend), [expected])


def test_policy_loss_without_reference_by_hand() -> None:
    """Catches a KL term against missing log-probs, which would be 0 and so a certainty."""
    backend = PlainBackend(Fixed(HAND_LOG_PROBS))
    stats = optimizer_step(backend, [hand_batch()], OBJECTIVE)
    assert stats.loss == pytest.approx((-1 - 1.3 + 0.8) / 3, rel=1e-5)
    assert stats.sums.kl == 0
    expected = torch.tensor([[0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]) / 3
    torch.testing.assert_close(gradients_of(backend), [expected])


def test_first_update_has_ratio_one() -> None:
    """Catches a ratio to the engine's log-probs, or a gradient lost with it, where no old log-probs are given."""
    batch = replace(hand_batch(), old_log_probs=None)
    backend = PlainBackend(Fixed(HAND_LOG_PROBS))
    stats = optimizer_step(backend, [batch], OBJECTIVE, num_ranks=2)
    # Ratio 1: -A a token, so -1 - 1 + 1; the gradient is -A too, times 2 ranks / 3 tokens.
    assert stats.loss == pytest.approx(-1 / 3)
    assert stats.sums.clipped == 0
    expected = torch.tensor([[0.0, 0.0, -1.0, -1.0], [0.0, 1.0, 0.0, 0.0]]) * 2 / 3
    torch.testing.assert_close(gradients_of(backend), [expected])


def test_entropy_bonus_by_hand() -> None:
    """Catches a bonus that lowers entropies, one without its weights, and a gradient through entropies for nobody."""
    batch = replace(hand_batch(), old_log_probs=None)
    entropy = torch.tensor([[9.0, 9.0, 1.0, 2.0], [9.0, 4.0, 9.0, 9.0]])
    backend = PlainBackend(Fixed(HAND_LOG_PROBS, entropy=entropy))
    stats = optimizer_step(backend, [batch], replace(OBJECTIVE, entropy_coef=0.5))
    # -1 - 1 + 1 as above, less half of 1 + 2 + 4.
    assert stats.loss == pytest.approx((-1 - 3.5) / 3)
    assert stats.sums.entropy == 7
    of_log_probs, of_entropy = gradients_of(backend)
    torch.testing.assert_close(of_log_probs, torch.tensor([[0.0, 0.0, -1.0, -1.0], [0.0, 1.0, 0.0, 0.0]]) / 3)
    torch.testing.assert_close(of_entropy, -0.5 * batch.response_mask / 3)
    assert OBJECTIVE.forward_kwargs == {"entropy": "value"}
    assert replace(OBJECTIVE, entropy_coef=0.5).forward_kwargs == {"entropy": "gradient"}


def test_off_policy_correction_by_hand() -> None:
    """Catches a correction of the KL term or of counts, weights of the current policy, and rejected tokens that train.

    Old minus rollout log-probs: ln 3, -ln 2 and ln 9, so weights 3 (bounded by 2), 1/2, and 9, which is rejected.
    """
    batch = hand_batch()
    assert batch.old_log_probs is not None
    difference = torch.tensor([[0.0, 0.0, LN3, -LN2], [0.0, 2 * LN3, 0.0, 0.0]])
    batch = replace(
        batch,
        rollout_log_probs=batch.old_log_probs - difference,
        ref_log_probs=(HAND_LOG_PROBS + LN2) * batch.response_mask,
    )
    correction = OffPolicyCorrection("token", importance_max=2.0, rejection="token", rejection_high=5.0)
    backend = PlainBackend(Fixed(HAND_LOG_PROBS))
    stats = optimizer_step(backend, [batch], replace(OBJECTIVE, off_policy=correction))
    # Surrogates -1, -1.3 and 0.8 as above, times 2, 1/2 and 0; the KL term is as above.
    assert stats.loss == pytest.approx((-2 - 0.65 + 0.1 * 3 * (1 - LN2)) / 3, rel=1e-5)
    expected = torch.tensor([[0.0, 0.0, -2.0 - 0.1, -0.1], [0.0, -0.1, 0.0, 0.0]]) / 3
    torch.testing.assert_close(gradients_of(backend), [expected])
    assert stats.sums.importance == pytest.approx(2 + 0.5 + 2, rel=1e-5)
    assert (stats.sums.rejected, stats.sums.tokens) == (1, 3)


def test_mismatch_by_hand() -> None:
    """Catches a mismatch in the wrong direction, an average of averages, and padding that counts."""
    batch = TrainBatch.from_tokens([([5], [1, 2]), ([5], [3])])
    rollout_log_probs = torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, 0.0]])
    difference = torch.tensor([[0.0, LN2, -2 * LN2], [0.0, 0.0, 0.0]])
    # NaN outside the mask, which must not be read.
    outside = torch.where(batch.response_mask, 0.0, float("nan"))
    batch = replace(
        batch.with_advantages(torch.ones(2)).with_loss_weights("token", 2),
        rollout_log_probs=rollout_log_probs + outside,
    )
    backend = PlainBackend(Fixed(rollout_log_probs + difference))
    sums = optimizer_step(backend, [batch], OBJECTIVE, apply=False).sums
    # k3 of KL(engine || trainer) for ln 2, -2 ln 2 and 0: (2 - ln 2 - 1) + (1/4 + 2 ln 2 - 1) + 0 = ln 2 + 1/4.
    # Importance weights 2, 1/4 and 1: sum 3.25, squares 4 + 1/16 + 1 = 5.0625.
    expected = PolicySums(
        tokens=3.0,
        mismatch_abs=3 * LN2,
        mismatch_kl=LN2 + 0.25,
        weight=3.25,
        weight_squared=5.0625,
        # One nat a token, no reference, nothing clipped; without a correction each token counts once.
        entropy=3.0,
        kl=0.0,
        clipped=0.0,
        importance=3.0,
        rejected=0.0,
    )
    assert sums._asdict() == pytest.approx(expected._asdict(), rel=1e-5)


def test_mismatch_is_taken_before_the_update() -> None:
    """Catches a mismatch that grows with what this step has already learned, not with an engine that is wrong."""
    batch = replace(hand_batch(), rollout_log_probs=HAND_LOG_PROBS.clone())
    stats = optimizer_step(PlainBackend(Fixed(HAND_LOG_PROBS)), [batch], OBJECTIVE)
    # Old minus rollout log-probs = minus log ratio: ln 3/2 and ln 2 in size.
    assert stats.sums.mismatch_abs == pytest.approx(math.log(1.5) + LN2, rel=1e-5)


def test_policy_loss_by_import_path(tmp_path: Path) -> None:
    """Catches a loss of the user's that is not the one that trains, or is called with other arguments."""
    file = tmp_path / "losses.py"
    file.write_text(
        "def off_by_high(log_probs, old_log_probs, advantages, mask, bounds):\n"
        "    return bounds.high * advantages * (log_probs - old_log_probs), mask & (advantages < 0)\n"
    )
    backend = PlainBackend(Fixed(HAND_LOG_PROBS))
    objective = PolicyObjective(f"{file}:off_by_high", ClipBounds(0.2, 0.3), kl_coef=0.0)
    stats = optimizer_step(backend, [hand_batch()], objective)
    # Log ratios 0 and ln 3/2 with advantage 1, -ln 2 with advantage -1.
    assert stats.loss == pytest.approx(0.3 * (math.log(1.5) + LN2) / 3, rel=1e-5)
    assert stats.sums.clipped == 1
    torch.testing.assert_close(gradients_of(backend), [torch.tensor([[0.0, 0.0, 0.3, 0.3], [0.0, -0.3, 0.0, 0.0]]) / 3])
    with pytest.raises(ConfigError, match="nothing_like_it"):
        optimizer_step(backend, [hand_batch()], replace(objective, policy_loss=f"{file}:nothing_like_it"))


# Value


def test_value_loss_by_hand() -> None:
    """Catches weights that are left out, values of other tokens, and a clip that is not the objective's."""
    batch = TrainBatch.from_tokens([([5], [1, 2]), ([5], [3])])
    weights = torch.tensor([[0.0, 0.25, 0.25], [0.0, 0.5, 0.0]])
    batch = replace(batch, values=torch.zeros(2, 3), returns=torch.full((2, 3), 2.0), loss_weights=weights)
    values = torch.tensor([[9.0, 1.0, 0.25], [9.0, -1.0, 9.0]])
    # Within 1/2 of 0, 1 counts as 1/2: half of 1.5^2, without gradient; 1/4 is within: half of 1.75^2; -1 has gone the
    # wrong way: half of 3^2. Unbounded, the first is half of 1.
    for clip, first_loss, first_slope in ((0.5, 1.125, 0.0), (None, 0.5, -1.0)):
        backend = PlainBackend(FixedValues(values))
        stats = optimizer_step(backend, [batch], ValueObjective(clip))
        assert stats.loss == 0.25 * first_loss + 0.25 * 1.53125 + 0.5 * 4.5
        assert stats.sums == ValueSums(tokens=3)
        expected = torch.tensor([[0.0, first_slope, -1.75], [0.0, -3.0, 0.0]]) * weights
        torch.testing.assert_close(gradients_of(backend), [expected])


# SFT


def test_supervised_loss_by_hand() -> None:
    """Catches a z-loss in the reported likelihood, one of another power or sign, and a mean of row means."""
    batch = TrainBatch.from_tokens([([5, 5], [1, 2]), ([5], [3])]).with_loss_weights("token", 1)
    logsumexp = torch.tensor([[7.0, 7.0, 2.0, -1.0], [7.0, 3.0, 7.0, 7.0]])
    backend = PlainBackend(Fixed(HAND_LOG_PROBS, logsumexp=logsumexp))
    stats = optimizer_step(backend, [batch], SftObjective(z_loss_coef=0.5))
    # Log-probs -1, -2 and -3: the mean is 2. Half of 4 + 1 + 9, by three tokens.
    assert stats.loss == pytest.approx(2 + 7 / 3, rel=1e-6)
    assert stats.sums == SftSums(nll=6)
    of_log_probs, of_logsumexp = gradients_of(backend)
    torch.testing.assert_close(of_log_probs, batch.response_mask / -3)
    # 2 x 1/2 x logsumexp / 3.
    torch.testing.assert_close(of_logsumexp, logsumexp * batch.response_mask / 3)


# DPO


def test_dpo_by_hand() -> None:
    """Catches chosen and rejected swapped, a mean over tokens, a reference of the wrong row, and beta left out.

    beta 1/2. Pair 0 gains 2 ln 3 + 1 and 1 nats on its reference: rewards ln 3 + 1/2 and 1/2, margin ln 3, loss
    -ln(3/4). Pair 1 gains nothing: margin 0, loss ln 2, and a margin of 0 is not right.
    """
    rows = [([5], [1, 2]), ([5], [3]), ([5, 5], [4]), ([5], [6, 7])]
    batch = TrainBatch.from_tokens(rows)
    log_probs = torch.tensor([[9.0, -1.0, -2.0], [9.0, -3.0, 9.0], [9.0, 9.0, -4.0], [9.0, -0.5, -1.5]])
    # Sums of responses: -3, -3, -4 and -2.
    reference = torch.tensor([-4 - 2 * LN3, -4, -4, -2], dtype=torch.float64)
    backend = PlainBackend(Fixed(log_probs))
    objective = DpoObjective(beta=0.5, num_pairs=2)
    stats = optimizer_step(backend, [replace(batch, ref_sequence_log_probs=reference)], objective)
    total = math.log(4 / 3) + LN2
    assert stats.loss == pytest.approx(total / 2, rel=1e-6)
    expected = DpoSums(loss=total, correct=1, margin=LN3, chosen_reward=LN3 + 0.5, rejected_reward=0.5)
    assert stats.sums._asdict() == pytest.approx(expected._asdict(), rel=1e-6)
    # -beta x sigmoid(-margin) / pairs on each chosen token, the opposite on each rejected one: 1/4 and 1/2.
    strong, weak = 0.5 * 0.25 / 2, 0.5 * 0.5 / 2
    slopes = torch.tensor([-strong, strong, -weak, weak])
    torch.testing.assert_close(gradients_of(backend), [slopes[:, None] * batch.response_mask])


@pytest.mark.parametrize("loss", ["simpo", "orpo"])
def test_losses_without_a_reference_score_means(loss: str) -> None:
    """Catches a sum over tokens where a mean is meant, and padding that counts.

    Means -1/2 and -1. SimPO with beta 2 and margin 1: sigmoid of 1 - 1. ORPO: odds of
    1 / (e^(1/2) - 1) and 1 / (e - 1), whose ratio is e^(1/2) + 1.
    """
    batch = TrainBatch.from_tokens([([5], [1, 2]), ([5], [3])])
    log_probs = torch.tensor([[9.0, -0.25, -0.75], [9.0, -1.0, 9.0]])
    backend = PlainBackend(Fixed(log_probs))
    stats = optimizer_step(backend, [batch], DpoObjective(2.0, 1, loss, target_margin=1.0))
    odds = math.exp(0.5) + 1
    expected, margin = (LN2, 0.0) if loss == "simpo" else (0.5 + 2 * math.log(1 + 1 / odds), math.log(odds))
    assert stats.loss == pytest.approx(expected, rel=1e-6)
    assert stats.sums.margin == pytest.approx(margin, abs=1e-6)
    assert (stats.sums.correct, stats.sums.chosen_reward, stats.sums.rejected_reward) == (1, -1, -2)
