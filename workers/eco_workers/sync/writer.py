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

import structlog

from eco_workers.errors import SyncUnavailableError
from eco_workers.sync.database import Database, Origin, Row, RowRefusedError

log = structlog.get_logger(__name__)
BATCHES_A_PASS_MAX: Final = 10_000
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
        database: Database,
        origin: Origin,
        *,
        on_synced: Callable[[Sequence[Row]], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._database = database
        self._origin = origin
        self._on_synced = on_synced
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._state = SyncStatistics()

    def statistics(self) -> SyncStatistics:
        """The state of this moment."""
        return self._state

    async def drain(self, *, batch_size: int, max_attempts: int) -> int:
        """Send all that is due; rows sent. Raises SyncUnavailableError when the database does not serve."""
        async with self._one_at_a_time:
            sent = 0
            for _ in range(BATCHES_A_PASS_MAX):
                rows = await self._ledger.unsynced(batch_size)
                if not rows:
                    break
                try:
                    refused = await self._write(rows, max_attempts)
                except SyncUnavailableError as error:
                    self._state = replace(self._state, last_error=str(error)[:1000])
                    raise
                sent += len(rows) - refused
                self._state = replace(
                    self._state,
                    rows=self._state.rows + len(rows) - refused,
                    refused=self._state.refused + refused,
                    last_success_at=self._clock() if refused < len(rows) else self._state.last_success_at,
                )
                if refused == len(rows):
                    # Nothing moved: those rows are due again at once until they are parked, so leave the rest of
                    # their attempts to later passes instead of burning them now.
                    break
            else:
                log.warning("sync pass ended at its bound", batches=BATCHES_A_PASS_MAX)
            if self._state.last_error and sent:
                self._state = replace(self._state, last_error="")
            self._state = replace(self._state, passes=self._state.passes + 1, last_success_at=self._clock())
            return sent

    async def _write(self, rows: Sequence[Row], max_attempts: int) -> int:
        """Write rows, cutting in half on a refusal; how many stand refused."""
        try:
            await self._database.write(rows, self._origin)
        except RowRefusedError as error:
            if len(rows) == 1:
                log.warning("row refused by the database", task_id=rows[0].task_id, error=str(error))
                await self._ledger.sync_failed(rows[0].task_id, str(error), max_attempts=max_attempts)
                self._state = replace(self._state, last_error=f"task {rows[0].task_id}: {error}"[:1000])
                return 1
            middle = len(rows) // 2
            return await self._write(rows[:middle], max_attempts) + await self._write(rows[middle:], max_attempts)
        await self._ledger.synced({row.task_id: row.version for row in rows})
        if self._on_synced is not None:
            self._on_synced(rows)
        return 0
