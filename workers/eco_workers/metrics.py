"""Metrics of a worker. What is counted is counted here; what the journal knows is read from it when asked.

Each worker has a registry of its own, so that two in one process (tests) do not share numbers.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from eco_crds.wal import WalReport

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_DURATIONS_S: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_DELAYS_S: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 21_600, 86_400)


class Metrics:
    """Every metric of one worker, named as the dashboards and alerts expect."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._completed: dict[str, Counter] = {}
        self._durations: dict[tuple[str, str], Histogram] = {}
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.tasks = Counter(
            "wal_tasks", "Tasks that reached a state, by state and name.", ["status", "task_name"], registry=registry
        )
        self.pending = Gauge("wal_pending_tasks", "Pending and running rows of the journal.", registry=registry)
        self.rows = Gauge("wal_rows", "Rows of the journal by class.", ["status"], registry=registry)
        self.ages = Gauge("wal_oldest_age_seconds", "Age of the oldest row by class.", ["status"], registry=registry)
        self.sync_delay = Histogram(
            "wal_sync_delay_seconds",
            "From the end of a task to its row's COMMIT in PostgreSQL.",
            buckets=_DELAYS_S,
            registry=registry,
        )
        self.sync_rows = Counter(
            "wal_sync_rows", "Rows sent to PostgreSQL, by outcome.", ["outcome"], registry=registry
        )
        self._committed = self.sync_rows.labels("committed")
        self.file_size = Gauge("wal_file_size_bytes", "Bytes of the journal's files.", ["file"], registry=registry)
        self.volume = Gauge("wal_volume_bytes", "Bytes of the journal's volume.", ["kind"], registry=registry)
        self.duration = Histogram(
            "task_duration_seconds",
            "Run time of a task's body.",
            ["queue", "task_name"],
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self.failures = Counter(
            "task_failures",
            "Attempts that did not complete, by kind.",
            ["queue", "task_name", "kind"],
            registry=registry,
        )
        self.running = Gauge("worker_running_tasks", "Tasks that run at this moment.", registry=registry)
        self.deliveries = Counter(
            "worker_deliveries",
            "Messages taken from the broker, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self.outbox = Counter(
            "worker_outbox_messages", "Messages published from the outbox, by outcome.", ["outcome"], registry=registry
        )
        self.consuming = Gauge("worker_consuming", "1 while the consumer is active.", registry=registry)
        self.connections = Gauge("worker_broker_connections_opened", "Connections made so far.", registry=registry)
        self.blocked = Gauge("worker_broker_blocked", "1 while the broker takes no messages.", registry=registry)
        self.loop_lag = Histogram(
            "worker_event_loop_lag_seconds",
            "How late the event loop comes to a timer.",
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
            registry=registry,
        )
        self.restarts = Counter(
            "worker_background_restarts",
            "Background tasks that died and were begun again.",
            ["name"],
            registry=registry,
        )

    def count_completed(self, task_name: str, count: int) -> None:
        """Count completed tasks. Each passes here, and looking up a labelled metric costs more than counting in it."""
        counter = self._completed.get(task_name)
        if counter is None:
            counter = self._completed[task_name] = self.tasks.labels("completed", task_name)
        counter.inc(count)

    def observe_duration(self, queue: str, task_name: str, seconds: float) -> None:
        """Note how long a task's body ran; each passes here as well."""
        histogram = self._durations.get((queue, task_name))
        if histogram is None:
            histogram = self._durations[queue, task_name] = self.duration.labels(queue, task_name)
        histogram.observe(seconds)

    def observe_synced(self, delay_s: float) -> None:
        """Count a row that is committed in the database, and how long after its task's end."""
        self._committed.inc()
        self.sync_delay.observe(delay_s)

    def observe(self, report: WalReport) -> None:
        """Bring the gauges to what a health report says."""
        counts, ages = report.counts, report.ages
        self.pending.set(counts.due + counts.waiting + counts.running)
        for status, value in counts.model_dump().items():
            self.rows.labels(status).set(value)
        for status, age in ages.model_dump().items():
            self.ages.labels(status.removesuffix("_s")).set(age or 0)
        self.file_size.labels("database").set(report.volume.database_bytes)
        self.file_size.labels("wal").set(report.volume.wal_bytes)
        self.volume.labels("total").set(report.volume.total_bytes)
        self.volume.labels("used").set(report.volume.used_bytes)
        self.consuming.set(report.consuming)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def names(self) -> Iterable[str]:
        """Names of all metrics, for the documents and the rules that use them."""
        return sorted(metric.name for metric in self.registry.collect())
