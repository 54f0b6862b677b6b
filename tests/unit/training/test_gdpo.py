"""GDPO: advantages of each component of the reward, by hand and in a step of the trainer."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from openr1.algorithms.advantages import decoupled_advantages
from openr1.config.checks import check_train
from openr1.errors import ConfigError, TrainingError
from openr1.types import Grade, Group
from tests.fakes import FakeRewards, make_config
from tests.unit.training.test_trainer import advantages_of, make_step

H = math.sqrt(0.5)
"""Advantage of the better one of two by GRPO."""
ACCURACY, LENGTH = [[1.0, 0.0], [5.0, 5.0]], [[10.0, 0.0], [0.0, 3.0]]
ALL = torch.ones(2, 2, dtype=torch.bool)


@pytest.mark.parametrize("weight", [1.0, 0.5, -1.0])
def test_by_hand(weight: float) -> None:
    """Catches components that are summed first, a range that counts, and a weight that is left out or normalized."""
    # Each component's own advantages: [h, -h], [0, 0] and [h, -h], [-h, h].
    total = [[H + weight * H, -H - weight * H], [-weight * H, weight * H]]
    std = math.sqrt(sum(value**2 for group in total for value in group) / 3)
    expected = torch.tensor(total) / (std if std else 1.0)
    values = torch.tensor([ACCURACY, LENGTH])
    result = decoupled_advantages(values, torch.stack([ALL, ALL]), torch.tensor([1.0, weight]), ALL)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_what_is_not_there_counts_nowhere() -> None:
    """Catches a component that a response lacks, or a failed response, that counts as a 0 in a mean or deviation."""
    values = torch.tensor([[[1.0, 0.0, 9.0, 9.0]], [[2.0, 9.0, 4.0, 9.0]]])
    present = torch.tensor([[[True, True, False, True]], [[True, False, True, True]]])
    valid = torch.tensor([[True, True, True, False]])
    # First component [h, -h, -, -], second [-h, -, h, -]: 0, -h and h, of three, so the deviation is sqrt(1 / 2) = h.
    result = decoupled_advantages(values, present, torch.ones(2), valid)
    torch.testing.assert_close(result, torch.tensor([[0.0, -1.0, 1.0, 0.0]]), rtol=1e-4, atol=1e-5)
    assert result[0, 3] == 0


def test_groups_without_a_difference_are_exactly_zero() -> None:
    """Catches a mean of the batch that is subtracted: its rounding would train groups that teach nothing."""
    values = torch.tensor([[[0.1, 0.1, 0.1], [0.3, 0.7, 0.2]], [[0.7, 0.7, 0.7], [0.1, 0.6, 0.9]]])
    there = torch.ones(2, 2, 3, dtype=torch.bool)
    result = decoupled_advantages(values, there, torch.ones(2), there[0])
    assert torch.equal(result[0], torch.zeros(3))
    assert (result[1] != 0).all()


def two_components(group: Group) -> list[Grade]:
    """The same reward for both responses, earned by different components."""
    parts: list[dict[str, float]] = [{"accuracy": 1.0, "format": 0.0}, {"accuracy": 0.0, "format": 1.0}]
    return [Grade(1.0, one["accuracy"], one, "correct") for one in parts]


def test_a_step_reads_components(tmp_path: Path) -> None:
    """Catches a trainer that hands the sum on: it is equal here, and would teach nothing."""
    algorithm = {"advantage_estimator": "gdpo", "component_weights": {"accuracy": 1.0, "format": 0.25}}
    config = make_config(tmp_path, algorithm=algorithm)
    result = make_step(config, rewards=FakeRewards(two_components))
    # 3/4 h and -3/4 h in both groups; sums of squares 4 x 9/16 x 1/2 = 9/8, by 3: deviation sqrt(3/8).
    value = 0.75 * H / math.sqrt(3 / 8)
    assert advantages_of(result).flatten().tolist() == pytest.approx([value, -value] * 2, rel=1e-4)


def test_a_component_without_a_weight_is_named(tmp_path: Path) -> None:
    """Catches a misspelt name, which would leave its component with a weight that nobody chose."""
    algorithm = {"advantage_estimator": "gdpo", "component_weights": {"accuracy": 1.0, "fromat": 0.25}}
    with pytest.raises(TrainingError, match="component 'format', only for accuracy, fromat"):
        make_step(make_config(tmp_path, algorithm=algorithm), rewards=FakeRewards(two_components))


def test_rewards_without_components(tmp_path: Path) -> None:
    """Catches a reward server of one number, with which a run would train nothing without a word."""
    config = make_config(tmp_path, algorithm={"advantage_estimator": "gdpo"})
    with pytest.raises(TrainingError, match="without any: take grpo"):
        make_step(config, rewards=FakeRewards(lambda group: [Grade(1.0, 1.0, {}, "correct")] * 2))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"algorithm": {"component_weights": {"accuracy": 1.0}}}, "component_weights is for gdpo; with grpo"),
        ({"algorithm": {"advantage_estimator": "gdpo"}, "reward": {"clip": [0, 1]}}, "reward.clip changes the sum"),
        (
            {"algorithm": {"advantage_estimator": "gdpo"}, "reward": {"overlong_buffer_len": 2}},
            "overlong_buffer_len changes the sum",
        ),
        ({"algorithm": {"advantage_estimator": "gdpo", "kl_in": "reward"}}, "kl_in reward changes the sum"),
        (
            {
                "algorithm": {"advantage_estimator": "gdpo"},
                "rollout": {"n_samples_per_prompt": 1, "rollout_batch_size": 4},
            },
            "gdpo compares the responses",
        ),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    """Catches a setting that is read by no one."""
    with pytest.raises(ConfigError, match=message):
        check_train(make_config(tmp_path, **sections))
