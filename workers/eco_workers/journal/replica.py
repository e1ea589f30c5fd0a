"""The replica of a journal: segments put into an object store in order, each once, each confirmed.

A key is written by a conditional put, so of two writers that both believe to be the owner one meets an object that is
there already. It is fenced: it acks nothing more and ends. A restore seals the epoch it reads, by writing its next
number, before it looks at what is there; so an isolated writer can never have acked what a restored journal does not
know.
"""

import asyncio
import contextlib
import os
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final, Protocol

from eco_workers.errors import JournalRefusedError, ObjectExistsError, ObjectStoreError
from eco_workers.journal import segments
from eco_workers.journal.segments import Kind, Segment

SNAPSHOT_PART_BYTES: Final = 8 * 1_048_576
PENDING_BYTES_MAX: Final = 64 * 1_048_576
"""Committed and not yet confirmed; beyond it the journal accepts nothing new until the store has caught up."""
SEGMENT_BYTES: Final = 4 * 1_048_576
"""No further commit is added to a segment of this size."""
SEGMENTS_MAX: Final = 10_000
"""Of one epoch: they are read one after the other by a restore."""
GATHER_S: Final = 0.5
"""How long commits gather for one segment while no ack waits for it."""
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 10.0


class ObjectStore(Protocol):
    """What a replica needs of a store; S3 gives it by `If-None-Match: *`."""

    async def put_new(self, key: str, data: bytes) -> None:
        """Write an object durably unless the key is taken; then ObjectExistsError, with nothing changed."""

    async def get(self, key: str) -> bytes | None:
        """An object, None when there is none."""

    async def list_keys(self, prefix: str) -> list[str]:
        """All keys under a prefix, sorted."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""


class DirectoryStore:
    """A store in a directory: for tests, for rehearsals, for a volume of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def put_new(self, key: str, data: bytes) -> None:
        """Write beside, then link: a link fails when the name is taken, and the object appears whole or not at all."""
        await asyncio.to_thread(self._put_new, key, data)

    async def get(self, key: str) -> bytes | None:
        """An object."""
        with contextlib.suppress(FileNotFoundError):
            return await asyncio.to_thread((self.root / key).read_bytes)
        return None

    async def list_keys(self, prefix: str) -> list[str]:
        """All keys under a prefix."""
        return await asyncio.to_thread(self._list_keys, prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        for key in keys:
            await asyncio.to_thread((self.root / key).unlink, missing_ok=True)

    def _put_new(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=".put-") as beside:
            beside.write(data)
            beside.flush()
            os.fsync(beside.fileno())
            try:
                os.link(beside.name, path)
            except FileExistsError:
                raise ObjectExistsError(f"put {key}: it is there already") from None
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _list_keys(self, prefix: str) -> list[str]:
        base = self.root / prefix
        found = (each for each in base.rglob("*") if each.is_file() and not each.name.startswith("."))
        return sorted(str(each.relative_to(self.root)) for each in found)


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    """How far the replica is."""

    epoch: int
    confirmed: int
    """Segments of this epoch that are in the store."""
    pending: int
    """Group commits that are not."""
    pending_bytes: int
    last_error: str


class Replica:
    """Puts the segments of one epoch into a store, in order, and tells when they are there.

    While a segment is on its way group commits gather, and the next segment holds all of them: a slow store makes
    larger segments, not a longer queue.
    """

    def __init__(self, store: ObjectStore, place: str) -> None:
        self.store = store
        self.place = place
        self.fenced = ""
        """Why this writer must ack nothing more; empty while it may."""
        self.begun = False
        """Whether the epoch is claimed and its snapshot whole: before that nothing can be confirmed."""
        self.claimed = False
        """Whether any epoch ever was: the next one only makes acks wait."""
        self._early: deque[bytes] = deque()
        self._uuid = ""
        self._epoch = 0
        self._given = 0
        """Group commits that were handed over, and how many of them the store has."""
        self._kept = 0
        self._awaited = 0
        """Up to which of them somebody waits."""
        self._confirmed = 0
        self._previous = ""
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._last_error = ""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def newest(self) -> tuple[str, int]:
        """The journal whose segments stand in the store, and its highest epoch there; empty and 0 for none."""
        keys = await self.store.list_keys(self.place)
        data = await self.store.get(keys[-1]) if keys else None
        if data is None:
            return "", 0
        return segments.decode(data).journal_uuid, segments.numbers(keys[-1])[0]

    async def begin(self, journal_uuid: str, epoch: int, snapshot: Path) -> None:
        """Claim the epoch with a copy of the file, and start to upload what follows."""
        found_uuid, known = await self.newest()
        if found_uuid not in {"", journal_uuid}:
            raise JournalRefusedError(
                f"replicate to {self.place}: segments of journal {found_uuid} stand there, this is {journal_uuid}"
            )
        if epoch <= known:
            raise JournalRefusedError(
                f"replicate to {self.place}: epoch {known} is claimed there, this writer has {epoch}"
            )
        self._uuid, self._epoch, self._confirmed, self._previous = journal_uuid, epoch, 0, ""
        size = (await asyncio.to_thread(snapshot.stat)).st_size
        starts = range(0, max(1, size), SNAPSHOT_PART_BYTES)
        for number, start in enumerate(starts, start=1):
            body = await asyncio.to_thread(_part_of, snapshot, start)
            await self._upload_patiently(self._next(Kind.SNAPSHOT, body, part=number, parts=len(starts)))
            if self.fenced:
                raise JournalRefusedError(self.fenced)
        self.begun = self.claimed = True
        # What came before the copy is in the snapshot.
        self._kept = self._given - len(self._early)
        self._pending, self._early = self._early, deque()
        self._pending_bytes = sum(map(len, self._pending))
        self._task = asyncio.create_task(self._run(), name="journal-replica")
        self._tell()

    def give(self, changeset: bytes) -> None:
        """Take over what a group changed. Called on the loop, in commit order, after the commit."""
        self._given += 1
        if self.begun:
            self._pending.append(changeset)
            self._pending_bytes += len(changeset)
            self._tell()
        else:
            self._early.append(changeset)

    def forget_early(self) -> None:
        """Drop what was given before a newer snapshot that holds it; nothing is confirmed until that has begun."""
        self.begun = False
        self._early.clear()
        self._pending.clear()
        self._pending_bytes = 0

    async def end_epoch(self) -> None:
        """Stop uploading to this epoch, for the next is about to begin. What it lacks is in the next one's snapshot."""
        await self.close()
        self._task = None

    @property
    def is_long(self) -> bool:
        """Whether this epoch has so many segments that a restore would take long: time for the next one."""
        return self.begun and self._confirmed >= SEGMENTS_MAX

    def fence(self, reason: str) -> None:
        """Ack nothing more."""
        self.fenced = self.fenced or reason
        self._tell()

    def note(self, error: str) -> None:
        """Keep an error of the store for the statistics."""
        self._last_error = error

    @property
    def full(self) -> bool:
        """Whether the store is so far behind that nothing new should be accepted."""
        return self._pending_bytes > PENDING_BYTES_MAX

    async def confirm(self) -> None:
        """Return when all that was given so far is in the store; raises JournalRefusedError when fenced."""
        target = self._given
        self._awaited = max(self._awaited, target)
        self._tell()
        while not self.fenced and not (self.begun and self._kept >= target):
            await self._changed.wait()
        if not (self.begun and self._kept >= target):
            raise JournalRefusedError(self.fenced)

    async def wait_fenced(self) -> str:
        """Return when this writer must end, with the reason."""
        while not self.fenced:
            await self._changed.wait()
        return self.fenced

    def statistics(self) -> ReplicaStatistics:
        """How far the replica is."""
        pending = len(self._pending) + len(self._early)
        return ReplicaStatistics(
            self._epoch, self._confirmed, pending, self._pending_bytes, self.fenced or self._last_error
        )

    async def close(self) -> None:
        """Stop uploading. What was not confirmed was not acked."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def prune(self) -> int:
        """Delete the segments of epochs before this one, whose snapshot holds all of them; how many.

        Seals stay: a writer that was isolated for long meets the seal of its epoch, or it would find its key free, and
        ack.
        """
        if not self.begun:
            return 0
        old: dict[int, list[str]] = {}
        for key in await self.store.list_keys(self.place):
            epoch = segments.numbers(key)[0]
            if epoch < self._epoch:
                old.setdefault(epoch, []).append(key)
        doomed: list[str] = []
        for keys in old.values():
            last = await self.store.get(keys[-1])
            sealed = last is not None and segments.decode(last).kind == Kind.SEAL
            doomed += keys[:-1] if sealed else keys
        await self.store.delete(doomed)
        return len(doomed)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Wake everybody who waits for a change; each looks for himself whether it was his."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _next(self, kind: Kind, body: bytes, *, part: int = 1, parts: int = 1, ids: tuple[str, ...] = ()) -> Segment:
        return Segment(self._uuid, self._epoch, self._confirmed + 1, kind, body, part, parts, ids, self._previous)

    async def _run(self) -> None:
        while not self.fenced:
            if not self._pending:
                await self._changed.wait()
                continue
            await self._gather()
            if not self._pending:
                continue  # the next epoch is about to begin, and its snapshot holds them
            batch = self._take_batch()
            body = await asyncio.to_thread(segments.joined, batch)
            await self._upload_patiently(self._next(Kind.CHANGES, body, ids=segments.task_ids(body)))
            if not self.fenced:
                self._kept += len(batch)
                self._pending_bytes = sum(map(len, self._pending))
            self._tell()

    async def _gather(self) -> None:
        """Wait a little for more while nobody waits for an ack: each segment is a request that costs."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                while self._awaited <= self._kept and self._pending_bytes < SEGMENT_BYTES:
                    await self._changed.wait()

    def _take_batch(self) -> list[bytes]:
        batch, size = [self._pending.popleft()], 0
        while self._pending and size < SEGMENT_BYTES:
            batch.append(self._pending.popleft())
            size += len(batch[-1])
        return batch

    async def _upload_patiently(self, segment: Segment) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            try:
                await self._upload(segment)
            except ObjectExistsError as error:
                self.fence(f"replicate to {self.place}: {error}; another writer or a restore has taken over")
                return
            except Exception as error:  # noqa: BLE001  # any fault of the store is one to wait out; nothing is acked
                self._last_error = str(error)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, no secret
                pause_s = min(pause_s * 2, RETRY_MAX_S)
            else:
                self._last_error = ""
                return

    async def _upload(self, segment: Segment) -> None:
        data = await asyncio.to_thread(segments.encode, segment)
        name = segments.key(self.place, segment.epoch, segment.sequence)
        try:
            await self.store.put_new(name, data)
        except ObjectExistsError:
            found = await self.store.get(name)
            if found is None:
                # It says that the key is taken, and has nothing there: a fault of the store, no other writer.
                raise ObjectStoreError(f"put {name}: refused as existing, and nothing is there") from None
            # An upload whose answer was lost is there with our own bytes: that is no other writer.
            if found != data:
                raise
        self._previous = segments.digest(data)
        self._confirmed = segment.sequence
        self._tell()


def _part_of(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(SNAPSHOT_PART_BYTES)
