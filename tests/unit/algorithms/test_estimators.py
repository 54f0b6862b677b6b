"""Estimators, losses, aggregation, corrections and shaping: by hand, invariances, finite differences."""

import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openr1.algorithms.advantages import ESTIMATORS, find_estimator
from openr1.algorithms.aggregation import loss_weights
from openr1.algorithms.kl import KL_ESTIMATORS, k1, k2, k3
from openr1.algorithms.losses import LOSSES, ClipBounds
from openr1.algorithms.off_policy import acceptance_mask, importance_weights
from openr1.algorithms.shaping import adapt_kl_coef, clip_rewards, overlong_penalties
from openr1.errors import ConfigError, TrainingError

LN2 = math.log(2)
GROUPED = ("grpo", "dr_grpo", "rloo", "reinforce++-baseline")
"""Estimators that compare a response with its own group."""


def all_valid(rewards: Tensor) -> Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)


def advantages_of(name: str, *groups: list[float]) -> Tensor:
    rewards = torch.tensor(groups, dtype=torch.float32)
    return ESTIMATORS[name](rewards, all_valid(rewards))


# Advantages. Groups [1, 0, 0, 0] and [3, 1, 3, 1]: means 1/4 and 2; centered 3/4, -1/4, ... and 1, -1, ...
BY_HAND = {
    # Deviations (n - 1): sqrt((9 + 3) / 16 / 3) = 1/2, and sqrt(4 / 3).
    "grpo": [[1.5, -0.5, -0.5, -0.5], [math.sqrt(0.75), -math.sqrt(0.75)] * 2],
    "dr_grpo": [[0.75, -0.25, -0.25, -0.25], [1.0, -1.0] * 2],
    # 1 - 0 = 1; 0 - 1/3. 3 - 5/3 = 4/3; 1 - 7/3 = -4/3.
    "rloo": [[1.0, -1 / 3, -1 / 3, -1 / 3], [4 / 3, -4 / 3] * 2],
    "reinforce": [[1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 3.0, 1.0]],
    # All eight: mean 9/8, squares 1 + 9 + 1 + 9 + 1 = 21, variance (21 - 81/8) / 7 = 87/56.
    "reinforce++": [
        [(value - 9 / 8) / math.sqrt(87 / 56) for value in group] for group in ([1, 0, 0, 0], [3, 1, 3, 1])
    ],
    # Centered: sum of squares 3/4 + 4 = 19/4, divided by 7: deviation sqrt(19/28).
    "reinforce++-baseline": [
        [value / math.sqrt(19 / 28) for value in group] for group in ([0.75, -0.25, -0.25, -0.25], [1, -1, 1, -1])
    ],
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_advantages_by_hand(name: str) -> None:
    """Catches a baseline or a scale of the wrong set: group, others of the group, batch."""
    result = advantages_of(name, [1, 0, 0, 0], [3, 1, 3, 1])
    torch.testing.assert_close(result, torch.tensor(BY_HAND[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_ungraded_responses_count_nowhere(name: str) -> None:
    """Catches a failure that enters a mean, a deviation or a count, and one that gets an advantage."""
    rewards, valid = torch.tensor([[1.0, 0.0, 7.0], [0.5, 9.0, 0.0]]), torch.tensor([[True, True, False]] * 2)
    valid[1, 1:] = torch.tensor([False, True])
    result = ESTIMATORS[name](rewards, valid)
    kept = advantages_of(name, [1.0, 0.0], [0.5, 0.0])
    torch.testing.assert_close(result[valid], kept.flatten())
    assert torch.equal(result[~valid], torch.zeros(2))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("reward", [0.1, 0.7, 1e8])
def test_equal_rewards_teach_nothing(name: str, reward: float) -> None:
    """Catches rounding that becomes an advantage; only a method without baseline reinforces what is all the same."""
    result = advantages_of(name, [reward] * 6, [reward] * 6)
    assert torch.equal(result, torch.full((2, 6), reward if name == "reinforce" else 0.0))


@pytest.mark.parametrize("name", GROUPED)
def test_a_group_of_one_teaches_nothing(name: str) -> None:
    """Catches a raw reward as advantage, and the NaN of a deviation over n - 1 = 0."""
    assert torch.equal(advantages_of(name, [5.0], [1.0]), torch.zeros(2, 1))


def test_a_group_of_one_without_groups() -> None:
    """Catches estimators over the batch that need groups: prompts with one response each are their usual case."""
    assert advantages_of("reinforce", [5.0], [1.0]).tolist() == [[5.0], [1.0]]
    torch.testing.assert_close(
        advantages_of("reinforce++", [5.0], [1.0]), torch.tensor([[math.sqrt(0.5)], [-math.sqrt(0.5)]])
    )


@pytest.mark.parametrize("name", GROUPED)
def test_equal_groups_stay_zero_beside_others(name: str) -> None:
    """Catches whitening over the batch after grouping, which gives groups without a signal an advantage."""
    result = advantages_of(name, [0.1] * 4, [1.0, 0.0, 0.0, 1.0])
    assert torch.equal(result[0], torch.zeros(4))
    assert result[1].abs().min() > 0.1


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_rewards_that_are_no_numbers_are_refused(name: str, reward: float) -> None:
    """Catches one NaN that makes all weights NaN."""
    with pytest.raises(TrainingError, match="NaN or infinite"):
        advantages_of(name, [1.0, reward])


def test_estimator_by_import_path(tmp_path: Path) -> None:
    """Catches an estimator of the user's that is not the one that is found, and a name that hides a built-in one."""
    file = tmp_path / "estimators.py"
    file.write_text("def grpo(rewards, valid_mask):\n    return rewards * 10\n")
    assert find_estimator(f"{file}:grpo")(torch.ones(1, 2), torch.ones(1, 2).bool()).tolist() == [[10.0, 10.0]]
    assert find_estimator("grpo") is ESTIMATORS["grpo"]
    with pytest.raises(ConfigError, match="rloo"):
        find_estimator(f"{file}:rloo")


REWARDS = st.lists(st.lists(st.integers(0, 8).map(lambda i: i / 8), min_size=3, max_size=3), min_size=2, max_size=4)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "reinforce"])
@settings(deadline=None, max_examples=50)
@given(groups=REWARDS, shift=st.integers(-4, 4))
def test_advantages_do_not_depend_on_a_shift(name: str, groups: list[list[float]], shift: int) -> None:
    """Catches a baseline that does not follow the rewards."""
    moved = [[reward + shift for reward in group] for group in groups]
    torch.testing.assert_close(advantages_of(name, *moved), advantages_of(name, *groups), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
@settings(deadline=None, max_examples=50)
@given(groups=REWARDS, seed=st.integers(0, 99))
def test_advantages_follow_a_permutation(name: str, groups: list[list[float]], seed: int) -> None:
    """Catches a place in the group, or a group's place in the batch, that matters."""
    rng = Random(seed)
    order, within = rng.sample(range(len(groups)), len(groups)), rng.sample(range(3), 3)
    moved = [[groups[index][place] for place in within] for index in order]
    expected = advantages_of(name, *groups)[order][:, within]
    torch.testing.assert_close(advantages_of(name, *moved), expected, rtol=1e-4, atol=1e-5)


# Losses


MASK = torch.tensor([[True, True, False], [True, False, False]])


def loss_of(name: str, ratios: list[list[float]], advantages: list[float], bounds: ClipBounds) -> tuple[Tensor, ...]:
    """Loss, clipped and the gradient of the masked sum, for log-probs -1."""
    log_probs = torch.full((2, 3), -1.0).requires_grad_()
    old = -1.0 - torch.tensor(ratios).log()
    spread = torch.tensor(advantages)[:, None].expand(2, 3)
    loss, clipped = LOSSES[name](log_probs, old, spread, MASK, bounds)
    (loss * MASK).sum().backward()
    assert log_probs.grad is not None
    return loss.detach(), clipped, log_probs.grad


def test_dual_clip_by_hand() -> None:
    """Catches a bound that holds for good responses, too, or is missing where the ratio is large and A negative."""
    bounds = ClipBounds(0.2, 0.3, dual=3.0)
    loss, clipped, gradient = loss_of("ppo", [[5.0, 2.0, 1.0], [5.0, 1.0, 1.0]], [-2.0, 2.0], bounds)
    # A = -2: ratio 5 gives 10, bounded by 3 x 2 = 6; ratio 2 gives 4. A = 2: clipped at 1.3.
    torch.testing.assert_close(loss[MASK], torch.tensor([6.0, 4.0, -2.6]))
    assert clipped[MASK].tolist() == [True, False, True]
    torch.testing.assert_close(gradient[MASK], torch.tensor([0.0, 4.0, 0.0]))


def test_sequence_ratio_by_hand() -> None:
    """Catches an arithmetic mean, padding that counts, and a token's own ratio where the response's is meant."""
    bounds = ClipBounds(0.2, 0.3)
    # Row 0: ratios 2 and 1/2 have the geometric mean 1: inside, loss -A a token. Row 1: ratio 2, clipped at 1.3.
    loss, clipped, gradient = loss_of("gspo", [[2.0, 0.5, 100.0], [2.0, 100.0, 100.0]], [1.0, 1.0], bounds)
    torch.testing.assert_close(loss[MASK], torch.tensor([-1.0, -1.0, -1.3]))
    assert clipped[MASK].tolist() == [False, False, True]
    # d/dx of -2 exp(mean of log ratios) is -2 x 1 x 1/2 for each of the two tokens.
    torch.testing.assert_close(gradient[MASK], torch.tensor([-1.0, -1.0, 0.0]))


def test_clipped_weights_by_hand() -> None:
    """Catches gradient through the weight, and a clipped token that loses its gradient."""
    bounds = ClipBounds(0.2, 0.3)
    loss, clipped, gradient = loss_of("cispo", [[2.0, 0.5, 1.0], [1.0, 1.0, 1.0]], [2.0, -1.0], bounds)
    # -w A log_probs with log_probs = -1: 1.3 x 2, 0.8 x 2, and 1 x -1.
    torch.testing.assert_close(loss[MASK], torch.tensor([2.6, 1.6, -1.0]))
    assert clipped[MASK].tolist() == [True, True, False]
    torch.testing.assert_close(gradient[MASK], torch.tensor([-2.6, -1.6, 1.0]))


@pytest.mark.parametrize("name", LOSSES)
def test_first_update_has_the_policy_gradient(name: str) -> None:
    """Catches a loss whose gradient at ratio 1 is not that of REINFORCE, -A for each token."""
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]).requires_grad_()
    advantages = torch.tensor([[2.0], [-3.0]]).expand(2, 3)
    bounds = ClipBounds(0.2, 0.2)
    loss, clipped = LOSSES[name](log_probs, log_probs.detach(), advantages, MASK, bounds)
    (loss * MASK).sum().backward()
    assert log_probs.grad is not None
    assert not clipped.any()
    torch.testing.assert_close(log_probs.grad[MASK], -advantages[MASK])


@pytest.mark.parametrize("name", ["ppo", "gspo"])
def test_gradients_against_finite_differences(name: str) -> None:
    """Catches a gradient that is not the loss's own. (CISPO's is not: its weight is held fixed.)"""
    generator = torch.Generator().manual_seed(1)
    old = -torch.rand(2, 3, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([[1.5], [-0.5]], dtype=torch.float64).expand(2, 3)
    start = old + 0.05 * torch.randn(2, 3, generator=generator, dtype=torch.float64)

    def total(log_probs: Tensor) -> Tensor:
        loss, _ = LOSSES[name](log_probs, old, advantages, MASK, ClipBounds(0.5, 0.5, dual=3.0))
        return (loss * MASK).sum()

    assert torch.autograd.gradcheck(total, start.requires_grad_())


@pytest.mark.parametrize(("name", "value"), [("k1", -LN2), ("k2", LN2**2 / 2), ("k3", 1 - LN2)])
def test_kl_by_hand(name: str, value: float) -> None:
    """Catches a turned sign and a missing half; other - policy = ln 2."""
    log_probs = torch.tensor([-2.0], dtype=torch.float64).requires_grad_()
    estimate = KL_ESTIMATORS[name]
    assert float(estimate(log_probs, torch.tensor([-2.0 + LN2]).double()).detach()) == pytest.approx(value, rel=1e-6)
    assert torch.autograd.gradcheck(lambda x: estimate(x, torch.tensor([-1.3]).double()), log_probs)


def test_kl_gradients_on_average() -> None:
    """Catches a claim of the docs that is wrong: in the loss k1 has no gradient on average, k2 that of the divergence.

    Over a softmax of three logits; the expectation is a sum over the tokens, each with its probability held fixed.
    """
    other = torch.tensor([0.2, 0.3, 0.5]).log()

    def mean_gradient(estimate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        logits = torch.tensor([0.5, 0.0, -1.0]).requires_grad_()
        log_probs = logits.log_softmax(-1)
        (log_probs.detach().exp() * estimate(log_probs, other)).sum().backward()
        assert logits.grad is not None
        return logits.grad

    logits = torch.tensor([0.5, 0.0, -1.0]).requires_grad_()
    log_probs = logits.log_softmax(-1)
    (log_probs.exp() * (log_probs - other)).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(mean_gradient(k1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean_gradient(k2), logits.grad, atol=1e-6, rtol=1e-5)
    assert float((mean_gradient(k3) - logits.grad).abs().max()) > 0.01


# Aggregation


def test_loss_weights_by_hand() -> None:
    """Catches a mean per micro-batch, an empty response that counts, and a divisor of the wrong lengths."""
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    for aggregation, rows in {
        "token": [1 / 4, 1 / 4],
        "sequence": [1 / 6, 1 / 2],
        "constant": [1 / 20, 1 / 20],
    }.items():
        expected = torch.tensor([[rows[0]] * 3, [rows[1], 0, 0], [0, 0, 0]])
        torch.testing.assert_close(loss_weights(mask, aggregation, generate_max_len=10), expected)
        assert not loss_weights(torch.zeros_like(mask), aggregation, 10).any()
    with pytest.raises(ValueError, match="none of token, sequence, constant"):
        loss_weights(mask, "median", 10)


# Off-policy


LOG_WEIGHTS = torch.tensor([[math.log(3), math.log(0.5), math.nan], [math.log(0.1), math.nan, math.nan]])


def test_importance_weights_by_hand() -> None:
    """Catches a ratio the wrong way round, no truncation, and NaN from padding."""
    zero = torch.zeros(2, 3)
    token = importance_weights(LOG_WEIGHTS, zero, MASK, "token", 2.0)
    torch.testing.assert_close(token[MASK], torch.tensor([2.0, 0.5, 0.1]))
    # The product: 3 x 1/2.
    sequence = importance_weights(LOG_WEIGHTS, zero, MASK, "sequence", 2.0)
    torch.testing.assert_close(sequence[MASK], torch.tensor([1.5, 1.5, 0.1]))
    assert importance_weights(LOG_WEIGHTS, zero, MASK, "none", 2.0).tolist() == [[1.0] * 3] * 2
    long = importance_weights(torch.full((1, 900), 1.0), torch.zeros(1, 900), torch.ones(1, 900).bool(), "sequence", 9)
    assert long.tolist() == [[9.0] * 900]


def test_rejection_by_hand() -> None:
    """Catches bounds the wrong way round, and a sequence judged by the product, which depends on its length."""
    zero = torch.zeros(2, 3)
    token = acceptance_mask(LOG_WEIGHTS, zero, MASK, "token", 0.5, 2.0)
    assert token.tolist() == [[False, True, True], [False, True, True]]
    # Geometric means: sqrt(3/2) and 0.1.
    sequence = acceptance_mask(LOG_WEIGHTS, zero, MASK, "sequence", 0.5, 1.4)
    assert sequence[MASK].tolist() == [True, True, False]
    assert acceptance_mask(LOG_WEIGHTS, zero, MASK, "none", 0.5, 2.0).all()


def test_corrections_are_constants() -> None:
    """Catches a gradient through the weights, which would push the policy to where the engine was."""
    log_probs = torch.zeros(1, 2).requires_grad_()
    weights = importance_weights(log_probs, torch.ones(1, 2), torch.ones(1, 2).bool(), "token", 2.0)
    assert not weights.requires_grad


# Shaping


def test_shaping_by_hand() -> None:
    """Catches a penalty outside its buffer, one that grows without bound, and a clip of one side alone."""
    assert clip_rewards(torch.tensor([[-5.0, 0.5, 7.0]]), -1, 2).tolist() == [[-1.0, 0.5, 2.0]]
    lengths = torch.tensor([[80, 90, 95, 100, 120]])
    torch.testing.assert_close(overlong_penalties(lengths, 100, 20), torch.tensor([[0.0, -0.5, -0.75, -1.0, -1.0]]))


def test_adaptive_kl_by_hand() -> None:
    """Catches a step in the wrong direction, and one that is not bounded."""
    assert adapt_kl_coef(0.1, kl=0.11, target=0.1, num_responses=50, horizon=100) == pytest.approx(0.1 * 1.05)
    assert adapt_kl_coef(0.1, kl=9.0, target=0.1, num_responses=50, horizon=100) == pytest.approx(0.1 * 1.1)
    assert adapt_kl_coef(0.1, kl=0.0, target=0.1, num_responses=50, horizon=100) == pytest.approx(0.1 * 0.9)
