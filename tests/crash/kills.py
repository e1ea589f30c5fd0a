"""SIGKILL in a loop: a journal at work is killed, looked at, opened again, killed again.

Children are forked from a parent that has everything imported. Each opens the journal, lives some tasks, and writes
what it begins and what was acknowledged into a pipe: the ledger is outside the process that dies. It is killed by the
parent at a random moment, or kills itself at a named failpoint. Run it as a program (`python -m tests.crash.kills`), so
that the process that forks has no threads.
"""

import argparse
import asyncio
import json
import os
import pickle
import random
import select
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from eco_workers.errors import JournalCorruptError
from eco_workers.journal import SqliteJournal, failpoints
from eco_workers.journal.opening import Plan
from eco_workers.journal.recover import recover
from tests.support.cuts import JOURNAL
from tests.support.powercut import Image, read_image, write_image
from tests.support.scratch import memory_directory
from tests.support.workload import (
    IDENTITY,
    SMALL,
    Book,
    Entry,
    Ledger,
    Shape,
    after_restart,
    complaints,
    live,
    read_shapes,
)

LIVES_PER_JOURNAL: Final = 12
"""Starts of one journal before a new one is made: long enough for recoveries of recoveries."""
TASKS: Final = 6
AT_FAILPOINT: Final = 0.5
LIFE_S_MAX: Final = 0.12
CHILD_S_MAX: Final = 30.0
PAGE_BYTES: Final = 4096
_HEADER: Final = struct.Struct("<I")
RECOVERY_POINTS: Final = tuple(name for name in failpoints.NAMES if name.startswith(("recover.", "quarantine.")))
WORK_POINTS: Final = tuple(name for name in failpoints.NAMES if name not in RECOVERY_POINTS)


@dataclass(slots=True)
class Kills:
    """What a run of kills has found."""

    iterations: int = 0
    lost: int = 0
    complaints: list[str] = field(default_factory=list)
    at: dict[str, int] = field(default_factory=dict)
    """Children that died at each failpoint, at a random moment, or came to their end before it."""

    def add(self, where: str, wrong: list[str]) -> None:
        """Count one life that ended somewhere, and what was wrong afterwards."""
        self.iterations += 1
        self.at[where] = self.at.get(where, 0) + 1
        if wrong:
            self.lost += 1
            self.complaints += [f"{where}: {line}" for line in wrong[: 20 - len(self.complaints)]]


def child(work: Callable[[Callable[[Any], None]], None], killed_at: str | None, hit: int) -> tuple[int, int]:
    """Fork a process that does `work` and dies at the `hit`-th time of a failpoint; its id and the end of its pipe."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    os.close(reader)
    left = hit

    def tell(mark: Any) -> None:
        data = pickle.dumps(mark)
        os.write(writer, _HEADER.pack(len(data)) + data)

    def at(name: str) -> None:
        nonlocal left
        if name == killed_at:
            left -= 1
            if left == 0:
                tell(("at", name))
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        with failpoints.installed(at):
            work(tell)
    except BaseException as error:  # noqa: BLE001  # a forked child must never return into its parent's code
        tell(("error", f"{type(error).__name__}: {error}"))
        os._exit(1)
    os._exit(0)


def marks_of(pid: int, reader: int, kill_after_s: float | None) -> Iterator[Any]:
    """Marks of a child until it is dead; it is killed after a while, if that was asked for, and reaped in any case."""
    begun = time.monotonic()
    until = begun + (CHILD_S_MAX if kill_after_s is None else kill_after_s)
    buffer = b""
    try:
        while True:
            ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                os.kill(pid, signal.SIGKILL)
                until = time.monotonic() + CHILD_S_MAX
                if kill_after_s is None:
                    raise TimeoutError(f"a child did not end in {CHILD_S_MAX:g} s")
                yield ("at", "a random moment")
                continue
            data = os.read(reader, 65_536)
            if not data:
                return
            buffer += data
            while len(buffer) >= _HEADER.size:
                (size,) = _HEADER.unpack_from(buffer)
                if len(buffer) < _HEADER.size + size:
                    break
                yield pickle.loads(buffer[_HEADER.size : _HEADER.size + size])  # noqa: S301  # our own child's
                buffer = buffer[_HEADER.size + size :]
    finally:
        os.close(reader)
        os.waitpid(pid, 0)


def working(path: Path, book: Book, seed: int) -> Callable[[Callable[[Any], None]], None]:
    """The life of a worker: open, recover, work, close."""

    async def run(tell: Callable[[Any], None]) -> None:
        journal = await SqliteJournal.open(
            path, identity=IDENTITY, limits=SMALL, known_uuid=book.journal_uuid, known_epoch=book.epoch
        )
        tell(("recovered",))
        session = journal._session
        await live(journal, Ledger(tell), seed=seed, tasks=TASKS // 2, prefix="first")
        await journal._writer.between(session.on_full)
        await journal._writer.between(session.look)
        await live(journal, Ledger(tell), seed=seed, tasks=TASKS // 2)
        await journal.close()

    return lambda tell: asyncio.run(run(tell))


def kill_at_work(directory: Path, rng: random.Random, iterations: int, kills: Kills) -> None:
    """Kill a working journal over and over."""
    points = list(WORK_POINTS)
    while kills.iterations < iterations:
        write_image({}, directory)
        book = Book()
        for life in range(LIVES_PER_JOURNAL):
            point = None
            if rng.random() < AT_FAILPOINT:
                # What happens once in a file's life can only be met in its first.
                point = rng.choice([name for name in points if life == 0 or not name.startswith("migrate.")])
            hit = rng.choice((1, 1, 2, 5, 20)) if point and point.startswith(("group", "operation", "ch")) else 1
            where, errors = "its end", []
            work = working(directory / JOURNAL, book, rng.randrange(1_000_000))
            pid, reader = child(work, point, hit)
            for mark in marks_of(pid, reader, None if point else rng.uniform(0.0, LIFE_S_MAX)):
                if mark[0] == "at":
                    where = mark[1]
                elif mark[0] == "error":
                    errors.append(mark[1])
                else:
                    book.take(mark)
            found, book = look(directory / JOURNAL, book)
            kills.add(where, errors + found)


def look(path: Path, book: Book) -> tuple[list[str], Book]:
    """What is wrong with a journal after a death, and the ledger for the next life."""
    if path.exists():
        shapes, rejects, wrong = read_shapes(path)
        wrong += complaints(book, shapes, rejects, restart=True)
    else:
        shapes, rejects = {}, set()
        wrong = complaints(book, {}, set()) + (["the journal is gone"] if book.journal_uuid else [])
    pruned = {task_id for task_id, entry in book.tasks.items() if entry.may_be_pruned}
    tasks = {
        task_id: Entry([shape, after_restart(shape)], may_be_pruned=task_id in pruned)
        for task_id, shape in shapes.items()
    }
    return wrong, Book(tasks, set(rejects), book.journal_uuid, book.epoch)


def kill_while_rebuilding(directory: Path, rng: random.Random, iterations: int, kills: Kills) -> None:
    """Kill starts that quarantine a damaged journal, and recoveries of it; a last one must find every row again."""
    image = a_damaged_journal(directory, rng)
    wanted = rebuilt(directory, image)
    write_image(image, directory)
    for number in range(iterations):
        point = RECOVERY_POINTS[number % len(RECOVERY_POINTS)]
        where, errors = "its end", []
        pid, reader = child(recovering(directory / JOURNAL), point, 1)
        for mark in marks_of(pid, reader, None):
            if mark[0] == "at":
                where = mark[1]
            elif mark[0] == "error":
                errors.append(mark[1])
        after = read_image(directory)
        if image[JOURNAL] not in after.values():
            errors.append("the damaged file is gone")
        found = rebuilt(directory, after)
        errors += [
            f"{task_id}: {found.get(task_id)} for {shape}"
            for task_id, shape in wanted.items()
            if found.get(task_id) != shape
        ]
        kills.add(where, errors)
        # Half of the time the next one goes on where this one died.
        write_image(after if rng.random() < 0.5 and where != "its end" else image, directory)


def recovering(path: Path) -> Callable[[Callable[[Any], None]], None]:
    """A start that finds the damage, then the recovery."""

    async def refused() -> None:
        try:
            journal = await SqliteJournal.open(path, identity=IDENTITY, limits=SMALL)
        except JournalCorruptError:
            return
        await journal.close()

    def run(_tell: Callable[[Any], None]) -> None:
        if path.exists():
            asyncio.run(refused())
        recover(Plan(path, IDENTITY, limits=SMALL))

    return run


def rebuilt(directory: Path, image: Image) -> dict[str, Shape]:
    """The rows that an undisturbed recovery makes of an image."""
    aside = directory.with_name(directory.name + "-look")
    write_image(image, aside)
    recover(Plan(aside / JOURNAL, IDENTITY, limits=SMALL))
    shapes = read_shapes(aside / JOURNAL)[0]
    shutil.rmtree(aside)
    return shapes


def a_damaged_journal(directory: Path, rng: random.Random) -> Image:
    """A journal that was killed at work, with one page of its database overwritten."""
    while True:
        write_image({}, directory)
        pid, reader = child(working(directory / JOURNAL, Book(), rng.randrange(1_000_000)), "close.before", 1)
        for _ in marks_of(pid, reader, None):
            pass
        image = read_image(directory)
        data = bytearray(image[JOURNAL])
        if len(data) > 8 * PAGE_BYTES:
            page = rng.randrange(2, len(data) // PAGE_BYTES)
            data[page * PAGE_BYTES : page * PAGE_BYTES + 64] = rng.randbytes(64)
            damaged = {**image, JOURNAL: bytes(data)}
            write_image(damaged, directory)
            # A page that nothing uses may hold anything.
            if recover(Plan(directory / JOURNAL, IDENTITY, limits=SMALL)).action == "rebuilt":
                return damaged


def main() -> int:
    """Kill as often as asked for and print what was found as JSON."""
    parser = argparse.ArgumentParser(description="Kill a journal in a loop.")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng = random.Random(f"kills {given.seed}")
    kills, rebuilds = Kills(), Kills()
    with memory_directory() as directory:
        kill_while_rebuilding(directory / "rebuild", rng, max(len(RECOVERY_POINTS), given.iterations // 10), rebuilds)
        kill_at_work(directory / "work", rng, given.iterations - rebuilds.iterations, kills)
    for where, number in rebuilds.at.items():
        kills.at[where] = kills.at.get(where, 0) + number
    kills.iterations += rebuilds.iterations
    kills.lost += rebuilds.lost
    kills.complaints += rebuilds.complaints
    print(json.dumps(asdict(kills)))
    return 1 if kills.lost else 0


if __name__ == "__main__":
    sys.exit(main())
