"""Power cuts on a journal at work: record, cut at every point, open what is left, hold it against the ledger."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from eco_workers.errors import JournalError
from eco_workers.journal import SqliteJournal
from eco_workers.journal.files import Files
from eco_workers.journal.opening import PRAGMAS, Plan
from tests.support.powercut import CUTS, Disk, Image, Mark, Recorder, RecordingVFS, points, write_image
from tests.support.workload import IDENTITY, SMALL, Book, Ledger, Shape, after_restart, books, complaints, read_shapes

JOURNAL: Final = "wal.db"
COMPLAINTS_MAX: Final = 20
_numbers = count()


class RecordingFiles(Files):
    """The journal's own changes to files, noted by a recorder as they are made."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def _name(self, path: Path) -> str:
        name = self._recorder.name(path)
        assert name is not None
        return name

    def create(self, path: Path, data: bytes) -> None:
        inode = self._recorder.opened(self._name(path.with_name(path.name + ".new")))
        self._recorder.truncate(inode, 0)
        self._recorder.write(inode, 0, data)
        self._recorder.sync(inode)
        super().create(path, data)

    def preallocate(self, path: Path, size_bytes: int) -> None:
        super().preallocate(path, size_bytes)
        inode = self._recorder.opened(self._name(path))
        self._recorder.truncate(inode, size_bytes)
        self._recorder.sync(inode)
        self._recorder.synced_directory("")

    def rename(self, source: Path, target: Path) -> None:
        self._recorder.renamed(self._name(source), self._name(target))
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._recorder.unlinked(self._name(path))
        super().unlink(path)

    def sync_directory(self, directory: Path) -> None:
        super().sync_directory(directory)
        name = self._recorder.name(directory)
        self._recorder.synced_directory("" if name in {".", None} else str(name))


@dataclass(slots=True)
class Recording:
    """A journal's directory under a recorder, and a plan that opens the journal through it."""

    recorder: Recorder
    vfs: RecordingVFS
    plan: Plan

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.recorder.mark)


@asynccontextmanager
async def recording(
    directory: Path, image: Mapping[str, bytes] | None = None, *, synchronous: str = "FULL", **changes: Any
) -> AsyncIterator[Recording]:
    """Record what is done to a journal in `directory`, from an image that is durable, or from nothing."""
    write_image(image or {}, directory)
    recorder = Recorder(directory, image)
    vfs = RecordingVFS(f"recording-{next(_numbers)}", recorder)
    options: dict[str, Any] = {
        "vfs": vfs.name,
        "files": RecordingFiles(recorder),
        "limits": SMALL,
        "pragmas": {**PRAGMAS, "synchronous": synchronous},
    } | changes
    try:
        yield Recording(recorder, vfs, Plan(directory / JOURNAL, IDENTITY, **options))
    finally:
        vfs.unregister()


async def record(directory: Path, work: Callable[[SqliteJournal, Ledger], Awaitable[None]], **options: Any) -> Recorder:
    """Open a journal under a recorder, do the work, close it; the log of all that."""
    async with recording(directory, **options) as tape:
        journal = await SqliteJournal.open(tape.plan.path, identity=IDENTITY, plan=tape.plan)
        try:
            await work(journal, tape.ledger)
        finally:
            await journal.close()
    return tape.recorder


@dataclass(slots=True)
class Tally:
    """What a run of cuts has found."""

    states: int = 0
    lost: int = 0
    """States that broke a promise."""
    complaints: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, found: list[str]) -> None:
        """Count one state of a kind and what is wrong with it."""
        self.states += 1
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if found:
            self.lost += 1
            self.complaints += [f"{kind}: {line}" for line in found[: COMPLAINTS_MAX - len(self.complaints)]]

    def merge(self, other: "Tally") -> None:
        """Take another run in."""
        self.states += other.states
        self.lost += other.lost
        self.complaints += other.complaints[: COMPLAINTS_MAX - len(self.complaints)]
        for kind, number in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + number


@dataclass(slots=True)
class Cutter:
    """Cuts a recording into images and checks each of them once."""

    directory: Path
    rng: random.Random
    draws: int = 1
    """How often each random kind of cut is drawn at each point."""
    share: float = 1.0
    """Which part of the points is looked at."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the plan of each reopening has beside the defaults."""
    tally: Tally = field(default_factory=Tally)
    seen: list[tuple[Image, Book]] = field(default_factory=list)
    """Every image that was checked, with its ledger."""
    _keys: set[int] = field(default_factory=set)

    def images(self, recorder: Recorder, start: Book | None = None) -> list[tuple[str, Image, Book]]:
        """Every distinct image of a recording with the ledger of that moment; `start` is the ledger before it."""
        marks = [(place, event.what) for place, event in enumerate(recorder.log) if isinstance(event, Mark)]
        upto = books(marks, start)
        out = []
        for place, disk in points(recorder):
            if self.rng.random() >= self.share:
                continue
            book = upto(place)
            number = book_key(book)
            for kind, image in self._cuts(disk):
                key = hash((number, tuple(sorted(image.items()))))
                if key not in self._keys:
                    self._keys.add(key)
                    out.append((kind, image, book_copy(book)))
        return out

    def _cuts(self, disk: Disk) -> list[tuple[str, Image]]:
        found: list[tuple[str, Image]] = []
        for cut in CUTS:
            draws = 1 if cut in {"nothing", "everything"} else self.draws
            found += [(cut, disk.image(cut, self.rng)) for _ in range(draws)]
        return found

    async def run(self, recorder: Recorder, part: str, start: Book | None = None) -> Tally:
        """Check every image of a recording."""
        for kind, image, book in self.images(recorder, start):
            self.tally.add(f"{part}, {kind}", await check(self.directory, image, book, **self.options))
            self.seen.append((image, book))
        return self.tally


def book_key(book: Book) -> int:
    """A number that differs when two ledgers allow different things."""
    entries = tuple(
        (task_id, entry.acknowledged, len(entry.shapes), entry.may_be_pruned) for task_id, entry in book.tasks.items()
    )
    return hash((entries, book.journal_uuid, book.epoch, len(book.rejects)))


def book_copy(book: Book) -> Book:
    """The ledger as it is now."""
    tasks = {task_id: entry.copy() for task_id, entry in book.tasks.items()}
    return Book(tasks, set(book.rejects), book.journal_uuid, book.epoch)


async def check(directory: Path, image: Mapping[str, bytes], book: Book, **options: Any) -> list[str]:
    """Open what a cut left: with the stock SQLite to look, then as the worker would; hold both to the ledger."""
    write_image(image, directory)
    path = directory / JOURNAL
    found: list[str] = []
    if path.exists():
        shapes, rejects, found = read_shapes(path)
        found += complaints(book, shapes, rejects)
    else:
        shapes = {}
        found += complaints(book, {}, set())
    try:
        journal = await SqliteJournal.open(
            path, identity=IDENTITY, **{"limits": SMALL, "known_uuid": book.journal_uuid, **options}
        )
    except JournalError as error:
        return [*found, f"open: {type(error).__name__}: {error}"]
    try:
        if journal.epoch <= book.epoch:
            found.append(f"epoch {journal.epoch} after {book.epoch}")
        found += await journal.verify()
        found += restarted_badly(shapes, read_shapes(path)[0])
    finally:
        await journal.close()
    return found


def restarted_badly(before: Mapping[str, Shape], after: Mapping[str, Shape]) -> list[str]:
    """What a start made of the rows beyond what it should."""
    wanted = {task_id: after_restart(shape) for task_id, shape in before.items()}
    return [
        f"{task_id}: {before.get(task_id)} became {after.get(task_id)}"
        for task_id in wanted.keys() | after.keys()
        if wanted.get(task_id) != after.get(task_id)
    ]
