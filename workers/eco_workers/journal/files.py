"""Every change that the journal makes to files without SQLite: one object, so that a recorder can stand in its place.

A rename or an unlink is durable only when its directory was synced; each method here that changes a directory says
whether it does that. The database file and its `-wal` are never opened from here while SQLite has them open: closing
any descriptor of a file drops all POSIX locks the process holds on it, SQLite's too.
"""

import os
from pathlib import Path
from typing import Final


class Files:
    """Durable changes to files and directories."""

    def create(self, path: Path, data: bytes) -> None:
        """Write a new file durably: written beside, synced, renamed into place, directory synced."""
        beside = path.with_name(path.name + ".new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.rename(beside, path)

    def preallocate(self, path: Path, size_bytes: int) -> None:
        """Make a file of `size_bytes` whose blocks are really reserved."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.sync_directory(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Rename within one directory, then sync the directory."""
        source.rename(target)
        self.sync_directory(target.parent)

    def unlink(self, path: Path) -> None:
        """Remove a file if it is there, then sync the directory."""
        path.unlink(missing_ok=True)
        self.sync_directory(path.parent)

    def sync_directory(self, directory: Path) -> None:
        """Make the entries of a directory durable."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


FILES: Final = Files()
