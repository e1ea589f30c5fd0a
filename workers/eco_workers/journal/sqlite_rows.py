"""The store of rows on SQLite: statements by name, rows in and out, checksums verified at each read."""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import apsw

from eco_workers.errors import JournalCorruptError
from eco_workers.journal.model import State
from eco_workers.journal.queries import QUERIES
from eco_workers.journal.records import (
    CONTENT_BITS,
    CacheRow,
    Counters,
    OutboxRow,
    StepRow,
    TaskRow,
    checked_cache,
    checked_outbox,
    checked_step,
    checked_task,
    report_checksum,
    text_checksum,
)
from eco_workers.journal.rows import OUTBOX_PAUSE_MAX_S, Backlog

ROWS_AT_ONCE: Final = 32
"""Rows of a wide statement. Measured with 50: a fifth less time for a task, for the loop has the lock meanwhile."""
BYTES_AT_ONCE: Final = 16 * 1024 * 1024
"""Payloads and results that are read in one go by those who come back for more: rows may be a MiB each."""


class SqliteRows:
    """Rows in one SQLite file, through one connection that belongs to one thread."""

    def __init__(self, connection: apsw.Connection, queries: Mapping[str, str] = QUERIES) -> None:
        self.connection = connection
        self.counters = Counters()
        self.epoch = 0
        self._sql = queries
        self._execute = connection.execute
        self._named: dict[tuple[str, int], str] = {}
        # Running rows as they were written last: who runs a task holds its payload anyway, and its end needs no read.
        self._running: dict[str, TaskRow] = {}

    # -- ledger and meta ------------------------------------------------------------------------------------------

    def read_ledger(self) -> None:
        """Read epoch and counters."""
        row = self._execute(self._sql["ledger_read"]).fetchone()
        if row is None or row[1] != text_checksum(row[0], *row[2:]):
            raise JournalCorruptError("ledger: its checksum does not fit its values; run `eco-wal verify`")
        self.epoch = row[0]
        self.counters = Counters(tuple(row[2:]))

    def write_ledger(self) -> None:
        """Write epoch and counters."""
        values = self.counters.snapshot()
        self._execute(self._sql["ledger_write"], (self.epoch, text_checksum(self.epoch, *values), *values))

    def create_ledger(self) -> None:
        """Make the ledger of a new journal: epoch 0, nothing counted."""
        self._execute(self._sql["ledger_create"], (text_checksum(0, *Counters().snapshot()),))

    def epoch_in_file(self) -> int:
        """The epoch as it stands in the file right now."""
        row = self._execute(self._sql["epoch"]).fetchone()
        return -1 if row is None else int(row[0])

    def meta(self, key: str) -> str:
        """A line of `meta`."""
        row = self._execute(self._sql["meta_read"], (key,)).fetchone()
        if row is None:
            return ""
        if row[1] != text_checksum(key, row[0]):
            raise JournalCorruptError(f"meta {key!r}: its checksum does not fit its value; run `eco-wal verify`")
        return str(row[0])

    def put_meta(self, key: str, value: str) -> None:
        """Write a line of `meta`."""
        self._execute(self._sql["meta_write"], (key, value, text_checksum(key, value)))

    # -- tasks ----------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Read rows again from the file: what was written since a savepoint has been undone."""
        self._running.clear()

    def load(self, task_id: str) -> TaskRow | None:
        """The row of a task."""
        known = self._running.get(task_id)
        if known is not None:
            return known
        row = self._execute(self._sql["task_load"], (task_id,)).fetchone()
        if row is None:
            return None
        task = checked_task(TaskRow._make(row))
        if task.task_id != task_id:
            raise JournalCorruptError(f"task {task_id!r}: the index leads to another row; run `eco-wal verify`")
        return task

    def insert(self, rows: Sequence[TaskRow]) -> set[str]:
        """Add rows whose task has none yet."""
        connection = self.connection
        highest = _first(self._execute(self._sql["task_highest"]))
        changes = connection.total_changes()
        self._write("task_insert", rows)
        if connection.total_changes() - changes == len(rows):
            added = {row.task_id for row in rows}
        else:
            added = {row[0] for row in self._execute(self._sql["task_above"], (highest,))}
        for row in rows:
            if row.ended_at is not None and row.task_id in added:
                self.counters.task(None, row)
        return added

    def store(self, before: TaskRow, after: TaskRow) -> None:
        """Write what may change of a row while it lives."""
        self._execute(
            self._sql["task_store"],
            (after[1], after[3], *after[8:17], after[18], after[19], *after[22:30], before[0]),
        )
        self._changed_one(before)
        if after.state == State.RUNNING:
            self._running[after.task_id] = after
        else:
            self._running.pop(after.task_id, None)
        if before.ended_at is not None or after.ended_at is not None:
            self.counters.task(before, after)

    def store_started(self, started: Sequence[tuple[TaskRow, TaskRow]]) -> None:
        """Write rows that begin to run, in one go."""
        connection = self.connection
        changes = connection.total_changes()
        self._write(
            "task_start",
            [(after[1], after[11], after[12], after[19], after[22], after[24], before[0]) for before, after in started],
        )
        if connection.total_changes() - changes != len(started):
            raise JournalCorruptError("a row that is to be started was read and cannot be written")
        self._running.update({after.task_id: after for _, after in started})

    def store_completed(self, completed: Sequence[tuple[TaskRow, TaskRow]]) -> None:
        """Write running rows that have completed, in one go."""
        connection = self.connection
        changes = connection.total_changes()
        self._write(
            "task_complete",
            [
                (after[1], after[3], after[12], after[18], after[23], after[24], before[0])
                for before, after in completed
            ],
        )
        if connection.total_changes() - changes != len(completed):
            raise JournalCorruptError("a row that is to be completed was read and cannot be written")
        for before, after in completed:
            self._running.pop(after.task_id, None)
            self.counters.task(before, after)

    def mark_synced(self, versions: Mapping[str, int], now: float) -> None:
        """Mark the reports of ended rows, each only in the version given; one statement for all that are due."""
        checksum = report_checksum("synced", now, None)
        wanted = json.dumps(versions)
        left = len(versions)
        for status, counter in (("pending", "unsynced"), ("parked", "sync_parked")):
            if left <= 0:
                break
            self._execute(self._sql["task_mark_synced"], (now, CONTENT_BITS, checksum, wanted, status))
            marked = self.connection.changes()
            self.counters.values[counter] -= marked
            left -= marked

    def replace(self, before: TaskRow, after: TaskRow) -> None:
        """Write all of a row."""
        self._running.pop(before.task_id, None)
        self._execute(self._sql["task_replace"], (*after[1:], before[0]))
        self._changed_one(before)
        self.counters.task(before, after)

    def delete(self, row: TaskRow) -> None:
        """Remove a row with its checkpoints and its sent messages."""
        self._running.pop(row.task_id, None)
        self._execute(self._sql["task_delete"], (row.id,))
        self._changed_one(row)
        self._execute(self._sql["steps_drop"], (row.task_id,))
        self._execute(self._sql["outbox_drop_sent"], (row.task_id,))
        self.counters.task(row, None)

    def due(self, now: float, names: Collection[str], limit: int) -> list[TaskRow]:
        """Pending rows that may run."""
        return self._tasks(self._for_names("task_due", len(names)), (now, *names, limit))

    def next_due(self, now: float) -> float | None:
        """When the next scheduled row becomes due."""
        return _first(self._execute(self._sql["task_next_due"], (now,)))

    def expired(self, now: float, limit: int) -> list[TaskRow]:
        """Pending rows whose own end has passed."""
        return self._tasks(self._sql["task_expired"], (now, limit))

    def next_expiry(self) -> float | None:
        """When the next pending row expires."""
        return _first(self._execute(self._sql["task_next_expiry"]))

    def due_too_late(self, now: float, latest: float, future: float, limit: int) -> list[TaskRow]:
        """Pending rows that wait for no reason, or for too long."""
        return self._tasks(self._sql["task_due_too_late"], (now, latest, future, limit))

    def running(self, limit: int) -> list[TaskRow]:
        """Running rows."""
        return self._tasks(self._sql["task_running"], (limit,))

    def held_unacked(self, limit: int) -> list[TaskRow]:
        """Unfinished rows of the broker that do not await a redelivery."""
        return self._tasks(self._sql["task_held_unacked"], (limit,))

    def awaiting_since(self, moment: float, limit: int) -> list[TaskRow]:
        """Pending rows of the broker that have awaited their redelivery for long."""
        return self._tasks(self._sql["task_awaiting_since"], (moment, limit))

    def pending(self, limit: int) -> list[TaskRow]:
        """Pending rows."""
        return self._tasks(self._sql["task_pending"], (limit,))

    def created_before(self, moment: float, limit: int) -> list[TaskRow]:
        """Pending rows without a scheduled start, accepted before a moment."""
        return self._tasks(self._sql["task_created_before"], (moment, limit))

    def unsynced(self, limit: int, since: float) -> Iterator[TaskRow]:
        """Rows that owe a report."""
        return self._within(self._sql["task_unsynced"], (since, limit))

    def sync_parked(self, limit: int) -> list[TaskRow]:
        """Rows whose report is parked."""
        return self._tasks(self._sql["task_parked"], (limit,))

    def prunable(self, ended_before: float, *, reports_owed: bool, limit: int) -> list[TaskRow]:
        """Ended rows that owe nothing."""
        names = ["prunable_synced", "prunable_republished"]
        if not reports_owed:
            names.append("prunable_unreported")
        rows: list[TaskRow] = []
        for name in names:
            rows += self._within(self._sql[name], (ended_before, limit - len(rows)))
        return rows

    def all_tasks(self, after_id: int, limit: int) -> Iterable[tuple[int, TaskRow]]:
        """Rows by id, unchecked: for those who look for damage."""
        for row in self._execute(self._sql["all_tasks"], (after_id, limit)):
            yield row[0], TaskRow._make(row)

    def all_outbox(self, after_id: int, limit: int) -> Iterable[tuple[int, OutboxRow]]:
        """Messages by id, unchecked: for those who look for damage."""
        for row in self._execute(self._sql["all_outbox"], (after_id, limit)):
            yield row[0], OutboxRow._make(row)

    # -- steps and answers ----------------------------------------------------------------------------------------

    def steps(self, task_id: str) -> list[StepRow]:
        """Checkpoints of a task."""
        return [
            checked_step(StepRow._make(row)) for row in self._execute(self._sql["steps_of_task"], (task_id,)).fetchall()
        ]

    def put_step(self, row: StepRow) -> None:
        """Keep a checkpoint."""
        self._execute(self._sql["step_put"], row)

    def drop_steps(self, task_id: str) -> None:
        """Forget the checkpoints of a task."""
        self._execute(self._sql["steps_drop"], (task_id,))

    def cached(self, key: str) -> CacheRow | None:
        """A cached answer."""
        row = self._execute(self._sql["cache_read"], (key,)).fetchone()
        return None if row is None else checked_cache(CacheRow._make(row))

    def put_cached(self, row: CacheRow) -> None:
        """Keep an answer."""
        self._execute(self._sql["cache_put"], row)

    # -- outbox ---------------------------------------------------------------------------------------------------

    def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Add messages; one that is there already stays as it is."""
        for row in rows:
            self._execute(self._sql["outbox_add"], row)
            if self.connection.changes():
                self.counters.outbox(None, row.status)

    def outbox_row(self, row_id: int) -> OutboxRow | None:
        """One message."""
        row = self._execute(self._sql["outbox_row"], (row_id,)).fetchone()
        return None if row is None else checked_outbox(OutboxRow._make(row))

    def outbox_unsent(self, now: float, limit: int, without: Collection[str] = ()) -> list[OutboxRow]:
        """Messages to be sent."""
        found: list[OutboxRow] = []
        left = BYTES_AT_ONCE
        cursor = self._execute(
            self._sql["outbox_unsent"],
            (math.nextafter(now, math.inf), now + OUTBOX_PAUSE_MAX_S, json.dumps(list(without)), limit),
        )
        for values in cursor:
            found.append(checked_outbox(OutboxRow._make(values)))
            left -= len(found[-1].body)
            if left <= 0:
                break
        cursor.close()
        return found

    def outbox_parked(self, limit: int) -> list[OutboxRow]:
        """Parked messages."""
        return self._messages("outbox_parked", (limit,))

    def store_outbox(self, before: OutboxRow, after: OutboxRow) -> None:
        """Write what may change of a message."""
        self._execute(
            self._sql["outbox_store"],
            (after.checksum, after.status, after.attempts, after.next_at, after.sent_at, after.error, before.id),
        )
        if self.connection.changes() != 1:
            raise JournalCorruptError(f"outbox row {before.id}: it was read and cannot be written")
        self.counters.outbox(before.status, after.status)

    def prune_loose(self, sent_before: float, cached_before: float, limit: int) -> int:
        """Remove sent messages without a task row, and old cached answers."""
        self._execute(self._sql["rejects_prune"], (sent_before, limit))
        removed = self.connection.changes()
        self._execute(self._sql["cache_prune"], (cached_before, limit))
        return removed + self.connection.changes()

    # -- numbers --------------------------------------------------------------------------------------------------

    def backlog(self, now: float, known_names: Collection[str] | None) -> Backlog:
        """Counts and ages of unfinished work."""
        due, oldest_due = self._pair("backlog_due", (now,))
        pending = _first(self._execute(self._sql["backlog_pending"])) or 0
        running, oldest_running = self._pair("backlog_running", ())
        unknown: float = 0
        if known_names is not None:
            statement = self._for_names("backlog_unknown", len(known_names))
            unknown = _first(self._execute(statement, tuple(known_names))) or 0
        return Backlog(
            due=int(due or 0),
            waiting=int(pending) - int(due or 0),
            running=int(running or 0),
            unknown_name=int(unknown),
            oldest_due=oldest_due,
            oldest_running=oldest_running,
            oldest_unsynced=_first(self._execute(self._sql["oldest_unsynced"])),
            oldest_unsent=_first(self._execute(self._sql["oldest_unsent"])),
        )

    # -- parts ----------------------------------------------------------------------------------------------------

    def _tasks(self, statement: str, values: tuple[Any, ...]) -> list[TaskRow]:
        return [checked_task(TaskRow._make(row)) for row in self._execute(statement, values).fetchall()]

    def _write(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows by wide statements, and one by one those that fill none.

        Python's lock is free while a statement runs, so the loop goes on meanwhile, and what SQLite does once for each
        statement it does once for all of these rows.
        """
        whole = len(rows) - len(rows) % ROWS_AT_ONCE
        for start in range(0, whole, ROWS_AT_ONCE):
            values = tuple(chain.from_iterable(rows[start : start + ROWS_AT_ONCE]))
            self._execute(self._wide(query, len(rows[0])), values)
        if whole < len(rows):
            self.connection.executemany(self._sql[query], rows[whole:])

    def _within(self, statement: str, values: tuple[Any, ...]) -> Iterator[TaskRow]:
        """Rows until they weigh `BYTES_AT_ONCE`; at least one where there is one."""
        left = BYTES_AT_ONCE
        cursor = self._execute(statement, values)
        for values_read in cursor:
            row = checked_task(TaskRow._make(values_read))
            yield row
            left -= len(row.payload) + len(row.result or b"")
            if left <= 0:
                break
        cursor.close()

    def _messages(self, name: str, values: tuple[Any, ...]) -> list[OutboxRow]:
        return [checked_outbox(OutboxRow._make(row)) for row in self._execute(self._sql[name], values).fetchall()]

    def _pair(self, name: str, values: tuple[Any, ...]) -> tuple[float | None, float | None]:
        row = self._execute(self._sql[name], values).fetchone()
        return (None, None) if row is None else (row[0], row[1])

    def _changed_one(self, row: TaskRow) -> None:
        if self.connection.changes() != 1:
            raise JournalCorruptError(f"task {row.task_id!r}: its row was read and cannot be written")

    def _wide(self, query: str, columns: int) -> str:
        statement = self._named.get((query, ROWS_AT_ONCE))
        if statement is None:
            row = f"({', '.join('?' * columns)})"
            statement = self._sql[f"{query}_wide"].replace("{rows}", ", ".join([row] * ROWS_AT_ONCE))
            self._named[query, ROWS_AT_ONCE] = statement
        return statement

    def _for_names(self, query: str, count: int) -> str:
        statement = self._named.get((query, count))
        if statement is None:
            statement = self._sql[query].replace("{names}", ", ".join("?" * count))
            self._named[query, count] = statement
        return statement


def _first(cursor: apsw.Cursor) -> float | None:
    row = cursor.fetchone()
    value: Final = None if row is None else row[0]
    return None if value is None else float(value)
