"""One owner for life: a lock beside the journal, held until the process ends, that names its holder.

The lock is `flock` on a file of its own. It is no protection between machines: there only the volume's attachment and
`ReadWriteOncePod` protect, and the epoch in the file makes a second writer visible at its next commit.
"""

import asyncio
import fcntl
import json
import os
import random
import time
from pathlib import Path
from typing import Final

from eco_workers.errors import JournalLockedError

POLL_S: Final = 0.05


class JournalLock:
    """The lock of one journal."""

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(journal.name + ".lock")
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    async def acquire(self, wait_s: float) -> None:
        """Take the lock; waits up to `wait_s` for its holder to end, then names it."""
        deadline = time.monotonic() + wait_s
        while not await asyncio.to_thread(self.try_acquire):
            if time.monotonic() >= deadline:
                holder = await asyncio.to_thread(self.read)
                raise JournalLockedError(
                    f"open journal: {self.path} is held by process {holder.get('pid', 'unknown')} on host"
                    f" {holder.get('host', 'unknown')}, epoch {holder.get('epoch', 'unknown')};"
                    f" waited {wait_s:g} s. Two processes must never own one journal: end the other one first"
                )
            await asyncio.sleep(POLL_S * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, no secret

    def read(self) -> dict[str, str]:
        """What the last holder wrote about itself; empty when unreadable."""
        try:
            noted = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in noted.items()} if isinstance(noted, dict) else {}

    def write(self, journal_uuid: str, epoch: int) -> None:
        """Note who holds it, of which journal and epoch. Not synced: it may be missing, never ahead of the file."""
        if self._descriptor is None:
            return
        note = {"pid": str(os.getpid()), "host": os.uname().nodename, "uuid": journal_uuid, "epoch": str(epoch)}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(note).encode(), 0)

    def release(self) -> None:
        """Give the lock up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
