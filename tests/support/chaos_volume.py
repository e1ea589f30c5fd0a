"""The loss of a shard's volume in mid-work: what each ack policy says of it, and what is truly gone.

The process is killed and its journal copied before it is deleted: the copy says what the policy promised of each task
at that moment. Under `Replicated` the journal is restored from the bucket onto an empty volume; under the others the
shard begins anew.
"""

import asyncio
import contextlib
import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import apsw

from eco_crds.wal import WalReport
from eco_workers import headers
from eco_workers.journal.model import Owner, State
from eco_workers.runtime.replication import POLICY
from tests.support.chaos_world import CONCURRENCY, World, world
from tests.support.job_process import JobProcess
from tests.support.processes import ProcessError
from tests.support.worker_process import WorkerProcess

TASKS: Final = 240
PAUSE_S_MAX: Final = 0.4
BUSY_TIMEOUT_S: Final = 60.0
LOOK_S: Final = 0.02
_ENDED: Final = frozenset({State.COMPLETED, State.FAILED, State.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Row:
    """What the deleted journal said of a task."""

    state: State
    owner: Owner
    unsynced: bool


@dataclass(slots=True)
class Lost:
    """What the loss of a volume cost."""

    policy: str
    seed: int
    losses: int = 0
    published: int = 0
    broken: list[str] = field(default_factory=list)
    """Tasks that are nowhere, though the policy promised them; and rows that are wrong."""
    gone: list[str] = field(default_factory=list)
    """All tasks that are nowhere."""
    unsynced: list[str] = field(default_factory=list)
    """Those of them that had ended, their result known to the lost journal alone."""
    duplicates: list[str] = field(default_factory=list)
    unfinished_at_loss: int = 0
    """Rows that were unfinished when their volume went: none, and nothing was proved."""
    restored_s: float = 0.0
    """From the loss to the shard at work again, the longest."""


async def lose_volumes(
    policy: str, seed: int, *, losses: int = 3, tasks: int = TASKS, parent: Path | None = None, sabotage: str = ""
) -> Lost:
    """Delete the volume of one shard after the other while they are full of work; close the books."""
    found = Lost(policy, seed)
    deleted: dict[str, list[Row]] = {}
    async with world(random.Random(seed), parent=parent, sabotage=sabotage, policy=policy) as made:
        for number in range(losses):
            await made.ledger.publish(tasks, pause_s_max=PAUSE_S_MAX)
            index = number % 2
            await _wait_busy(made.shards[index])
            for task_id, row in (await _lose(made, index, found)).items():
                deleted.setdefault(task_id, []).append(row)
        await made.settle()
        verdict = await made.close_books()
    found.published = verdict.published
    found.gone = sorted({line.partition(":")[0] for line in verdict.lost})
    found.duplicates = verdict.duplicates
    for task_id in found.gone:
        rows = deleted.get(task_id, [])
        if any(row.state in _ENDED and row.unsynced for row in rows):
            found.unsynced.append(task_id)
        if not any(_is_excused(policy, row) for row in rows):
            found.broken.append(f"{task_id}: {rows or 'unknown to the lost journals'}")
    found.broken += verdict.wrong
    return found


def _is_excused(policy: str, row: Row) -> bool:
    """Whether the policy promised nothing of a task when the volume went."""
    match policy:
        case "Completed":  # ended, or waiting for a scheduled start
            return row.owner is Owner.JOURNAL
        case "Journaled":
            return True
    return False


async def _wait_busy(shard: WorkerProcess) -> None:
    """Wait until a shard has ended some tasks and is in the middle of others."""

    def is_busy(report: WalReport | None) -> bool:
        return report is not None and report.counts.running >= CONCURRENCY // 2 and report.counts.completed > 0

    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while not is_busy(await asyncio.to_thread(shard.report)):
        if time.monotonic() > deadline:
            raise ProcessError(f"{shard.name} has nothing to do: {shard.report()}")
        await asyncio.sleep(LOOK_S)


async def _lose(made: World, index: int, found: Lost) -> dict[str, Row]:
    shard = made.shards[index]
    made.may_exit.add(index)
    await asyncio.to_thread(shard.kill)
    began = time.monotonic()
    rows = await asyncio.to_thread(_delete, shard)
    found.losses += 1
    found.unfinished_at_loss += sum(1 for row in rows.values() if row.state not in _ENDED)
    if made.policy == POLICY:
        await _restore(shard)
    await made.restart(index)
    await asyncio.to_thread(shard.wait_ready)
    found.restored_s = max(found.restored_s, time.monotonic() - began)
    return rows


async def _restore(shard: WorkerProcess) -> None:
    """What the recovery Job does on a volume that is empty."""
    code, report = await asyncio.to_thread(JobProcess(shard).run, "recover")
    if code or report.action != "restored":
        raise ProcessError(f"{shard.name}: {report}")


def _delete(shard: WorkerProcess) -> dict[str, Row]:
    """Delete all that is on a volume; what its journal said."""
    volume = shard.journal.parent
    rows = dict(_read(shard.journal, shard.directory / f"lost-{time.monotonic_ns()}"))
    for path in volume.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return rows


def _read(journal: Path, aside: Path) -> Iterator[tuple[str, Row]]:
    aside.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(journal.with_name(journal.name + suffix), aside / f"journal.db{suffix}")
    with contextlib.closing(apsw.Connection(str(aside / "journal.db"))) as copy:
        for task_id, state, owner, sync_status in copy.execute(
            "SELECT task_id, state, owner, sync_status FROM task_wal"
        ):
            yield str(task_id), Row(State(state), Owner(owner), sync_status != "synced")
        # A delivery that was no task has no row; it has ended with its message to the dead-letter queue.
        for (kept,) in copy.execute("SELECT headers FROM outbox WHERE kind = 'reject'"):
            yield json.loads(kept)[headers.MESSAGE_ID], Row(State.FAILED, Owner.JOURNAL, unsynced=False)
