"""Grades batches: what is plain here, what takes a parser in worker processes, all within a deadline."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from pebble import ProcessExpired

from reward_server.config import ServerConfig
from reward_server.grading import GoldUnparseable
from reward_server.grading.limits import is_expensive
from reward_server.metrics import Metrics
from reward_server.schema import ScoreItem
from reward_server.scoring import GradingResult, NeedsSymbolic, compare_exact, get_score
from reward_server.tasks.task import CannotGrade, Comparison, Task
from reward_server.workers import PoolClosed, QueueFull, WorkerPool, exceeded_cpu_limit

CACHE_SIZE = 100_000
"""Answered comparisons that are kept: groups repeat answers, and retries repeat groups."""
_LOW_PRIORITY = 10
_EXPENSIVE_SECONDS = 0.5
"""What an expensive comparison is thought to take until some were made; bounds how many may wait at first."""
_SELF_TEST = (
    (Comparison(r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), True),
    (Comparison(r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{2}}{2}"), False),
)
_SELF_TEST_SECONDS = 20.0
_TOO_LATE = "timeout: the deadline of the request passed before this item's turn"


class ComparisonResult(NamedTuple):
    """Whether answer and gold of a comparison are the same, or why that cannot be told; and the seconds it took."""

    outcome: bool | CannotGrade
    seconds: float


_Results = dict[Comparison, ComparisonResult]
_Times = dict[Comparison, float]
"""When a comparison was answered, on the monotonic clock; of one that was asked twice, the second time."""


class Grader:
    """Everything that grading needs beside the item itself. Methods may be called from any thread."""

    def __init__(self, config: ServerConfig, metrics: Metrics | None = None) -> None:
        """Describe the workers; what looks expensive goes to one of low priority, so that it delays nothing else."""
        self._config = config
        self.metrics = metrics or Metrics()
        limits = (config.worker_seconds, config.worker_memory_bytes)
        self._pool = WorkerPool(config.workers, *limits)
        self._low_priority_pool = WorkerPool(1, *limits, niceness=_LOW_PRIORITY, expected_seconds=_EXPENSIVE_SECONDS)
        self.metrics.pending_comparisons.set_function(
            lambda: self._pool.num_pending + self._low_priority_pool.num_pending
        )
        self._cache: dict[Comparison, bool] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
        self._low_priority_pool.close()

    def grade(
        self, task: Task[Any], items: Sequence[ScoreItem], seconds: float | None = None
    ) -> list[tuple[GradingResult, float]]:
        """Grade every item.

        Args:
            task: How.
            items: Any number.
            seconds: For all together, at most `ServerConfig.batch_seconds`; what is not done then has timed out.

        Returns:
            For each item, in order, its score and the seconds that it took.
        """
        begun = time.monotonic()
        limit = self._config.batch_seconds if seconds is None else min(seconds, self._config.batch_seconds)
        graded: dict[int, tuple[GradingResult, float]] = {}
        spent = [0.0] * len(items)
        answers: _Results = {}
        waiting: Mapping[int, Comparison | None] = dict.fromkeys(range(len(items)))
        while waiting:
            asked: dict[int, Comparison] = {}
            for index, answered in waiting.items():
                start = time.monotonic()
                if start - begun >= limit and answered is None:
                    graded[index] = (GradingResult("timeout", error=_TOO_LATE), start - begun)
                    continue
                try:
                    score = self._grade_one(task, items[index], answers)
                    spent[index] += time.monotonic() - start
                    graded[index] = (score, spent[index])
                except NeedsSymbolic as unresolved:
                    asked[index] = unresolved.comparison
            answers |= self.compare_all(set(asked.values()), begun + limit)
            for index, comparison in asked.items():
                spent[index] += answers[comparison].seconds
            waiting = asked
        results = [graded[index] for index in range(len(items))]
        self.metrics.count_items(task.name, [score for score, _ in results])
        return results

    def self_test(self) -> str | None:
        """Ask the workers two comparisons whose answers are known; the reason not to trust them, or None."""
        end = time.monotonic() + _SELF_TEST_SECONDS
        for comparison, expected in _SELF_TEST:
            try:
                future = self._pool.submit(comparison)
                try:
                    answer = future.result(max(0.0, end - time.monotonic()))
                finally:
                    future.cancel()
            except Exception as error:  # noqa: BLE001 (whatever it is, the workers are not to be trusted)
                return f"self-test: {type(error).__name__}: {error}"
            if answer is not expected:
                return f"self-test: a comparison gave {answer} instead of {expected}"
        return None

    def _grade_one(self, task: Task[Any], item: ScoreItem, answers: _Results) -> GradingResult:
        """Grade an item with the help of what was answered so far.

        Raises:
            NeedsSymbolic: Another comparison must be answered first.
        """
        length = len(item.prefix) + len(item.response)
        if length > self._config.max_response_chars:
            allowed = self._config.max_response_chars
            return GradingResult("error", error=f"too_long: {length} characters, the limit is {allowed}")

        def compare(comparison: Comparison) -> bool:
            answer = answers.get(comparison)
            if answer is None:
                return compare_exact(comparison)
            if isinstance(answer.outcome, CannotGrade):
                raise answer.outcome
            return answer.outcome

        return get_score(
            task,
            item.response,
            item.label,
            prompt=item.prompt,
            prefix=item.prefix,
            meta=item.meta,
            finish_reason=item.finish_reason,
            compare=compare,
        )

    def compare_all(self, comparisons: set[Comparison], end: float) -> _Results:
        """Have all comparisons answered, side by side, until `end` on the monotonic clock."""
        start = time.monotonic()
        times: _Times = {}
        with self._lock:
            answers: _Results = {q: ComparisonResult(self._cache[q], 0.0) for q in comparisons if q in self._cache}
        futures = {
            comparison: self._submit(comparison, end, times) for comparison in comparisons if comparison not in answers
        }
        for comparison, future in futures.items():
            outcome = self._wait_for(comparison, future, end, times)
            answers[comparison] = ComparisonResult(outcome, times.get(comparison, time.monotonic()) - start)
        self._store(answers)
        return answers

    def _store(self, answers: _Results) -> None:
        """Keep what was found out; failures are tried again."""
        with self._lock:
            self._cache |= {q: a.outcome for q, a in answers.items() if isinstance(a.outcome, bool)}
            excess = max(0, len(self._cache) - CACHE_SIZE)
            for comparison in list(islice(self._cache, excess)):
                del self._cache[comparison]

    def _submit(self, comparison: Comparison, end: float, times: _Times) -> "Future[bool]":
        heavy = is_expensive(comparison.answer) or is_expensive(comparison.gold)
        workers = self._low_priority_pool if heavy else self._pool
        try:
            future = workers.submit(comparison, end - time.monotonic())
        except (QueueFull, PoolClosed) as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(partial(_note_time, times, comparison))
        return future

    def _wait_for(
        self, comparison: Comparison, future: "Future[bool]", end: float, times: _Times
    ) -> bool | CannotGrade:
        """A comparison's answer, or why there is none."""
        try:
            try:
                return future.result(max(0.0, end - time.monotonic()))
            except (ProcessExpired, BrokenProcessPool) as death:
                if isinstance(death, ProcessExpired) and exceeded_cpu_limit(death):
                    raise
                # Killed from outside, perhaps; what kills a worker by itself will do so again.
                self.metrics.worker_deaths.inc()
                future = self._submit(comparison, end, times)
                return future.result(max(0.0, end - time.monotonic()))
        except QueueFull as error:
            return CannotGrade("timeout", str(error))
        except TimeoutError:
            future.cancel()
            self.metrics.timeouts.inc()
            return CannotGrade("timeout", "the comparison was not done by the deadline of the request")
        except ProcessExpired as death:
            if not exceeded_cpu_limit(death):
                return CannotGrade("error", f"the comparison ended its process: {death}")
            self.metrics.timeouts.inc()
            return CannotGrade("timeout", f"the comparison takes more than {self._config.worker_seconds:g} s")
        except GoldUnparseable as error:
            return CannotGrade("gold_unparseable", str(error))
        except Exception as error:  # noqa: BLE001 (raised in the worker: it may be anything)
            return CannotGrade("error", f"{type(error).__name__}: {error}")


def _note_time(times: _Times, comparison: Comparison, future: "Future[bool]") -> None:
    times[comparison] = time.monotonic()
