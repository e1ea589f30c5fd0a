"""The journal under `ackPolicy: Replicated`: what leads to an ack returns only when its segment is confirmed."""

import asyncio
import contextlib
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

from eco_workers.errors import EcoWorkerError, JournalFullError, JournalRefusedError
from eco_workers.journal import copies
from eco_workers.journal.model import Identity, NewTask, Owner, Rejected, Statistics, Verdict
from eco_workers.journal.opening import Plan
from eco_workers.journal.replica import Replica
from eco_workers.journal.sqlite import SqliteJournal

CLAIM_PAUSE_FIRST_S: Final = 0.5
CLAIM_PAUSE_MAX_S: Final = 30.0
LOOK_S: Final = 5.0
"""How long an open waits for the store's word; a claim asks again, as long as it takes."""
FLUSH_S: Final = 2.0
SNAPSHOT_PREFIX: Final = "eco-snapshot-"
COPIED: Final = b""
"""Stands among the changes where the snapshot was taken: what came before it is in the snapshot."""


class ReplicatedJournal(SqliteJournal):
    """A journal whose every group commit is also a segment in an object store.

    While the store is away, work that is here goes on and ends; new work is refused, since it could not be acked.
    """

    _replica: Replica
    _claiming: "asyncio.Task[None] | None" = None

    @classmethod
    async def open_replicated(cls, path: Path, *, identity: Identity, replica: Replica, **options: Any) -> Self:
        """Open the journal and begin an epoch in the store, in the background while the store is away."""
        plan = Plan(path, identity, **options)
        with contextlib.suppress(OSError, EcoWorkerError, TimeoutError):
            # An epoch in the store above the file's: somebody restored this journal, and this file is the old one.
            async with asyncio.timeout(LOOK_S):
                uuid, epoch = await replica.newest()
            if epoch > plan.known_epoch:
                plan = replace(plan, known_epoch=epoch, known_epoch_of=uuid)
            # And a journal in the store that is not at its place here is one that was lost, not one that never was.
            plan = replace(plan, known_uuid=plan.known_uuid or uuid or None)
        journal = await cls.open(path, identity=identity, plan=plan)
        journal._replica = replica  # noqa: SLF001  # our own class's constructor
        journal._claiming = asyncio.create_task(journal._claim_epoch(), name="journal-replica-claim")  # noqa: SLF001  # as above
        return journal

    @property
    def replica(self) -> Replica:
        """Where the segments go."""
        return self._replica

    async def accept(self, tasks: Sequence[NewTask], *, owner: Owner = Owner.JOURNAL) -> list[Verdict]:
        """Write deliveries; returns when their segment is confirmed."""
        verdicts = await super().accept(tasks, owner=owner)
        await self._replica.confirm()
        return verdicts

    async def reject(self, messages: Sequence[Rejected]) -> None:
        """Keep deliveries that are no valid task; returns when their segment is confirmed."""
        await super().reject(messages)
        await self._replica.confirm()

    async def acked(self, task_ids: Sequence[str]) -> None:
        """Hand rows over before the ack; returns when their segment is confirmed."""
        await super().acked(task_ids)
        await self._replica.confirm()

    async def statistics(self) -> Statistics:
        """Counts, ages and sizes, and whether the store is why nothing is accepted."""
        found = await super().statistics()
        held_back = self._held_back()
        error = ": ".join(filter(None, (held_back, self._replica.statistics().last_error)))
        return replace(found, held_back=held_back, last_error=found.last_error or error)

    async def close(self) -> None:
        """Finish what was begun, give the store a moment for the rest, then close. What it lacks was not acked."""
        if self._claiming is not None:
            self._claiming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._claiming
        await super().close()
        if self._replica.begun:
            with contextlib.suppress(TimeoutError, JournalRefusedError):
                async with asyncio.timeout(FLUSH_S):
                    await self._replica.confirm()
        await self._replica.close()

    def _check_room(self) -> None:
        super()._check_room()
        if self._replica.fenced:
            raise JournalRefusedError(self._replica.fenced)
        reason = self._held_back()
        if reason:
            raise JournalFullError(f"accept: {reason}")

    def _held_back(self) -> str:
        if not self._replica.claimed:
            return "the epoch is not yet claimed in the object store; nothing could be acked"
        return "the object store is too far behind; running work goes on" if self._replica.full else ""

    def _after_group(self) -> None:
        # Before any caller of the group goes on, so that none of them can ask for a confirmation of less.
        changes = self._session.changes
        while changes:
            changeset = changes.popleft()
            if changeset == COPIED:
                self._replica.forget_early()
            else:
                self._replica.give(changeset)
        super()._after_group()

    def renew(self) -> bool:
        """Begin the next epoch when this one has grown long; whether it had. Acks wait until its snapshot is there."""
        if not self._replica.is_long or (self._claiming is not None and not self._claiming.done()):
            return False
        self._claiming = asyncio.create_task(self._claim_epoch(raises=True), name="journal-replica-claim")
        return True

    async def _claim_epoch(self, *, raises: bool = False) -> None:
        """Claim the epoch with a copy of the file taken between two groups; patient while the store is away."""
        pause_s = CLAIM_PAUSE_FIRST_S
        while True:
            try:
                if raises:
                    await self._writer.between(self._raise_epoch)
                    raises = False
                with TemporaryDirectory(prefix=SNAPSHOT_PREFIX, dir=self.plan.path.parent) as directory:
                    snapshot = Path(directory) / "journal.db"
                    await self._writer.between(partial(self._copy_and_capture, snapshot))
                    await self._replica.end_epoch()
                    await self._replica.begin(self.journal_uuid, self.epoch, snapshot)
            except JournalRefusedError as error:
                self._replica.fence(str(error))
                return
            except Exception as error:  # noqa: BLE001  # any fault of the store is one to wait out; nothing is accepted
                self._replica.note(str(error))
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, no secret
                pause_s = min(pause_s * 2, CLAIM_PAUSE_MAX_S)
            else:
                return

    def _copy_and_capture(self, target: Path) -> None:
        """On the writer thread: whatever commits behind this copy is captured, nothing before it."""
        for stale in self.plan.path.parent.glob(SNAPSHOT_PREFIX + "*"):
            if stale != target.parent:
                shutil.rmtree(stale, ignore_errors=True)  # left by a process that was killed meanwhile
        copies.backup(self.plan, target)
        # What stands before it in the queue was committed before the copy.
        self._session.changes.append(COPIED)
        self._session.capturing = True

    def _raise_epoch(self) -> None:
        """On the writer thread: the epoch in the file goes up, and with it that of this owner."""
        self._context.epoch = self._session.raise_epoch()
        self._lock.write(self._uuid, self._context.epoch)
