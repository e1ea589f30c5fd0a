"""Who has a journal open, seen from outside of every container: by the file itself, whatever it is called there."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

POLL_S: Final = 0.2
_PROC: Final = Path("/proc")


@dataclass(slots=True)
class Seen:
    """What was seen while somebody watched."""

    looks: int = 0
    writers_max: int = 0
    """The most containers that had the journal open for writing in one look."""
    twice_s: float = 0.0
    """For how long there was more than one."""
    _stopped: threading.Event = field(default_factory=threading.Event)


def writers(journal: Path) -> set[str]:
    """Process namespaces in which a process has the file open for writing."""
    try:
        wanted = journal.stat()
    except OSError:
        return set()
    found = set()
    for process in _PROC.glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"eco-worker" not in command and b"eco_workers" not in command:
                continue
            if any(_is_same(descriptor, wanted) for descriptor in (process / "fd").iterdir()):
                found.add(str((process / "ns" / "pid").readlink()))
        except OSError:
            continue  # It ended in between.
    return found


def _is_same(descriptor: Path, wanted: os.stat_result) -> bool:
    try:
        there = descriptor.stat()
        if (there.st_dev, there.st_ino) != (wanted.st_dev, wanted.st_ino):
            return False
        told = (descriptor.parent.with_name("fdinfo") / descriptor.name).read_text()
    except OSError:
        return False
    flags = int(next(line.split()[1] for line in told.splitlines() if line.startswith("flags:")), 8)
    return flags & os.O_ACCMODE != os.O_RDONLY


@contextmanager
def watched(journal: Path) -> Iterator[Seen]:
    """Look several times a second for as long as the body runs."""
    seen = Seen()

    def watch() -> None:
        before = time.monotonic()
        while not seen._stopped.wait(POLL_S):
            count, now = len(writers(journal)), time.monotonic()
            seen.looks += 1
            seen.writers_max = max(seen.writers_max, count)
            seen.twice_s += now - before if count > 1 else 0.0
            before = now

    thread = threading.Thread(target=watch, name="writers", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        seen._stopped.set()
        thread.join()
