"""The journal on SQLite: the protocol of `model.TaskJournal`, each call one operation on the writer thread."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import apsw

from eco_crds.wal import JournalMode, WalVolume
from eco_workers.errors import JournalCorruptError, JournalFullError
from eco_workers.journal import copies
from eco_workers.journal import limits as bounds
from eco_workers.journal.lock import JournalLock
from eco_workers.journal.model import (
    CachedAnswer,
    Emit,
    Identity,
    NewTask,
    OutboxMessage,
    Owner,
    Rejected,
    Report,
    Running,
    Statistics,
    Verdict,
)
from eco_workers.journal.opening import Plan, check_file_system, check_library, open_session
from eco_workers.journal.operations import names_of
from eco_workers.journal.session import SqliteSession
from eco_workers.journal.upkeep import Upkeep
from eco_workers.journal.waking import Waking
from eco_workers.journal.writer import Writer

T = TypeVar("T")
FULL_TRIES: int = 4
REPUBLISH_AT_ONCE: int = 500


class SqliteJournal:
    """A journal in one SQLite file. Open it with `await SqliteJournal.open(…)`, use it as a context manager."""

    def __init__(self, plan: Plan, lock: JournalLock, session: SqliteSession, uuid: str) -> None:
        self.plan = plan
        self.limits = plan.limits
        self._lock = lock
        self._session = session
        self._uuid = uuid
        self._context = session.operations.context
        self._waking = Waking(self._context)
        self._draining = session.operations.draining()
        self._sync_target = session.operations.sync_target()
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
    def journal_uuid(self) -> str:
        """Identity of the file."""
        return self._uuid

    @property
    def incarnation(self) -> str:
        """`<boot id>:<epoch>` of this process."""
        return self._context.incarnation

    @property
    def epoch(self) -> int:
        """Raised by each open."""
        return self._context.epoch

    @property
    def recovered(self) -> int:
        """Unfinished rows found at this start."""
        return self._context.recovered

    @property
    def draining(self) -> bool:
        """Whether the shard drains, as kept in the journal."""
        return self._draining

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

    # -- from the broker ------------------------------------------------------------------------------------------

    async def accept(self, tasks: Sequence[NewTask], *, owner: Owner = Owner.JOURNAL) -> list[Verdict]:
        """Write deliveries; see the protocol. Raises JournalFullError below the reserve, before anything is written."""
        for task in tasks:
            bounds.check_task(task, self.limits)
        self._check_room()
        return await self._writer.run(lambda ops: ops.accept(tasks, owner)) if tasks else []

    async def reject(self, messages: Sequence[Rejected]) -> None:
        """Keep deliveries that are no valid task."""
        for message in messages:
            bounds.check_rejected(message, self.limits)
        self._check_room()
        await self._writer.run(lambda ops: ops.reject(messages))

    async def acked(self, task_ids: Sequence[str]) -> None:
        """Hand rows over from broker to journal, before the ack is sent."""
        await self._finish(lambda ops: ops.acked(task_ids))

    async def channel_lost(self) -> None:
        """Let un-acked rows await their redelivery."""
        await self._finish(lambda ops: ops.channel_lost())

    async def close_unacked(self, *, after_s: float | None = None) -> int:
        """Close rows whose redelivery went elsewhere."""
        wait_s = self.limits.unacked_wait_s if after_s is None else after_s
        return await self._finish(lambda ops: ops.close_unacked(wait_s, 1000))

    # -- running --------------------------------------------------------------------------------------------------

    async def claim(self, limit: int, *, names: Mapping[str, int] | frozenset[str]) -> list[Running]:
        """Start due tasks."""
        self._waking.work.clear()
        budgets = names_of(names, self.limits)
        return await self._finish(lambda ops: ops.claim(limit, budgets))

    async def step(
        self,
        task_id: str,
        name: str,
        result: bytes,
        *,
        emits: Sequence[Emit] = (),
        cache: Sequence[CachedAnswer] = (),
    ) -> None:
        """Checkpoint a finished step."""
        bounds.check_result("result", result, self.limits)
        self._check_emits(emits)
        await self._finish(lambda ops: ops.step(task_id, name, result, emits, cache))

    async def cached(self, key: str) -> bytes | None:
        """A kept answer that is not too old."""
        return await self._writer.run(lambda ops: ops.cached(key))

    async def heartbeat(self, task_id: str) -> None:
        """Note that a running task makes progress."""
        await self._finish(lambda ops: ops.heartbeat(task_id))

    async def complete(
        self, task_id: str, result: bytes, *, emits: Sequence[Emit] = (), cache: Sequence[CachedAnswer] = ()
    ) -> None:
        """End a running task with its result."""
        bounds.check_result("result", result, self.limits)
        self._check_emits(emits)
        await self._finish(lambda ops: ops.complete(task_id, result, emits, cache))

    async def fail(self, task_id: str, error: str) -> None:
        """End a task for good."""
        await self._finish(lambda ops: ops.fail(task_id, error))

    async def time_out(self, task_id: str, error: str) -> None:
        """End a task whose time is over."""
        await self._finish(lambda ops: ops.time_out(task_id, error))

    async def retry(self, task_id: str, error: str, *, not_before: float) -> None:
        """Schedule another attempt."""
        start = bounds.check_time("not_before", not_before)
        await self._finish(lambda ops: ops.retry(task_id, error, start))

    async def release(self, task_ids: Sequence[str]) -> None:
        """Put running tasks back."""
        await self._finish(lambda ops: ops.release(task_ids))

    async def republish(self, task_ids: Sequence[str] | None = None) -> int:
        """Give pending tasks back to the broker; all of them, in transactions of bounded size, for None."""
        if task_ids is not None:
            return await self._finish(lambda ops: ops.republish(task_ids, len(task_ids)))
        total = 0
        while count := await self._finish(lambda ops: ops.republish(None, REPUBLISH_AT_ONCE)):
            total += count
        return total

    # -- outbox ---------------------------------------------------------------------------------------------------

    async def outbox(self, limit: int) -> list[OutboxMessage]:
        """Unsent messages, oldest first."""
        self._waking.outbox.clear()
        return await self._writer.run(lambda ops: ops.outbox(limit))

    async def sent(self, row_ids: Sequence[int]) -> None:
        """Mark messages that the broker confirmed."""
        await self._finish(lambda ops: ops.sent(row_ids))

    async def park_outbox(self, row_id: int, error: str) -> None:
        """Count an attempt of a message that could not be routed."""
        await self._finish(lambda ops: ops.park_outbox(row_id, error))

    # -- sync -----------------------------------------------------------------------------------------------------

    async def unsynced(self, limit: int) -> list[Report]:
        """Rows that owe their report."""
        return await self._writer.run(lambda ops: ops.unsynced(limit))

    async def synced(self, versions: Mapping[str, int]) -> None:
        """Mark reported rows."""
        await self._finish(lambda ops: ops.synced(versions))

    async def sync_failed(self, task_id: str, error: str, *, max_attempts: int) -> None:
        """Count an attempt that the database refused for this row."""
        await self._finish(lambda ops: ops.sync_failed(task_id, error, max_attempts))

    async def retry_parked(self) -> int:
        """Make parked messages and reports due again."""
        return await self._finish(lambda ops: ops.retry_parked(1000))

    async def set_sync_target(self, target: str) -> None:
        """Keep the sync target."""
        await self._finish(lambda ops: ops.set_sync_target(target))
        self._sync_target = target

    # -- the journal itself ---------------------------------------------------------------------------------------

    async def set_draining(self, draining: bool) -> None:
        """Keep whether the shard drains."""
        await self._finish(lambda ops: ops.set_draining(draining))
        self._draining = draining

    async def prune(self, *, keep_s: float, limit: int = 1000) -> int:
        """Delete ended rows that owe nothing."""
        return await self._finish(lambda ops: ops.prune(keep_s, limit))

    async def checkpoint(self) -> int:
        """Move the log into the database file; pages moved."""
        return await self._writer.between(lambda: self._session.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE))

    async def statistics(self) -> Statistics:
        """Counts, ages and sizes."""
        counts, ages = await self._writer.run(lambda ops: ops.counts_and_ages())
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

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return when a row may have become due."""
        await self._waking.wait_for_work(timeout_s)

    async def wait_for_outbox(self, timeout_s: float) -> None:
        """Return when a message may have become due."""
        await self._waking.wait_for_outbox(timeout_s)

    async def close(self) -> None:
        """Finish what was begun, checkpoint, give up the lock."""
        await self._writer.close()
        self._lock.release()

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _finish(self, operation: Callable[[Upkeep], T]) -> T:
        """Run an operation of work that is under way: when the volume is full, again once the ballast has been freed.

        The group that failed has committed nothing, so running its operation again is no second time.
        """
        for _ in range(FULL_TRIES - 1):
            try:
                return await self._writer.run(operation)
            except JournalFullError:
                continue
        return await self._writer.run(operation)

    def _check_room(self) -> None:
        reason = self._session.space.read_only
        if reason:
            raise JournalFullError(
                f"accept: {reason}; running work still finishes, accepting resumes when room returns"
            )

    def _check_emits(self, emits: Sequence[Emit]) -> None:
        for emit in emits:
            bounds.check_emit(emit, self.limits)

    def _after_group(self) -> None:
        self._waking.tell()
