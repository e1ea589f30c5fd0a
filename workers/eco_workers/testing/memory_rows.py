"""The store of rows on dictionaries. All or nothing: what an operation that fails had written is undone."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final

from eco_workers.errors import IllegalStateError
from eco_workers.journal.model import State
from eco_workers.journal.records import CacheRow, Counters, OutboxRow, StepRow, TaskRow, checked_outbox, checked_task
from eco_workers.journal.rows import OUTBOX_PAUSE_MAX_S, Backlog
from eco_workers.journal.rules import LEGAL_CHANGES, REPORTED, UNFINISHED

_TABLES: Final = ("tasks", "messages", "message_ids", "step_rows", "answers", "meta_lines")


class MemoryRows:
    """Implements `rows.Rows` without a file. Refuses the changes that the database's triggers refuse."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.tasks: dict[str, TaskRow] = {}
        self.messages: dict[int, OutboxRow] = {}
        self.message_ids: set[str] = set()
        self.step_rows: dict[tuple[str, str], StepRow] = {}
        self.answers: dict[str, CacheRow] = {}
        self.meta_lines: dict[str, str] = {}
        self._next_id = 1

    # -- all or nothing -------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[object, ...]:
        """Everything as it stands. Rows are immutable, so shallow copies are enough."""
        return (self.counters.snapshot(), *(getattr(self, table).copy() for table in _TABLES))

    def restore(self, snapshot: tuple[object, ...]) -> None:
        """Go back to a snapshot."""
        counters, *tables = snapshot
        self.counters.restore(counters)  # type: ignore[arg-type]  # the first of a snapshot is the counters' own
        for name, table in zip(_TABLES, tables, strict=True):
            setattr(self, name, table)

    # -- tasks ----------------------------------------------------------------------------------------------------

    def load(self, task_id: str) -> TaskRow | None:
        """The row of a task."""
        row = self.tasks.get(task_id)
        return None if row is None else checked_task(row)

    def insert(self, rows: Sequence[TaskRow]) -> set[str]:
        """Add rows whose task has none yet."""
        added = set()
        for row in rows:
            if row.task_id not in self.tasks:
                self.tasks[row.task_id] = row._replace(id=self._number())
                self.counters.task(None, row)
                added.add(row.task_id)
        return added

    def store(self, before: TaskRow, after: TaskRow) -> None:
        """Write what may change of a row while it lives."""
        if before.state != after.state and (State(before.state), State(after.state)) not in LEGAL_CHANGES:
            raise IllegalStateError(f"no change from {before.state} to {after.state} exists")
        self.tasks[before.task_id] = after
        self.counters.task(before, after)

    def store_started(self, started: Sequence[tuple[TaskRow, TaskRow]]) -> None:
        """Write rows that begin to run."""
        for before, after in started:
            self.store(before, after)

    def store_completed(self, completed: Sequence[tuple[TaskRow, TaskRow]]) -> None:
        """Write running rows that have completed."""
        for before, after in completed:
            self.store(before, after)

    def replace(self, before: TaskRow, after: TaskRow) -> None:
        """Write all of a row."""
        self.store(before, after)

    def delete(self, row: TaskRow) -> None:
        """Remove a row with its checkpoints and its sent messages."""
        del self.tasks[row.task_id]
        self.drop_steps(row.task_id)
        for message in [each for each in self.messages.values() if each.task_id == row.task_id]:
            if message.status == "sent":
                self._forget(message)
        self.counters.task(row, None)

    def due(self, now: float, names: Collection[str], limit: int) -> list[TaskRow]:
        """Pending rows that may run."""
        rows = [
            row for row in self._pending() if row.due_at is not None and row.due_at <= now and row.task_name in names
        ]
        return sorted(rows, key=_by_due)[:limit]

    def next_due(self, now: float) -> float | None:
        """When the next scheduled row becomes due."""
        return min((row.due_at for row in self._pending() if row.due_at is not None and row.due_at > now), default=None)

    def expired(self, now: float, limit: int) -> list[TaskRow]:
        """Pending rows whose own end has passed."""
        return [row for row in self._pending() if row.expires_at is not None and row.expires_at <= now][:limit]

    def next_expiry(self) -> float | None:
        """When the next pending row expires."""
        return min((row.expires_at for row in self._pending() if row.expires_at is not None), default=None)

    def due_too_late(self, now: float, latest: float, future: float, limit: int) -> list[TaskRow]:
        """Pending rows that wait for no reason, or for too long."""
        waiting = [row for row in self._pending() if row.due_at is not None and row.due_at > now]
        return [
            row
            for row in waiting
            if row.not_before is None or row.not_before > latest or (row.attempts and row.last_activity > future)
        ][:limit]

    def running(self, limit: int) -> list[TaskRow]:
        """Running rows."""
        return [row for row in self.tasks.values() if row.state == State.RUNNING][:limit]

    def held_unacked(self, limit: int) -> list[TaskRow]:
        """Unfinished rows of the broker that do not await a redelivery."""
        rows = (row for row in self.tasks.values() if row.owner == "broker" and row.state in UNFINISHED)
        return [row for row in rows if row.awaiting_since is None][:limit]

    def awaiting_since(self, moment: float, limit: int) -> list[TaskRow]:
        """Pending rows of the broker that have awaited their redelivery for long."""
        rows = (row for row in self._pending() if row.owner == "broker")
        return [row for row in rows if row.awaiting_since is not None and row.awaiting_since <= moment][:limit]

    def pending(self, limit: int) -> list[TaskRow]:
        """Pending rows."""
        return sorted(self._pending(), key=lambda row: row.due_at or 0.0)[:limit]

    def created_before(self, moment: float, limit: int) -> list[TaskRow]:
        """Pending rows without a scheduled start, accepted before a moment."""
        return [row for row in self._pending() if row.not_before is None and row.created_at < moment][:limit]

    def mark_synced(self, versions: Mapping[str, int], now: float) -> None:
        """Mark the reports of ended rows, each only in the version given."""
        for task_id, version in versions.items():
            row = self.load(task_id)
            if row is None or row.version != version or row.state not in REPORTED or row.sync_status == "synced":
                continue
            after = row.resealed({"sync_status": "synced", "last_sync_attempt": now, "sync_error": None})
            self.store(row, after)

    def unsynced(self, limit: int, since: float) -> list[TaskRow]:
        """Rows that owe a report."""
        return [row for row in self._reports("pending") if (row.ended_at or 0.0) >= since][:limit]

    def sync_parked(self, limit: int) -> list[TaskRow]:
        """Rows whose report is parked."""
        return self._reports("parked")[:limit]

    def prunable(self, ended_before: float, *, reports_owed: bool, limit: int) -> list[TaskRow]:
        """Ended rows that owe nothing."""
        owing = {message.task_id for message in self.messages.values() if message.status != "sent"}
        kept = {"parked", "pending"} if reports_owed else {"parked"}
        return [
            row
            for row in self.tasks.values()
            if row.ended_at is not None
            and row.ended_at <= ended_before
            and row.task_id not in owing
            and (row.state == State.REPUBLISHED or row.sync_status not in kept)
        ][:limit]

    # -- steps and answers ----------------------------------------------------------------------------------------

    def steps(self, task_id: str) -> list[StepRow]:
        """Checkpoints of a task."""
        return [row for row in self.step_rows.values() if row.task_id == task_id]

    def put_step(self, row: StepRow) -> None:
        """Keep a checkpoint."""
        self.step_rows[row.task_id, row.name] = row

    def drop_steps(self, task_id: str) -> None:
        """Forget the checkpoints of a task."""
        self.step_rows = {key: row for key, row in self.step_rows.items() if row.task_id != task_id}

    def cached(self, key: str) -> CacheRow | None:
        """A cached answer."""
        return self.answers.get(key)

    def put_cached(self, row: CacheRow) -> None:
        """Keep an answer."""
        self.answers[row.key] = row

    # -- outbox ---------------------------------------------------------------------------------------------------

    def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Add messages; one that is there already stays as it is."""
        for row in rows:
            if row.message_id not in self.message_ids:
                number = self._number()
                self.messages[number] = row._replace(id=number)
                self.message_ids.add(row.message_id)
                self.counters.outbox(None, row.status)

    def outbox_row(self, row_id: int) -> OutboxRow | None:
        """One message."""
        row = self.messages.get(row_id)
        return None if row is None else checked_outbox(row)

    def outbox_unsent(self, now: float, limit: int, without: Collection[str] = ()) -> list[OutboxRow]:
        """Messages to be sent."""
        due = [row for row in self.messages.values() if row.status == "unsent"]
        due = [row for row in due if not now < row.next_at <= now + OUTBOX_PAUSE_MAX_S]
        return [row for row in due if row.routing_key not in without][:limit]

    def outbox_parked(self, limit: int) -> list[OutboxRow]:
        """Parked messages."""
        return [row for row in self.messages.values() if row.status == "parked"][:limit]

    def store_outbox(self, before: OutboxRow, after: OutboxRow) -> None:
        """Write what may change of a message."""
        assert before.id is not None  # noqa: S101  # rows that were read have their id
        self.messages[before.id] = after
        self.counters.outbox(before.status, after.status)

    def prune_loose(self, sent_before: float, cached_before: float, limit: int) -> int:
        """Remove sent messages without a task row, and old cached answers."""
        rejects = (row for row in self.messages.values() if row.kind == "reject" and row.status == "sent")
        sent = [row for row in rejects if (row.sent_at or 0.0) <= sent_before][:limit]
        for row in sent:
            self._forget(row)
        old = [key for key, answer in self.answers.items() if answer.created_at <= cached_before][:limit]
        for key in old:
            del self.answers[key]
        return len(sent) + len(old)

    # -- meta and numbers -----------------------------------------------------------------------------------------

    def meta(self, key: str) -> str:
        """A line of `meta`."""
        return self.meta_lines.get(key, "")

    def put_meta(self, key: str, value: str) -> None:
        """Write a line of `meta`."""
        self.meta_lines[key] = value

    def backlog(self, now: float, known_names: Collection[str] | None) -> Backlog:
        """Counts and ages of unfinished work."""
        pending = list(self._pending())
        due = [row.due_at for row in pending if row.due_at is not None and row.due_at <= now]
        running = [row.started_at or now for row in self.running(limit=len(self.tasks))]
        unknown = 0 if known_names is None else sum(row.task_name not in known_names for row in pending)
        unsent = [row.created_at for row in self.messages.values() if row.status == "unsent"]
        return Backlog(
            due=len(due),
            waiting=len(pending) - len(due),
            running=len(running),
            unknown_name=unknown,
            oldest_due=min(due, default=None),
            oldest_running=min(running, default=None),
            oldest_unsynced=min((row.ended_at or 0.0 for row in self.unsynced(len(self.tasks), 0.0)), default=None),
            oldest_unsent=unsent[0] if unsent else None,
        )

    # -- parts ----------------------------------------------------------------------------------------------------

    def _pending(self) -> Iterable[TaskRow]:
        return (row for row in self.tasks.values() if row.state == State.PENDING)

    def _reports(self, sync_status: str) -> list[TaskRow]:
        rows = [row for row in self.tasks.values() if row.state in REPORTED and row.sync_status == sync_status]
        return sorted(rows, key=attrgetter("ended_at"))

    def _forget(self, message: OutboxRow) -> None:
        assert message.id is not None  # noqa: S101  # rows that were read have their id
        del self.messages[message.id]
        self.message_ids.discard(message.message_id)

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id - 1


def _by_due(row: TaskRow) -> tuple[float, int]:
    return row.due_at or 0.0, row.id or 0
