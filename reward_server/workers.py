"""Processes that answer questions a parser is needed for: killed when they take too long, and replaced."""

import math
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import connection, forkserver

from pebble import ProcessExpired, ProcessPool

from reward_server.tasks.task import Question

QUESTIONS_PER_WORKER = 2000
"""A worker is replaced after so many questions: what a parser leaves behind in memory ends with it."""
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_STOP_SECONDS = 5
_WALL_SECONDS_A_SECOND = 10
"""Seconds by the clock for each second of processor time: a worker of low priority on a busy machine is slow."""


class Busy(Exception):
    """So many questions wait that this one would not be answered in time."""


class Workers:
    """A pool of processes that share nothing with this one but a pipe, and get no more time and memory than stated.

    They are forked from a clean server process that has the parser loaded, so that a replacement costs milliseconds,
    inherits no threads and no lock, and finds no secret in its environment.
    """

    def __init__(self, count: int, seconds: float, memory_bytes: int, niceness: int = 0) -> None:
        """Describe the pool, which starts with the first question.

        Args:
            count: Processes.
            seconds: Of processor time for one question; then the process is killed. Whatever else the machine is doing,
                the same question gets the same answer.
            memory_bytes: Address space of each.
            niceness: Added to this process's own; 0 to 19.
        """
        self._count = count
        self._seconds = seconds
        self._limits = (memory_bytes, niceness)
        self._waiting = 0
        self._last_answer = 0.0  # on the monotonic clock; while none is waited for, when the next question came
        self._seconds_between_answers = 0.0  # a running mean, while there are questions
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None

    @property
    def waiting(self) -> int:
        """Questions that are not answered yet."""
        return self._waiting

    def ask(self, question: Question, patience: float = math.inf) -> "Future[bool]":
        """Have a question answered; returns at once.

        The future raises `pebble.ProcessExpired` when the process died (`out_of_time` tells why), TimeoutError when it
        slept instead of working, and what `grading.symbolic.equal` raises.

        Args:
            question: What to compare.
            patience: Seconds within which an answer is of use.

        Raises:
            Busy: At the pace of the last answers, those that wait already take longer than that.
        """
        with self._lock:
            now = time.monotonic()
            if self._waiting == 0:
                self._last_answer = now
            pace = max(self._seconds_between_answers, now - self._last_answer)
            if self._waiting * pace > patience:
                raise Busy(f"{self._waiting} comparisons wait already, too many to be done in {patience:.0f} s")
            # Workers that cannot even start break a pool for good; a new one may fare better.
            if self._pool is None or not self._pool.active:
                self._pool = self._start()
            future: Future[bool] = self._pool.schedule(
                _answer, args=[question, self._seconds], timeout=_WALL_SECONDS_A_SECOND * self._seconds
            )
            self._waiting += 1
        future.add_done_callback(self._note_answer)
        return future

    def _note_answer(self, future: "Future[bool]") -> None:
        with self._lock:
            self._waiting -= 1
            if not future.cancelled():
                now = time.monotonic()
                self._seconds_between_answers += (now - self._last_answer - self._seconds_between_answers) / 8
                self._last_answer = now

    def close(self) -> None:
        """Kill all processes."""
        with self._lock:
            if self._pool is not None:
                self._pool.stop()
                self._pool.join(_STOP_SECONDS)
                self._pool = None

    def _start(self) -> ProcessPool:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["reward_server.worker_preload"])
        with _clean_environment():
            forkserver.ensure_running()
        return ProcessPool(self._count, QUESTIONS_PER_WORKER, _limit_this_process, self._limits, context)


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


def _answer(question: Question, seconds: float) -> bool:
    """Runs in a worker. The system itself ends the process when its processor time is up, whatever it is doing."""
    from reward_server.grading.symbolic import equal

    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return equal(*question)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def out_of_time(death: ProcessExpired) -> bool:
    """Whether a process died because its processor time was up."""
    return bool(death.exitcode == -signal.SIGPROF)
