"""Edges of the store on a file: large rows, and a file that somebody else writes to."""

from pathlib import Path
from typing import Any

import apsw
import pytest

from eco_workers.errors import CommitFailedError, JournalFullError
from eco_workers.journal import Emit, Limits, sqlite_rows
from tests.support.journals import NAMES, Journals, task


async def test_large_rows_come_a_few_at_a_time_until_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks again until nothing comes gets all of them, in order."""
    monkeypatch.setattr(sqlite_rows, "BYTES_AT_ONCE", 100)
    journals = Journals("sqlite", tmp_path)
    journal = await journals.open()
    await journal.set_sync_target("main")
    ids = [f"t{number}" for number in range(5)]
    body = b'{"key":"' + b"x" * 60 + b'"}'
    await journal.accept([task(each, payload=body) for each in ids])
    for row in await journal.claim(5, names=NAMES):
        await journal.complete(row.task_id, b"null", emits=[Emit("q.ai", body)])
    reported: list[str] = []
    while reports := await journal.unsynced(10):
        assert len(reports) <= 2
        reported += [report.task_id for report in reports]
        await journal.synced({report.task_id: report.version for report in reports})
    assert reported == ids
    sent: list[int] = []
    while messages := await journal.outbox(10):
        assert len(messages) <= 2
        sent += [message.row_id for message in messages]
        await journal.sent([message.row_id for message in messages])
    assert sent == sorted(sent)
    assert len(sent) == 5
    journals.clock.pass_(10)
    pruned = [await journal.prune(keep_s=1, limit=10) for _ in range(4)]
    assert pruned == [2, 2, 1, 0]
    await journals.close()


async def test_a_group_that_cannot_begin_undoes_nothing_of_the_one_before(tmp_path: Path) -> None:
    """Somebody else writes to the file for too long: the counters stay what the last commit made them."""
    journals = Journals("sqlite", tmp_path)
    journal: Any = await journals.open(Limits(busy_wait_ms=1))
    await journal.accept([task("a")])
    await journal.claim(1, names=NAMES)
    await journal.complete("a", b"null")
    stranger = apsw.Connection(str(journals.path))
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(CommitFailedError):
        await journal.accept([task("b")])
    stranger.execute("ROLLBACK")
    stranger.close()
    assert (await journal.statistics()).counts.completed == 1
    assert await journal.verify() == []
    await journals.close()


async def test_a_reader_is_not_told_that_the_volume_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shared a group with somebody who wrote; asked again once the ballast is freed, it has its answer."""
    journals = Journals("sqlite", tmp_path)
    journal: Any = await journals.open()
    await journal.set_sync_target("main")
    run = journal._writer.run
    full: list[JournalFullError] = []

    async def full_once(operation: Any) -> Any:
        if full:
            raise full.pop()
        return await run(operation)

    monkeypatch.setattr(journal._writer, "run", full_once)
    for ask in (
        journal.statistics,
        lambda: journal.outbox(1),
        lambda: journal.unsynced(1),
        lambda: journal.cached("k"),
    ):
        full.append(JournalFullError("no room"))
        await ask()
    monkeypatch.undo()
    await journals.close()
