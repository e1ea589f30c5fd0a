"""Minutes of steady work with retention on: memory, file and log must come to rest."""

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eco_workers.journal import Emit, Identity, NewTask, SqliteJournal

IDENTITY: Final = Identity("soak", "storage", "storage-0")
NAMES: Final = frozenset({"resize"})
BATCH_TASKS: Final = 50
TASKS_PER_S: Final = 2_000
KEEP_S: Final = 5.0
SAMPLE_S: Final = 2.0
MIB: Final = 1_048_576


@dataclass(slots=True)
class Sample:
    """Sizes at one moment."""

    at_s: float
    rss: int
    database: int
    log: int


@dataclass(slots=True)
class Soak:
    """What a soak has seen."""

    tasks: int = 0
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def growth_mib(self, from_s: float) -> dict[str, float]:
        """How far each size rose above where it had been before `from_s`, in MiB."""
        growth = {}
        for name in ("rss", "database", "log"):
            before = [getattr(sample, name) for sample in self.samples if from_s / 2 <= sample.at_s < from_s]
            after = [getattr(sample, name) for sample in self.samples if sample.at_s >= from_s]
            growth[name] = (max(after) - max(before)) / MIB
        return growth


async def soak(path: Path, seconds: float) -> Soak:
    """Work at a steady rate: accept, claim, a step, complete with a message, send it, sync, prune."""
    seen = Soak()
    begun = time.monotonic()
    until = begun + seconds
    async with await SqliteJournal.open(path, identity=IDENTITY) as journal:
        await journal.set_sync_target("reports")

        async def work() -> None:
            while time.monotonic() < until:
                ahead_s = seen.tasks / TASKS_PER_S - (time.monotonic() - begun)
                if ahead_s > 0:
                    await asyncio.sleep(ahead_s)  # the rate is the point: what rests depends on it
                first = seen.tasks
                seen.tasks += BATCH_TASKS
                tasks = [
                    NewTask(f"task-{number}", "resize", b'{"object":"photo.jpg","width":1024}', "q.batch")
                    for number in range(first, first + BATCH_TASKS)
                ]
                await journal.accept(tasks)
                claimed = await journal.claim(BATCH_TASKS, names=NAMES)
                # One in ten emits a message: the outbox lives too.
                await asyncio.gather(
                    *(
                        journal.complete(
                            running.task_id, b'{"ok":true}', emits=[Emit("q.next", b"{}")] if number % 10 == 0 else ()
                        )
                        for number, running in enumerate(claimed)
                    )
                )

        async def look_after() -> None:
            while time.monotonic() < until:
                messages = await journal.outbox(1_000)
                await journal.sent([message.row_id for message in messages])
                reports = await journal.unsynced(2_000)
                await journal.synced({report.task_id: report.version for report in reports})
                pruned = await journal.prune(keep_s=KEEP_S)
                if not messages and not reports and not pruned:
                    await asyncio.sleep(0.05)

        async def watch() -> None:
            while time.monotonic() < until:
                seen.samples.append(_sample(path, time.monotonic() - begun))
                await asyncio.sleep(SAMPLE_S)

        await asyncio.gather(work(), work(), look_after(), watch())
        seen.problems = await journal.verify()
    return seen


def _sample(path: Path, at_s: float) -> Sample:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    log = path.with_name(path.name + "-wal")
    return Sample(
        at_s,
        pages * os.sysconf("SC_PAGE_SIZE"),
        path.stat().st_size,
        log.stat().st_size if log.exists() else 0,
    )
