"""A worker under steady load for minutes: its memory and its descriptors stand still.

The first part of the time is left out: pools open, caches fill, arenas find their size. Of what follows the median of
the first window is compared with that of the last; a single look would measure the garbage collector.
"""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.chaos_world import World, world

LEAVE_OUT_SHARE: Final = 0.3
"""Three minutes of ten."""
WINDOW_SHARE: Final = 0.1
LOOK_S: Final = 0.5
BATCH: Final = 50
BATCH_PERIOD_S: Final = 1.0
RETENTION_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at all shards."""

    at_s: float
    rss_mib: float
    descriptors: int


@dataclass(frozen=True, slots=True)
class Soak:
    """What a soak has shown, of the shard that grew most."""

    policy: str
    took_s: float
    published: int
    lost: int
    rss_growth_mib: float
    fd_growth: int


async def soak(policy: str, seed: int, duration_s: float, *, parent: Path | None = None) -> Soak:
    """Publish at a steady rate for so long; compare the windows."""
    # With retention on: a journal that only grows fills SQLite's page cache, which looks like a leak and is none.
    env = {"ECO_RETENTION_S": f"{RETENTION_S:g}"}
    async with world(random.Random(seed), parent=parent, policy=policy, env=env) as made:
        looks: list[list[Look]] = [[] for _ in made.shards]
        began = time.monotonic()
        async with _looking(made, looks, began):
            while (passed_s := time.monotonic() - began) < duration_s:
                await made.ledger.publish(BATCH)
                due_s = BATCH_PERIOD_S - (time.monotonic() - began - passed_s)
                await asyncio.sleep(max(0.0, due_s))
        await made.settle()
        verdict = await made.close_books()
    growths = [growth(each, duration_s) for each in looks]
    return Soak(
        policy,
        duration_s,
        verdict.published,
        len(verdict.lost) + len(verdict.wrong) + len(verdict.duplicates),
        max(rss for rss, _ in growths),
        max(descriptors for _, descriptors in growths),
    )


def growth(looks: list[Look], duration_s: float) -> tuple[float, int]:
    """MiB and descriptors between the first window behind what is left out, and the last."""
    window_s = duration_s * WINDOW_SHARE
    begins_s = duration_s * LEAVE_OUT_SHARE
    first = [look for look in looks if begins_s <= look.at_s < begins_s + window_s]
    last = [look for look in looks if look.at_s >= duration_s - window_s]
    rss = statistics.median(look.rss_mib for look in last) - statistics.median(look.rss_mib for look in first)
    # Connections come and go with single objects: the fewest are those that stay.
    descriptors = min(look.descriptors for look in last) - min(look.descriptors for look in first)
    return round(rss, 2), descriptors


@contextlib.asynccontextmanager
async def _looking(made: World, looks: list[list[Look]], began: float) -> AsyncIterator[None]:
    async def look() -> None:
        while True:
            for shard, seen in zip(made.shards, looks, strict=True):
                seen.append(await asyncio.to_thread(_look, shard.pid, time.monotonic() - began))
            await asyncio.sleep(LOOK_S)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _look(pid: int, at_s: float) -> Look:
    status = Path(f"/proc/{pid}/status").read_text()
    rss_kib = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    return Look(at_s, rss_kib / 1024, sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))
