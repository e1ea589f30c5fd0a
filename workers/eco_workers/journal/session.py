"""One open journal as the writer thread drives it: connection, operations, epoch, log, volume."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import apsw

from eco_workers.errors import EcoWorkerError, JournalRefusedError
from eco_workers.journal.failpoints import reached
from eco_workers.journal.queries import QUERIES
from eco_workers.journal.space import Space, Volume
from eco_workers.journal.sqlite_rows import SqliteRows
from eco_workers.journal.upkeep import Upkeep

_FULL_WAL_PAGES: Final = 64
"""A log is moved this early when room is short: what it grows by is missing for the work that is to end."""


class SqliteSession:
    """Implements the writer's `Session` on one apsw connection."""

    def __init__(
        self,
        connection: apsw.Connection,
        operations: Upkeep,
        space: Space,
        queries: Mapping[str, str] = QUERIES,
        mark: Callable[[EcoWorkerError], None] | None = None,
    ) -> None:
        rows = operations.rows
        assert isinstance(rows, SqliteRows)  # noqa: S101  # this session exists for that store only
        self.rows = rows
        self.operations = operations
        self.space = space
        self.volume: Volume = space.look()
        self._connection = connection
        self._mark = mark
        self._begin = queries["begin"]
        self._commit = queries["commit"]
        self._rollback = queries["rollback"]
        self._savepoint = queries["savepoint"]
        self._release = queries["release"]
        self._rollback_operation = queries["rollback_operation"]
        self._counters_at_begin = rows.counters.snapshot()
        self._schedule_at_begin = operations.context.schedule()
        self._replayed = True
        """Whether the log that an earlier process left still has to be moved: behind the first group, so that the first
        task does not wait for it."""
        self.capturing = False
        """Whether each group's changes are kept for a replica; set by the writer thread between two groups."""
        self.changes: deque[bytes] = deque()
        """Changes of committed groups, in order, until the loop takes them."""
        self._recorder: apsw.Session | None = None
        self._wal_pages = 0
        self._logs_begun = 0
        self._looked_at = time.monotonic()
        connection.set_wal_hook(self._note_wal)

    def begin(self) -> None:
        """Open the transaction and check the epoch: a higher one means that another process took the journal over."""
        # First of all: a group that cannot even begin is undone as well, and must not undo the one before.
        self._counters_at_begin = self.rows.counters.snapshot()
        self._schedule_at_begin = self.operations.context.schedule()
        self._connection.execute(self._begin)
        found = self.rows.epoch_in_file()
        if found != self.rows.epoch:
            raise JournalRefusedError(
                f"write to journal {self.space.path}: its epoch is {found}, this process opened it as"
                f" {self.rows.epoch}; another process has taken it over, this one must exit"
            )
        if self.capturing:
            self._recorder = apsw.Session(self._connection, "main")
            self._recorder.attach(None)

    def run(self, operation: Callable[[Any], Any]) -> Any:
        """Run one operation in a savepoint."""
        connection = self._connection
        counters = self.rows.counters.snapshot()
        schedule = self.operations.context.schedule()
        connection.execute(self._savepoint)
        try:
            value = operation(self.operations)
        except BaseException:
            self.rows.counters.restore(counters)
            self.operations.context.restore(schedule)
            self.rows.forget()
            if connection.in_transaction:
                connection.execute(self._rollback_operation)
                connection.execute(self._release)
            raise
        connection.execute(self._release)
        return value

    def run_single(self, operation: Callable[[Any], Any]) -> Any:
        """Run one operation that writes by one statement only; SQLite undoes a statement that fails by itself.

        A clock that was set back makes it mend the schedule as well. That stands on its own, and what the context knows
        of it stays with it.
        """
        try:
            return operation(self.operations)
        except BaseException:
            self.rows.forget()
            raise

    def commit(self) -> None:
        """Write the counters if they changed, then commit."""
        if self.rows.counters.snapshot() != self._counters_at_begin:
            self.rows.write_ledger()
        changeset = self._recorded()
        self._connection.execute(self._commit)
        if changeset:
            self.changes.append(changeset)

    def abandon(self) -> None:
        """Undo the group."""
        self.rows.counters.restore(self._counters_at_begin)
        self.operations.context.restore(self._schedule_at_begin)
        self.rows.forget()
        self._recorded()
        if self._connection.in_transaction:
            self._connection.execute(self._rollback)

    def raise_epoch(self) -> int:
        """Raise the epoch of the file, which is ours and stays so; the new one. Between two groups."""
        self.begin()
        try:
            self.rows.epoch += 1
            self.rows.write_ledger()
            self.commit()
        except BaseException:
            self.rows.epoch -= 1
            self.abandon()
            raise
        return self.rows.epoch

    def in_transaction(self) -> bool:
        """Whether the group's transaction still stands."""
        return self._connection.in_transaction

    def after_commit(self) -> None:
        """Checkpoint a log that has grown, and look at the volume now and then."""
        limits = self.operations.context.limits
        if self._replayed:
            self._checkpoint_replayed()
        elif self._wal_pages >= (_FULL_WAL_PAGES if self.space.read_only else limits.checkpoint_wal_pages):
            self.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        if time.monotonic() - self._looked_at >= limits.volume_poll_s:
            self.look()

    def idle(self) -> None:
        """Use a pause for the checkpoint that would otherwise come in the middle of work."""
        if self._replayed:
            self._checkpoint_replayed()
        elif self._wal_pages:
            self.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.look()

    def _checkpoint_replayed(self) -> None:
        self._replayed = False
        self.checkpoint(apsw.SQLITE_CHECKPOINT_FULL)

    def look(self) -> None:
        """Look at the volume."""
        self._looked_at = time.monotonic()
        self.volume = self.space.judge()

    def on_full(self) -> None:
        """Make room by freeing the ballast, then move the log into the database so that it can be used anew."""
        self.space.free_ballast()
        # Also when there was no ballast any more: a log that has been moved is written from its start again.
        self.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.volume = self.space.look()

    def checkpoint(self, mode: int) -> int:
        """Move the log into the database file; pages moved."""
        reached("checkpoint.before")
        in_log, moved = self._connection.wal_checkpoint(mode=mode)
        reached("checkpoint.after")
        # A reader in the way leaves pages in the log: try again only after as many more.
        self._wal_pages = 0
        context = self.operations.context
        if moved >= in_log:
            context.last_checkpoint = context.clock()
            if in_log > 0:
                self._begin_log_anew()
        return max(0, moved)

    def _begin_log_anew(self) -> None:
        """Commit one small change, so that the log that has just been moved is valid no longer.

        Its pages are in the database. If its last transaction were damaged while it still counts, a replay would stop
        before it and lay older pages over newer ones: half of that transaction undone, and nothing to tell it by.
        """
        self._logs_begun += 1
        try:
            self.begin()
            self.rows.put_meta("log", f"{self.rows.epoch}.{self._logs_begun}")
            self.commit()
        except apsw.FullError:
            self.abandon()  # no room for a page: the next commit begins the log anew
        except BaseException:
            self.abandon()  # left open, it would keep the file locked against whoever has taken it over
            raise
        self._wal_pages = 0

    def on_broken(self, error: EcoWorkerError) -> None:
        """Leave a mark for the next open."""
        if self._mark is not None:
            self._mark(error)

    def close(self, *, untouched: bool) -> None:
        """Move the log, cut it off, close; a damaged journal is closed as it is."""
        reached("close.before")
        try:
            if untouched:
                self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            elif not self._connection.in_transaction:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._connection.close()
        reached("close.after")

    def _recorded(self) -> bytes:
        """What the group has changed so far; ends the recording."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return b""
        try:
            return recorder.changeset()
        finally:
            recorder.close()

    def _note_wal(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK
