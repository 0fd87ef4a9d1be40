"""Prometheus metrics of one API process, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kinitro.schemas import TaskStats
from kinitro.types import TaskStatus

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST"})


class Metrics:
    """Counts requests as they end; the state of the task pool is set at each scrape."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "kinitro_api_requests",
            "Requests answered, by route template and HTTP status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "kinitro_api_request_seconds",
            "Seconds from the first byte of a request to the end of its answer.",
            ["route"],
            registry=self._registry,
        )
        self._tasks = Gauge(
            "kinitro_tasks", "Tasks of the current cycle, by status.", ["status"], registry=self._registry
        )
        self._executors = Gauge("kinitro_active_executors", "Executors seen lately.", registry=self._registry)
        self._cycle = Gauge(
            "kinitro_cycle_id", "The cycle the task counts are of; 0 before the first.", registry=self._registry
        )
        self._database = Gauge(
            "kinitro_database_up", "1 when the database answered this scrape.", registry=self._registry
        )

    def observe(self, method: str, route: str, status_code: int, seconds: float) -> None:
        """Records one answered request."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status_code)).inc()
        self._seconds.labels(route).observe(seconds)

    def expose(self, stats: TaskStats | None) -> bytes:
        """Prometheus text. None means that the database did not answer: the last counts stay, marked as down."""
        self._database.set(stats is not None)
        if stats is not None:
            self._set_pool(stats)
        return generate_latest(self._registry)

    def _set_pool(self, stats: TaskStats) -> None:
        self._executors.set(len(stats.active_executors))
        self._cycle.set(stats.current_cycle_id or 0)
        counts = {
            TaskStatus.PENDING: stats.pending_tasks,
            TaskStatus.ASSIGNED: stats.assigned_tasks,
            TaskStatus.COMPLETED: stats.completed_tasks,
            TaskStatus.FAILED: stats.failed_tasks,
        }
        for status, count in counts.items():
            self._tasks.labels(status.value).set(count)
