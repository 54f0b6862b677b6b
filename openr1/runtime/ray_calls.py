"""Waiting for Ray calls, always with a deadline, and with errors that say who waits for whom."""

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from openr1.errors import ActorLost, OpenR1Error, StageTimeout, TrainingError
from openr1.runtime.interrupts import INTERRUPTS, POLL_SECONDS

MOST_NAMES = 8
"""Names in one message; of a thousand ranks that lag, the first few will do."""


def gather(calls: list[Any], timeout_seconds: float, waiting: str, names: Sequence[str] = ()) -> list[Any]:
    """Wait for Ray calls and return their results, in order.

    Args:
        calls: Object references.
        timeout_seconds: Deadline for all calls together.
        waiting: Who waits for whom and why, for messages: "policy rank 0 waits for 2 engine(s) to load weights".
        names: Whom each call waits for, such as "engine 1": messages name those that lag, and the one that failed.

    Raises:
        StageTimeout: Some call did not finish in time.
        ActorLost: An actor died.
        TrainingError: A call raised any other error.
        OpenR1Error: A call raised one; it is re-raised unchanged.
    """
    deadline = time.monotonic() + timeout_seconds
    name_of = dict(zip(calls, names, strict=True)) if names else {}
    pending, failed = list(calls), ""
    try:
        while pending:
            INTERRUPTS.check()
            if time.monotonic() > deadline:
                lagging = _listed([name_of[call] for call in pending if call in name_of])
                raise StageTimeout(f"{waiting}: {lagging}not done within {timeout_seconds:g} s")
            # One at a time: if one rank fails, the others may wait for it forever in a collective.
            done, pending = ray.wait(pending, num_returns=1, timeout=POLL_SECONDS)
            failed = _listed([name_of[call] for call in done if call in name_of])
            ray.get(done)
        return list(ray.get(calls))
    except RayActorError as error:
        raise ActorLost(
            f"{waiting}: {failed}an actor died: {last_line(error)}; its log is in the run's logs folder"
        ) from error
    except RayTaskError as error:
        if isinstance(error.cause, OpenR1Error):
            raise error.cause from error
        raise TrainingError(f"{waiting}: {failed}{type(error.cause).__name__}: {last_line(error.cause)}") from error


def numbered(kind: str, count: int) -> list[str]:
    """Names of equal actors for `gather`: engine 0, engine 1, ..."""
    return [f"{kind} {index}" for index in range(count)]


def _listed(names: Sequence[str]) -> str:
    """Names as the start of a message, each once; nothing if there are none."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(names[:MOST_NAMES])}{more}: " if names else ""


def was_restarted() -> bool:
    """Whether this process runs an actor, and replaces one that died."""
    return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)


def last_line(error: BaseException) -> str:
    """The last line of an error's message, where Ray and Python put the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
