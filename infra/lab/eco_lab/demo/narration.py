"""What the demo says while it runs: one line an event, with the seconds since the start in front."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Sink = Callable[[str], None]


def _print(line: str) -> None:
    print(line, flush=True)


@dataclass
class Narrator:
    """Tells a story line by line and keeps how long its chapters took."""

    sink: Sink = _print
    clock: Callable[[], float] = time.monotonic
    chapters: dict[str, float] = field(default_factory=dict)
    """Seconds of each finished chapter, by its title."""

    def __post_init__(self) -> None:
        self._start = self.clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the narrator was made."""
        return self.clock() - self._start

    def say(self, text: str) -> None:
        """One line with the time in front."""
        self.sink(f"[{self.elapsed_s:6.1f} s] {text}")

    def show(self, block: str) -> None:
        """Text of another program, indented below the line before."""
        for line in block.rstrip().splitlines():
            self.sink(f"           {line}".rstrip())

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Keep the seconds that the body takes under `title`; kept on failure too."""
        begun = self.clock()
        try:
            yield
        finally:
            self.chapters[title] = self.chapters.get(title, 0.0) + self.clock() - begun


def silent() -> Narrator:
    """A narrator for tests: keeps times, says nothing."""
    return Narrator(sink=lambda _: None)
