"""Restores a journal from its segments: the newest whole snapshot, then every change in order; a gap stops it."""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final

import apsw

from eco_workers.errors import JournalCorruptError, JournalLostError, ObjectExistsError
from eco_workers.journal import segments
from eco_workers.journal.queries import QUERIES
from eco_workers.journal.replica import ObjectStore
from eco_workers.journal.segments import Kind, Segment
from eco_workers.journal.sqlite_rows import SqliteRows

SEAL_TRIES: Final = 1_000
_TABLES: Final = ("meta", "ledger", "task_wal", "steps", "outbox", "gpt_cache")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore gave."""

    journal_uuid: str
    epoch: int
    segments: int
    digest: str
    """Of every row of every table; equal digests mean equal journals."""


async def restore(store: ObjectStore, place: str, target: Path, *, seal: bool = True) -> Restored:
    """Build the journal's file at `target` from the store.

    `seal` first closes the epoch for its writer; only a rehearsal goes without. Raises JournalLostError when there is
    nothing, JournalCorruptError at a gap, a damaged segment or a broken chain: what lies behind a gap is never applied.
    """
    epoch = claimed = await _newest_epoch(store, place)
    if seal:
        epoch, claimed = await _seal_from(store, place, epoch)
    builder = _Builder(target)
    try:
        await _feed(store, place, epoch, builder)
        return await asyncio.to_thread(builder.finish, claimed)
    except BaseException:
        await asyncio.to_thread(builder.abandon)
        raise


async def rehearse(store: ObjectStore, place: str) -> Restored:
    """Restore into a temporary directory, the store left as it is; compare the digest with the journal's."""
    with TemporaryDirectory(prefix="eco-restore-") as directory:
        return await restore(store, place, Path(directory) / "journal.db", seal=False)


def digest_of(path: Path) -> str:
    """The digest of a journal's rows, of a file that no other connection of this process has open."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return digest_rows(connection)
    finally:
        connection.close()


def digest_rows(connection: apsw.Connection) -> str:
    """The digest of every row of every table, in the order of the keys."""
    found = hashlib.sha256()
    for table in _TABLES:
        found.update(table.encode())
        order = {"meta": "key", "gpt_cache": "key", "ledger": "only_row", "steps": "task_id, name"}.get(table, "id")
        for row in connection.execute(f"SELECT * FROM {table} ORDER BY {order}"):  # noqa: S608  # our own names
            found.update(repr(row).encode())
    return found.hexdigest()


async def _newest_epoch(store: ObjectStore, place: str) -> int:
    """The newest epoch whose snapshot is whole: a writer may have died while it uploaded a newer one."""
    keys = await store.list_keys(place)
    epochs = sorted({segments.numbers(each)[0] for each in keys}, reverse=True)
    for epoch in epochs:
        if await _snapshot_is_whole(store, place, epoch):
            return epoch
    raise JournalLostError(f"restore from {place}: no epoch with a whole snapshot stands there")


async def _snapshot_is_whole(store: ObjectStore, place: str, epoch: int) -> bool:
    first = await store.get(segments.key(place, epoch, 1))
    if first is None:
        return False
    segment = segments.decode(first)
    last = await store.get(segments.key(place, epoch, segment.parts))
    return last is not None and segments.decode(last).kind == segment.kind == Kind.SNAPSHOT


async def _seal_from(store: ObjectStore, place: str, epoch: int) -> tuple[int, int]:
    """Seal an epoch and every later one, whose writer may be about to end its snapshot, and claim the next.

    Sealed but not followed, the old file could be opened once more and claim the next epoch for itself. Returns the
    newest epoch that is whole, and the one claimed.
    """
    while True:
        epochs = sorted({segments.numbers(each)[0] for each in await store.list_keys(place)})
        for each in epochs:
            if each >= epoch:
                await _seal(store, place, each)
        newest = await _newest_epoch(store, place)
        if newest == epoch and await _claim(store, place, epochs[-1]):
            return epoch, epochs[-1] + 1
        epoch = newest


async def _claim(store: ObjectStore, place: str, newest: int) -> bool:
    """Take the epoch behind the newest, sealed from its first number on; whether nobody was faster."""
    last = await store.get((await store.list_keys(place))[-1])
    if last is None:
        return False
    claim = Segment(segments.decode(last).journal_uuid, newest + 1, 1, Kind.SEAL)
    try:
        await store.put_new(segments.key(place, claim.epoch, 1), segments.encode(claim))
    except ObjectExistsError:
        return False
    return True


async def _seal(store: ObjectStore, place: str, epoch: int) -> None:
    """Write the epoch's next number, so that its writer meets it; a writer that is faster is followed."""
    for _ in range(SEAL_TRIES):
        keys = [each for each in await store.list_keys(place) if segments.numbers(each)[0] == epoch]
        last = await store.get(keys[-1])
        if last is None:
            continue
        newest = segments.decode(last)
        if newest.kind == Kind.SEAL:
            return
        sealing = Segment(newest.journal_uuid, epoch, newest.sequence + 1, Kind.SEAL, previous=segments.digest(last))
        try:
            await store.put_new(segments.key(place, epoch, sealing.sequence), segments.encode(sealing))
        except ObjectExistsError:
            continue
        return
    raise JournalCorruptError(f"restore from {place}: epoch {epoch} could not be sealed; is its writer still at work?")


async def _feed(store: ObjectStore, place: str, epoch: int, builder: "_Builder") -> None:
    """Hand over the segments of an epoch in order, each checked against the one before."""
    keys = [each for each in await store.list_keys(place) if segments.numbers(each)[0] == epoch]
    previous = uuid = ""
    for expected, each in enumerate(keys, start=1):
        if segments.numbers(each) != (epoch, expected):
            raise JournalCorruptError(
                f"restore from {place}: segment {expected} of epoch {epoch} is missing and {each} is there;"
                " nothing behind a gap is applied"
            )
        data = await store.get(each)
        if data is None:
            raise JournalCorruptError(f"restore from {place}: {each} was listed and cannot be read")
        segment = segments.decode(data)
        if (segment.epoch, segment.sequence, segment.previous) != (epoch, expected, previous):
            raise JournalCorruptError(f"restore from {place}: {each} does not belong behind the segment before it")
        if uuid and segment.journal_uuid != uuid:
            raise JournalCorruptError(f"restore from {place}: {each} is of another journal, {segment.journal_uuid}")
        previous, uuid = segments.digest(data), segment.journal_uuid
        await asyncio.to_thread(builder.add, segment)


class _Builder:
    """Builds the file while segments come: one of them is in memory at a time, however large the journal is."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._file: BinaryIO | None = None
        self._connection: apsw.Connection | None = None
        self._triggers: list[tuple[str, str]] = []
        self._uuid = ""
        self._epoch = 0
        self._count = 0

    def add(self, segment: Segment) -> None:
        """Take the next one: parts of the snapshot come first."""
        if self._file is None:
            self._file = self._target.open("xb")
            self._uuid, self._epoch = segment.journal_uuid, segment.epoch
        self._count += 1
        if segment.kind == Kind.SNAPSHOT:
            self._file.write(segment.body)
        elif segment.kind == Kind.CHANGES and segment.body:
            _apply(self._opened(), segment)

    def finish(self, claimed: int) -> Restored:
        """The file as it is to be opened."""
        connection = self._opened()
        for _name, sql in self._triggers:
            connection.execute(sql)
        found = digest_rows(connection)
        _raise_epoch(connection, claimed)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        connection.close()
        return Restored(self._uuid, self._epoch, self._count, found)

    def abandon(self) -> None:
        """Leave nothing of what was begun."""
        if self._connection is not None:
            self._connection.close()
        if self._file is not None:
            self._file.close()
            for suffix in ("", "-wal", "-shm", "-journal"):
                self._target.with_name(self._target.name + suffix).unlink(missing_ok=True)

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            if self._file is not None:
                self._file.close()
            connection = self._connection = apsw.Connection(str(self._target))
            self._triggers = [
                (str(name), str(sql))
                for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
            ]
            # A changeset holds what a group came to, not each step of it: a task accepted and ended in one group would
            # be refused by the triggers that judge single steps.
            for name, _sql in self._triggers:
                connection.execute(f"DROP TRIGGER {name}")
        return self._connection


def _raise_epoch(connection: apsw.Connection, claimed: int) -> None:
    """Note the newest epoch that was claimed in the store: whoever opens the file must go above it."""
    rows = SqliteRows(connection, QUERIES)
    rows.read_ledger()
    if rows.epoch < claimed:
        rows.epoch = claimed
        rows.write_ledger()


def _apply(connection: apsw.Connection, segment: Segment) -> None:
    try:
        apsw.Changeset.apply(segment.body, connection)
    except apsw.Error as error:
        raise JournalCorruptError(
            f"restore: segment {segment.sequence} of epoch {segment.epoch} does not apply to what stands before it:"
            f" {error}"
        ) from error
