"""All tasks that the server knows, by name."""

from typing import Any

from reward_server.tasks.countdown import COUNTDOWN
from reward_server.tasks.game24 import GAME24
from reward_server.tasks.gsm8k_zh import GSM8K_ZH
from reward_server.tasks.math import MATH, MATH_ANY
from reward_server.tasks.numina import NUMINA
from reward_server.tasks.task import Task, Tasks

TASKS: dict[str, Task[Any]] = {task.name: task for task in (MATH, MATH_ANY, COUNTDOWN, GAME24, GSM8K_ZH, NUMINA)}


class UnknownTask(LookupError):
    """No task has this name; the message lists those that exist."""


def find_task(name: str, tasks: Tasks = TASKS) -> Task[Any]:
    """The task of this name.

    Raises:
        UnknownTask: There is none.
    """
    if name not in tasks:
        raise UnknownTask(f"unknown task {name!r}; known tasks: {', '.join(sorted(tasks))}")
    return tasks[name]
