"""What each failure costs: `python -m tests.prove.failures [--policy p] [--faults a,b]` prints a Markdown table.

Two shards work under a steady trickle of tasks, some with an object to store. One failure after the other is caused and
ended. Told of each: the longest time in which nothing came out although tasks were there; how long after the failure's
end all that was published had come out and was in PostgreSQL; how many tasks were lost; how many bodies ran twice.
"""

import argparse
import asyncio
import logging
import random
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tests.support.chaos_faults import FAULTS, QUIET
from tests.support.chaos_world import POLICIES, World, is_empty, world
from tests.support.processes import ProcessError

TRICKLE_S: Final = 0.1
AFTER_S: Final = 1.0
CAUGHT_UP_TIMEOUT_S: Final = 180.0
LOOK_S: Final = 0.1

# Number in the list of failures, what it is in the words of somebody on call, how it is caused, how it shows itself.
FAILURES: Final = (
    ("F4", "RabbitMQ restarts", "broker_restart", "`consuming` false in `/wal`; `worker_consuming` 0"),
    ("F4", "RabbitMQ is killed", "broker_sigkill", "`consuming` false in `/wal`; `worker_consuming` 0"),
    ("F4", "RabbitMQ raises its memory alarm", "broker_memory_alarm", "`worker_broker_blocked` 1; outbox grows"),
    ("F5", "Somebody deletes a queue", "queue_deleted", "reconnect in the log; declared again"),
    ("F5", "Somebody deletes q.dlq", "dead_letter_queue_missing", "`outbox_parked` in `/wal` while it is missing"),
    ("F6", "Connections are cut", "network_cut", "`worker_broker_connections_opened` rises"),
    ("F6", "A connection hangs half open", "network_half_open", "`consuming` false after missed heartbeats"),
    ("F6", "The connection goes between fsync and ack", "cut_before_ack", "`worker_deliveries` of kind duplicate"),
    ("F7", "One worker is killed", "worker_sigkill", "container restarts; `recovered` in `/wal`"),
    ("F7", "Both workers are killed", "both_workers_sigkill", "container restarts; `recovered` in `/wal`"),
    ("F7", "A worker stands still", "worker_stopped", "no report; its deliveries go to the other shard"),
    ("F7", "A worker is told to stop (rolling update)", "worker_sigterm", "exit code 0; journal empty or resumed"),
    ("F10", "PostgreSQL refuses some rows", "database_refuses_rows", "`sync_error`; `sync_parked` after the attempts"),
    ("F11", "PostgreSQL is down", "database_down", "`sync_error`; `unsynced` grows"),
    ("F11", "PostgreSQL hangs", "database_hangs", "`sync_error` after the time-out; `unsynced` grows"),
    ("F13", "PostgreSQL has no connection left", "database_crowded", "`sync_error` 53300; `unsynced` grows"),
    ("F14", "The journal's volume is full", "disk_full", "mode `read-only`; `last_error`"),
    ("F17", "The object store is down", "store_down", "`task_failures` of kind retry"),
    ("F17", "The object store answers 503", "store_503", "`task_failures` of kind retry"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """What one failure came to."""

    lasted_s: float
    silent_s: float
    caught_up_s: float
    lost: int


async def cost(made: World, fault: str) -> Cost:
    """Cause a failure under a trickle of tasks and wait until all is caught up."""
    published: list[str] = []
    ended = asyncio.Event()

    async def trickle() -> None:
        while not ended.is_set():
            published.extend(await made.ledger.publish(1, only="message"))
            published.extend(await made.ledger.publish(1, only="object"))
            await asyncio.sleep(TRICKLE_S)

    began = time.monotonic()
    if fault in QUIET:
        await FAULTS[fault](made)
        over = time.monotonic()
        producing = asyncio.create_task(trickle())
    else:
        producing = asyncio.create_task(trickle())
        await FAULTS[fault](made)
        over = time.monotonic()
    await asyncio.sleep(AFTER_S)
    ended.set()
    await producing
    caught_up = await _caught_up(made, published)
    moments = sorted([began, *(made.ledger.arrived_at[each] for each in published if each in made.ledger.arrived_at)])
    silent_s = max((later - earlier for earlier, later in pairwise(moments)), default=0.0)
    lost = len([each for each in published if each not in made.ledger.arrived_at])
    return Cost(over - began, silent_s, max(0.0, caught_up - over), lost)


async def _caught_up(made: World, published: list[str]) -> float:
    deadline = time.monotonic() + CAUGHT_UP_TIMEOUT_S
    while time.monotonic() < deadline:
        if all(each in made.ledger.arrived_at for each in published):
            reports = await asyncio.gather(*(asyncio.to_thread(shard.report) for shard in made.shards))
            # Under `Completed` a row may still wait for what came back to the other shard, and has come out there.
            waits = made.policy == "Completed"
            if all(report is not None and is_empty(report, waits=waits) for report in reports):
                return time.monotonic()
            for shard, report in zip(made.shards, reports, strict=True):
                if report is not None and (report.counts.sync_parked or report.counts.outbox_parked):
                    await asyncio.to_thread(made.command, shard, "sync")
        await asyncio.sleep(LOOK_S)
    raise ProcessError(f"not caught up {CAUGHT_UP_TIMEOUT_S:.0f} s after the failure's end")


async def run(faults: list[str], seed: int, policy: str) -> bool:
    """Measure and print; whether nothing was lost."""
    print(f"seed {seed}; ackPolicy {policy}; two shards, sync every second\n")
    print("| | failure | seen by | lasted | nothing came out for | all caught up after | tasks lost | reproduce |")
    print("|---|---|---|---|---|---|---|---|")
    async with world(random.Random(seed), small_volume=True, policy=policy) as made:
        for number, what, fault, seen in FAILURES:
            if faults and fault not in faults:
                continue
            found = await cost(made, fault)
            times = " | ".join(f"{value:.1f} s" for value in (found.lasted_s, found.silent_s, found.caught_up_s))
            command = f"`python -m tests.prove.failures --policy {policy.lower()} --faults {fault}`"
            print(f"| {number} | {what} | {seen} | {times} | {found.lost} | {command} |", flush=True)
        await made.settle()
        verdict = await made.close_books()
    print(
        f"\n{verdict.published} tasks: {len(verdict.lost)} lost, {len(verdict.duplicates)} duplicate effects, "
        f"{len(verdict.wrong)} wrong, {verdict.repeated_runs} bodies run again"
    )
    return not (verdict.lost or verdict.duplicates or verdict.wrong or made.exits)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description="What each failure costs, as a table for the README.")
    parser.add_argument("--faults", default="", help="only these, by comma")
    parser.add_argument("--policy", choices=tuple(POLICIES), default="journaled", help="ack policy of the shards")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    faults = [each for each in arguments.faults.split(",") if each]
    raise SystemExit(0 if asyncio.run(run(faults, arguments.seed, POLICIES[arguments.policy])) else 1)


if __name__ == "__main__":
    main()
