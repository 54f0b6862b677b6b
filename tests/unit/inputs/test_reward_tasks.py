"""Which task grades each row of a run, decided before anything starts."""

from pathlib import Path

import pytest

from openr1.config.train import RewardConfig, ShadowConfig
from openr1.errors import ConfigError
from openr1.inputs.datasets import Datasets
from openr1.inputs.reward_tasks import check_known, with_reward_task
from tests.fakes import make_prompt

ONE = "def only(response): return 1.0\n"
TWO = "def first(response): return 1.0\ndef second(response): return 2.0\n"


def module(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def rows(*tasks: str) -> Datasets:
    """Rows to train on with these tasks, and a held-out row with the first."""
    return Datasets(
        [make_prompt(number, task=task) for number, task in enumerate(tasks)], [make_prompt(9, task=tasks[0])]
    )


def tasks_of(datasets: Datasets) -> list[str]:
    return [prompt.task for prompt in (*datasets.train, *datasets.held_out)]


def test_rows_keep_their_own_tasks(tmp_path: Path) -> None:
    """Catches a module whose only function grades rows that name another task on purpose."""
    assert tasks_of(with_reward_task(rows("math", "countdown"), RewardConfig())) == ["math", "countdown", "math"]
    reward = RewardConfig(module=module(tmp_path, ONE))
    assert tasks_of(with_reward_task(rows("math", "only"), reward)) == ["math", "only", "math"]


def test_the_only_function_grades_rows_that_do_not_know_it(tmp_path: Path) -> None:
    """Catches a module that is loaded and never used, without a word."""
    reward = RewardConfig(module=module(tmp_path, ONE))
    assert tasks_of(with_reward_task(rows("math", "math"), reward)) == ["only", "only", "only"]


def test_several_functions_need_a_choice(tmp_path: Path) -> None:
    """Catches a choice that is made for the user."""
    path = module(tmp_path, TWO)
    with pytest.raises(ConfigError, match=r"functions first, second, .* the tasks math: set reward\.task"):
        with_reward_task(rows("math"), RewardConfig(module=path))
    chosen = with_reward_task(rows("math"), RewardConfig(module=path, task="second"))
    assert tasks_of(chosen) == ["second", "second"]


def test_a_task_that_the_server_lacks_is_found_before_the_engines_start() -> None:
    """Catches a misspelled task that costs the start of all engines, and a server without a list that is refused."""
    with pytest.raises(ConfigError, match=r"row 'p1': the reward server has no task 'mathh', only countdown, math: "):
        check_known(rows("math", "mathh"), RewardConfig(), {"math", "countdown"})
    check_known(rows("math", "mathh"), RewardConfig(), None)
    check_known(rows("math"), RewardConfig(), {"math"})
    shadow = RewardConfig(shadow=ShadowConfig(task="other"))
    with pytest.raises(ConfigError, match=r"reward\.shadow\.task: the reward server has no task 'other', only math"):
        check_known(rows("math"), shadow, {"math"})
