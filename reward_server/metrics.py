"""Prometheus metrics of the reward server."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reward_server.schema import FAILED_VERDICTS
from reward_server.scoring import GradingResult


class Metrics:
    """The metrics of one server. Each instance has its own registry, so one process may run several servers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "openr1_reward_requests", "Requests by route and status", ["route", "status"], registry=self._registry
        )
        self.request_seconds = Histogram(
            "openr1_reward_request_seconds",
            "Duration of a request in seconds, by route",
            ["route"],
            registry=self._registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )
        self.in_flight = Gauge(
            "openr1_reward_requests_in_flight", "Requests being graded or waiting", registry=self._registry
        )
        self._items = Counter(
            "openr1_reward_items", "Items by task and verdict", ["task", "verdict"], registry=self._registry
        )
        self._failed = Counter(
            "openr1_reward_items_failed", "Items that could not be graded, by task", ["task"], registry=self._registry
        )
        self.pending_comparisons = Gauge(
            "openr1_reward_questions_waiting", "Comparisons waiting for a worker or running", registry=self._registry
        )
        self.timeouts = Counter(
            "openr1_reward_comparison_timeouts", "Comparisons that timed out", registry=self._registry
        )
        self.worker_deaths = Counter(
            "openr1_reward_worker_deaths", "Workers that died during a comparison", registry=self._registry
        )

    def count_items(self, task: str, results: Sequence[GradingResult]) -> None:
        """Count the verdicts of a batch."""
        for result in results:
            self._items.labels(task, result.verdict).inc()
            if result.verdict in FAILED_VERDICTS:
                self._failed.labels(task).inc()

    def render(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)
