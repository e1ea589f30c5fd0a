"""The loop that empties what the journal owes: oldest first, batch after batch, until nothing is due.

A row is marked only after COMMIT has returned. If the outcome is unknown the batch is sent again: the merge is
versioned and the same report twice is one row. A batch that the database refuses is cut in half until the culprit
stands alone; its attempt is counted and the rest goes through.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from eco_workers import logs
from eco_workers.errors import SyncUnavailableError
from eco_workers.sync.rows import Origin, Row, RowRefusedError

log = logs.get(__name__)
READ_ROWS_MIN: Final = 400
"""What is read from the journal at once, or a batch where that is more: it is read while others are written."""
WRITES_AT_ONCE: Final = 2
"""While the database merges one batch the next is encoded and sent, on a connection of its own."""
BATCHES_UNDER_WAY: Final = 3
"""Those that are written, and one that is marked in the journal meanwhile."""
REFUSED_A_PASS_MAX: Final = 1000
"""A pass ends here: a database that refuses everything is not asked about each row."""
R = TypeVar("R", bound=Row)
R_co = TypeVar("R_co", bound=Row, covariant=True)


class Ledger(Protocol[R_co]):
    """What the sync asks of a journal."""

    async def unsynced(self, limit: int, since: float = 0.0) -> Sequence[R_co]:
        """Rows that ended at `since` or later and owe their report, the oldest end first."""

    async def synced(self, versions: Mapping[str, int]) -> None:
        """Mark rows whose COMMIT has returned."""

    async def sync_failed(self, task_id: str, error: str, *, max_attempts: int) -> None:
        """Count an attempt that the database refused for this very row."""


class Target(Protocol):
    """Where reports go."""

    async def write(self, rows: Sequence[Row], origin: Origin) -> None:
        """Merge a batch in one transaction; returns when COMMIT has returned."""


@dataclass(frozen=True, slots=True)
class SyncStatistics:
    """The state of the sync at one moment."""

    rows: int = 0
    refused: int = 0
    passes: int = 0
    last_success_at: float | None = None
    """Unix seconds of the last batch that was committed, or of a pass that found nothing to do."""
    last_error: str = ""


@dataclass(slots=True)
class _Pass:
    """What one pass has in hand."""

    batch_size: int
    max_attempts: int
    sent: int = 0
    refused: set[str] = field(default_factory=set)
    waiting: list[Row] = field(default_factory=list)
    """Read, and in no batch yet."""
    last_end: float = 0.0
    """When the last row ended that was read; what is marked meanwhile has ended before, or at that very moment."""
    at_last_end: set[str] = field(default_factory=set)
    """Those of that moment that were read."""
    is_read_out: bool = False
    """The journal had nothing else when it was asked last."""
    under_way: set[asyncio.Task[None]] = field(default_factory=set)
    marking: set[asyncio.Task[None]] = field(default_factory=set)
    writing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WRITES_AT_ONCE))

    async def until_under_way(self, batches: int) -> None:
        """Wait until no more than so many are under way; raises what one of them raised."""
        while len(self.under_way) > batches:
            done, self.under_way = await asyncio.wait(self.under_way, return_when=asyncio.FIRST_COMPLETED)
            for error in [task.exception() for task in done]:
                if error is not None:
                    raise error

    async def end(self) -> None:
        """Call off what is being written, and wait for what is being marked."""
        for task in self.under_way:
            task.cancel()
        if self.under_way:
            await asyncio.gather(*self.under_way, return_exceptions=True)
        if self.marking:
            await asyncio.shield(asyncio.gather(*self.marking))


class Writer:
    """Sends the reports of one journal to one database; one pass at a time."""

    def __init__(
        self,
        ledger: Ledger[Row],
        database: Target,
        origin: Origin,
        *,
        on_synced: Callable[[Sequence[Row]], None] | None = None,
        on_refused: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._database = database
        self._origin = origin
        self._on_synced = on_synced
        self._on_refused = on_refused
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._state = SyncStatistics()

    def statistics(self) -> SyncStatistics:
        """The state of this moment."""
        return self._state

    async def drain(self, *, batch_size: int, max_attempts: int) -> int:
        """Send all that is due; rows sent. Raises SyncUnavailableError when the database does not serve.

        A row that is refused is not tried again in the same pass: each pass counts one attempt.
        """
        async with self._one_at_a_time:
            one_pass = _Pass(batch_size, max_attempts)
            try:
                await self._run(one_pass)
            except SyncUnavailableError as error:
                self._state = replace(self._state, last_error=str(error)[:1000])
                raise
            finally:
                # What has been committed is marked even when another batch fails or the pass is called off.
                await one_pass.end()
            self._state = replace(
                self._state,
                passes=self._state.passes + 1,
                last_success_at=self._clock(),
                last_error=self._state.last_error if one_pass.refused else "",
            )
            return one_pass.sent

    async def _run(self, one_pass: "_Pass") -> None:
        """Read, write and mark, each while the others go on: what is read next comes while the last is written."""
        batch_size = one_pass.batch_size
        while len(one_pass.refused) < REFUSED_A_PASS_MAX:
            if len(one_pass.waiting) < batch_size and not one_pass.is_read_out:
                await self._read(one_pass)
            if one_pass.waiting:
                await one_pass.until_under_way(BATCHES_UNDER_WAY - 1)
                rows, one_pass.waiting = one_pass.waiting[:batch_size], one_pass.waiting[batch_size:]
                one_pass.under_way.add(asyncio.create_task(self._send(rows, one_pass), name="sync-batch"))
            elif one_pass.under_way:
                await one_pass.until_under_way(0)
                # From the start again: what ended while a clock was set back stands before all that was read.
                one_pass.is_read_out, one_pass.last_end, one_pass.at_last_end = False, 0.0, set()
            else:
                return
        await one_pass.until_under_way(0)

    async def _read(self, one_pass: "_Pass") -> None:
        """Read what is due and comes behind what is in hand, which the journal would give again until it is marked."""
        limit = max(one_pass.batch_size, READ_ROWS_MIN) + len(one_pass.at_last_end) + len(one_pass.refused)
        found = await self._ledger.unsynced(limit, one_pass.last_end)
        new = [row for row in found if row.task_id not in one_pass.at_last_end and row.task_id not in one_pass.refused]
        one_pass.is_read_out = not new
        if new:
            one_pass.waiting += new
            one_pass.last_end = new[-1].ended_at
            one_pass.at_last_end = {row.task_id for row in found if row.ended_at == one_pass.last_end}

    async def _send(self, rows: Sequence[Row], one_pass: "_Pass") -> None:
        """Write a batch, then mark it."""
        async with one_pass.writing:
            written = await self._write(rows, one_pass.max_attempts, one_pass.refused)
        one_pass.sent += len(written)
        marking = asyncio.create_task(self._mark(written), name="sync-mark")
        one_pass.marking.add(marking)
        marking.add_done_callback(one_pass.marking.discard)
        await asyncio.shield(marking)

    async def _write(self, rows: Sequence[Row], max_attempts: int, refused: set[str]) -> list[Row]:
        """Write rows, cutting in half on a refusal; those that are committed."""
        try:
            await self._database.write(rows, self._origin)
        except RowRefusedError as error:
            if len(rows) == 1:
                (row,) = rows
                log.warning("row refused by the database", task_id=row.task_id, error=str(error))
                refused.add(row.task_id)
                if self._on_refused is not None:
                    self._on_refused()
                await self._ledger.sync_failed(row.task_id, str(error), max_attempts=max_attempts)
                text = f"task {row.task_id}: {error}"[:1000]
                self._state = replace(self._state, refused=self._state.refused + 1, last_error=text)
                return []
            middle = len(rows) // 2
            first = await self._write(rows[:middle], max_attempts, refused)
            return first + await self._write(rows[middle:], max_attempts, refused)
        return list(rows)

    async def _mark(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        await self._ledger.synced({row.task_id: row.version for row in rows})
        self._state = replace(self._state, rows=self._state.rows + len(rows), last_success_at=self._clock())
        if self._on_synced is not None:
            self._on_synced(rows)
