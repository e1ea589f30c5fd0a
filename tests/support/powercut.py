"""A recording VFS and a disk that forgets: what a file system may hold after the power went.

The recorder logs every write, truncation, sync and deletion that SQLite makes, every rename, unlink and directory sync
that the journal makes itself, and marks (operations begun and acknowledged) between them. `Disk` replays a prefix of
that log and gives back images of the directory as they could be found after a cut at that point.

What is assumed of the disk, no more than POSIX promises:

* bytes written to a file are safe once a sync of that file has returned; until then any subset of the writes may have
  reached it, each of them torn at 512-byte sectors, a truncation too;
* a name (created, renamed, removed) is safe once a sync of its directory has returned; until then any subset of those
  changes may be there, each of them whole;
* SQLite's own directory sync does not pass through a VFS. Its unix VFS does one with the first sync of a `-journal` or
  `-wal` that it has created, and one after a deletion that asks for it; both are counted as SQLite's source has them.

Shared memory (`-shm`) is not recorded: it is rebuilt by whoever comes first after a cut.
"""

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import apsw

SECTOR_BYTES: Final = 512

Image: TypeAlias = dict[str, bytes]
Cut: TypeAlias = Literal["nothing", "everything", "subset", "torn", "entries"]
T = TypeVar("T")

Operation: TypeAlias = Literal["write", "sync"]
Fault: TypeAlias = Literal["error", "full", "short"]
"""An I/O error, no space, or no space after half of the bytes."""
CUTS: Final[tuple[Cut, ...]] = ("nothing", "everything", "subset", "torn", "entries")


@dataclass(frozen=True, slots=True)
class Create:
    """A new name for a new file."""

    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset of a file."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file cut, or grown with zeros, to a size."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """The sync of a file has returned; `entries` says that its directory went along."""

    inode: int
    entries: str | None = None


@dataclass(frozen=True, slots=True)
class Rename:
    """A file has another name, in one step; a file of that name is gone."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    """The sync of a directory has returned; the empty string is the root of the recording."""

    directory: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Anything the test wants to find again in the order of the log."""

    what: Any


Event: TypeAlias = Create | Write | Truncate | Sync | Rename | Unlink | SyncDirectory | Mark


def parent(name: str) -> str:
    """Directory of a recorded name, the empty string for the root."""
    return name.rpartition("/")[0]


class Recorder:
    """The log of one directory, fed by a VFS, by wrapped file operations and by marks; safe between threads."""

    def __init__(self, root: Path, image: Mapping[str, bytes] | None = None) -> None:
        self.root: Final = root
        self.fault: Callable[[Operation, str], Fault | None] = lambda _operation, _name: None
        """Asked before each write and sync whether it is to fail; the name is that of the file."""
        self.initial: Final = dict(image or {})
        self.log: Final[list[Event]] = []
        self._inodes = {name: number for number, name in enumerate(sorted(self.initial))}
        self._next = len(self._inodes)
        self._lock = threading.Lock()

    @property
    def initial_inodes(self) -> dict[str, int]:
        """Numbers of the files that were there, and durable, from the start."""
        return {name: number for number, name in enumerate(sorted(self.initial))}

    def name(self, path: str | Path) -> str | None:
        """Name of a path relative to the root; None for one that is not under it."""
        try:
            return str(Path(path).relative_to(self.root))
        except ValueError:
            return None

    def opened(self, name: str) -> int:
        """Inode of a file that was just opened; one that the log does not know yet has just been created."""
        with self._lock:
            inode = self._inodes.get(name)
            if inode is None:
                inode, self._next = self._next, self._next + 1
                self._inodes[name] = inode
                self.log.append(Create(name, inode))
            return inode

    def write(self, inode: int, offset: int, data: bytes) -> None:
        """Note a write."""
        with self._lock:
            self.log.append(Write(inode, offset, data))

    def truncate(self, inode: int, size: int) -> None:
        """Note a truncation."""
        with self._lock:
            self.log.append(Truncate(inode, size))

    def sync(self, inode: int, *, entries: str | None = None) -> None:
        """Note that the sync of a file has returned."""
        with self._lock:
            self.log.append(Sync(inode, entries))

    def renamed(self, old: str, new: str) -> None:
        """Note a rename that was made."""
        with self._lock:
            self._inodes[new] = self._inodes.pop(old)
            self.log.append(Rename(old, new))

    def unlinked(self, name: str) -> None:
        """Note a name that was removed."""
        with self._lock:
            if self._inodes.pop(name, None) is not None:
                self.log.append(Unlink(name))

    def synced_directory(self, directory: str) -> None:
        """Note that the sync of a directory has returned."""
        with self._lock:
            self.log.append(SyncDirectory(directory))

    def mark(self, what: Any) -> None:
        """Put a mark between the events."""
        with self._lock:
            self.log.append(Mark(what))


class RecordingFile(apsw.VFSFile):
    """A file of the stock VFS whose changes are noted after they were made."""

    def __init__(self, recorder: Recorder, name: str, filename: Any, flags: list[int]) -> None:
        created = name not in recorder._inodes
        super().__init__("", filename, flags)
        self._recorder = recorder
        self._name = name
        self._inode = recorder.opened(name)
        kinds = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
        self._directory_due = parent(name) if created and flags[0] & kinds else None

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802  # SQLite's name
        """Write, then note."""
        fault = self._recorder.fault("write", self._name)
        if fault == "short":
            data = bytes(data)[: len(data) // 2]
        if fault is None or fault == "short":
            super().xWrite(data, offset)
            self._recorder.write(self._inode, offset, bytes(data))
        _raise(fault, "write")

    def xTruncate(self, newsize: int) -> None:  # noqa: N802  # SQLite's name
        """Truncate, then note."""
        super().xTruncate(newsize)
        self._recorder.truncate(self._inode, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        """Sync, then note; nothing counts as safe before the sync has returned, and nothing after one that failed."""
        _raise(self._recorder.fault("sync", self._name), "sync")
        super().xSync(flags)
        self._recorder.sync(self._inode, entries=self._directory_due)
        self._directory_due = None


class RecordingVFS(apsw.VFS):
    """The stock VFS with a recorder behind it. Unregister it by `unregister()` when done."""

    def __init__(self, name: str, recorder: Recorder) -> None:
        super().__init__(name, "")
        self.name = name
        self._recorder = recorder

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # SQLite's name
        """Open through the recorder what lies under its root; temporary files as ever."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        inside = self._recorder.name(path) if path else None
        if inside is None:
            return apsw.VFSFile("", name, flags)
        return RecordingFile(self._recorder, inside, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802  # SQLite's name
        """Delete, then note."""
        super().xDelete(filename, syncdir)
        inside = self._recorder.name(filename)
        if inside is None:
            return
        self._recorder.unlinked(inside)
        if syncdir:
            self._recorder.synced_directory(parent(inside))


@dataclass(slots=True)
class Disk:
    """What is durable and what is pending at one point of a log."""

    names: dict[str, int]
    contents: dict[int, bytes]
    pending: dict[int, list[Write | Truncate]] = field(default_factory=dict)
    pending_names: list[Create | Rename | Unlink] = field(default_factory=list)

    @classmethod
    def before(cls, recorder: Recorder) -> "Disk":
        """The disk as it was when the recording began."""
        inodes = recorder.initial_inodes
        return cls(dict(inodes), {inodes[name]: data for name, data in recorder.initial.items()})

    def apply(self, event: Event) -> bool:
        """Take the next event of the log; whether it changed what a cut may leave behind."""
        match event:
            case Write(inode) | Truncate(inode):
                self.pending.setdefault(inode, []).append(event)
            case Create() | Rename() | Unlink():
                self.pending_names.append(event)
            case Sync(inode, directory):
                ops = self.pending.pop(inode, [])
                self.contents[inode] = _written(self.contents.get(inode, b""), ops)
                if directory is not None:
                    self._sync_names(directory)
            case SyncDirectory(directory):
                self._sync_names(directory)
            case Mark():
                return False
        return True

    def image(self, cut: Cut, rng: random.Random) -> Image:
        """One directory as a cut may leave it. `subset`, `torn` and `entries` draw from `rng`."""
        names = dict(self.names)
        for change in self._kept_names(cut, rng):
            _change(names, change)
        return {name: self._content(inode, cut, rng) for name, inode in names.items()}

    def _content(self, inode: int, cut: Cut, rng: random.Random) -> bytes:
        content, ops = self.contents.get(inode, b""), self.pending.get(inode, [])
        match cut:
            case "nothing":
                return content
            case "everything" | "entries":
                return _written(content, ops)
            case "subset":
                return _written(content, _subset(ops, rng))
            case "torn":
                return _written(content, _torn(ops, rng))

    def _kept_names(self, cut: Cut, rng: random.Random) -> Sequence[Create | Rename | Unlink]:
        match cut:
            case "nothing":
                return ()
            case "everything":
                return self.pending_names
            case "subset" | "torn":
                # Journalling file systems keep the order of name changes: a prefix is the likely loss.
                return self.pending_names[: rng.randint(0, len(self.pending_names))]
            case "entries":
                return _subset(self.pending_names, rng)

    def _sync_names(self, directory: str) -> None:
        kept = []
        for change in self.pending_names:
            touched = {parent(change.old), parent(change.new)} if isinstance(change, Rename) else {parent(change.name)}
            if directory in touched:
                _change(self.names, change)
            else:
                kept.append(change)
        self.pending_names = kept


def write_image(image: Mapping[str, bytes], directory: Path) -> None:
    """Make a directory hold exactly an image; one that is in use must not be given."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    for name, data in image.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def read_image(directory: Path) -> Image:
    """The files of a directory but SQLite's shared memory."""
    paths = (path for path in directory.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def points(recorder: Recorder) -> Iterator[tuple[int, Disk]]:
    """The disk after each event that changed it, with the event's place in the log; the object is one and the same."""
    disk = Disk.before(recorder)
    for place, event in enumerate(tuple(recorder.log)):
        if disk.apply(event):
            yield place, disk


def _raise(fault: Fault | None, operation: Operation) -> None:
    if fault == "error":
        raise apsw.IOError(f"injected: {operation}")
    if fault is not None:
        raise apsw.FullError(f"injected: {operation}")


def _written(content: bytes, ops: Sequence[Write | Truncate]) -> bytes:
    if not ops:
        return content
    out = bytearray(content)
    for op in ops:
        if isinstance(op, Truncate):
            del out[op.size :]
            out.extend(bytes(op.size - len(out)))
            continue
        end = op.offset + len(op.data)
        out.extend(bytes(max(0, end - len(out))))
        out[op.offset : end] = op.data
    return bytes(out)


def _subset(items: Sequence[T], rng: random.Random) -> list[T]:
    likely = rng.choice((0.15, 0.5, 0.85))
    return [item for item in items if rng.random() < likely]


def _torn(ops: Sequence[Write | Truncate], rng: random.Random) -> list[Write | Truncate]:
    likely = rng.choice((0.3, 0.7, 0.95))
    torn: list[Write | Truncate] = []
    for op in ops:
        if isinstance(op, Truncate):
            if rng.random() < likely:
                torn.append(op)
            continue
        start = op.offset
        while start < op.offset + len(op.data):
            # Sectors are those of the file, not of the write: a write that begins within one tears there.
            end = min((start // SECTOR_BYTES + 1) * SECTOR_BYTES, op.offset + len(op.data))
            if rng.random() < likely:
                torn.append(Write(op.inode, start, op.data[start - op.offset : end - op.offset]))
            start = end
    return torn


def _change(names: dict[str, int], change: Create | Rename | Unlink) -> None:
    match change:
        case Create(name, inode):
            names[name] = inode
        case Rename(old, new):
            # Without its creation the file never had the old name: nothing to rename.
            if old in names:
                names[new] = names.pop(old)
        case Unlink(name):
            names.pop(name, None)
