"""The built-in tasks, by name."""

from typing import Any

from reward_server.tasks.countdown import COUNTDOWN
from reward_server.tasks.game24 import GAME24
from reward_server.tasks.gsm8k_zh import GSM8K_ZH
from reward_server.tasks.math import MATH, MATH_ANY
from reward_server.tasks.numina import NUMINA
from reward_server.tasks.task import Task, Tasks

TASKS: dict[str, Task[Any]] = {task.name: task for task in (MATH, MATH_ANY, COUNTDOWN, GAME24, GSM8K_ZH, NUMINA)}


class UnknownTask(LookupError):
    """No task has this name. The message lists the known ones."""


def find_task(name: str, tasks: Tasks = TASKS) -> Task[Any]:
    """The task with this name.

    Raises:
        UnknownTask: There is no such task.
    """
    if name not in tasks:
        raise UnknownTask(f"unknown task {name!r}; known tasks: {', '.join(sorted(tasks))}")
    return tasks[name]
