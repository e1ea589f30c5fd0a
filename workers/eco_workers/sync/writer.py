"""The loop that empties what the journal owes: oldest first, batch after batch, until nothing is due.

A row is marked only after COMMIT has returned. If the outcome is unknown the batch is sent again: the merge is
versioned and the same report twice is one row. A batch that the database refuses is cut in half until the culprit
stands alone; its attempt is counted and the rest goes through.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from eco_workers import logs
from eco_workers.errors import SyncUnavailableError
from eco_workers.sync.rows import Origin, Row, RowRefusedError

log = logs.get(__name__)
BATCHES_AHEAD: Final = 4
"""Batches that are read from the journal at once."""
REFUSED_A_PASS_MAX: Final = 1000
"""A pass ends here: a database that refuses everything is not asked about each row."""
R = TypeVar("R", bound=Row)
R_co = TypeVar("R_co", bound=Row, covariant=True)


class Ledger(Protocol[R_co]):
    """What the sync asks of a journal."""

    async def unsynced(self, limit: int) -> Sequence[R_co]:
        """Rows that owe their report, the oldest end first."""

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
            sent = 0
            refused: set[str] = set()
            try:
                while len(refused) < REFUSED_A_PASS_MAX:
                    found = await self._ledger.unsynced(batch_size * BATCHES_AHEAD + len(refused))
                    rows = [row for row in found if row.task_id not in refused]
                    if not rows:
                        break
                    sent += await self._send(rows, batch_size, max_attempts, refused)
            except SyncUnavailableError as error:
                self._state = replace(self._state, last_error=str(error)[:1000])
                raise
            self._state = replace(
                self._state,
                passes=self._state.passes + 1,
                last_success_at=self._clock(),
                last_error=self._state.last_error if refused else "",
            )
            return sent

    async def _send(self, rows: Sequence[Row], batch_size: int, max_attempts: int, refused: set[str]) -> int:
        """Write rows batch by batch; one batch is marked in the journal while the next is written."""
        sent = 0
        marking: asyncio.Task[None] | None = None
        try:
            for start in range(0, len(rows), batch_size):
                written = await self._write(rows[start : start + batch_size], max_attempts, refused)
                if marking is not None:
                    await marking
                marking = asyncio.create_task(self._mark(written), name="sync-mark")
                sent += len(written)
        finally:
            if marking is not None:
                # What has been committed is marked even when the next batch fails or the pass is called off.
                await asyncio.shield(marking)
        return sent

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
