"""What a journal reads in one go is bounded in bytes: a thousand rows of a MiB each are no batch."""

from pathlib import Path

import pytest

from eco_workers.journal import Emit, sqlite_rows
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
