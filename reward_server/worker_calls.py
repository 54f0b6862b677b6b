"""One call in a worker, with its deadline: submitted, awaited, repeated if its worker died, and explained if failed."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pebble import ProcessExpired

from reward_server.grading import GoldUnparseable
from reward_server.metrics import Metrics
from reward_server.tasks.task import CannotGrade
from reward_server.workers import PoolClosed, QueueFull, WorkerPool, exceeded_cpu_limit

Result = TypeVar("Result")


def submit(pool: WorkerPool[Result], arguments: Sequence[Any], deadline: float) -> "Future[Result]":
    """Queue a call. If the pool does not accept it, the future raises the reason.

    Args:
        pool: Runs the call.
        arguments: Of the pool's function.
        deadline: When the caller has no more use for the result, on the monotonic clock.
    """
    try:
        return pool.submit(arguments, deadline - time.monotonic())
    except (QueueFull, PoolClosed) as error:
        refused: Future[Result] = Future()
        refused.set_exception(error)
        return refused


def outcome_of(
    pool: WorkerPool[Result], arguments: Sequence[Any], future: "Future[Result]", deadline: float, metrics: Metrics
) -> Result | CannotGrade:
    """Wait for a submitted call. One whose worker died is made again, once.

    Returns:
        What the function returned, or why there is nothing: it took too long, raised an exception, or ended its worker.
    """
    try:
        try:
            return pool.wait(future, max(0.0, deadline - time.monotonic()))
        except (ProcessExpired, BrokenProcessPool) as death:
            if isinstance(death, ProcessExpired) and exceeded_cpu_limit(death):
                raise
            # The worker may have been killed from outside, for example by the out-of-memory killer on behalf of
            # another process. If the call itself kills workers, it does so again, and then fails for good.
            metrics.worker_deaths.inc()
            future = submit(pool, arguments, deadline)
            return pool.wait(future, max(0.0, deadline - time.monotonic()))
    except QueueFull as error:
        return CannotGrade("timeout", str(error))
    except TimeoutError:
        future.cancel()
        metrics.timeouts.inc()
        return CannotGrade("timeout", f"the {pool.noun} was not finished by the deadline of the request")
    except ProcessExpired as death:
        if not exceeded_cpu_limit(death):
            return CannotGrade("error", f"the {pool.noun} ended its worker process: {death}")
        metrics.timeouts.inc()
        return CannotGrade("timeout", f"the {pool.noun} takes more than {pool.seconds:g} s of CPU time")
    except GoldUnparseable as error:
        return CannotGrade("gold_unparseable", str(error))
    except Exception as error:  # noqa: BLE001 (raised in the worker, so it can be of any type)
        return CannotGrade("error", f"{type(error).__name__}: {error}")
