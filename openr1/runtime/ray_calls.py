"""Waiting for Ray calls, always with a deadline, and with errors that say who waits for whom."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from openr1.errors import ActorLost, OpenR1Error, StageTimeout, TrainingError
from openr1.runtime.interrupts import INTERRUPTS, POLL_SECONDS

MOST_NAMES = 8
"""Names in one message; of a thousand ranks that lag, the first few will do."""

HALF_CHARACTERS = 200
"""Of the message of an error that is not ours, at either end."""

DEATH_SECONDS = 10.0
"""How long an error of one actor waits for the news that any other one has died."""


def gather(
    calls: list[Any],
    timeout_seconds: float,
    waiting: str,
    names: Sequence[str] = (),
    while_waiting: Callable[[], object] | None = None,
) -> list[Any]:
    """Wait for Ray calls and return their results, in order.

    Args:
        calls: Object references.
        timeout_seconds: Deadline for all calls together.
        waiting: Who waits for whom and why, for messages: "policy rank 0 waits for 2 engine(s) to load weights".
        names: Whom each call waits for, such as "engine 1": messages name those that lag, and the one that failed.
        while_waiting: Called every `POLL_SECONDS`.

    Raises:
        StageTimeout: Some call did not finish in time.
        ActorLost: An actor died.
        TrainingError: A call raised any other error.
        OpenR1Error: A call raised one; it is re-raised unchanged.
    """
    deadline = time.monotonic() + timeout_seconds
    name_of = dict(zip(calls, names, strict=True)) if names else {}
    pending, done = list(calls), []
    try:
        while pending:
            INTERRUPTS.check()
            if while_waiting is not None:
                while_waiting()
            if time.monotonic() > deadline:
                raise StageTimeout(f"{waiting}: {_listed(pending, name_of)}not done within {timeout_seconds:g} s")
            # One at a time: if one rank fails, the others may wait for it forever in a collective.
            done, pending = ray.wait(pending, num_returns=1, timeout=POLL_SECONDS)
            ray.get(done)
        return list(ray.get(calls))
    except RayActorError as error:
        raise _lost(error, waiting, _listed(done, name_of)) from error
    except RayTaskError as error:
        if isinstance(error.cause, OpenR1Error):
            raise error.cause from error
        failed = f"{type(error.cause).__name__}: {one_line(error.cause)}"
        if (death := _first_death(pending)) is not None:
            raise _lost(death[1], waiting, _listed([death[0]], name_of)) from error
        raise TrainingError(f"{waiting}: {_listed(done, name_of)}{failed}") from error


@contextmanager
def ray_errors() -> Iterator[None]:
    """For the block, troubles of Ray itself are told as ours, such as a full object store and no disk to move it to.

    Raises:
        TrainingError: Ray raised an error that is not that of a call which `gather` waits for.
    """
    try:
        yield
    except RayError as error:
        raise TrainingError(f"Ray: {one_line(error)}") from error


def _lost(error: RayActorError, waiting: str, name: str) -> ActorLost:
    return ActorLost(f"{waiting}: {name}an actor died: {describe_death(error)}; its log is in the run's logs folder")


def describe_death(error: RayActorError) -> str:
    """Why an actor is gone, and on which node."""
    node = re.search(r"^\s*ip: (\S+)$", str(error), re.MULTILINE)
    return f"{last_line(error)} (node {node[1]})" if node else last_line(error)


def _first_death(pending: list[ray.ObjectRef]) -> tuple[ray.ObjectRef, RayActorError] | None:
    """The first call whose actor turns out to be gone, and why; None if there is none within `DEATH_SECONDS`.

    The peers of a dead actor in a collective may fail before Ray knows of it; what they say is a consequence.
    """
    deadline = time.monotonic() + DEATH_SECONDS
    while pending and (left := deadline - time.monotonic()) > 0:
        done, pending = ray.wait(pending, num_returns=1, timeout=left)
        try:
            ray.get(done)
        except RayActorError as error:
            return done[0], error
        except RayTaskError:
            continue  # another peer that noticed
    return None


def numbered(kind: str, count: int) -> list[str]:
    """Names of equal actors for `gather`: engine 0, engine 1, ..."""
    return [f"{kind} {index}" for index in range(count)]


def _listed(calls: Sequence[ray.ObjectRef], name_of: dict[ray.ObjectRef, str]) -> str:
    """Names of calls as the start of a message, each once; nothing if there are none."""
    names = list(dict.fromkeys(name_of[call] for call in calls if call in name_of))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(names[:MOST_NAMES])}{more}: " if names else ""


def was_restarted() -> bool:
    """Whether this process runs an actor, and replaces one that died."""
    return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)


def one_line(error: BaseException) -> str:
    """An error's message in one line; of a long one its beginning and its end, either of which may have the cause."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) <= 2 * HALF_CHARACTERS:
        return text
    return f"{text[:HALF_CHARACTERS]} ... {text[-HALF_CHARACTERS:]}"


def last_line(error: BaseException) -> str:
    """The last line of an error's message, where Ray puts the cause, without its list of what might be the reasons."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return re.split(r"\.? (?:Some common causes|There are some potential root causes)", line)[0]
