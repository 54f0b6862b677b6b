"""Grades batches of items: exact comparisons in this process, symbolic ones in workers, all within a deadline."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from reward_server.config import ServerConfig
from reward_server.grading import Outcome, Unread
from reward_server.grading.limits import is_expensive
from reward_server.metrics import Metrics
from reward_server.schema import ScoreItem
from reward_server.scoring import GradingResult, NeedsSymbolic, compare_exact, get_score
from reward_server.tasks import AnyTask
from reward_server.tasks.task import CannotGrade, Comparison, Task
from reward_server.tasks.worker_task import WorkerTask
from reward_server.worker_calls import outcome_of, submit
from reward_server.worker_grading import WorkerGrading, why_too_long
from reward_server.workers import Equal, WorkerPool, compare_symbolically

CACHE_SIZE = 100_000
"""Maximum number of cached comparisons. Responses of one group repeat answers, and retried requests repeat groups."""
_LOW_PRIORITY = 10
_EXPENSIVE_SECONDS = 0.5
"""Estimated duration of an expensive comparison before any was measured; limits how many may queue at first."""
_SELF_TEST = (
    (Comparison(r"\begin{vmatrix} 2 & 1 \\ 1 & 2 \end{vmatrix}", "3"), True),
    (Comparison(r"\begin{vmatrix} 2 & 1 \\ 1 & 2 \end{vmatrix}", "5"), False),
)
"""Comparisons with a known result, both of which need the LaTeX parser: 2 * 2 - 1 * 1 is 3."""
_SELF_TEST_SECONDS = 20.0
_TOO_LATE = "timeout: the deadline of the request passed before this item was graded"


class ComparisonResult(NamedTuple):
    """Whether answer and gold are equal, or the reason why that could not be decided; and how long it took."""

    outcome: Outcome | CannotGrade
    seconds: float


_Results = dict[Comparison, ComparisonResult]
_DoneTimes = dict[Comparison, float]
"""Monotonic time at which each comparison finished; for a comparison that was retried, of the last attempt."""


class Grader:
    """Grades items, and owns the worker processes and the cache that this takes.

    Methods may be called from any thread.
    """

    def __init__(
        self, config: ServerConfig, metrics: Metrics | None = None, equal: Equal = compare_symbolically
    ) -> None:
        """Configure the workers, which start with the first comparison that needs them, and run `equal`.

        Comparisons that look expensive get a worker of their own, at low priority: they must not occupy the workers
        that all other items wait for.
        """
        self._config = config
        self.metrics = metrics or Metrics()
        limits = (config.worker_seconds, config.worker_memory_bytes)
        self._pool = WorkerPool(config.workers, *limits, equal)
        self._low_priority_pool = WorkerPool(
            1, *limits, equal, niceness=_LOW_PRIORITY, expected_seconds=_EXPENSIVE_SECONDS
        )
        self._tasks_in_workers = WorkerGrading(config, self.metrics)
        self.metrics.pending_comparisons.set_function(
            lambda: self._pool.num_pending + self._low_priority_pool.num_pending
        )
        self._cache: dict[Comparison, Outcome] = {}
        self._cache_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()
        self._low_priority_pool.close()
        self._tasks_in_workers.close()

    def grade(
        self, task: AnyTask, items: Sequence[ScoreItem], seconds: float | None = None
    ) -> list[tuple[GradingResult, float]]:
        """Grade a batch of items.

        Args:
            task: Defines how to grade.
            items: Any number of items; may be empty.
            seconds: Deadline for the whole batch; at most, and by default, `ServerConfig.batch_seconds`. Items that are
                not finished by then get the verdict `timeout`.

        Returns:
            The result of each item and how many seconds it took, in the order of `items`.
        """
        start = time.monotonic()
        limit = self._config.batch_seconds if seconds is None else min(seconds, self._config.batch_seconds)
        if isinstance(task, WorkerTask):
            ordered = self._tasks_in_workers.grade(task, items, start + limit)
        else:
            ordered = self._grade_in_rounds(task, items, start, limit)
        self.metrics.count_items(task.name, [result for result, _ in ordered])
        return ordered

    def _grade_in_rounds(
        self, task: Task[Any], items: Sequence[ScoreItem], start: float, limit: float
    ) -> list[tuple[GradingResult, float]]:
        """Grade items here, except for comparisons that need a worker, within `limit` seconds from `start`."""
        graded: dict[int, tuple[GradingResult, float]] = {}
        seconds_spent = [0.0] * len(items)
        results: _Results = {}
        # Works in rounds. Grading an item stops at the first comparison that needs a worker; the comparisons of a round
        # run in parallel, and the next round grades their items again from the start, with the results at hand. Most
        # items need no worker and are done in the first round; built-in tasks never need a third.
        pending: Mapping[int, Comparison | None] = dict.fromkeys(range(len(items)))
        while pending:
            needed: dict[int, Comparison] = {}
            for index, compared in pending.items():
                item_start = time.monotonic()
                # Only in the first round: a later one merely looks up results, and one that came in time must count.
                if item_start - start >= limit and compared is None:
                    graded[index] = (GradingResult("timeout", error=_TOO_LATE), item_start - start)
                    continue
                try:
                    result = self._grade_one(task, items[index], results)
                    seconds_spent[index] += time.monotonic() - item_start
                    graded[index] = (result, seconds_spent[index])
                except NeedsSymbolic as unresolved:
                    needed[index] = unresolved.comparison
            results |= self.compare_all(set(needed.values()), start + limit)
            for index, comparison in needed.items():
                seconds_spent[index] += results[comparison].seconds
            pending = needed
        return [graded[index] for index in range(len(items))]

    def self_test(self) -> str | None:
        """Run one right and one wrong comparison in a worker. Returns what failed, or None if the workers are fine."""
        deadline = time.monotonic() + _SELF_TEST_SECONDS
        for comparison, expected in _SELF_TEST:
            try:
                future = self._pool.submit(comparison)
                try:
                    outcome = self._pool.wait(future, max(0.0, deadline - time.monotonic()))
                finally:
                    future.cancel()
            except Exception as error:  # noqa: BLE001 (whatever the error is, the workers do not work)
                return f"self-test: {type(error).__name__}: {error}"
            if outcome is not expected:
                return f"self-test: a comparison gave {outcome} instead of {expected}"
        return None

    def _grade_one(self, task: Task[Any], item: ScoreItem, results: _Results) -> GradingResult:
        """Grade an item, given the results of earlier comparisons.

        Raises:
            NeedsSymbolic: The item needs a comparison that is not in `results`.
        """
        too_long = why_too_long(item, self._config)
        if too_long is not None:
            return too_long

        def compare(comparison: Comparison) -> Outcome:
            result = results.get(comparison)
            if result is None:
                return compare_exact(comparison)
            if isinstance(result.outcome, CannotGrade):
                raise result.outcome
            return result.outcome

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

    def compare_all(self, comparisons: set[Comparison], deadline: float) -> _Results:
        """Run comparisons in the workers, in parallel, and return when all are decided or the deadline has passed.

        Args:
            comparisons: What to compare. Cached results are reused.
            deadline: On the monotonic clock. Comparisons not finished by then get the outcome `timeout`.

        Returns:
            A result for every comparison.
        """
        start = time.monotonic()
        done_times: _DoneTimes = {}
        with self._cache_lock:
            results: _Results = {
                one: ComparisonResult(self._cache[one], 0.0) for one in comparisons & self._cache.keys()
            }
        futures = {one: self._submit(one, deadline, done_times) for one in comparisons - results.keys()}
        for comparison, future in futures.items():
            outcome = outcome_of(self._pool_for(comparison), comparison, future, deadline, self.metrics)
            # The time of completion comes from the future's callback: this loop waits for the futures one after
            # another, and may come to a future long after it was done.
            results[comparison] = ComparisonResult(outcome, done_times.get(comparison, time.monotonic()) - start)
        self._store(results)
        return results

    def _store(self, results: _Results) -> None:
        """Cache what was decided. Failures are not cached, so that they are tried again."""
        with self._cache_lock:
            self._cache |= {
                one: result.outcome for one, result in results.items() if isinstance(result.outcome, bool | Unread)
            }
            # A dict iterates in order of insertion: the oldest entries go first.
            excess = max(0, len(self._cache) - CACHE_SIZE)
            for comparison in list(islice(self._cache, excess)):
                del self._cache[comparison]

    def _pool_for(self, comparison: Comparison) -> WorkerPool[Outcome]:
        expensive = is_expensive(comparison.answer) or is_expensive(comparison.gold)
        return self._low_priority_pool if expensive else self._pool

    def _submit(self, comparison: Comparison, deadline: float, done_times: _DoneTimes) -> "Future[Outcome]":
        future = submit(self._pool_for(comparison), comparison, deadline)
        future.add_done_callback(partial(_record_done_time, done_times, comparison))
        return future


def _record_done_time(done_times: _DoneTimes, comparison: Comparison, future: "Future[Outcome]") -> None:
    done_times[comparison] = time.monotonic()
