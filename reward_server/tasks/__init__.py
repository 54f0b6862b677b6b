"""All tasks that the server knows, by name."""

from typing import Any

from reward_server.tasks.countdown import COUNTDOWN
from reward_server.tasks.task import Task

TASKS: dict[str, Task[Any]] = {task.name: task for task in (COUNTDOWN,)}
