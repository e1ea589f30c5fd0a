"""What the lab says while it works: one line a step, with the seconds it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_STARTED: Final = time.monotonic()
steps: Final[list[tuple[str, float]]] = []
"""Steps of this process and their seconds, in the order they ended."""


def say(text: str) -> None:
    """Print one line with the time since the start of the program, to standard error."""
    print(f"{time.monotonic() - _STARTED:7.1f} s  {text}", file=sys.stderr, flush=True)


@contextmanager
def step(name: str, *, announce: bool = False) -> Iterator[None]:
    """Time a step and say so when it ended; with `announce` also when it begins, for those that take long."""
    begun = time.monotonic()
    if announce:
        say(f"{name} ...")
    yield
    took_s = time.monotonic() - begun
    steps.append((name, took_s))
    say(f"{name}: {took_s:.1f} s")
