"""The worker's promise under faults, counted from outside: `python -m tests.prove.worker [--tasks N] [--seed S]`.

Two shards run as processes, under each ack policy in turn. Faults come one after the other in random order, each kind
at least twice, while tasks are published all the time. At the end everything is put right, the journals empty
themselves, and the ledger is closed: every task that was published with a confirm has its row, its message, its object
or its dead letter, once. Then volumes are deleted in mid-work, and at last the shards work for minutes undisturbed.
"""

import argparse
import asyncio
import logging
import math
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support import figures
from tests.support.chaos_faults import FAULTS, QUIET
from tests.support.chaos_ledger import Verdict
from tests.support.chaos_soak import soak
from tests.support.chaos_volume import lose_volumes
from tests.support.chaos_world import POLICIES, World, world
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


async def drain(seed: int, *, parent: Path | None = None, policy: str = "Journaled") -> Drain:
    """SIGTERM to a shard that is full of work; nothing is lost, nothing runs twice, and it ends in time."""
    async with world(random.Random(seed), parent=parent, policy=policy) as made:
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


async def prove_drain(arguments: argparse.Namespace) -> bool:
    """A rolling update under each policy."""
    found = [(policy, await drain(arguments.seed, policy=policy)) for policy in arguments.policies]
    for policy, each in found:
        print(f"drain under {policy}: {each}")
    peer = _by_policy({policy: f"{each.took_s:.1f} s" for policy, each in found})
    figures.record("worker.drain_s", max(each.took_s for _, each in found), "s", "<= 60", peer=peer)
    figures.record("worker.drain_lost", sum(each.lost for _, each in found), "tasks", "== 0")
    figures.record("worker.drain_repeated", sum(each.repeated for _, each in found), "runs", "== 0")
    return all(each.code == 0 for _, each in found)


async def prove_chaos(arguments: argparse.Namespace) -> bool:
    """Faults under each policy, and the sums."""
    rounds = 1 if arguments.quick else arguments.rounds
    kinds = arguments.faults.split(",") if arguments.faults else list(FAULTS)
    tasks = math.ceil(arguments.tasks / len(arguments.policies))
    outcomes: dict[str, Outcome] = {}
    for number, policy in enumerate(arguments.policies):
        seed = arguments.seed + number
        faults = plan(seed, rounds, kinds)
        print(f"chaos: {policy}, seed {seed}, {tasks} tasks, {len(faults)} faults")
        outcomes[policy] = await chaos(tasks, faults, seed, policy=policy)
        tell(outcomes[policy])
    verdicts = [outcome.verdict for outcome in outcomes.values()]
    published = _by_policy({policy: outcome.verdict.published for policy, outcome in outcomes.items()})
    faults_each = _by_policy({policy: len(outcome.faults) for policy, outcome in outcomes.items()})
    repeated = _by_policy({policy: outcome.verdict.repeated_runs for policy, outcome in outcomes.items()})
    lost = sum(len(verdict.lost) + len(verdict.wrong) for verdict in verdicts)
    figures.record(
        "worker.chaos_published", sum(each.published for each in verdicts), "tasks", ">= 20000", peer=published
    )
    figures.record(
        "worker.chaos_faults", sum(len(each.faults) for each in outcomes.values()), "faults", ">= 120", peer=faults_each
    )
    figures.record("worker.chaos_lost", lost, "tasks", "== 0")
    figures.record("worker.chaos_duplicates", sum(len(each.duplicates) for each in verdicts), "effects", "== 0")
    figures.record("worker.chaos_repeated_runs", sum(each.repeated_runs for each in verdicts), "runs", peer=repeated)
    return True


async def prove_volume(arguments: argparse.Namespace) -> bool:
    """The volume is deleted in mid-work, under each policy."""
    good = True
    for policy in arguments.policies:
        found = await lose_volumes(policy, arguments.seed, losses=1 if arguments.quick else arguments.losses)
        print(
            f"volume under {policy}: seed {found.seed}, {found.losses} losses, {found.published} tasks,"
            f" {found.unfinished_at_loss} unfinished at a loss; {len(found.gone)} gone, {len(found.broken)} against the"
            f" promise, {len(found.duplicates)} duplicates; at work again after {found.restored_s:.1f} s"
        )
        for line in [*found.broken, *found.duplicates][:SHOWN_MAX]:
            print(f"  {line}")
        good &= found.unfinished_at_loss > 0 and not found.duplicates
        peer = f"{found.losses} losses, {found.unfinished_at_loss} tasks unfinished at them"
        if policy == "Journaled":
            figures.record("worker.volume_lost_journaled", len(found.gone), "tasks", peer=peer)
            good &= not found.broken
        else:
            figures.record(f"worker.volume_lost_{policy.lower()}", len(found.broken), "tasks", "== 0", peer=peer)
        if policy == "Completed":
            figures.record("worker.volume_unsynced_completed", len(found.unsynced), "results")
    return good


async def prove_soak(arguments: argparse.Namespace) -> bool:
    """Memory and descriptors over minutes, under each policy."""
    found = [await soak(policy, arguments.seed, arguments.soak_s) for policy in arguments.policies]
    for each in found:
        print(f"soak: {each}")
    rss = _by_policy({each.policy: each.rss_growth_mib for each in found})
    descriptors = _by_policy({each.policy: each.fd_growth for each in found})
    figures.record("worker.soak_rss_growth_mib", max(each.rss_growth_mib for each in found), "MiB", "<= 5", peer=rss)
    figures.record("worker.soak_fd_growth", max(each.fd_growth for each in found), "", "<= 0", peer=descriptors)
    return all(each.lost == 0 for each in found)


def _by_policy(values: Mapping[str, object]) -> str:
    return ", ".join(f"{policy} {value}" for policy, value in values.items())


PARTS: Final = {"drain": prove_drain, "chaos": prove_chaos, "volume": prove_volume, "soak": prove_soak}


async def run(arguments: argparse.Namespace) -> bool:
    """The parts asked for, in order; whether all was as promised."""
    good = True
    for name, prove in PARTS.items():
        if name in arguments.part:
            good &= await prove(arguments)
    print(figures.table())
    return good and not figures.missed()


def main() -> None:
    """Parse the command line and prove."""
    parser = argparse.ArgumentParser(description="Faults against two shards, counted by a ledger outside.")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2, help="how often each kind of fault comes")
    parser.add_argument("--seed", type=int, default=None, help="makes the order of faults and tasks repeatable")
    parser.add_argument("--faults", default="", help=f"only these, by comma: {', '.join(FAULTS)}")
    parser.add_argument("--part", nargs="*", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--policy", choices=(*POLICIES, "all"), default="all", help="ack policy of the shards")
    parser.add_argument("--losses", type=int, default=3, help="volumes lost under each policy")
    parser.add_argument("--soak-s", type=float, default=600.0, help="length of the soak")
    parser.add_argument("--quick", action="store_true", help="each kind of fault once")
    arguments = parser.parse_args()
    arguments.policies = list(POLICIES.values()) if arguments.policy == "all" else [POLICIES[arguments.policy]]
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
