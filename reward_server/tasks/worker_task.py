"""A task that grades outside the server: each call runs in a worker process, which has limits and can be killed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pydantic import JsonValue

from reward_server.result import GradingResult
from reward_server.tasks.task import Example


class Sample(NamedTuple):
    """One response, as a worker gets it."""

    prompt: str
    text: str
    """The prefix (assistant text that is part of the prompt) followed by the response."""
    label: str
    meta: Mapping[str, JsonValue]


@dataclass(frozen=True)
class WorkerTask:
    """How to grade one kind of problem in worker processes: by functions of the user, or by running programs."""

    name: str
    version: str
    """Differs whenever some item could be graded differently."""
    summary: str
    """One line: what makes a response correct."""
    grade: Callable[[Sequence[Sample]], list[GradingResult]]
    """Grades samples, one result each; pickled to the worker, so it is a function of a module, or a `partial` of one.
    It turns its own errors into failed results."""
    grouped: bool = False
    """Whether the responses to one prompt are graded in one call; otherwise every response is a call of its own."""
    components: tuple[str, ...] = ()
    """Names of the components, as far as they are known before anything is graded."""
    example: Example | None = None
    failed_reward: float = 0.0
    """Reward of a failed item, for clients that do not accept null."""

    def with_overrides(self, weights: Mapping[str, float], failed_reward: float | None) -> "WorkerTask":
        """A copy with a new `failed_reward` if it is not None.

        Raises:
            LookupError: There are weights: the components of such a task are weighted where they are computed.
        """
        if weights:
            raise LookupError(f"task {self.name} has no weights to set: weight its components in its own code")
        return self if failed_reward is None else replace(self, failed_reward=failed_reward)
