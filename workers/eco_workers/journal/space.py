"""Room to finish: a reserve at which accepting stops, and a ballast file that is freed when the volume is full anyway.

On a truly full volume SQLite can neither update nor delete nor checkpoint, so nothing could end and nothing could be
pruned. The ballast's blocks are what running work ends on.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from eco_workers.journal.failpoints import reached
from eco_workers.journal.files import Files
from eco_workers.journal.limits import Limits


@dataclass(frozen=True, slots=True)
class Volume:
    """The volume and the journal's part of it, in bytes."""

    total_bytes: int
    free_bytes: int
    database_bytes: int
    wal_bytes: int


class Space:
    """Watches the volume and decides whether new work is accepted."""

    def __init__(self, path: Path, limits: Limits, files: Files) -> None:
        self.path = path
        self.ballast = path.with_name(path.name + ".ballast")
        self.read_only = ""
        """Why new work is not accepted; empty when it is."""
        self._limits = limits
        self._files = files

    def look(self) -> Volume:
        """Ask the file system."""
        volume = os.statvfs(self.path.parent)
        return Volume(
            volume.f_blocks * volume.f_frsize,
            volume.f_bavail * volume.f_frsize,
            _size(self.path),
            _size(self.path.with_name(self.path.name + "-wal")),
        )

    def reserve_bytes(self, volume: Volume) -> int:
        """What must be free for new work."""
        return min(self._limits.reserve_bytes, int(volume.total_bytes * self._limits.reserve_ratio))

    def ballast_bytes(self, volume: Volume) -> int:
        """The size of the ballast: never more than an eighth of a small volume."""
        return min(self._limits.ballast_bytes, volume.total_bytes // 8)

    def judge(self) -> Volume:
        """Look, decide about new work, and make the ballast again when there is room for it."""
        volume = self.look()
        reserve = self.reserve_bytes(volume)
        if volume.wal_bytes > self._limits.wal_bytes_max:
            self.read_only = (
                f"the write-ahead log has {volume.wal_bytes} bytes, more than {self._limits.wal_bytes_max}:"
                " a long reader keeps it from being moved into the database"
            )
        elif volume.free_bytes < reserve:
            self.read_only = f"{volume.free_bytes} bytes are free on the volume, less than the reserve of {reserve}"
        elif not self.ballast.exists():
            # The mode is left only once the ballast stands again, with a reserve to spare behind it.
            if volume.free_bytes >= reserve + self.ballast_bytes(volume):
                self.read_only = ""
                self.fill_ballast(volume)
            else:
                self.read_only = f"{volume.free_bytes} bytes are free on the volume: too few for reserve and ballast"
        else:
            self.read_only = ""
        return volume

    def fill_ballast(self, volume: Volume) -> None:
        """Make the ballast file."""
        reached("ballast.before-create")
        try:
            self._files.preallocate(self.ballast, self.ballast_bytes(volume))
        except OSError:
            with contextlib.suppress(OSError):
                self._files.unlink(self.ballast)
            self.read_only = "no room for the ballast file"
        reached("ballast.after-create")

    def free_ballast(self) -> bool:
        """Give the ballast's blocks back; False when there was none any more."""
        self.read_only = "the volume is full"
        if not self.ballast.exists():
            return False
        reached("ballast.before-release")
        self._files.unlink(self.ballast)
        reached("ballast.after-release")
        return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
