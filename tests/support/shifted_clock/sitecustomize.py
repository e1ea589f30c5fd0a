"""A wall clock that a test sets: put this directory first on PYTHONPATH and name a file in ECO_TEST_CLOCK.

The file holds one double, the seconds by which `time.time()` is ahead. The monotonic clock stays what it is, as when a
machine's clock is set. Python imports this before anything else, so nobody has kept the real function.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

VARIABLE = "ECO_TEST_CLOCK"


def _shift(path: Path) -> None:
    with path.open("rb") as file:
        ahead_s = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real, read = time.time, struct.Struct("d").unpack_from

    def shifted() -> float:
        return real() + float(read(ahead_s)[0])

    clock: Callable[[], float] = shifted
    time.time = clock
    time.time_ns = lambda: round(clock() * 1e9)


if os.environ.get(VARIABLE):
    _shift(Path(os.environ[VARIABLE]))
