"""Power cuts in every phase of a journal's life: at work, at the start, in a migration, in quarantine, in recovery.

Each function records one phase, cuts it at every point, and holds what is left to the ledger. They are jobs for the
test suite (a sample) and for the proof (all of them, many seeds).
"""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from eco_workers.errors import JournalCorruptError
from eco_workers.journal import SqliteJournal
from eco_workers.journal.opening import Plan, quarantine_mark
from eco_workers.journal.recover import recover
from eco_workers.journal.schema import MIGRATIONS, Migration
from tests.support.cuts import JOURNAL, Cutter, Tally, record, recording
from tests.support.powercut import Image, read_image, write_image
from tests.support.workload import (
    IDENTITY,
    SMALL,
    Book,
    Entry,
    Ledger,
    Shape,
    after_restart,
    live,
    read_shapes,
)

NEXT_RELEASE: Final = (
    *MIGRATIONS,
    Migration(
        MIGRATIONS[-1].release + 1,
        "ALTER TABLE task_wal ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;"
        " CREATE TABLE notes (task_id TEXT PRIMARY KEY, note TEXT NOT NULL) STRICT;"
        " CREATE INDEX task_priority ON task_wal (priority) WHERE state = 'pending'",
    ),
)
"""A release that does not exist yet: what a later one may do to a file, and this one must still read."""
KEPT_PER_JOB: Final = 6


async def at_work(
    directory: Path, seed: int, *, tasks: int, share: float, draws: int, kept: int = KEPT_PER_JOB
) -> Tally:
    """Cuts while many tasks live, with checkpoints and prunes; then cuts while a start recovers from some of them."""
    rng = random.Random(f"at work {seed}")
    recorder = await record(directory / "work", lambda journal, ledger: live(journal, ledger, seed=seed, tasks=tasks))
    cutter = Cutter(directory / "cut", rng, draws, share)
    tally = await cutter.run(recorder, "work")
    for image, book in rng.sample(cutter.seen, min(kept, len(cutter.seen))):
        tally.merge(await while_recovering(directory, rng, image, book, draws=draws, share=share))
    return tally


async def while_recovering(
    directory: Path, rng: random.Random, image: Image, book: Book, *, draws: int, share: float, **options: object
) -> Tally:
    """Cuts during the start that takes over what a cut left, and during the first work after it."""
    found, rejects = observed(directory / "look", image)

    async def resume(journal: SqliteJournal, ledger: Ledger) -> None:
        ledger.mark(("recovered",))
        await live(journal, ledger, seed=rng.randrange(1000), tasks=2, prefix="later")

    recorder = await record(
        directory / "again", resume, image=image, known_uuid=book.journal_uuid, known_epoch=book.epoch, **options
    )
    start = Book(
        {task_id: Entry([shape, after_restart(shape)]) for task_id, shape in found.items()},
        set(rejects),
        book.journal_uuid,
        book.epoch,
    )
    owing = {task_id for task_id, entry in book.tasks.items() if entry.may_be_pruned}
    for task_id in owing & found.keys():
        start.tasks[task_id].may_be_pruned = True
    cutter = Cutter(directory / "cut", rng, draws, share)
    return await cutter.run(recorder, "recovery", start)


async def while_migrating(directory: Path, seed: int, *, tasks: int, draws: int, share: float = 1.0) -> Tally:
    """Cuts while a newer release changes the schema of a journal that was cut at work."""
    rng = random.Random(f"migrating {seed}")
    image, book = await a_cut(directory, rng, seed, tasks)
    tally = await while_recovering(directory, rng, image, book, draws=draws, share=share, migrations=NEXT_RELEASE)
    return Tally(
        tally.states, tally.lost, tally.complaints, {f"migration, {kind}": n for kind, n in tally.kinds.items()}
    )


async def with_ballast(directory: Path, seed: int, *, tasks: int, share: float, draws: int) -> Tally:
    """Cuts while the ballast is freed and made again under work."""
    rng = random.Random(f"ballast {seed}")

    async def work(journal: SqliteJournal, ledger: Ledger) -> None:
        session = journal._session

        def squeeze() -> None:
            session.on_full()
            session.look()

        async def squeeze_often() -> None:
            for _ in range(3):
                await journal._writer.between(squeeze)

        await asyncio.gather(live(journal, ledger, seed=seed, tasks=tasks), squeeze_often())

    recorder = await record(directory / "work", work)
    return await Cutter(directory / "cut", rng, draws, share).run(recorder, "ballast")


async def while_quarantining(directory: Path, seed: int, *, tasks: int, draws: int) -> Tally:
    """Cuts while a damaged journal is marked: the file stays as it is, and every later start refuses it."""
    rng = random.Random(f"quarantining {seed}")
    image = await a_damaged_image(directory, rng, seed, tasks)

    async with recording(directory / "again", image) as tape:
        try:
            await SqliteJournal.open(tape.plan.path, identity=IDENTITY, plan=tape.plan)
        except JournalCorruptError:
            pass
        else:
            raise AssertionError("a damaged journal was opened")
    tally = Tally()
    cutter = Cutter(directory / "cut", rng, draws)
    for kind, cut, _ in cutter.images(tape.recorder):
        write_image(cut, directory / "cut")
        wrong = [f"{name}: changed" for name in (JOURNAL, f"{JOURNAL}-wal") if cut.get(name) != image.get(name)]
        wrong += await refused(directory / "cut")
        wrong += [] if quarantine_mark(directory / "cut" / JOURNAL).exists() else ["no mark"]
        tally.add(f"quarantine, {kind}", wrong)
    return tally


async def refused(directory: Path) -> list[str]:
    """Nothing when a start refuses the journal for its damage; else what is wrong."""
    try:
        journal = await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL)
    except JournalCorruptError:
        return []
    await journal.close()
    return ["a damaged journal was opened"]


async def while_rebuilding(directory: Path, seed: int, *, tasks: int, draws: int, share: float = 1.0) -> Tally:
    """Cuts while `recover` moves a damaged journal aside: run again it finds the same rows, and nothing is deleted."""
    rng = random.Random(f"rebuilding {seed}")
    image = await a_damaged_image(directory, rng, seed, tasks)
    wanted = await asyncio.to_thread(rebuilt, directory / "look", image)
    async with recording(directory / "again", image) as tape:
        await asyncio.to_thread(recover, tape.plan)
    tally = Tally()
    cutter = Cutter(directory / "cut", rng, draws, share)
    for kind, cut, _ in cutter.images(tape.recorder):
        tally.add(f"rebuild, {kind}", await asyncio.to_thread(rebuilt_badly, directory / "cut", cut, wanted, image))
    return tally


def rebuilt(directory: Path, image: Mapping[str, bytes]) -> dict[str, Shape]:
    """The rows that a recovery makes of an image."""
    write_image(image, directory)
    recover(Plan(directory / JOURNAL, IDENTITY, limits=SMALL))
    return read_shapes(directory / JOURNAL)[0]


def rebuilt_badly(
    directory: Path, cut: Mapping[str, bytes], wanted: Mapping[str, Shape], original: Mapping[str, bytes]
) -> list[str]:
    """What is wrong after a recovery that was cut short was run again."""
    found = rebuilt(directory, cut)
    wrong = [
        f"{task_id}: {found.get(task_id)} for {shape}"
        for task_id, shape in wanted.items()
        if found.get(task_id) != shape
    ]
    kept = read_image(directory).values()
    if original[JOURNAL] not in kept:
        wrong.append("the damaged file is gone")
    return wrong


# -- parts ----------------------------------------------------------------------------------------------------------


def observed(directory: Path, image: Mapping[str, bytes]) -> tuple[dict[str, Shape], set[str]]:
    """What the stock SQLite reads of an image."""
    write_image(image, directory)
    path = directory / JOURNAL
    if not path.exists():
        return {}, set()
    shapes, rejects, _ = read_shapes(path)
    return shapes, rejects


async def a_cut(directory: Path, rng: random.Random, seed: int, tasks: int) -> tuple[Image, Book]:
    """One image of a journal that was cut in the middle of its work, with a log to be replayed."""
    recorder = await record(directory / "work", lambda journal, ledger: live(journal, ledger, seed=seed, tasks=tasks))
    cutter = Cutter(directory / "cut", rng)
    images = [
        (image, book)
        for _, image, book in cutter.images(recorder)
        if book.tasks and len(image.get(f"{JOURNAL}-wal", b""))
    ]
    return rng.choice(images[len(images) // 3 :])


async def a_damaged_image(directory: Path, rng: random.Random, seed: int, tasks: int) -> Image:
    """A journal whose database has a page that is no page any more, and whose log still holds commits."""
    while True:
        image, _ = await a_cut(directory, rng, seed, tasks)
        if len(image[JOURNAL]) > 8 * 4096:
            break
        seed += 1000
    data = bytearray(image[JOURNAL])
    page = rng.randrange(1, len(data) // 4096)
    data[page * 4096 : page * 4096 + 64] = rng.randbytes(64)
    damaged = {**image, JOURNAL: bytes(data)}
    write_image(damaged, directory / "look")
    if not await refused(directory / "look"):
        return damaged
    return await a_damaged_image(directory, rng, seed + 1, tasks)
