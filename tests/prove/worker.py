"""The worker's promise under faults, counted from outside: `python -m tests.prove.worker [--tasks N] [--seed S]`.

Two shards run as processes. Faults come one after the other in random order, each kind at least twice, while tasks are
published all the time. At the end everything is put right, the journals empty themselves, and the ledger is closed:
every task that was published with a confirm has its row, its message, its object or its dead letter, once.
"""

import argparse
import asyncio
import logging
import math
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support import figures
from tests.support.chaos_faults import FAULTS, QUIET
from tests.support.chaos_ledger import Verdict
from tests.support.chaos_world import World, world
from tests.support.processes import ProcessError

PAUSE_BETWEEN_S: Final = (0.1, 0.8)
SHOWN_MAX: Final = 12
DRAIN_TASKS: Final = 400
DRAIN_PAUSE_S: Final = 0.5


@dataclass(slots=True)
class Outcome:
    """What a run of faults has shown."""

    seed: int
    verdict: Verdict
    faults: list[str] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)
    took_s: float = 0.0


async def chaos(
    tasks: int,
    faults: list[str],
    seed: int,
    *,
    parent: Path | None = None,
    small_volume: bool = True,
    say: bool = True,
    sabotage: str = "",
    policy: str = "Journaled",
) -> Outcome:
    """Run faults in the order given, publishing all the while; close the books."""
    chance = random.Random(seed)
    began = time.monotonic()
    async with world(chance, parent=parent, small_volume=small_volume, sabotage=sabotage, policy=policy) as made:
        share = math.ceil(tasks / len(faults))
        for number, name in enumerate(faults, 1):
            began_fault = time.monotonic()
            if name in QUIET:
                await FAULTS[name](made)
                await made.ledger.publish(share)
            else:
                await asyncio.gather(made.ledger.publish(share), _later(made, name, chance.uniform(0, 0.3)))
            if say:
                text = f"  {number:>3}/{len(faults)} {name:<24} {time.monotonic() - began_fault:5.1f} s"
                print(f"{text}  {len(made.ledger.kinds):>6} published", flush=True)
            await asyncio.sleep(chance.uniform(*PAUSE_BETWEEN_S))
        await made.settle()
        verdict = await made.close_books()
        return Outcome(seed, verdict, faults, list(made.exits), time.monotonic() - began)


async def _later(made: World, name: str, pause_s: float) -> None:
    await asyncio.sleep(pause_s)
    await FAULTS[name](made)


@dataclass(frozen=True, slots=True)
class Drain:
    """What a SIGTERM under load came to."""

    took_s: float
    code: int | None
    lost: int
    repeated: int


async def drain(seed: int, *, parent: Path | None = None) -> Drain:
    """SIGTERM to a shard that is full of work; nothing is lost, nothing runs twice, and it ends in time."""
    async with world(random.Random(seed), parent=parent) as made:
        await made.ledger.publish(DRAIN_TASKS, pause_s_max=DRAIN_PAUSE_S)
        shard = made.shards[0]
        made.may_exit.add(0)
        began = time.monotonic()
        code = await asyncio.to_thread(shard.terminate, timeout_s=60)
        took_s = time.monotonic() - began
        await made.restart(0)
        await made.settle()
        verdict = await made.close_books()
        return Drain(took_s, code, len(verdict.lost) + len(verdict.wrong), verdict.repeated_runs)


def plan(seed: int, rounds: int, kinds: list[str]) -> list[str]:
    """Each kind of fault `rounds` times, in an order that the seed decides."""
    faults = kinds * rounds
    random.Random(seed ^ 0x5EED).shuffle(faults)
    return faults


def tell(outcome: Outcome) -> None:
    """Print what was found."""
    verdict = outcome.verdict
    print(
        f"seed {outcome.seed}: {verdict.published} tasks, {len(outcome.faults)} faults, {outcome.took_s:.0f} s; "
        f"{len(verdict.lost)} lost, {len(verdict.duplicates)} duplicate effects, {len(verdict.wrong)} wrong; "
        f"{verdict.runs} runs, {verdict.repeated_runs} repeated; {len(outcome.exits)} ends of a worker by itself"
    )
    for title, lines in (
        ("lost", verdict.lost), ("duplicate", verdict.duplicates), ("wrong", verdict.wrong), ("exit", outcome.exits),
    ):  # fmt: skip
        for line in lines[:SHOWN_MAX]:
            print(f"  {title}: {line}")


async def run(arguments: argparse.Namespace) -> bool:
    """Drain first, chaos then; whether all was as promised."""
    good = True
    if "drain" in arguments.part:
        found = await drain(arguments.seed)
        print(f"drain: {found}")
        figures.record("worker.drain_s", found.took_s, "s", "<= 60")
        figures.record("worker.drain_lost", found.lost, "tasks", "== 0")
        figures.record("worker.drain_repeated", found.repeated, "runs", "== 0")
        good &= found.code == 0
    if "chaos" in arguments.part:
        rounds = 1 if arguments.quick else arguments.rounds
        kinds = arguments.faults.split(",") if arguments.faults else list(FAULTS)
        faults = plan(arguments.seed, rounds, kinds)
        print(f"chaos: seed {arguments.seed}, {arguments.tasks} tasks, {len(faults)} faults")
        outcome = await chaos(arguments.tasks, faults, arguments.seed, policy=arguments.policy)
        tell(outcome)
        verdict = outcome.verdict
        figures.record("worker.chaos_published", verdict.published, "tasks", ">= 20000")
        figures.record("worker.chaos_faults", len(faults), "faults", ">= 40", peer="ackPolicy Journaled")
        figures.record("worker.chaos_lost", len(verdict.lost) + len(verdict.wrong), "tasks", "== 0")
        figures.record("worker.chaos_duplicates", len(verdict.duplicates), "effects", "== 0")
        figures.record("worker.chaos_repeated_runs", verdict.repeated_runs, "runs")
    print(figures.table())
    return good and not figures.missed()


def main() -> None:
    """Parse the command line and prove."""
    parser = argparse.ArgumentParser(description="Faults against two shards, counted by a ledger outside.")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2, help="how often each kind of fault comes")
    parser.add_argument("--seed", type=int, default=None, help="makes the order of faults and tasks repeatable")
    parser.add_argument("--faults", default="", help=f"only these, by comma: {', '.join(FAULTS)}")
    parser.add_argument("--part", nargs="*", choices=("chaos", "drain"), default=("drain", "chaos"))
    parser.add_argument("--policy", default="Journaled")
    parser.add_argument("--quick", action="store_true", help="each kind of fault once")
    arguments = parser.parse_args()
    # The ledger's own connections break with the broker; what their client says of it is not news here.
    logging.disable(logging.CRITICAL)
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1 << 31)
    try:
        sys.exit(0 if asyncio.run(run(arguments)) else 1)
    except ProcessError as error:
        print(f"seed {arguments.seed}: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
