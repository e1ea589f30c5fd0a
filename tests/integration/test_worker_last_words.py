"""A worker that stands still leaves word of why: should its process end, the operator reads it from the pod."""

import asyncio
from pathlib import Path

import pytest

from eco_crds.wal import JournalMode
from eco_workers import settings
from eco_workers.errors import JournalCorruptError, JournalLostError
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import TaskJournal
from eco_workers.runtime.worker import Worker
from eco_workers.settings import Settings
from tests.support.waiting import until

ENVIRONMENT = {
    "ECO_NAMESPACE": "shop",
    "ECO_WORKER": "storage",
    "ECO_SHARD": "storage-0",
    "ECO_ROLE": "storage",
    "ECO_ADMIN_HOST": "127.0.0.1",
    "ECO_ADMIN_PORT": "0",
    "RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:1/",
    "S3_BUCKET": "pictures",
}


@pytest.mark.parametrize(
    ("error", "mode", "words"),
    [
        (JournalCorruptError("page 7"), JournalMode.QUARANTINED, "Corrupt: "),
        (JournalLostError("no journal"), JournalMode.LOST, "Lost: "),
    ],
    ids=["corrupt", "lost"],
)
async def test_a_journal_that_cannot_be_used_is_named_before_the_process_ends(
    tmp_path: Path, error: Exception, mode: JournalMode, words: str
) -> None:
    async def fail(_settings: Settings, _limits: Limits, _known: str | None) -> TaskJournal:
        raise error

    file = tmp_path / "termination-log"
    file.touch()
    places = {"WAL_DB_PATH": str(tmp_path / "wal.db"), "ECO_TERMINATION_LOG": str(file)}
    worker = Worker(settings.load({**ENVIRONMENT, **places}), open_journal=fail)
    running = asyncio.create_task(worker.run())

    async def stands_still() -> bool:
        found = await worker.wal()
        return found is not None and found.mode is mode

    await until("it stands still", stands_still, within_s=10)
    said = file.read_text()
    assert said.startswith(words)
    assert str(error) in said
    worker.stop()
    assert await running == 0
