"""Processes that answer comparisons a parser is needed for: killed when they take too long, and replaced."""

import math
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, forkserver

from pebble import ProcessExpired, ProcessPool

from reward_server.tasks.task import Comparison

COMPARISONS_PER_WORKER = 2000
"""A worker is replaced after so many comparisons: what a parser leaves behind in memory ends with it."""
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_STOP_SECONDS = 5
_WALL_CLOCK_FACTOR = 10
"""Seconds by the clock for each second of processor time: a worker of low priority on a busy machine is slow."""


class QueueFull(Exception):
    """So many comparisons wait that this one would not be answered in time."""


class PoolClosed(Exception):
    """The workers have been ended."""


class WorkerPool:
    """A pool of processes that share nothing with this one but a pipe, and get no more time and memory than stated.

    They are forked from a clean server process that has the parser loaded, so that a replacement costs milliseconds,
    inherits no threads and no lock, and finds no secret in its environment.
    """

    def __init__(
        self, count: int, seconds: float, memory_bytes: int, niceness: int = 0, expected_seconds: float = 0.0
    ) -> None:
        """Describe the pool, which starts with the first comparison.

        Args:
            count: Processes.
            seconds: Of processor time for one comparison; then the process is killed. The load of the machine does not
                change the answer.
            memory_bytes: Address space of each.
            niceness: Added to this process's own; 0 to 19.
            expected_seconds: Between two answers, until it is known better.
        """
        self._count = count
        self._seconds = seconds
        self._limits = (memory_bytes, niceness)
        # Answers are noted by the pool's own threads, which must never wait for whoever starts or ends a pool: who
        # holds `_count_lock` takes no other lock.
        self._count_lock = threading.Lock()
        self._pending: set[Future[bool]] = set()
        self._last_answer = 0.0  # on the monotonic clock; while none is waited for, when the next comparison came
        self._seconds_between_answers = expected_seconds  # a running mean, while there are comparisons
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._closed = False

    @property
    def num_pending(self) -> int:
        """Questions that are not answered yet."""
        return len(self._pending)

    def submit(self, comparison: Comparison, patience: float = math.inf) -> "Future[bool]":
        """Have a comparison answered; returns at once.

        The future raises `pebble.ProcessExpired` when the process died (`exceeded_cpu_limit` tells why),
        `BrokenProcessPool` when all did, TimeoutError when it slept instead of working, and what
        `grading.symbolic.equal` raises.

        Args:
            comparison: What to compare.
            patience: Seconds within which an answer is of use.

        Raises:
            QueueFull: At the pace of the last answers, those that wait already take longer than that.
            PoolClosed: `close` was called.
        """
        with self._count_lock:
            num_pending = len(self._pending)
            if num_pending * self._seconds_between_answers > patience:
                raise QueueFull(f"{num_pending} comparisons wait already, too many to be done in {patience:.0f} s")
        with self._lock:
            if self._closed:
                raise PoolClosed("the workers have been ended")
            future = self._schedule(comparison)
            with self._count_lock:
                if not self._pending:
                    self._last_answer = time.monotonic()
                self._pending.add(future)
        future.add_done_callback(self._record_result)
        return future

    def _schedule(self, comparison: Comparison) -> "Future[bool]":
        """Hand a comparison to the pool, to a new one if the pool is broken."""
        limit = _WALL_CLOCK_FACTOR * self._seconds
        for _ in range(2):
            if self._pool is None or not self._pool.active:
                # All workers died, or could not even start; a new pool may fare better.
                _stop_in_background(self._pool)
                self._pool = self._start()
            try:
                future: Future[bool] = self._pool.schedule(_compare, args=[comparison, self._seconds], timeout=limit)
            except RuntimeError:
                continue  # it broke just now
            return future
        broken: Future[bool] = Future()
        broken.set_exception(BrokenProcessPool("the workers cannot be started"))
        return broken

    def _record_result(self, future: "Future[bool]") -> None:
        with self._count_lock:
            self._pending.discard(future)
            if not future.cancelled():
                now = time.monotonic()
                self._seconds_between_answers += (now - self._last_answer - self._seconds_between_answers) / 8
                self._last_answer = now

    def close(self) -> None:
        """Kill all processes; what is not answered is cancelled."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        with self._count_lock:
            pending = list(self._pending)
        for future in pending:
            future.cancel()
        _stop_in_background(pool).join(_STOP_SECONDS)

    def _start(self) -> ProcessPool:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["reward_server.worker_preload"])
        with _clean_environment():
            forkserver.ensure_running()
        return ProcessPool(self._count, COMPARISONS_PER_WORKER, _limit_this_process, self._limits, context)


def _stop_in_background(pool: ProcessPool | None) -> threading.Thread:
    """The thread that stops a pool, which may take long: a pool's threads wait for processes that may be stuck."""
    ending = threading.Thread(target=_stop, args=[pool], daemon=True)
    ending.start()
    return ending


def _stop(pool: ProcessPool | None) -> None:
    if pool is not None:
        pool.stop()
        pool.join()


@contextmanager
def _clean_environment() -> Iterator[None]:
    """For the block, an environment of a few harmless variables: keys and tokens stay here."""
    saved = dict(os.environ)
    for name in saved:
        if name not in _ENVIRONMENT:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(saved)


def _limit_this_process(memory_bytes: int, niceness: int) -> None:
    """Runs first in every worker."""
    # Ctrl-C in a terminal goes to the whole group; the server decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    os.nice(niceness)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker that computes would outlive a server that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _compare(comparison: Comparison, seconds: float) -> bool:
    """Runs in a worker. The system itself ends the process when its processor time is up, whatever it is doing."""
    from reward_server.grading.symbolic import equal

    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return equal(*comparison)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def exceeded_cpu_limit(death: ProcessExpired) -> bool:
    """Whether a process died because its processor time was up."""
    return bool(death.exitcode == -signal.SIGPROF)
