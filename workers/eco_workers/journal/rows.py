"""What the operations need of a store of rows. SQLite implements it on a file, the twin on dictionaries.

A store knows no rules: it keeps what it is told, verifies checksums of what it returns, and keeps the counters in step.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from eco_workers.journal.records import CacheRow, Counters, OutboxRow, StepRow, TaskRow

OUTBOX_PAUSE_MAX_S: Final = 3600.0
"""No message pauses for longer between two attempts."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Unfinished work at one moment: counts, and the time since when the oldest of each kind stands."""

    due: int
    waiting: int
    running: int
    unknown_name: int
    oldest_due: float | None
    oldest_running: float | None
    oldest_unsynced: float | None
    oldest_unsent: float | None


class Rows(Protocol):
    """Rows by key and by the order in which somebody works on them. Every list is bounded by its `limit`."""

    counters: Counters

    def load(self, task_id: str) -> TaskRow | None:
        """The row of a task."""

    def insert(self, rows: Sequence[TaskRow]) -> set[str]:
        """Add rows whose task has none yet; the ids of those that were added."""

    def store(self, before: TaskRow, after: TaskRow) -> None:
        """Write what may change of a row while it lives; the payload and its like stay."""

    def store_started(self, started: Sequence[tuple[TaskRow, TaskRow]]) -> None:
        """Write rows that begin to run: each as it was, and as it is."""

    def store_completed(self, completed: Sequence[tuple[TaskRow, TaskRow]]) -> None:
        """Write running rows that have completed: each as it was, and as it is."""

    def mark_synced(self, versions: Mapping[str, int], now: float) -> None:
        """Mark the reports of ended rows, each only in the version given."""

    def replace(self, before: TaskRow, after: TaskRow) -> None:
        """Write all of a row."""

    def delete(self, row: TaskRow) -> None:
        """Remove a row with its checkpoints and its sent messages."""

    def due(self, now: float, names: Collection[str], limit: int) -> list[TaskRow]:
        """Pending rows that may run, the earliest due first."""

    def next_due(self, now: float) -> float | None:
        """When the next scheduled row becomes due."""

    def expired(self, now: float, limit: int) -> list[TaskRow]:
        """Pending rows whose own end has passed."""

    def next_expiry(self) -> float | None:
        """When the next pending row expires."""

    def due_too_late(self, now: float, latest: float, future: float, limit: int) -> list[TaskRow]:
        """Pending rows that wait though they may run at once, or for too long.

        Too long is behind `latest`, or for another attempt that was scheduled at a moment behind `future`.
        """

    def running(self, limit: int) -> list[TaskRow]:
        """Running rows, the earliest started first."""

    def held_unacked(self, limit: int) -> list[TaskRow]:
        """Unfinished rows of the broker that do not await a redelivery."""

    def awaiting_since(self, moment: float, limit: int) -> list[TaskRow]:
        """Pending rows of the broker that have awaited their redelivery since `moment` or longer."""

    def pending(self, limit: int) -> list[TaskRow]:
        """Pending rows, oldest first."""

    def created_before(self, moment: float, limit: int) -> list[TaskRow]:
        """Pending rows without a scheduled start that were accepted before `moment`."""

    def unsynced(self, limit: int, since: float) -> Iterable[TaskRow]:
        """Rows that ended at `since` or later and owe a report, the earliest end first."""

    def sync_parked(self, limit: int) -> list[TaskRow]:
        """Rows whose report is parked."""

    def prunable(self, ended_before: float, *, reports_owed: bool, limit: int) -> list[TaskRow]:
        """Ended rows that owe nothing: reported if a report is owed, and every message sent."""

    def steps(self, task_id: str) -> list[StepRow]:
        """Checkpoints of a task."""

    def put_step(self, row: StepRow) -> None:
        """Keep a checkpoint; a second one of the same name takes the place of the first."""

    def drop_steps(self, task_id: str) -> None:
        """Forget the checkpoints of a task."""

    def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Add messages; one whose message id is there already is the same message and stays as it is."""

    def outbox_row(self, row_id: int) -> OutboxRow | None:
        """One message."""

    def outbox_unsent(self, now: float, limit: int, without: Collection[str] = ()) -> list[OutboxRow]:
        """Messages to be sent, oldest first; none that pauses, none with a routing key of `without`."""

    def outbox_parked(self, limit: int) -> list[OutboxRow]:
        """Parked messages."""

    def store_outbox(self, before: OutboxRow, after: OutboxRow) -> None:
        """Write what may change of a message: status, attempts, times, error."""

    def prune_loose(self, sent_before: float, cached_before: float, limit: int) -> int:
        """Remove sent messages without a task row, and old cached answers; how many."""

    def cached(self, key: str) -> CacheRow | None:
        """A cached answer."""

    def put_cached(self, row: CacheRow) -> None:
        """Keep an answer."""

    def meta(self, key: str) -> str:
        """A line of `meta`; empty when there is none."""

    def put_meta(self, key: str, value: str) -> None:
        """Write a line of `meta`."""

    def backlog(self, now: float, known_names: Collection[str] | None) -> Backlog:
        """Counts and ages of unfinished work, from indexes alone."""
