"""One flipped bit anywhere in a journal's database or log: seen, or without effect on any answer.

The answers are everything that a worker, its broker and its operator get from a journal: the tasks to run with payloads
and finished steps, the messages to send, the reports to make, verdicts on deliveries, counts, identity. The clock
stands still, so two readings of one journal are equal.

A flip in the last transaction of the log cannot be told from a write that the power cut short: there the journal may
answer as before that transaction. Those are counted apart.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eco_workers.errors import JournalCorruptError, JournalError, JournalRefusedError
from eco_workers.journal import SqliteJournal
from eco_workers.journal.model import NewTask
from eco_workers.journal.walfile import survey
from tests.support.cuts import JOURNAL
from tests.support.powercut import Image, read_image, write_image
from tests.support.workload import IDENTITY, SMALL, Ledger, Life, live, read_shapes

NOW: Final = 1_700_000_000.0
ALL: Final = 10_000
LOG: Final = f"{JOURNAL}-wal"
FRAME_BYTES: Final = 24 + 4096
LOG_HEADER_BYTES: Final = 32


@dataclass(slots=True)
class Flips:
    """What a run of flips has found."""

    flips: int = 0
    detected: int = 0
    harmless: int = 0
    last_transaction: int = 0
    """Flips in the last transaction that had the effect of a torn write."""
    wrong: list[str] = field(default_factory=list)


async def base_image(directory: Path, seed: int, tasks: int) -> Image:
    """A journal that was killed: rows of every state, in the database and in the log.

    With an odd seed it was killed right after a checkpoint: what the log held is in the database too.
    """
    write_image({}, directory)
    journal = await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL, clock=lambda: NOW)
    ledger = Ledger(lambda _mark: None)
    await live(journal, ledger, seed=seed, tasks=tasks)
    await unfinished(journal, ledger, seed)
    await journal.checkpoint()
    await live(journal, ledger, seed=seed + 1, tasks=tasks // 2, prefix="later")
    await unfinished(journal, ledger, seed + 1)
    if seed % 2:
        await journal.checkpoint()
    await journal.statistics()
    image = read_image(directory)
    await journal.close()
    return image


async def unfinished(journal: SqliteJournal, ledger: Ledger, seed: int) -> None:
    """Tasks that are in the middle of their lives."""
    for number in range(4):
        life = Life(journal, ledger, f"half-{seed}-{number}", random.Random(f"{seed} {number}"))
        await life.accept(0)
        if number:
            await life.claim()
            await life.step("one", emits=1)
        if number == 2:
            await life.retry()
        if number == 3:
            await life.fail()


async def answers(path: Path, task_ids: list[str]) -> dict[str, Any]:
    """Everything that a journal says; raises what it raises."""
    journal = await SqliteJournal.open(path, identity=IDENTITY, limits=SMALL, clock=lambda: NOW)
    try:
        counts = (await journal.statistics()).counts
        outbox = await journal.outbox(ALL)
        reports = await journal.unsynced(ALL)
        claimed = await journal.claim(ALL, names=dict.fromkeys(task_ids, 99))
        verdicts = [await journal.accept([NewTask(task_id, task_id, b"{}", "q.batch")]) for task_id in task_ids]
        await journal.prune(keep_s=-1.0)
        return {
            "uuid": journal.journal_uuid,
            "epoch": journal.epoch,
            "target": journal.sync_target,
            "draining": journal.draining,
            "counts": counts,
            "outbox": outbox,
            "reports": reports,
            "claimed": claimed,
            "verdicts": verdicts,
            "pruned": (await journal.statistics()).counts,
        }
    finally:
        await journal.close()


def last_transaction(image: Mapping[str, bytes], directory: Path) -> range:
    """The bytes of the log that belong to its last commit."""
    write_image({LOG: image[LOG]}, directory)
    commits = survey(directory / LOG).commits
    before = commits[-2] if len(commits) > 1 else 0
    return range(LOG_HEADER_BYTES + before * FRAME_BYTES, LOG_HEADER_BYTES + commits[-1] * FRAME_BYTES)


async def flip(directory: Path, rng: random.Random, *, count: int, tasks: int, older_log_only: bool = False) -> Flips:
    """Flip `count` bits of one journal, one at a time; on request only in the log before its last transaction."""
    image = await base_image(directory, rng.randrange(1000) & (~1 if older_log_only else ~0), tasks)
    tail = last_transaction(image, directory)
    write_image(image, directory)
    task_ids = sorted(read_shapes(directory / JOURNAL)[0])
    write_image(image, directory)
    wanted = await answers(directory / JOURNAL, task_ids)
    write_image({**image, LOG: image[LOG][: tail.start]}, directory)
    torn = await answers(directory / JOURNAL, task_ids)
    found = Flips()
    sizes = {LOG: tail.start} if older_log_only else {name: len(image[name]) for name in (JOURNAL, LOG)}
    for _ in range(count):
        name = rng.choices(list(sizes), list(sizes.values()))[0]
        place, bit = rng.randrange(sizes[name]), rng.randrange(8)
        data = bytearray(image[name])
        data[place] ^= 1 << bit
        write_image({**image, name: bytes(data)}, directory)
        found.flips += 1
        try:
            said = await answers(directory / JOURNAL, task_ids)
        except (JournalCorruptError, JournalRefusedError):
            found.detected += 1
            continue
        except JournalError as error:
            found.wrong.append(f"{name} byte {place} bit {bit}: {type(error).__name__}: {error}")
            continue
        if said == wanted:
            found.harmless += 1
        elif name == LOG and place in tail and said == torn:
            found.last_transaction += 1
        else:
            different = [key for key in wanted if wanted[key] != said[key]]
            found.wrong.append(f"{name} byte {place} bit {bit}: other {', '.join(different)}")
    return found
