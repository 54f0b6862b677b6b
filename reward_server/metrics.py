"""What a server counts, for Prometheus."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reward_server.schema import FAILED_VERDICTS
from reward_server.scoring import GradingResult


class Metrics:
    """One set of counters; a process may have several servers, each with its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "openr1_reward_requests", "Requests by route and status", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "openr1_reward_request_seconds",
            "Seconds a request took, by route",
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
            "openr1_reward_items_failed", "Items that got no number, by task", ["task"], registry=self._registry
        )
        self.pending_comparisons = Gauge(
            "openr1_reward_questions_waiting", "Comparisons that wait for a worker or run", registry=self._registry
        )
        self.timeouts = Counter(
            "openr1_reward_comparison_timeouts", "Comparisons that took too long", registry=self._registry
        )
        self.worker_deaths = Counter(
            "openr1_reward_worker_deaths", "Workers that died during a comparison", registry=self._registry
        )

    def count_items(self, task: str, scores: Sequence[GradingResult]) -> None:
        """Add a batch's verdicts."""
        for score in scores:
            self._items.labels(task, score.verdict).inc()
            if score.verdict in FAILED_VERDICTS:
                self._failed.labels(task).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)
