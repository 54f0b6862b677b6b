"""Worker processes for what may take long or crash; a worker that exceeds its limits is killed and replaced.

They compare expressions with a parser, and run the user's reward functions (`reward_server.worker_grading`).
"""

import math
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessPool

from reward_server.environment import HARMLESS
from reward_server.grading import Outcome

COMPARISONS_PER_WORKER = 2000
"""A worker is replaced after this many comparisons, which frees whatever memory the parser has leaked or cached."""
_STOP_SECONDS = 5
_POLL_SECONDS = 1.0
"""Interval at which a caller that waits for a result checks that the pool still works on it."""
_WALL_CLOCK_FACTOR = 10
"""Limit on wall-clock time, as a multiple of that on CPU time: on a busy machine, a low-priority worker is slow."""

Result = TypeVar("Result")

Equal = Callable[[str, str, bool], Outcome]
"""Whether an answer equals a gold, or cannot be read; the third argument: the answer is prose. Runs in workers."""


class QueueFull(Exception):
    """Too many comparisons are queued for this one to finish in time."""


class PoolClosed(Exception):
    """The pool was closed; it accepts no more comparisons."""


def compare_symbolically(answer: str, gold: str, prose: bool) -> Outcome:
    """`grading.symbolic.equal`. Only workers load the parser, and from the fork server they inherit it imported."""
    from reward_server.grading.symbolic import equal

    return equal(answer, gold, prose)


class WorkerPool(Generic[Result]):
    """A pool of worker processes with limits on CPU time and memory. Methods may be called from any thread.

    Workers share nothing with this process but a pipe. They are forked from Python's fork server, a clean process that
    has already imported the parser: a replacement starts in milliseconds, inherits neither threads nor locks, and finds
    no secrets in its environment.
    """

    def __init__(
        self,
        count: int,
        seconds: float,
        memory_bytes: int,
        function: Callable[..., Result],
        niceness: int = 0,
        expected_seconds: float = 0.0,
        noun: str = "comparison",
    ) -> None:
        """Configure the pool. Processes start with the first comparison.

        Args:
            count: Number of processes.
            seconds: CPU time for one comparison, after which its process is killed. CPU time, not wall-clock time, so
                that the result does not depend on the load of the machine.
            memory_bytes: Address space of each process.
            function: What the processes run, a function that a module defines. Tests of the limits pass one that
                sleeps, allocates or exits.
            niceness: Added to the niceness of this process; 0 to 19.
            expected_seconds: Initial estimate of the time between two results, used until there are measurements.
            noun: What one call of it is, for messages.
        """
        self.noun = noun
        self.seconds = seconds
        self._function = function
        self._count = count
        self._limits = (memory_bytes, niceness)
        # Two locks. `_lock` guards the pool's life cycle and may be held for long, while processes start. `_count_lock`
        # guards the counters below; pebble's own threads take it in `_record_result`, and they must never wait for a
        # thread that starts or stops a pool, since that thread may be waiting for them. Therefore: whoever holds
        # `_count_lock` never takes another lock.
        self._count_lock = threading.Lock()
        self._pending: dict[Future[Result], ProcessPool | None] = {}  # with the process pool each was submitted to
        # Monotonic time of the last result; if the pool was idle since, of the first comparison after that.
        self._last_result = 0.0
        # Running mean, in which idle time does not count.
        self._seconds_between_results = expected_seconds
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._stopper: _Stopper | None = None
        self._closed = False

    @property
    def num_pending(self) -> int:
        """Number of comparisons that are queued or running."""
        return len(self._pending)

    def submit(self, arguments: Sequence[Any], timeout: float = math.inf) -> "Future[Result]":
        """Queue a comparison; returns immediately.

        The future raises what the function raises; `pebble.ProcessExpired` if the process died, see
        `exceeded_cpu_limit`; `BrokenProcessPool` if all processes died; and TimeoutError if the process exceeded the
        wall-clock limit, which means that it slept instead of computing.

        Args:
            arguments: Of the function.
            timeout: Seconds after which the caller has no more use for the result.

        Raises:
            QueueFull: `timeout` is not positive, or at the current rate the comparisons already queued take longer.
                Failing at once is better than queueing work whose result nobody will read.
            PoolClosed: `close` was called.
        """
        if timeout <= 0:
            raise QueueFull(f"the deadline passed before the {self.noun} could be queued")
        with self._count_lock:
            num_pending = len(self._pending)
            if num_pending * self._seconds_between_results > timeout:
                raise QueueFull(f"{num_pending} {self.noun}s are already queued, too many to finish in {timeout:.0f} s")
        with self._lock:
            if self._closed:
                raise PoolClosed("the worker pool is closed")
            future = self._schedule(arguments)
            with self._count_lock:
                if not self._pending:
                    self._last_result = time.monotonic()
                self._pending[future] = self._pool
        # After the future is in `_pending`: the callback runs immediately if the future is already done.
        future.add_done_callback(self._record_result)
        return future

    def wait(self, future: "Future[Result]", timeout: float) -> Result:
        """The result of a submitted comparison, like `future.result(timeout)`; call this instead.

        pebble fails all comparisons of a pool that breaks, but it can miss one that is submitted at that moment: for
        example the retry after one worker died, if the last other worker dies in the same instant. The future of such a
        comparison would stay pending forever.

        Raises:
            BrokenProcessPool: Also if the pool broke without failing this comparison.
            TimeoutError: There is no result after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            seconds_left = max(0.0, deadline - time.monotonic())
            try:
                return future.result(min(_POLL_SECONDS, seconds_left))
            except TimeoutError:
                # A finished future may itself contain a TimeoutError: the worker exceeded its wall-clock limit.
                if future.done() or seconds_left <= _POLL_SECONDS:
                    raise
            with self._count_lock:
                pool = self._pending.get(future)
            # `cancel` fails if the result has come in the meantime; the next round returns it.
            if pool is not None and not pool.active and future.cancel():
                raise BrokenProcessPool(f"the workers died before this {self.noun} was done")

    def _schedule(self, arguments: Sequence[Any]) -> "Future[Result]":
        """Pass a comparison to the process pool, and replace the pool if it is broken. The caller holds `_lock`."""
        wall_clock_seconds = _WALL_CLOCK_FACTOR * self.seconds
        for _ in range(2):
            if self._pool is None or not self._pool.active:
                # All workers died or could not start, for example for lack of memory; a new pool may succeed.
                if self._stopper is not None:
                    self._stopper.stop()
                self._pool = self._start()
                self._stopper = _Stopper(self._pool)
            try:
                future: Future[Result] = self._pool.schedule(
                    _run, args=[self._function, arguments, self.seconds], timeout=wall_clock_seconds
                )
            except RuntimeError:
                continue  # the pool broke between the check above and this call
            return future
        broken: Future[Result] = Future()
        broken.set_exception(BrokenProcessPool("the workers cannot be started"))
        return broken

    def _record_result(self, future: "Future[Result]") -> None:
        """Update the counters; called by pebble's threads."""
        with self._count_lock:
            self._pending.pop(future, None)
            if not future.cancelled():
                now = time.monotonic()
                # Exponential moving average with weight 1/8.
                self._seconds_between_results += (now - self._last_result - self._seconds_between_results) / 8
                self._last_result = now

    def close(self) -> None:
        """Kill all processes and cancel all pending comparisons."""
        with self._lock:
            self._closed = True
            self._pool = None
            stopper, self._stopper = self._stopper, None
        with self._count_lock:
            pending = list(self._pending)
        # Outside both locks: cancelling a future runs `_record_result`, which takes `_count_lock`.
        for future in pending:
            future.cancel()
        if stopper is not None:
            stopper.stop().join(_STOP_SECONDS)

    def _start(self) -> ProcessPool:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["reward_server.worker_preload"])
        # The environment of the fork server, and of every worker forked from it, is a copy of ours at this moment.
        with _clean_environment():
            forkserver.ensure_running()
        return ProcessPool(self._count, COMPARISONS_PER_WORKER, _init_worker, self._limits, context)


class _Stopper:
    """A thread that waits to stop a pool: the pool's own threads may wait for processes that hang.

    It is started with the pool. Pools are often closed while the interpreter exits, when Python 3.12 and later start no
    thread any more.
    """

    def __init__(self, pool: ProcessPool) -> None:
        self._requested = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[pool], daemon=True)
        self._thread.start()

    def stop(self) -> threading.Thread:
        """Let the thread stop the pool, and return the thread."""
        self._requested.set()
        return self._thread

    def _run(self, pool: ProcessPool) -> None:
        self._requested.wait()
        pool.stop()
        pool.join()


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Remove all environment variables but the harmless ones for the block, to keep API keys from workers."""
    saved = dict(os.environ)
    for name in saved:
        if name not in HARMLESS:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(saved)


def _init_worker(memory_bytes: int, niceness: int) -> None:
    """Runs first in every worker: applies the limits."""
    # What a function prints belongs into the log: the server's output carries its address, and that of `score` results.
    os.dup2(2, 1)
    # Ctrl-C in a terminal sends SIGINT to the whole process group, but the server decides when workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    os.nice(niceness)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the server does; a worker in the middle of a computation would outlive a server killed by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _run(function: Callable[..., Result], arguments: Sequence[Any], seconds: float) -> Result:
    """Runs in a worker: call the function within a limit on CPU time."""
    # With the default handler, the kernel itself ends the process when the timer fires. A Python handler would only run
    # between two bytecodes, and never during a long call into C code, such as a power of large integers.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return function(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


@contextmanager
def without_cpu_limit() -> Iterator[None]:
    """Runs in a worker: for the block, the limit on the CPU time of the call rests."""
    left, _ = signal.setitimer(signal.ITIMER_PROF, 0.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, left)


def exceeded_cpu_limit(death: ProcessExpired) -> bool:
    """Whether a worker was killed because it exceeded its CPU time."""
    return bool(death.exitcode == -signal.SIGPROF)
