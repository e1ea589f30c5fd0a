"""The operations on what tasks leave behind: outgoing messages, reports to the sync target, old rows, statistics."""

from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Final

from eco_crds.wal import WalAges, WalCounts
from eco_workers.journal import messages
from eco_workers.journal.failpoints import reached
from eco_workers.journal.limits import clean_error
from eco_workers.journal.model import OutboxMessage, Report
from eco_workers.journal.operations import Operations
from eco_workers.journal.records import TaskRow
from eco_workers.journal.rows import OUTBOX_PAUSE_MAX_S

META_SYNC_TARGET: Final = "sync_target"
META_DRAINING: Final = "draining"
_COLUMN_OF: Final = {"name": "task_name"}
_reported: Final = itemgetter(*(TaskRow._fields.index(_COLUMN_OF.get(field, field)) for field in Report._fields))
"""The values of a row that its report is made of, in the report's order."""


class Upkeep(Operations):
    """All operations of a journal: those on tasks, and those on what tasks leave behind."""

    # -- outbox ---------------------------------------------------------------------------------------------------

    def outbox(self, limit: int, without: Collection[str] = ()) -> list[OutboxMessage]:
        """Messages to be sent, oldest first."""
        return [messages.outgoing(row) for row in self.rows.outbox_unsent(self.now(), limit, without)]

    def sent(self, row_ids: Sequence[int]) -> None:
        """Mark messages that the broker confirmed; one that was marked before stays as it is."""
        now = self.now()
        for row_id in row_ids:
            row = self.rows.outbox_row(row_id)
            if row is not None and row.status != "sent":
                self.rows.store_outbox(row, row._replace(status="sent", sent_at=now, error=None).sealed())

    def park_outbox(self, row_id: int, error: str) -> None:
        """Count an attempt of a message that could not be routed; parked after the last."""
        now = self.now()
        limits = self.context.limits
        row = self.rows.outbox_row(row_id)
        if row is None or row.status == "sent":
            return
        attempts = row.attempts + 1
        pause_s = min(limits.outbox_retry_s * 2 ** min(row.attempts, 16), OUTBOX_PAUSE_MAX_S)
        status = "parked" if attempts >= limits.outbox_attempts_max else row.status
        after = row._replace(status=status, attempts=attempts, next_at=now + pause_s, error=clean_error(error))
        self.rows.store_outbox(row, after.sealed())

    # -- sync -----------------------------------------------------------------------------------------------------

    def sync_target(self) -> str:
        """Where reports go; empty when nowhere."""
        return self.rows.meta(META_SYNC_TARGET)

    def set_sync_target(self, target: str) -> None:
        """Keep the sync target."""
        self.rows.put_meta(META_SYNC_TARGET, target)

    def unsynced(self, limit: int, since: float) -> list[Report]:
        """Rows that owe their report; none while there is no target."""
        if not self.sync_target():
            return []
        return [Report._make(_reported(row)) for row in self.rows.unsynced(limit, since)]

    def synced(self, versions: Mapping[str, int]) -> None:
        """Mark reported rows, each only in the version that was reported."""
        self.rows.mark_synced(versions, self.now())

    def sync_failed(self, task_id: str, error: str, max_attempts: int) -> None:
        """Count an attempt that the database refused for this row; parked after the last."""
        now = self.now()
        row = self.rows.load(task_id)
        if row is None or row.ended_at is None or row.sync_status == "synced":
            return
        count = row.sync_retry_count + 1
        after = row._replace(
            sync_status="parked" if count >= max_attempts else row.sync_status,
            sync_retry_count=count,
            last_sync_attempt=now,
            sync_error=clean_error(error),
        )
        self.rows.store(row, after.sealed())

    def retry_parked(self, limit: int) -> int:
        """Make parked messages and reports due again; how many."""
        outbox_rows = self.rows.outbox_parked(limit)
        for parked in outbox_rows:
            self.rows.store_outbox(parked, parked._replace(status="unsent", attempts=0, next_at=0.0).sealed())
        self.context.outgoing = self.context.outgoing or bool(outbox_rows)
        task_rows = self.rows.sync_parked(limit)
        for row in task_rows:
            self.rows.store(row, row._replace(sync_status="pending", sync_retry_count=0).sealed())
        return len(outbox_rows) + len(task_rows)

    # -- the journal itself ---------------------------------------------------------------------------------------

    def draining(self) -> bool:
        """Whether the shard drains."""
        return self.rows.meta(META_DRAINING) == "1"

    def set_draining(self, draining: bool) -> None:
        """Keep whether the shard drains."""
        self.rows.put_meta(META_DRAINING, "1" if draining else "")

    def prune(self, keep_s: float, limit: int) -> int:
        """Delete ended rows older than `keep_s` that owe nothing; how many rows of tasks."""
        now = self.now()
        rows = self.rows.prunable(now - keep_s, reports_owed=bool(self.sync_target()), limit=limit)
        reached("prune.before")
        for row in rows:
            self.rows.delete(row)
        self.rows.prune_loose(now - keep_s, now - self.context.limits.cache_keep_s, limit)
        reached("prune.after")
        return len(rows)

    def counts_and_ages(self) -> tuple[WalCounts, WalAges]:
        """Counts by state and oldest ages, from counters and indexes."""
        now = self.now()
        context = self.context
        backlog = self.rows.backlog(now, context.known_names)
        values = self.rows.counters.values
        has_target = bool(self.sync_target())
        counts = WalCounts(
            due=backlog.due,
            waiting=backlog.waiting,
            running=backlog.running,
            completed=values["completed"],
            failed=values["failed"],
            timeout=values["timeout"],
            republished=values["republished"],
            unsynced=values["unsynced"] if has_target else 0,
            sync_parked=values["sync_parked"] if has_target else 0,
            outbox_unsent=values["outbox_unsent"],
            outbox_parked=values["outbox_parked"],
            unknown_name=backlog.unknown_name,
        )
        if backlog.due or backlog.running:
            progress = max(context.last_ended or 0.0, context.work_since or 0.0, context.opened_at)
        else:
            progress = None
            context.work_since = None
        ages = WalAges(
            oldest_due_s=_age(backlog.oldest_due, now),
            oldest_running_s=_age(backlog.oldest_running, now),
            oldest_unsynced_s=_age(backlog.oldest_unsynced, now) if has_target else None,
            oldest_outbox_s=_age(backlog.oldest_unsent, now),
            last_progress_s=_age(progress, now),
            last_checkpoint_s=_age(context.last_checkpoint, now),
        )
        return counts, ages


def _age(since: float | None, now: float) -> float | None:
    return None if since is None else max(0.0, now - since)
