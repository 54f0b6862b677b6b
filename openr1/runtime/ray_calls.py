"""Waiting for Ray calls, always with a deadline, and with errors that say who waits for whom."""

import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from openr1.errors import ActorLost, OpenR1Error, StageTimeout, TrainingError
from openr1.runtime.interrupts import INTERRUPTS, POLL_SECONDS


def gather(calls: list[Any], timeout_seconds: float, waiting: str) -> list[Any]:
    """Wait for Ray calls and return their results, in order.

    Args:
        calls: Object references.
        timeout_seconds: Deadline for all calls together.
        waiting: Who waits for whom and why, for messages: "policy rank 0 waits for 2 engine(s) to load weights".

    Raises:
        StageTimeout: Some call did not finish in time.
        ActorLost: An actor died.
        TrainingError: A call raised any other error.
        OpenR1Error: A call raised one; it is re-raised unchanged.
    """
    deadline = time.monotonic() + timeout_seconds
    pending = list(calls)
    try:
        while pending:
            INTERRUPTS.check()
            if time.monotonic() > deadline:
                raise StageTimeout(f"{waiting}: not done within {timeout_seconds:g} s")
            # One at a time: if one rank fails, the others may wait for it forever in a collective.
            done, pending = ray.wait(pending, num_returns=1, timeout=POLL_SECONDS)
            ray.get(done)
        return list(ray.get(calls))
    except RayActorError as error:
        raise ActorLost(f"{waiting}: an actor died: {last_line(error)}; its log is in the run's logs folder") from error
    except RayTaskError as error:
        if isinstance(error.cause, OpenR1Error):
            raise error.cause from error
        raise TrainingError(f"{waiting}: {type(error.cause).__name__}: {last_line(error.cause)}") from error


def last_line(error: BaseException) -> str:
    """The last line of an error's message, where Ray and Python put the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
