"""When the sync runs: by the settings that the operator mounts, which may change, come late, or go away.

The settings are a file in a mounted ConfigMap; Kubernetes replaces it as a whole, so it is read again whenever its
content differs. The target is kept in the journal from the first settings on: without them the sync is suspended, and
what ended in the meantime stays due.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from eco_crds.contract import SYNC_SETTINGS_KEY
from eco_crds.wal import SyncSettings
from eco_workers import logs
from eco_workers.errors import SyncUnavailableError
from eco_workers.journal.model import TaskJournal
from eco_workers.sync.rows import Row
from eco_workers.sync.writer import SyncStatistics, Writer

log = logs.get(__name__)
SETTINGS_POLL_S: Final = 1.0
UNAVAILABLE_FIRST_S: Final = 1.0
UNAVAILABLE_CAP_S: Final = 60.0


def read_settings(directory: Path) -> SyncSettings | None:
    """The settings in the mounted directory; None while there are none."""
    try:
        text = (directory / SYNC_SETTINGS_KEY).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return SyncSettings.model_validate_json(text)


class Syncing:
    """Runs passes of a writer at the interval that the settings name, and when asked."""

    def __init__(self, journal: TaskJournal, writer: Writer | None, directory: Path) -> None:
        self._journal = journal
        self._writer = writer
        self._directory = directory
        self._settings: SyncSettings | None = None
        self._settings_error = ""
        self._asked = asyncio.Event()
        self._known_target = ""

    def statistics(self) -> SyncStatistics:
        """The state of this moment."""
        state = self._writer.statistics() if self._writer else SyncStatistics()
        return replace(state, last_error=self._settings_error) if self._settings_error else state

    def ask(self) -> None:
        """Run a pass soon."""
        self._asked.set()

    async def run(self) -> None:
        """Follow the settings for ever."""
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        failures = 0
        while True:
            await self._reload()
            settings = self._settings
            if settings is None or settings.suspended or self._writer is None:
                due_at = min(due_at, loop.time())
            elif self._asked.is_set() or loop.time() >= due_at:
                self._asked.clear()
                try:
                    await self._writer.drain(batch_size=settings.batch_size, max_attempts=settings.max_attempts)
                    failures = 0
                    # Shards of one worker do not come at the same moment.
                    due_at = loop.time() + settings.interval_s * random.uniform(0.9, 1.0)  # noqa: S311  # spreading load
                except SyncUnavailableError as error:
                    failures += 1
                    pause_s = min(UNAVAILABLE_CAP_S, settings.interval_s, UNAVAILABLE_FIRST_S * 2 ** min(failures, 16))
                    log.warning("sync target does not serve", error=str(error), pause_s=round(pause_s, 1))
                    due_at = loop.time() + pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # spreading load
            if settings is None or settings.suspended or self._writer is None:
                self._asked.clear()
                await asyncio.sleep(SETTINGS_POLL_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, min(SETTINGS_POLL_S, due_at - loop.time()))):
                    await self._asked.wait()

    async def sync_now(self) -> int:
        """Run one pass and wait for it; rows sent. Raises SyncUnavailableError."""
        await self._reload()
        settings, writer = self._settings, self._writer
        if settings is None or settings.suspended or writer is None:
            return 0
        return await writer.drain(batch_size=settings.batch_size, max_attempts=settings.max_attempts)

    async def _reload(self) -> None:
        try:
            settings = read_settings(self._directory)
        except (OSError, ValidationError) as error:
            # The last good settings stay in force.
            self._settings_error = f"sync settings in {self._directory}: {error}"[:1000]
            return
        self._settings_error = ""
        if settings is not None and self._writer is None:
            self._settings_error = f"sync target {settings.target!r} is set, but POSTGRES_HOST is not"
        if settings != self._settings:
            log.info("sync settings", settings=None if settings is None else settings.model_dump())
        self._settings = settings
        # Asked each time: a journal that was busy has to be told again, or the sync would never begin.
        if settings is not None and settings.target != self._known_target:
            await self._journal.set_sync_target(settings.target)
            self._known_target = settings.target


def on_synced(observe: Callable[[float], None], clock: Callable[[], float]) -> Callable[[Sequence[Row]], None]:
    """Observe, for each row of a committed batch, how long after its end it got there."""

    def callback(rows: Sequence[Row]) -> None:
        now = clock()
        for row in rows:
            observe(max(0.0, now - row.ended_at))

    return callback
