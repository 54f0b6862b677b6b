"""The objects that the routes of one reward server share."""

import threading
from dataclasses import dataclass, field

from reward_server.compat.openrlhf import PromptIndex
from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.tasks import BUILT_IN, Tasks


@dataclass(frozen=True)
class Service:
    """Everything that the routes need, assembled by the program that starts the server."""

    grader: Grader
    config: ServerConfig = field(default_factory=ServerConfig)
    tasks: Tasks = field(default_factory=lambda: BUILT_IN)
    default_task: str = "math"
    """Task of the routes whose clients do not name one: `/get_reward` and `/score`."""
    prompts: PromptIndex = field(default_factory=lambda: PromptIndex([]))
    """Labels by prompt, for clients that send no labels."""
    token: str | None = None
    """Bearer token that requests must carry; None disables authentication."""
    draining: threading.Event = field(default_factory=threading.Event)
    """Set when the process is about to exit; `/ready` answers 503 from then on."""
