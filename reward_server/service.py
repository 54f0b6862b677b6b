"""What one reward server works with, put together by whoever starts it."""

import threading
from dataclasses import dataclass, field

from reward_server.compat.openrlhf import PromptIndex
from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.tasks import TASKS
from reward_server.tasks.task import Tasks


@dataclass(frozen=True)
class Service:
    """The parts that the routes share."""

    grader: Grader
    config: ServerConfig = field(default_factory=ServerConfig)
    tasks: Tasks = field(default_factory=lambda: TASKS)
    default_task: str = "math"
    """Task of the routes whose clients name none."""
    prompts: PromptIndex = field(default_factory=lambda: PromptIndex([]))
    """Labels by prompt, for clients that send none."""
    token: str | None = None
    """What `Authorization: Bearer` must carry; None: nothing."""
    draining: threading.Event = field(default_factory=threading.Event)
    """Set by the owner once the process is about to exit; from then on `/ready` answers 503."""
