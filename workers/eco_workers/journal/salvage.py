"""Reads whatever can still be read of a damaged journal. Works on a copy, so the damaged file stays as it is.

A row counts as read when its checksum fits. One that can be read but does not fit is handed over too, as damaged: what
is left of it goes to people, never to a worker.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import apsw

from eco_workers.journal.records import (
    CacheRow,
    OutboxRow,
    StepRow,
    TaskRow,
    checksum_of,
    outbox_checksum,
    step_checksum,
    task_checksum,
    text_checksum,
)
from eco_workers.journal.schema import MIGRATIONS
from eco_workers.journal.walfile import survey

Row = TypeVar("Row", bound=NamedTuple)
Progress = Callable[[str, int, int], None]
"""Called with what is being read, how much of it is done, and how much there is."""
LEDGER: Final = (
    "epoch, checksum, completed, failed, timeout, republished, unsynced, sync_parked, outbox_unsent, outbox_parked"
)
SLICE_IDS: Final = 4_096
COPIED_PARTS: Final = ("", "-wal")


@dataclass(slots=True)
class Salvaged:
    """What was found in a journal's file."""

    meta: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    tasks: list[TaskRow] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    answers: list[CacheRow] = field(default_factory=list)
    damaged_tasks: list[TaskRow] = field(default_factory=list)
    damaged_outbox: list[OutboxRow] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Places that could not be read at all, in words."""


@contextmanager
def copied(journal: Path, workspace: Path) -> Iterator[Path]:
    """A copy of a journal's file and log in a directory beside it, removed afterwards."""
    workspace.mkdir(mode=0o700, exist_ok=True)
    try:
        copy = workspace / "copy.db"
        for part in COPIED_PARTS:
            source = journal.with_name(journal.name + part)
            target = copy.with_name(copy.name + part)
            target.unlink(missing_ok=True)
            if source.exists():
                shutil.copyfile(source, target)
        yield copy
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def salvage(copy: Path, progress: Progress | None = None) -> Salvaged:
    """Read everything that can be read of a copied journal."""
    found = Salvaged()
    try:
        mend_schema(copy)
        connection = apsw.Connection(str(copy))
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except apsw.Error as error:
        found.unreadable.append(f"the file as a whole: {error}")
        return found
    try:
        _Reader(connection, found, progress).read()
    finally:
        connection.close()
    return found


def mend_schema(copy: Path) -> None:
    """Put the known text of the schema back into a copy: a flipped bit in it would hide whole tables from the reader.

    A file of the next release reads as well by this one's text, since releases only add columns at the end.
    """
    known = apsw.Connection(":memory:")
    for migration in MIGRATIONS:
        known.execute(migration.sql)
    texts = known.execute(
        "SELECT sql, type, name FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL"
    ).fetchall()
    known.close()
    connection = apsw.Connection(str(copy))
    try:
        connection.pragma("writable_schema", 1)
        found = {name: text for text, _, name in connection.execute("SELECT sql, type, name FROM sqlite_schema")}
        for text, _, name in texts:
            if found.get(name) != text:
                connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (text, name))
    finally:
        connection.close()


def salvage_all(copy: Path, progress: Progress | None = None) -> Salvaged:
    """Read the copy as SQLite replays it, and once more with the commits behind a damaged frame of its log put in.

    The second image may be no sound database; every row of it stands or falls with its own checksum. Of two readings of
    one row the higher version is the later one.
    """
    log = copy.with_name(copy.name + "-wal")
    behind = None
    if survey(log).commits:
        behind = copy.with_name("overlaid.db")
        overlay(copy, log, behind)
    found = salvage(copy, progress)
    if behind is not None:
        _merge(found, salvage(behind, progress))
    return found


def overlay(database: Path, log: Path, target: Path) -> None:
    """Write the database with every frame of the log's own salts put in, whether or not the chain of sums holds."""
    shutil.copyfile(database, target)
    with log.open("rb") as frames, target.open("r+b") as image:
        header = frames.read(32)
        page_size = int.from_bytes(header[8:12], "big")
        page_size = page_size if page_size in {1 << power for power in range(9, 17)} else 4096
        salts = header[16:24]
        while len(frame := frames.read(24 + page_size)) == 24 + page_size:
            page = int.from_bytes(frame[0:4], "big")
            if frame[8:16] == salts and 0 < page < 2**30:
                image.seek((page - 1) * page_size)
                image.write(frame[24:])


def _merge(found: Salvaged, later: Salvaged) -> None:
    tasks = {row.task_id: row for row in found.tasks}
    for row in later.tasks:
        known = tasks.get(row.task_id)
        if known is None or row.version > known.version:
            tasks[row.task_id] = row
    found.tasks = list(tasks.values())
    messages = {row.message_id: row for row in found.outbox}
    for message in later.outbox:
        earlier = messages.get(message.message_id)
        if earlier is None or (message.status == "sent" and earlier.status != "sent"):
            messages[message.message_id] = message
    found.outbox = list(messages.values())
    found.steps += later.steps
    found.answers += later.answers
    found.meta = found.meta | later.meta
    found.epoch = max(found.epoch, later.epoch)
    # A row that one reading has whole is not damaged in the other, only older or torn.
    found.damaged_tasks = [row for row in found.damaged_tasks if row.task_id not in tasks]
    found.damaged_outbox = [row for row in found.damaged_outbox if row.message_id not in messages]


class _Reader:
    def __init__(self, connection: apsw.Connection, found: Salvaged, progress: Progress | None) -> None:
        self._connection = connection
        self._found = found
        self._progress = progress

    def read(self) -> None:
        self._read_meta_and_ledger()
        found = self._found
        for task in self._by_id("task_wal", TaskRow):
            (found.tasks if task.checksum == checksum_of(task_checksum, task) else found.damaged_tasks).append(task)
        for message in self._by_id("outbox", OutboxRow):
            fits = message.checksum == checksum_of(outbox_checksum, message)
            (found.outbox if fits else found.damaged_outbox).append(message)
        for step in self._by_id("steps", StepRow):
            if step.checksum == checksum_of(step_checksum, step):
                found.steps.append(step)
        for answer in self._by_id("gpt_cache", CacheRow):
            if answer.checksum == checksum_of(step_checksum, answer):
                found.answers.append(answer)

    def _read_meta_and_ledger(self) -> None:
        found = self._found
        for key, value, checksum in self._rows("SELECT key, value, checksum FROM meta"):
            if checksum == text_checksum(key, value):
                found.meta[key] = value
        # The highest epoch is also noted outside the file: a ledger that does not fit its checksum is not needed.
        for epoch, checksum, *counters in self._rows(f"SELECT {LEDGER} FROM ledger"):  # noqa: S608  # our own names
            if checksum == text_checksum(epoch, *counters):
                found.epoch = epoch

    def _rows(self, statement: str) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(statement)
        except (apsw.Error, UnicodeDecodeError) as error:
            self._found.unreadable.append(f"{statement.rsplit(' ', 1)[-1]}: {error}")

    def _by_id(self, table: str, kind: type[Row]) -> Iterator[Row]:
        """Every readable row. A range that cannot be read is halved until what is unreadable stands alone."""
        columns = ", ".join(kind._fields)
        last = self._last_id(table)
        seen: set[int] = set()
        ranges = [(low, min(low + SLICE_IDS - 1, last)) for low in range(1, last + 1, SLICE_IDS)]
        ranges.reverse()
        lost = 0
        while ranges:
            low, high = ranges.pop()
            try:
                rows = self._connection.execute(
                    f"SELECT rowid, {columns} FROM {table} WHERE rowid BETWEEN ? AND ?",  # noqa: S608  # our own names
                    (low, high),
                ).fetchall()
            except (apsw.Error, UnicodeDecodeError):
                if low == high:
                    lost += 1
                    continue
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
                continue
            for row in rows:
                number = int(row[0] or 0)
                if number not in seen:
                    seen.add(number)
                    yield kind._make(row[1:])
            if self._progress is not None:
                self._progress(table, high, last)
        if lost:
            self._found.unreadable.append(f"{table}: {lost} ids between 1 and {last}")

    def _last_id(self, table: str) -> int:
        for statement in (
            f"SELECT max(rowid) FROM {table}",  # noqa: S608  # our own names
            f"SELECT rowid FROM {table} ORDER BY rowid DESC LIMIT 1",  # noqa: S608  # our own names
        ):
            try:
                row = self._connection.execute(statement).fetchone()
            except apsw.Error:
                continue
            return 0 if row is None or row[0] is None else int(row[0])
        # No way to the right edge of the table: no more rows than fit into the file.
        pages = int(self._connection.pragma("page_count") or 0)
        return min(pages * 40, 2_000_000)
