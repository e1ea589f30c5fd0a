"""Counted proofs of the journal: `make prove-journal`, or `python -m tests.prove.journal --part power`.

Each part attacks the journal in one way, many thousand times, and counts what was lost. Seeds are printed and can be
given. Exit status 1 when anything was lost, a fault stayed unseen, or a count fell short of what was promised.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from eco_workers.journal import failpoints
from tests.crash import power
from tests.crash.flips import Flips, flip
from tests.crash.soak import soak
from tests.support import figures
from tests.support.cuts import Cutter, Tally, record
from tests.support.handover import Bounds, Found, Policy, search
from tests.support.mutations import MUTATIONS
from tests.support.sabotage import SABOTAGES, caught
from tests.support.scratch import memory_directory
from tests.support.workload import live

PROCESSES: Final = min(2, os.cpu_count() or 1)
POWER_STATES: Final = 20_000
MODEL_STATES: Final = 1_000_000
ALL_STATES: Final = 5_000_000
KILLS: Final = 2_000
FLIPS: Final = 4_000
FLIPPED_JOURNALS: Final = 8
SOAK_S: Final = 600.0
SOAK_SETTLED: Final = 0.3
MIB: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Run:
    """How a run was asked for."""

    seed: int
    quick: bool

    def target(self, thorough: int) -> int:
        """A count that a thorough run reaches; a quick one does with a fiftieth."""
        return thorough // 50 if self.quick else thorough


# -- the model of the hand-over ---------------------------------------------------------------------------------------

SEARCHES: Final = (
    (Policy.JOURNALED, Bounds(), ALL_STATES),
    (Policy.COMPLETED, Bounds(delivered=1), ALL_STATES),
    (Policy.MIXED, Bounds(delivered=1), ALL_STATES),
    (Policy.REPLICATED, Bounds(generation=0), ALL_STATES),
    (Policy.REPLICATED, Bounds(delivered=1), 1_000_000),
)
"""Policies with the size of their worlds, and how many states are visited; the nearest ones where not all are."""


def prove_model(run: Run) -> None:
    """Search the hand-over to its end under each policy, and find each fault in its rules."""
    states = lost = uncaught = 0
    with ProcessPoolExecutor(PROCESSES) as pool:
        searches = [
            pool.submit(_search, policy, bounds, run.target(states_max)) for policy, bounds, states_max in SEARCHES
        ]
        mutated = {pool.submit(_search_mutated, name): name for name in MUTATIONS}
        for done in as_completed(searches):
            found = done.result()
            states += found.states
            lost += found.violation is not None
            end = "searched to the end" if found.complete else "the nearest ones"
            print(f"  {found.policy.name.lower():<11} {found.states:>10,} states {found.steps:>11,} steps, {end}")
            if found.violation:
                print(f"    {found.violation.what}: {' > '.join(found.violation.path)}")
        for ended in as_completed(mutated):
            steps = ended.result()
            uncaught += steps is None
            print(f"  {'NOT FOUND' if steps is None else f'found after {steps:>2} steps'}: {mutated[ended]}")
    figures.record("journal.model_states", states, "states", f">= {run.target(MODEL_STATES)}")
    figures.record("journal.model_lost", lost, "policies", "== 0")
    figures.record("journal.model_mutations", len(MUTATIONS), "mutations", ">= 6")
    figures.record("journal.model_mutations_uncaught", uncaught, "mutations", "== 0")


def _search(policy: Policy, bounds: Bounds, states_max: int) -> Found:
    found = search(policy, bounds=bounds, states_max=states_max)
    if found.violation:  # once more, slower, for the way there
        found = search(policy, bounds=bounds, states_max=states_max, trace=True)
    return found


def _search_mutated(name: str) -> int | None:
    found = search(MUTATIONS[name].policy, MUTATIONS[name].rules, trace=True)
    return len(found.violation.path) if found.violation else None


# -- power cuts -------------------------------------------------------------------------------------------------------

Job = Callable[[], Tally]


def _power_jobs(run: Run) -> Iterator[Job]:
    """Jobs without an end; whoever runs them stops when there are states enough."""
    size = 4 if run.quick else 12
    share = 0.1 if run.quick else 0.5
    for number in count():
        seed = run.seed * 1_000 + number
        yield partial(_power, "at_work", seed, {"tasks": size, "share": share, "draws": 2})
        yield partial(_power, "while_migrating", seed, {"tasks": size, "share": share, "draws": 1})
        yield partial(_power, "with_ballast", seed, {"tasks": size, "share": share, "draws": 2})
        yield partial(_power, "while_rebuilding", seed, {"tasks": 8, "share": share, "draws": 2})
        for offset in range(4):
            yield partial(_power, "while_quarantining", seed * 4 + offset, {"tasks": 8, "draws": 4})


def _power(name: str, seed: int, options: dict[str, float]) -> Tally:
    with memory_directory() as directory:
        tally: Tally = asyncio.run(getattr(power, name)(directory, seed, **options))
    return tally


def prove_power(run: Run) -> None:
    """Cut the power until enough distinct disks were looked at, in every phase."""
    tally = _gather(_power_jobs(run), run.target(POWER_STATES))
    figures.record("journal.power_cut_states", tally.states, "states", f">= {run.target(POWER_STATES)}")
    figures.record("journal.power_cut_lost", tally.lost, "states", "== 0")


def _gather(jobs: Iterator[Job], states: int) -> Tally:
    tally = Tally()
    with ProcessPoolExecutor(PROCESSES) as pool:
        running = {pool.submit(next(jobs)) for _ in range(PROCESSES)}
        started = PROCESSES
        while running:
            done = next(as_completed(running))
            running.remove(done)
            tally.merge(done.result())
            # One round of jobs holds each phase once: none is left out, however soon there are states enough.
            if tally.states < states or started < JOBS_A_ROUND:
                running.add(pool.submit(next(jobs)))
                started += 1
            print(f"\r  {tally.states:,} states, {tally.lost} lost", end="", flush=True)
    print()
    for kind, number in sorted(tally.kinds.items()):
        print(f"  {number:>7,}  {kind}")
    for line in tally.complaints:
        print(f"  LOST {line}")
    return tally


JOBS_A_ROUND: Final = 8


def prove_control(run: Run) -> None:
    """The same cuts of journals that do not sync must find losses, else the cuts prove nothing."""
    for synchronous in ("NORMAL", "OFF"):
        tally = asyncio.run(_control(run, synchronous))
        print(f"  {synchronous}: {tally.lost:,} of {tally.states:,} states have lost something")
        figures.record(f"journal.control_{synchronous.lower()}_lost", tally.lost, "states", ">= 1")


async def _control(run: Run, synchronous: str) -> Tally:
    with memory_directory() as directory:
        recorder = await record(
            directory / "work",
            lambda journal, ledger: live(journal, ledger, seed=run.seed, tasks=6),
            synchronous=synchronous,
        )
        return await Cutter(directory / "cut", random.Random(run.seed), share=0.1).run(recorder, synchronous)


# -- kills ------------------------------------------------------------------------------------------------------------


def prove_kill(run: Run) -> None:
    """SIGKILL at every named failpoint and at random moments, each followed by the next start."""
    wanted = run.target(KILLS)
    half = -(-wanted // PROCESSES)
    with ThreadPoolExecutor(PROCESSES) as pool:
        runs = list(pool.map(partial(_kill, half), range(run.seed * 100, run.seed * 100 + PROCESSES)))
    at: Counter[str] = Counter()
    for found in runs:
        at.update(found["at"])
        for line in found["complaints"]:
            print(f"  LOST {line}")
    for where, number in sorted(at.items()):
        print(f"  {number:>7,}  {where}")
    unvisited = set(failpoints.NAMES) - at.keys()
    print(f"  never died at: {', '.join(sorted(unvisited)) or 'none'}")
    figures.record("journal.kill_iterations", sum(found["iterations"] for found in runs), "kills", f">= {wanted}")
    figures.record("journal.kill_lost", sum(found["lost"] for found in runs), "kills", "== 0")
    figures.record("journal.kill_failpoints_unvisited", len(unvisited), "failpoints", None if run.quick else "== 0")


def _kill(iterations: int, seed: int) -> dict[str, Any]:
    """The loop forks, so it has a process to itself that never had a thread."""
    command = [sys.executable, "-m", "tests.crash.kills", "--iterations", str(iterations), "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=1_800)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- bit flips --------------------------------------------------------------------------------------------------------


def prove_flips(run: Run) -> None:
    """Flip single bits all over database and log, and compare every answer."""
    wanted = run.target(FLIPS)
    each = -(-wanted // FLIPPED_JOURNALS)
    with ProcessPoolExecutor(PROCESSES) as pool:
        runs = list(pool.map(partial(_flip, each), range(run.seed * 100, run.seed * 100 + FLIPPED_JOURNALS)))
    for found in runs:
        for line in found.wrong:
            print(f"  WRONG {line}")
    print(
        f"  {sum(found.detected for found in runs):,} seen, {sum(found.harmless for found in runs):,} without effect,"
        f" {sum(found.last_transaction for found in runs):,} in the last transaction, as a torn write"
    )
    figures.record("journal.byte_flips", sum(found.flips for found in runs), "flips", f">= {wanted}")
    figures.record("journal.byte_flips_wrong", sum(len(found.wrong) for found in runs), "flips", "== 0")
    figures.record("journal.byte_flips_as_torn_write", sum(found.last_transaction for found in runs), "flips")


def _flip(number: int, seed: int) -> Flips:
    logging.disable(logging.ERROR)
    with memory_directory() as directory:
        return asyncio.run(flip(directory, random.Random(seed), count=number, tasks=8))


# -- sabotage ---------------------------------------------------------------------------------------------------------


def prove_sabotage(run: Run) -> None:
    """Inflict each deliberate fault on the journal and let its attack find it."""
    del run  # there is no quick half of a table
    uncaught = 0
    with ProcessPoolExecutor(PROCESSES) as pool:
        for name, seen in zip(SABOTAGES, pool.map(_sabotage, SABOTAGES), strict=True):
            uncaught += not seen
            attack = SABOTAGES[name].attack.__name__.replace("_", " ")
            print(f"  {'caught' if seen else 'NOT CAUGHT'} by {attack}: {name}")
    figures.record("journal.sabotages", len(SABOTAGES), "sabotages", ">= 14")
    figures.record("journal.sabotages_uncaught", uncaught, "sabotages", "== 0")


def _sabotage(name: str) -> bool:
    logging.disable(logging.ERROR)
    with memory_directory() as directory:
        return bool(asyncio.run(caught(SABOTAGES[name], directory)))


# -- soak -------------------------------------------------------------------------------------------------------------


def prove_soak(run: Run) -> None:
    """Ten minutes of steady work with retention on, the last seven of which must not grow."""
    seconds = SOAK_S / 20 if run.quick else SOAK_S
    base = figures.FILE.parent
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=base) as name:
        seen = asyncio.run(soak(Path(name) / "soak.db", seconds))
    growth = seen.growth_mib(seconds * SOAK_SETTLED)
    last = seen.samples[-1]
    print(
        f"  {seen.tasks:,} tasks in {seconds:.0f} s; at the end RSS {last.rss / MIB:.1f} MiB, file"
        f" {last.database / MIB:.1f} MiB, log {last.log / MIB:.1f} MiB; growth in MiB: {growth}"
    )
    for problem in seen.problems:
        print(f"  WRONG {problem}")
    figures.record("journal.soak_tasks", seen.tasks, "tasks", None if run.quick else ">= 1_000_000")
    figures.record("journal.soak_growth_mib", max(growth.values()), "MiB", "<= 5")
    figures.record("journal.soak_problems", len(seen.problems), "problems", "== 0")


PARTS: Final[dict[str, Callable[[Run], None]]] = {
    "model": prove_model,
    "control": prove_control,
    "power": prove_power,
    "kill": prove_kill,
    "flips": prove_flips,
    "sabotage": prove_sabotage,
    "soak": prove_soak,
}


def main() -> int:
    """Run the parts that were asked for and print the table."""
    parser = argparse.ArgumentParser(description="Proofs of the journal.")
    parser.add_argument("--part", action="append", choices=[*PARTS], help="one part only; may be given again")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of each count")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    run = Run(given.seed, given.quick)
    print(f"seed {run.seed}")
    for name in given.part or PARTS:
        begun = time.monotonic()
        print(f"{name}: {PARTS[name].__doc__}")
        PARTS[name](run)
        print(f"  {time.monotonic() - begun:.0f} s")
    print(figures.table())
    return 1 if figures.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
