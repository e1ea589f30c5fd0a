"""Journals for tests: the real one in a temporary directory and its twin, behind one way to open and restart them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eco_workers.journal import Identity, Limits, NewTask, SqliteJournal
from eco_workers.journal.calls import JournalCalls
from eco_workers.testing import MemoryJournal

IDENTITY = Identity("eco", "storage", "storage-0")
NAMES = frozenset({"image.store"})


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        """Let time pass, or with a negative number let somebody set the clock back."""
        self.now += seconds


@dataclass
class Journals:
    """Opens journals of one kind and closes what a test left open."""

    kind: str
    directory: Path
    clock: Clock = field(default_factory=Clock)
    opened: list[JournalCalls] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.directory / "journal.db"

    async def open(self, limits: Limits | None = None, **options: Any) -> JournalCalls:
        limits = limits or Limits(lock_wait_s=0.2)
        journal: JournalCalls
        if self.kind == "sqlite":
            journal = await SqliteJournal.open(self.path, identity=IDENTITY, limits=limits, clock=self.clock, **options)
        else:
            journal = MemoryJournal(limits=limits, clock=self.clock)
        self.opened.append(journal)
        return journal

    async def restart(self, journal: Any) -> Any:
        """End the process as far as the journal can tell, and open what it left."""
        limits = journal.limits
        if isinstance(journal, MemoryJournal):
            again: JournalCalls = journal.restarted()
            self.opened.append(again)
            return again
        await journal.close()
        return await self.open(limits)

    async def close(self) -> None:
        for journal in self.opened:
            closing: Callable[[], Any] = journal.close  # type: ignore[attr-defined]  # both have it
            await closing()


def task(task_id: str = "t1", **changes: Any) -> NewTask:
    """A valid task."""
    values: dict[str, Any] = {"name": "image.store", "payload": b'{"key":"uploads/1.jpg"}', "queue": "q.ai"} | changes
    return NewTask(task_id, **values)
