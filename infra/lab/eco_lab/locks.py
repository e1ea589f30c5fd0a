"""One change at a time: a lock each for the lab's state and for the cache that several labs may share."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from eco_lab.errors import BusyError
from eco_lab.progress import say

_WAIT_S: Final = 1800.0
"""Longer than compiling everything takes: a second `up` waits for the first one's work instead of failing."""
_POLL_S: Final = 0.2


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a directory's lock; wait a bounded time for another holder. It goes with the process, however that ends."""
    directory.mkdir(parents=True, exist_ok=True)
    # Not inherited: a daemon of the lab must not hold it on.
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+") as handle:
        _take(handle, directory)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _take(handle: IO[str], directory: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    announced = False
    while not _taken(handle):
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        if time.monotonic() > deadline:
            raise BusyError(f"change {directory}", f"process {holder} is still at it", hint="wait for it, or end it")
        if not announced:
            say(f"waiting for process {holder}, which changes {directory} right now")
            announced = True
        time.sleep(_POLL_S)
    handle.seek(0)


def _taken(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
