"""Advantage estimators: by hand, and properties that hold for any rewards."""

import math
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openr1.algorithms.advantages import (
    ESTIMATORS,
    find_estimator,
    group_normalized_advantages,
    has_reward_variance,
    update_running_reward,
)
from openr1.errors import ConfigError, TrainingError
from openr1.types import RunningReward

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
    "none": [[0.0] * 4, [0.0] * 4],
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


# GRPO


def grpo_advantages(*groups: list[float], eps: float = 1e-6) -> Tensor:
    """Advantages where every response was graded."""
    rewards = torch.tensor(groups, dtype=torch.float32)
    return group_normalized_advantages(rewards, torch.ones_like(rewards, dtype=torch.bool), eps=eps)


def test_grpo_advantages_by_hand() -> None:
    """Catches division by n instead of n - 1, one baseline for all groups, and a missing scale."""
    # [1, 0, 0, 0]: mean 1/4, squares 9/16 + 3 * 1/16 = 3/4, std with n - 1 = 3: sqrt(1/4) = 1/2.
    # (3/4) / (1/2) = 1.5 and (-1/4) / (1/2) = -0.5. With n it would be 1.73 and -0.58.
    # [10, 30, 10, 30]: mean 20, squares 4 * 100, std sqrt(400 / 3) = 20 / sqrt(3): 10 / (20 / sqrt(3)) = sqrt(3) / 2.
    root = math.sqrt(3) / 2
    expected = torch.tensor([[1.5, -0.5, -0.5, -0.5], [-root, root, -root, root]])
    result = grpo_advantages([1, 0, 0, 0], [10, 30, 10, 30])
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)
    assert result.dtype == torch.float32


def test_advantages_add_eps_to_the_deviation() -> None:
    """Catches eps inside the square root, which would give 3/4 / sqrt(1/4 + 1/2) = 0.87."""
    # (3/4) / (1/2 + 1/2) = 3/4 and (-1/4) / 1 = -1/4.
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]])
    torch.testing.assert_close(grpo_advantages([1, 0, 0, 0], eps=0.5), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
@pytest.mark.parametrize("reward", [0.1, 1.1, 0.0, -0.3, 1e8])
def test_equal_rewards_give_exactly_zero(reward: float, size: int, dtype: torch.dtype) -> None:
    """Catches a rounded mean: 0.1 in float32 is then 1e-8 off, which eps turns into an advantage of 0.01."""
    rewards = torch.full((1, size), reward, dtype=dtype)
    result = group_normalized_advantages(rewards, torch.ones_like(rewards, dtype=torch.bool))
    assert torch.equal(result, torch.zeros(1, size))


def test_group_of_one_gives_zero() -> None:
    """Catches the NaN of a standard deviation over n - 1 = 0, and a raw reward as advantage."""
    assert torch.equal(grpo_advantages([5.0], [0.0]), torch.zeros(2, 1))


@pytest.mark.parametrize("ungraded", [0.0, 7.0, float("nan"), float("inf")])
def test_ungraded_responses_leave_the_statistics(ungraded: float) -> None:
    """Catches a failed response that counts as a 0, shifts the mean, or spreads NaN."""
    rewards = torch.tensor([[1.0, 0.0, ungraded], [1.0, ungraded, ungraded], [ungraded, ungraded, ungraded]])
    valid = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    # Row 0: mean 1/2, std sqrt(2 * 1/4 / 1) = sqrt(1/2): 1/2 / sqrt(1/2) = sqrt(1/2). The others compare nothing.
    root = math.sqrt(0.5)
    expected = torch.tensor([[root, -root, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(group_normalized_advantages(rewards, valid), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_graded_rewards_must_be_finite(reward: float) -> None:
    """Catches a NaN reward that turns a whole group's advantages, and so all weights, into NaN."""
    with pytest.raises(TrainingError, match="NaN or infinite"):
        grpo_advantages([1.0, reward])


# Eighths: sums and shifts of them are exact in float32, so that only the function itself is tested.
eighths = st.lists(st.integers(-80, 80), min_size=2, max_size=10).map(lambda numbers: [n / 8 for n in numbers])


@given(eighths, st.integers(-1000, 1000))
def test_a_shift_of_rewards_changes_nothing(rewards: list[float], shift: int) -> None:
    """Catches a baseline other than the group's mean, and a mean that loses digits."""
    torch.testing.assert_close(grpo_advantages([reward + shift for reward in rewards]), grpo_advantages(rewards))


@given(eighths, st.randoms(use_true_random=False))
def test_order_within_a_group_changes_nothing(rewards: list[float], random: Random) -> None:
    """Catches an advantage that depends on a response's place in its group."""
    order = list(range(len(rewards)))
    random.shuffle(order)
    shuffled = grpo_advantages([rewards[index] for index in order])
    torch.testing.assert_close(shuffled, grpo_advantages(rewards)[:, order])


@given(eighths)
def test_advantages_are_centered_with_unit_deviation(rewards: list[float]) -> None:
    """Catches advantages that push all responses of a group in one direction, or in the wrong order."""
    (result,) = grpo_advantages(rewards).double()
    if len(set(rewards)) == 1:
        assert not result.any()
        return
    assert float(result.sum()) == pytest.approx(0, abs=1e-5)
    assert float(result.square().sum()) == pytest.approx(len(rewards) - 1, rel=1e-4)
    ranked = [value for _, value in sorted(zip(rewards, result.tolist(), strict=True))]
    assert all(low <= high for low, high in pairwise(ranked))


def test_reward_variance_by_hand() -> None:
    """Catches a group that counts as teaching though it has one graded response, or graded ones that are all equal."""
    rewards = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    valid = torch.tensor([[True] * 3, [True] * 3, [True, True, False], [True, False, False], [False] * 3])
    assert has_reward_variance(rewards, valid).tolist() == [True, False, False, False, False]


def test_running_reward_by_hand() -> None:
    """Catches a momentum that weighs the wrong side, and a step that enters its own past."""
    rewards, valid = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
    # The group: mean 1/2, deviation sqrt(1/2). The past: mean 0.9, deviation 0.1. A quarter of the past:
    mean, std = 0.75 * 0.5 + 0.25 * 0.9, 0.75 * math.sqrt(0.5) + 0.25 * 0.1
    past = RunningReward(mean=0.9, std=0.1)
    advantages = group_normalized_advantages(rewards, valid, past, 0.25, eps=0.0)
    torch.testing.assert_close(advantages, torch.tensor([[(1 - mean) / std, -mean / std]]))
    assert group_normalized_advantages(rewards, valid, past, 0.0).tolist() == (
        group_normalized_advantages(rewards, valid).tolist()
    )
    # A group of equal rewards is better than the past: (1 - (0.75 + 0.225)) / 0.025 = 1.
    equal = group_normalized_advantages(torch.ones(1, 2), valid, past, 0.25, eps=0.0)
    torch.testing.assert_close(equal, torch.ones(1, 2))
    half = torch.tensor([[True, False]])
    assert group_normalized_advantages(torch.ones(1, 2), half, past, 0.25)[0, 1] == 0

    # Past rewards that were all equal have no scale: the group's own counts alone, not a division by eps.
    flat = group_normalized_advantages(torch.ones(1, 2), valid, RunningReward(mean=0.0, std=0.0), 0.25)
    assert flat.tolist() == [[0.0, 0.0]]

    first = update_running_reward(None, 0.25, rewards[valid])
    assert first == RunningReward(mean=0.5, std=pytest.approx(math.sqrt(0.5)))
    second = update_running_reward(RunningReward(0.9, 0.1), 0.25, rewards[valid])
    assert second is not None
    assert (second.mean, second.std) == pytest.approx((0.25 * 0.9 + 0.75 * 0.5, 0.25 * 0.1 + 0.75 * math.sqrt(0.5)))
    assert update_running_reward(past, 0.25, torch.tensor([1.0])) is past
