"""Grades the items of tasks that run in workers (`tasks.worker_task`), each call within the deadline of its request."""

import json
import time
from collections.abc import Callable, Sequence

from reward_server.config import ServerConfig
from reward_server.metrics import Metrics
from reward_server.result import GradingResult
from reward_server.schema import ScoreItem
from reward_server.tasks.task import CannotGrade
from reward_server.tasks.worker_task import Sample, WorkerTask
from reward_server.worker_calls import outcome_of, submit
from reward_server.workers import WorkerPool

Graded = tuple[GradingResult, float]
"""The result of an item, and how many seconds it took."""


def grade_samples(
    grade: Callable[[Sequence[Sample]], list[GradingResult]], samples: Sequence[Sample]
) -> list[GradingResult]:
    """Runs in a worker: `WorkerTask.grade`, checked for one result each."""
    results = grade(samples)
    if len(results) != len(samples):
        raise RuntimeError(f"{len(results)} results for {len(samples)} samples")
    return results


class WorkerGrading:
    """Owns the workers that such tasks run in; separate ones, which the comparisons of other tasks never wait for."""

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        """Configure the workers, which start with the first item."""
        self._config = config
        self._metrics = metrics
        self._pool = WorkerPool(
            config.workers, config.function_seconds, config.worker_memory_bytes, grade_samples, noun="reward function"
        )

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()

    def grade(self, task: WorkerTask, items: Sequence[ScoreItem], deadline: float) -> list[Graded]:
        """Grade a batch of items, in parallel; one that is not finished by the deadline gets the verdict `timeout`."""
        start = time.monotonic()
        failed = {index: why_too_long(item, self._config) for index, item in enumerate(items)}
        graded: dict[int, Graded] = {index: (result, 0.0) for index, result in failed.items() if result is not None}
        calls = []
        for indices in _calls(items, task.grouped):
            chosen = [index for index in indices if index not in graded]
            if chosen:
                arguments = (task.grade, [to_sample(items[index]) for index in chosen])
                done = _Done(start)
                future = submit(self._pool, arguments, deadline)
                future.add_done_callback(done)
                calls.append((chosen, arguments, future, done))
        for chosen, arguments, future, done in calls:
            outcome = outcome_of(self._pool, arguments, future, deadline, self._metrics)
            seconds = done.seconds or time.monotonic() - start
            for index, result in zip(chosen, _to_results(outcome, len(chosen)), strict=True):
                graded[index] = (result, seconds)
        return [graded[index] for index in range(len(items))]


class _Done:
    """Callback of a future that notes when it was done: the caller may come to it long after that."""

    def __init__(self, start: float) -> None:
        self._start = start
        self.seconds: float | None = None

    def __call__(self, future: object) -> None:
        self.seconds = time.monotonic() - self._start


def why_too_long(item: ScoreItem, config: ServerConfig) -> GradingResult | None:
    """The failure of an item with more characters than the server accepts."""
    length = len(item.prefix) + len(item.response)
    if length <= config.max_response_chars:
        return None
    return GradingResult("error", error=f"too_long: {length} characters, the limit is {config.max_response_chars}")


def to_sample(item: ScoreItem) -> Sample:
    """What a worker gets of an item."""
    return Sample(item.prompt, item.prefix + item.response, item.label, item.meta)


def _calls(items: Sequence[ScoreItem], grouped: bool) -> list[list[int]]:
    """The items of each call. Responses belong to one group if their prompt, prefix, label and columns are equal."""
    if not grouped:
        return [[index] for index in range(len(items))]
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        key = json.dumps([item.prompt, item.prefix, item.label, item.meta], sort_keys=True)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _to_results(outcome: list[GradingResult] | CannotGrade, count: int) -> list[GradingResult]:
    if isinstance(outcome, CannotGrade):
        return [GradingResult(outcome.verdict, error=f"{outcome.verdict}: {outcome}")] * count
    return outcome
