"""The built-in tasks, by name."""

from collections.abc import Mapping
from typing import Any, TypeAlias, overload

from reward_server.tasks.code import CODE
from reward_server.tasks.countdown import COUNTDOWN
from reward_server.tasks.game24 import GAME24
from reward_server.tasks.gsm8k_zh import GSM8K_ZH
from reward_server.tasks.math import MATH, MATH_ANY
from reward_server.tasks.numina import NUMINA
from reward_server.tasks.task import Task
from reward_server.tasks.worker_task import WorkerTask

AnyTask: TypeAlias = Task[Any] | WorkerTask
Tasks: TypeAlias = Mapping[str, AnyTask]
"""Tasks by name."""

TASKS: dict[str, Task[Any]] = {task.name: task for task in (MATH, MATH_ANY, COUNTDOWN, GAME24, GSM8K_ZH, NUMINA)}


BUILT_IN: dict[str, AnyTask] = {**TASKS, CODE.name: CODE}
"""All tasks of a server; `TASKS` are those that grade in its own process, with a parsed label and an answer."""


class UnknownTask(LookupError):
    """No task has this name. The message lists the known ones."""


@overload
def find_task(name: str) -> Task[Any]: ...


@overload
def find_task(name: str, tasks: Tasks) -> AnyTask: ...


def find_task(name: str, tasks: Tasks = TASKS) -> AnyTask:
    """The task with this name.

    Raises:
        UnknownTask: There is no such task.
    """
    if name not in tasks:
        raise UnknownTask(f"unknown task {name!r}; known tasks: {', '.join(sorted(tasks))}")
    return tasks[name]
