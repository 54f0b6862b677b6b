"""Actors that Ray starts again: how often it did, and the wait until one serves again."""

import time
from collections.abc import Sequence

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from openr1.errors import ActorLost, StageTimeout
from openr1.runtime.interrupts import INTERRUPTS, POLL_SECONDS
from openr1.runtime.ray_calls import describe_death

ANSWER_SECONDS = 1.0
"""How long `Restarts.count` waits for answers; an actor that is just being started is counted the next time."""


class Restarts:
    """Counts how often the processes of some actors were replaced. Their `ready` answers the id of the process."""

    def __init__(self, actors: Sequence[ActorHandle]) -> None:
        """Take actors that have started."""
        self._actors = list(actors)
        self._processes: dict[int, int] = {}
        self._count = 0
        self.count()

    def count(self) -> int:
        """Replaced processes so far. Asks all actors; one that dies twice between two questions counts once."""
        calls = {actor.ready.remote(): index for index, actor in enumerate(self._actors)}
        done = ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_SECONDS)[0] if calls else []
        for call in done:
            try:
                process: int = ray.get(call)
            except (RayActorError, RayTaskError):
                continue  # whoever works with it finds out
            index = calls[call]
            self._count += self._processes.get(index, process) != process
            self._processes[index] = process
        return self._count


def wait_until_started(actor: ActorHandle, timeout_seconds: float, waiting: str) -> None:
    """Wait until an actor that was lost answers again.

    Args:
        actor: Has a method `ready`.
        timeout_seconds: Deadline.
        waiting: Who waits for whom, for messages.

    Raises:
        ActorLost: Ray does not start it again: it has died more often than it may.
        StageTimeout: It has not started in time.
    """
    deadline = time.monotonic() + timeout_seconds
    call = actor.ready.remote()
    while time.monotonic() < deadline:
        # Loading a model takes long, and only `check` raises signals.
        INTERRUPTS.check()
        if not ray.wait([call], timeout=POLL_SECONDS)[0]:
            continue
        try:
            ray.get(call)
        except ActorUnavailableError:
            time.sleep(POLL_SECONDS)
            call = actor.ready.remote()
        except RayActorError as error:
            raise ActorLost(f"{waiting}: {describe_death(error)}") from error
        else:
            return
    raise StageTimeout(f"{waiting}: not started again within {timeout_seconds:g} s")
