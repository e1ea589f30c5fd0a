"""The journal's twin: the same operations and rules on dictionaries, each call at once and all or nothing."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

from eco_crds.wal import WalVolume
from eco_workers.errors import JournalError, JournalFullError
from eco_workers.journal.calls import JournalCalls
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import Statistics
from eco_workers.journal.operations import Context
from eco_workers.journal.upkeep import Upkeep
from eco_workers.testing.memory_rows import MemoryRows

T = TypeVar("T")


class MemoryJournal(JournalCalls):
    """A journal without a file. `restarted()` is what a crash leaves: the rows, and nothing else."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        rows: MemoryRows | None = None,
        epoch: int = 1,
    ) -> None:
        self.rows = rows or MemoryRows()
        self.read_only = ""
        """Set it to a reason, and new work is refused as on a full volume."""
        context = Context(clock, limits or Limits(), epoch=epoch, incarnation=f"memory:{epoch}", opened_at=clock())
        self._operations = Upkeep(self.rows, context)
        if not self.rows.meta("journal_uuid"):
            self.rows.put_meta("journal_uuid", str(uuid4()))
        self._done = 0
        self._closed = False
        self._operations.restart()
        super().__init__(
            context,
            self.rows.meta("journal_uuid"),
            draining=self._operations.draining(),
            sync_target=self._operations.sync_target(),
        )

    def restarted(self) -> "MemoryJournal":
        """The journal that the next process opens."""
        self._closed = True
        return MemoryJournal(limits=self.limits, clock=self._context.clock, rows=self.rows, epoch=self.epoch + 1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def checkpoint(self) -> int:
        """Nothing to move."""
        return 0

    async def statistics(self) -> Statistics:
        """Counts and ages; no volume."""
        counts, ages = await self._run(lambda ops: ops.counts_and_ages())
        return Statistics(
            journal_uuid=self.journal_uuid,
            incarnation=self.incarnation,
            epoch=self.epoch,
            counts=counts,
            ages=ages,
            volume=WalVolume(),
            draining=self.draining,
            read_only=bool(self.read_only),
            last_error=self.read_only,
            sync_target=self.sync_target,
            recovered=self.recovered,
            commits=self._done,
            operations=self._done,
            queue_depth=0,
        )

    async def backup(self, target: Path) -> None:
        """Refuse: there is no file to copy."""
        raise JournalError(f"backup to {target}: an in-memory journal has no file")

    async def verify(self) -> list[str]:
        """Nothing can be damaged but the counters."""
        counters = self.rows.counters.snapshot()
        fresh = type(self.rows.counters)()
        for row in self.rows.tasks.values():
            fresh.task(None, row)
        for message in self.rows.messages.values():
            fresh.outbox(None, message.status)
        return [] if fresh.snapshot() == counters else [f"counters: {counters} noted, {fresh.snapshot()} there"]

    async def close(self) -> None:
        """Refuse all further calls."""
        self._closed = True

    async def _run(self, operation: Callable[[Upkeep], T]) -> T:
        if self._closed:
            raise JournalError("the journal is closed")
        before, schedule = self.rows.snapshot(), self._context.schedule()
        try:
            value = operation(self._operations)
        except Exception:
            self.rows.restore(before)
            self._context.restore(schedule)
            raise
        self._done += 1
        self._waking.tell()
        # The real journal always lets others run while it commits; code must not come to rely on the opposite.
        await asyncio.sleep(0)
        return value

    async def _finish(self, operation: Callable[[Upkeep], T], *, single: bool = False) -> T:
        del single  # everything is undone here in the same way
        return await self._run(operation)

    def _check_room(self) -> None:
        if self.read_only:
            raise JournalFullError(f"accept: {self.read_only}")
