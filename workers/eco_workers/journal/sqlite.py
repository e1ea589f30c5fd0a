"""The journal on SQLite: the protocol of `model.TaskJournal`, each call one operation on the writer thread."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import apsw

from eco_crds.wal import JournalMode, WalVolume
from eco_workers.errors import JournalCorruptError, JournalFullError
from eco_workers.journal import copies
from eco_workers.journal.calls import JournalCalls
from eco_workers.journal.lock import JournalLock
from eco_workers.journal.model import Identity, Statistics
from eco_workers.journal.opening import Plan, check_file_system, check_library, open_session
from eco_workers.journal.session import SqliteSession
from eco_workers.journal.upkeep import Upkeep
from eco_workers.journal.writer import Writer

T = TypeVar("T")
FULL_TRIES: Final = 4


class SqliteJournal(JournalCalls):
    """A journal in one SQLite file. Open it with `await SqliteJournal.open(…)`, use it as a context manager."""

    def __init__(self, plan: Plan, lock: JournalLock, session: SqliteSession, uuid: str) -> None:
        operations = session.operations
        super().__init__(operations.context, uuid, draining=operations.draining(), sync_target=operations.sync_target())
        self.plan = plan
        self._lock = lock
        self._session = session
        self._writer = Writer(
            session,
            queue_operations_max=plan.limits.queue_operations_max,
            queue_wait_s=plan.limits.queue_wait_s,
            group_operations_max=plan.limits.group_operations_max,
            idle_s=plan.limits.checkpoint_idle_s,
        )
        self._writer.start(self._after_group)

    @classmethod
    async def open(cls, path: Path, *, identity: Identity, plan: Plan | None = None, **options: Any) -> Self:
        """Open or make the journal at `path`; takes its lock for the life of the process.

        Options are the fields of `Plan`: `known_uuid`, `known_epoch`, `limits`, `clock`, `vfs`, and what tests replace.

        Raises JournalLockedError when another process holds it for longer than `limits.lock_wait_s`, JournalLostError
        when another journal than the known one is found, JournalRefusedError when this file must not be opened here,
        JournalCorruptError when it is damaged.
        """
        plan = plan or Plan(path, identity, **options)
        check_library(apsw.sqlite_lib_version())
        await asyncio.to_thread(check_file_system, plan.path)
        lock = JournalLock(plan.path)
        await lock.acquire(plan.limits.lock_wait_s)
        try:
            session, uuid = await asyncio.to_thread(open_session, plan, lock)
        except BaseException:
            lock.release()
            raise
        return cls(plan, lock, session, uuid)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def mode(self) -> JournalMode:
        """How the journal takes work at the moment."""
        if isinstance(self._writer.broken, JournalCorruptError):
            return JournalMode.QUARANTINED
        if self._writer.broken is not None:
            return JournalMode.FENCED
        if self._session.space.read_only:
            return JournalMode.READ_ONLY
        return JournalMode.DRAINING if self._draining else JournalMode.NORMAL

    # -- the journal itself ---------------------------------------------------------------------------------------

    async def checkpoint(self) -> int:
        """Move the log into the database file; pages moved."""
        return await self._writer.between(lambda: self._session.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE))

    async def statistics(self) -> Statistics:
        """Counts, ages and sizes."""
        counts, ages = await self._finish(lambda ops: ops.counts_and_ages())
        volume = self._session.volume
        done = self._writer.statistics
        return Statistics(
            journal_uuid=self._uuid,
            incarnation=self.incarnation,
            epoch=self.epoch,
            counts=counts,
            ages=ages,
            volume=WalVolume(
                total_bytes=volume.total_bytes,
                used_bytes=volume.total_bytes - volume.free_bytes,
                database_bytes=volume.database_bytes,
                wal_bytes=volume.wal_bytes,
            ),
            draining=self._draining,
            read_only=bool(self._session.space.read_only),
            last_error=done.last_error or self._session.space.read_only,
            sync_target=self._sync_target,
            recovered=self.recovered,
            commits=done.commits,
            operations=done.operations,
            queue_depth=done.queue_depth,
        )

    async def backup(self, target: Path) -> None:
        """Copy the journal, online, into a new file."""
        await asyncio.to_thread(copies.backup, self.plan, Path(target))

    async def verify(self) -> list[str]:
        """Check structure, every row's checksum and the counters, in one snapshot beside the running work."""
        return await asyncio.to_thread(copies.verify, self.plan)

    async def close(self) -> None:
        """Finish what was begun, checkpoint, give up the lock."""
        await self._writer.close()
        self._lock.release()

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _run(self, operation: Callable[[Upkeep], T]) -> T:
        return await self._writer.run(operation)

    async def _finish(self, operation: Callable[[Upkeep], T], *, single: bool = False) -> T:
        """Run an operation of work that is under way: when the volume is full, again once the ballast has been freed.

        The group that failed has committed nothing, so running its operation again is no second time.
        """
        run = self._writer.run_single if single else self._writer.run
        for _ in range(FULL_TRIES - 1):
            try:
                return await run(operation)
            except JournalFullError:
                continue
        return await run(operation)

    def _check_room(self) -> None:
        reason = self._session.space.read_only
        if reason:
            raise JournalFullError(
                f"accept: {reason}; running work still finishes, accepting resumes when room returns"
            )

    def _after_group(self) -> None:
        self._waking.tell()
