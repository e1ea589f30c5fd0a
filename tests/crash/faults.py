"""A disk that fails: the n-th write or sync of a journal at work goes wrong, and then the power too."""

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path

from eco_workers.errors import JournalError
from eco_workers.journal import SqliteJournal
from tests.support.cuts import Tally, check, recording
from tests.support.powercut import CUTS, Disk, Fault, Mark, Operation, Recorder
from tests.support.workload import IDENTITY, Book, books, live


async def fail_once(directory: Path, seed: int, operation: Operation, nth: int, fault: Fault) -> tuple[Recorder, bool]:
    """Let the `nth` write or sync fail; the log of the journal's life and whether it came to that."""
    counted: Counter[str] = Counter()

    def judge(done: Operation, _name: str) -> Fault | None:
        counted[done] += 1
        return fault if done == operation and counted[done] == nth else None

    async with recording(directory) as tape:
        tape.recorder.fault = judge
        # Whatever is said about the failure: what matters is what was acknowledged, before it and after it.
        with contextlib.suppress(JournalError):
            journal = await SqliteJournal.open(tape.plan.path, identity=IDENTITY, plan=tape.plan)
            try:
                tape.ledger.opened(journal.journal_uuid, journal.epoch)
                await asyncio.gather(
                    *(live(journal, tape.ledger, seed=seed + number, tasks=1) for number in range(3)),
                    return_exceptions=True,
                )
            finally:
                await journal.close()
    return tape.recorder, counted[operation] >= nth


async def after_failure(directory: Path, recorder: Recorder, seed: int) -> Tally:
    """What the journal is like afterwards, with the power on and with the power cut: every kind of cut at the end."""
    rng = random.Random(seed)
    disk, book = at_the_end(recorder)
    tally = Tally()
    for cut in CUTS:
        tally.add(f"failure, {cut}", await check(directory, disk.image(cut, rng), book))
    return tally


def at_the_end(recorder: Recorder) -> tuple[Disk, Book]:
    """Disk and ledger after the last event of a log."""
    disk = Disk.before(recorder)
    marks = []
    for place, event in enumerate(recorder.log):
        disk.apply(event)
        if isinstance(event, Mark):
            marks.append((place, event.what))
    return disk, books(marks)(len(recorder.log))
