"""When the sync runs: by settings that may come late, be wrong, change and go away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eco_crds.contract import SYNC_SETTINGS_KEY
from eco_crds.wal import SyncSettings
from eco_workers.errors import JournalBusyError, SyncUnavailableError
from eco_workers.journal.model import NewTask
from eco_workers.runtime import syncing as module
from eco_workers.runtime.syncing import Syncing, on_synced, read_settings
from eco_workers.sync.rows import Origin, Row
from eco_workers.sync.writer import Writer
from eco_workers.testing import MemoryJournal


@dataclass
class Target:
    """A database that writes down what it is given."""

    batches: list[list[str]] = field(default_factory=list)
    away: bool = False

    async def write(self, rows: Sequence[Row], _origin: Origin) -> None:
        if self.away:
            raise SyncUnavailableError("away")
        self.batches.append([row.task_id for row in rows])

    @property
    def seen(self) -> list[str]:
        return [task_id for batch in self.batches for task_id in batch]


@dataclass
class Bench:
    journal: MemoryJournal
    target: Target
    syncing: Syncing
    directory: Path

    def settings(self, text: str | None = None, **fields: object) -> None:
        path = self.directory / SYNC_SETTINGS_KEY
        path.write_text(
            text or SyncSettings.model_validate({"target": "main", "interval_s": 1} | fields).model_dump_json()
        )

    async def ended(self, *ids: str) -> None:
        await self.journal.accept([NewTask(each, "act", b"{}", "q.api") for each in ids])
        for row in await self.journal.claim(len(ids), names=frozenset({"act"})):
            await self.journal.complete(row.task_id, b"null")

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110  # another task's doing, seen from outside
                await asyncio.sleep(0.001)


@asynccontextmanager
async def bench(directory: Path, *, database: bool = True) -> AsyncIterator[Bench]:
    journal, target = MemoryJournal(), Target()
    writer = Writer(journal, target, Origin("ns", "w", "w-0")) if database else None
    made = Bench(journal, target, Syncing(journal, writer, directory), directory)
    running = asyncio.create_task(made.syncing.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTINGS_POLL_S", 0.005)


async def test_what_ended_before_there_were_settings_is_sent_when_they_come(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.ended("a", "b")
        assert it.target.seen == []
        it.settings()
        await it.until(lambda: sorted(it.target.seen) == ["a", "b"])
        assert (await it.journal.statistics()).sync_target == "main"


async def test_batches_have_the_size_that_the_settings_name(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.ended(*"abcde")
        it.settings(batch_size=2)
        await it.until(lambda: len(it.target.seen) == 5)
        assert [len(batch) for batch in it.target.batches] == [2, 2, 1]


async def test_while_suspended_nothing_is_sent_and_all_of_it_stays_due(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        it.settings(suspended=True)
        await it.until(lambda: it.syncing._settings is not None)
        await it.ended("a")
        assert await it.syncing.sync_now() == 0
        assert (await it.journal.statistics()).counts.unsynced == 1
        it.settings()
        await it.until(lambda: it.target.seen == ["a"])


async def test_a_question_while_suspended_does_not_stop_the_loop(tmp_path: Path) -> None:
    """It is answered by no pass; a wait that it ended at once would let nothing else run."""
    async with bench(tmp_path) as it:
        it.settings(suspended=True)
        await it.until(lambda: it.syncing._settings is not None)
        it.syncing.ask()
        await it.until(lambda: not it.syncing._asked.is_set())


async def test_a_journal_that_was_busy_is_told_the_target_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a target nothing is due, and what has ended would be pruned unreported."""
    journal = MemoryJournal()
    syncing = Syncing(journal, Writer(journal, Target(), Origin("ns", "w", "w-0")), tmp_path)
    (tmp_path / SYNC_SETTINGS_KEY).write_text(SyncSettings(target="main").model_dump_json())
    with monkeypatch.context() as busy:

        async def refuse(_target: str) -> None:
            raise JournalBusyError("busy")

        busy.setattr(journal, "set_sync_target", refuse)
        with pytest.raises(JournalBusyError):
            await syncing.sync_now()
    await syncing.sync_now()
    assert journal.sync_target == "main"


async def test_settings_that_cannot_be_read_are_said_so_and_the_last_good_ones_stay(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        it.settings()
        await it.until(lambda: it.syncing._settings is not None)
        it.settings(text='{"target": ')
        await it.until(lambda: bool(it.syncing.statistics().last_error))
        await it.ended("a")
        assert await it.syncing.sync_now() == 1
        it.settings()
        await it.until(lambda: not it.syncing.statistics().last_error)


async def test_a_target_without_a_database_is_said_so(tmp_path: Path) -> None:
    async with bench(tmp_path, database=False) as it:
        it.settings()
        await it.until(lambda: "POSTGRES_HOST" in it.syncing.statistics().last_error)


async def test_a_target_that_is_away_is_asked_again_and_keeps_all_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNAVAILABLE_FIRST_S", 0.001)
    async with bench(tmp_path) as it:
        it.target.away = True
        it.settings()
        await it.ended("a")
        await it.until(lambda: bool(it.syncing.statistics().last_error))
        counts = (await it.journal.statistics()).counts
        assert (counts.unsynced, counts.sync_parked) == (1, 0)
        it.target.away = False
        await it.until(lambda: it.target.seen == ["a"])
        await it.until(lambda: not it.syncing.statistics().last_error)


def test_no_settings_are_no_error(tmp_path: Path) -> None:
    assert read_settings(tmp_path) is None
    assert read_settings(tmp_path / "not mounted") is None


async def test_the_delay_of_each_row_is_observed() -> None:
    journal = MemoryJournal(clock=lambda: 100.0)
    await journal.set_sync_target("main")
    seen: list[float] = []
    writer = Writer(journal, Target(), Origin("n", "w", "s"), on_synced=on_synced(seen.append, lambda: 103.0))
    await journal.accept([NewTask("a", "act", b"{}", "q.api")])
    await journal.claim(1, names=frozenset({"act"}))
    await journal.complete("a", b"null")
    await writer.drain(batch_size=10, max_attempts=1)
    assert seen == [3.0]
