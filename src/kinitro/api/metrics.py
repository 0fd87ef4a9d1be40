"""Prometheus metrics of one API process, in a registry of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kinitro.schemas import AuditCounts, TaskStats, Usage
from kinitro.types import AuditState, TaskStatus

_REPORTED_S = 300.0
"""An executor that has told of no deployments for so long is gone, or has none."""
_MAX_REPORTS = 1000
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST"})


@dataclass(frozen=True)
class Scrape:
    """What the database says at one scrape. `quarantined` counts executors that get no tasks, `kept_from` pairs of an
    executor and a miner whose tasks it does not get.
    """

    stats: TaskStats
    audits: AuditCounts
    quarantined: int
    kept_from: int


class Metrics:
    """Counts requests as they end; the state of the task pool is set at each scrape."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[float, Usage]] = {}
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
        self._audits = Gauge(
            "kinitro_audits",
            "Verdicts of the latest closed cycle that another executor checked, by how that ended.",
            ["outcome"],
            registry=self._registry,
        )
        self._quarantined = Gauge(
            "kinitro_quarantined_executors",
            "Executors that get no tasks (scope all), and pairs of an executor and a miner kept apart (scope miner).",
            ["scope"],
            registry=self._registry,
        )
        self._database = Gauge(
            "kinitro_database_up", "1 when the database answered this scrape.", registry=self._registry
        )

        whose = ["executor", "kind"]
        self._created = Gauge(
            "kinitro_deployments_created",
            "Cloud deployments made since the executor started.",
            whose,
            registry=self._registry,
        )
        self._alive = Gauge(
            "kinitro_deployments_alive", "Cloud deployments that exist now.", whose, registry=self._registry
        )
        self._alive_seconds = Gauge(
            "kinitro_deployments_alive_seconds",
            "Seconds that all cloud deployments since the executor started have existed.",
            whose,
            registry=self._registry,
        )

    def note_usage(self, executor_id: str, usage: Usage | None) -> None:
        """What an executor says of its deployments, if it has any."""
        if usage is not None and (executor_id in self._reports or len(self._reports) < _MAX_REPORTS):
            self._reports[executor_id] = (self._clock(), usage)

    def observe(self, method: str, route: str, status_code: int, seconds: float) -> None:
        """Records one answered request."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status_code)).inc()
        self._seconds.labels(route).observe(seconds)

    def expose(self, scrape: Scrape | None) -> bytes:
        """Prometheus text. None means that the database did not answer: the last counts stay, marked as down."""
        self._database.set(scrape is not None)
        self._set_deployments()
        if scrape is not None:
            self._set_pool(scrape.stats)
            self._set_audits(scrape)
        return generate_latest(self._registry)

    def _set_audits(self, scrape: Scrape) -> None:
        for state in AuditState:
            if state is not AuditState.OPEN:
                self._audits.labels(state.value).set(getattr(scrape.audits, state.value))
        self._quarantined.labels("all").set(scrape.quarantined)
        self._quarantined.labels("miner").set(scrape.kept_from)

    def _set_deployments(self) -> None:
        now = self._clock()
        self._reports = {who: report for who, report in self._reports.items() if now - report[0] < _REPORTED_S}
        for gauge in (self._created, self._alive, self._alive_seconds):
            gauge.clear()
        for executor_id, (_, usage) in self._reports.items():
            for kind, each in usage.items():
                self._created.labels(executor_id, kind).set(each.created)
                self._alive.labels(executor_id, kind).set(each.alive)
                self._alive_seconds.labels(executor_id, kind).set(each.seconds)

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
