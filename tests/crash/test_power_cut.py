"""A sample of the power cuts that the proof makes by the ten thousand, and its controls."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from eco_workers.journal import NewTask, SqliteJournal, failpoints
from eco_workers.journal.walfile import survey
from tests.crash import power
from tests.crash.flips import FRAME_BYTES, LOG, LOG_HEADER_BYTES
from tests.support.cuts import JOURNAL, Cutter, record
from tests.support.powercut import Image, read_image, write_image
from tests.support.scratch import memory_directory
from tests.support.workload import IDENTITY, SMALL, live

SEED: Final = 7


@pytest.fixture
def directory() -> Iterator[Path]:
    with memory_directory() as path:
        yield path


async def test_no_cut_at_work_or_at_the_next_start_loses_anything(directory: Path) -> None:
    tally = await power.at_work(directory, SEED, tasks=3, share=0.05, draws=1, kept=1)
    assert tally.complaints == []
    assert tally.states > 60


async def test_no_cut_while_the_ballast_changes_loses_anything(directory: Path) -> None:
    tally = await power.with_ballast(directory, SEED, tasks=4, share=0.1, draws=1)
    assert tally.complaints == []
    assert tally.states > 50


async def test_no_cut_in_a_migration_loses_anything(directory: Path) -> None:
    tally = await power.while_migrating(directory, SEED, tasks=3, draws=1, share=0.2)
    assert tally.complaints == []
    assert tally.states > 50


async def test_a_damaged_journal_stays_as_it_is_whenever_the_power_goes(directory: Path) -> None:
    tally = await power.while_quarantining(directory, SEED, tasks=6, draws=4)
    assert tally.complaints == []
    assert tally.states >= 3


async def test_a_rebuild_that_was_cut_short_is_finished_by_the_next_one(directory: Path) -> None:
    tally = await power.while_rebuilding(directory, SEED, tasks=6, draws=1, share=0.3)
    assert tally.complaints == []
    assert tally.states > 20


async def test_two_torn_writes_one_after_the_other_are_no_damage(directory: Path) -> None:
    """The end of the first, longer one still stands in the log when the second is cut short."""

    def torn(image: Image, transactions: int) -> Image:
        """Damage the log where the last so many of its transactions begin."""
        write_image({LOG: image[LOG]}, directory / "look")
        kept = (0, *survey(directory / "look" / LOG).commits)[-transactions - 1]
        data = bytearray(image[LOG])
        data[LOG_HEADER_BYTES + kept * FRAME_BYTES + 100] ^= 0xFF
        return {**image, LOG: bytes(data)}

    async def after(image: Image, task_id: str, size: int) -> tuple[Image, Image, int]:
        """Images right after the start and after one more task, and the tasks that the start has found."""
        started: list[Image] = []

        def look(name: str) -> None:
            if name == "open.epoch-raised":
                started.append(read_image(directory / "work"))

        write_image(image, directory / "work")
        with failpoints.installed(look):
            journal = await SqliteJournal.open(directory / "work" / JOURNAL, identity=IDENTITY, limits=SMALL)
        async with journal:
            found = (await journal.statistics()).counts.due
            await journal.accept([NewTask(task_id, "resize", b'"%s"' % (b"x" * size), "q.batch")])
            return started[0], read_image(directory / "work"), found

    _, image, _ = await after({}, "first", 10)
    _, image, _ = await after(image, "long", 60_000)
    just_started, _, found = await after(torn(image, 1), "more", 10)
    assert found == 1
    # Without the precaution of that start its own transaction stands before the end of the long one.
    commits = 1 if just_started[LOG][:LOG_HEADER_BYTES] != image[LOG][:LOG_HEADER_BYTES] else 2
    _, _, found = await after(torn(just_started, commits), "last", 10)
    assert found == 1


async def test_a_torn_write_at_the_begin_of_a_log_is_no_damage_when_the_next_one_is_torn_too(directory: Path) -> None:
    """Nothing of such a log can be replayed, and SQLite would go on in it under the same salts."""
    first_frame = slice(LOG_HEADER_BYTES, LOG_HEADER_BYTES + FRAME_BYTES)
    started: list[Image] = []

    def look(name: str) -> None:
        if name == "open.epoch-raised":
            started.append(read_image(directory / "work"))

    write_image({}, directory / "work")
    async with await SqliteJournal.open(directory / "work" / JOURNAL, identity=IDENTITY, limits=SMALL) as journal:
        # What runs is taken up again by the next start, so that its transaction is longer than one page.
        for number in range(20):
            await journal.accept([NewTask(f"task-{number}", "resize", b"1", "q.batch")])
            await journal.start(f"task-{number}")
        await journal.checkpoint()
        image = read_image(directory / "work")
    write_image({LOG: image[LOG]}, directory / "look")
    assert survey(directory / "look" / LOG).commits == (1,)
    data = bytearray(image[LOG])
    data[LOG_HEADER_BYTES + 100] ^= 0xFF
    torn: Image = {**image, LOG: bytes(data)}

    write_image(torn, directory / "work")
    with failpoints.installed(look):
        journal = await SqliteJournal.open(directory / "work" / JOURNAL, identity=IDENTITY, limits=SMALL)
    await journal.close()
    # The first frame of what that start wrote has not reached the disk: what stood there stands there still.
    data = bytearray(started[0][LOG])
    data[first_frame] = torn[LOG][first_frame]
    write_image({**started[0], LOG: bytes(data)}, directory / "work")
    async with await SqliteJournal.open(directory / "work" / JOURNAL, identity=IDENTITY, limits=SMALL) as journal:
        assert (await journal.statistics()).counts.due == 20


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
async def test_the_cuts_find_what_a_journal_that_does_not_sync_loses(directory: Path, synchronous: str) -> None:
    """The control: the same cuts of a journal without `synchronous=FULL` find losses."""
    recorder = await record(
        directory / "work", lambda journal, ledger: live(journal, ledger, seed=SEED, tasks=3), synchronous=synchronous
    )
    tally = await Cutter(directory / "cut", random.Random(SEED), share=0.1).run(recorder, synchronous)
    assert tally.lost > 0
