"""Which task grades each row: its own, the one that the config names, or the only function of the user's module."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from openr1.config.train import RewardConfig
from openr1.errors import ConfigError
from openr1.runtime.console import say
from openr1.types import Prompt
from reward_server.functions.module import inspect_module

if TYPE_CHECKING:
    # Brings transformers, which takes seconds; `inputs.early` has no need of it.
    from openr1.inputs.datasets import Datasets


def default_task(reward: RewardConfig) -> str | None:
    """Task of rows that name none: `reward.task`, or the only function of `reward.module`; None without both."""
    if reward.task is not None or reward.module is None:
        return reward.task
    names = inspect_module(reward.module).names
    return names[0] if len(names) == 1 else None


def with_reward_task(datasets: "Datasets", reward: RewardConfig) -> "Datasets":
    """The rows with the tasks that will grade them.

    Raises:
        ConfigError: `reward.module` has several functions, and neither `reward.task` nor any row names one.
    """
    task = reward.task
    if task is None and reward.module is not None:
        names = inspect_module(reward.module).names
        used = Counter(prompt.task for prompt in datasets.train)
        if not used.keys() & set(names):
            if len(names) > 1:
                raise ConfigError(
                    f"reward.module {reward.module} has the functions {', '.join(names)}, and the rows of data.train "
                    f"name the tasks {', '.join(sorted(used))}: set reward.task to the function that grades them"
                )
            task = names[0]
            say(f"every response is graded by {task} of {reward.module}")
    if task is None:
        return datasets
    return replace(
        datasets,
        train=_graded_by(datasets.train, task),
        held_out=_graded_by(datasets.held_out, task),
        parts=[replace(part, prompts=_graded_by(part.prompts, task)) for part in datasets.parts],
    )


def check_known(datasets: "Datasets", reward: RewardConfig, known: Collection[str] | None) -> None:
    """Refuse rows that the reward server could not grade, before engines start.

    Args:
        datasets: With the tasks that will grade.
        reward: With the task of the shadow grader.
        known: The tasks of the server; None if it does not tell, and then nothing is checked.

    Raises:
        ConfigError: A row or the shadow grader has another task.
    """
    if reward.shadow is not None and known is not None and reward.shadow.task not in known:
        listed = ", ".join(sorted(known))
        raise ConfigError(f"reward.shadow.task: the reward server has no task {reward.shadow.task!r}, only {listed}")
    for prompt in (*datasets.train, *datasets.held_out):
        if known is not None and prompt.task not in known:
            raise unknown_task(f"row {prompt.id!r}", prompt.task, known)


def unknown_task(row: str, task: str, known: Collection[str]) -> ConfigError:
    """The error of a row that the reward server could not grade."""
    return ConfigError(
        f"{row}: the reward server has no task {task!r}, only {', '.join(sorted(known))}: "
        "correct the row, set reward.task, or name your reward functions in reward.module"
    )


def _graded_by(prompts: list[Prompt], task: str) -> list[Prompt]:
    return [replace(prompt, task=task) for prompt in prompts]
