"""A directory in memory where there is one: images of disks are written by the thousand and need no real disk."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")


@contextmanager
def memory_directory() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    base = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="eco-", dir=base) as name:
        yield Path(name)
