"""Proofs of the operator's steadiness, on a bare API server with workers that are stand-ins.

`crash-points`: the operator is killed after every single write of five stretches of an EcoWorker's life. `api-faults`:
the API server misbehaves in every way that `tests.support.faulty_api` knows. Each run must come to the state that one
without faults came to, with no claim lost and nothing there twice. `fuzz`: random objects and edits, valid and not.
"""

import asyncio
import itertools
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.support.fault_runs import Rig, Verdict, api_faults, crash_points, rig
from tests.support.faulty_api import Fault
from tests.support.figures import record
from tests.support.operator_fuzz import fuzz, permissive_server
from tests.support.operator_world import server_with_kinds

CRASH_POINTS_MIN: Final = 40
API_FAULT_RUNS_MIN: Final = 100
SEEDS: Final = (1, 2)
FUZZ_OBJECTS: Final = 500
FUZZ_SEED: Final = 20


def prove_crash_points() -> None:
    """Kill the operator after each write."""
    found = asyncio.run(_all_crash_points())
    record("operator.crash_points", len(found), "writes killed after", f">= {CRASH_POINTS_MIN}")
    record("operator.crash_points_failed", _failed(found), "", "== 0")
    record("operator.crash_converged_s", round(max(it.seconds for it in found), 1), "s", peer="slowest of them")


def prove_api_faults() -> None:
    """Let the API server misbehave."""
    found = asyncio.run(_all_api_faults())
    record("operator.api_fault_runs", len(found), f"runs under {len(Fault)} faults", f">= {API_FAULT_RUNS_MIN}")
    record("operator.api_fault_failed", _failed(found), "", "== 0")


def prove_fuzz() -> None:
    """Try random objects and edits."""
    with permissive_server() as server, TemporaryDirectory() as place:
        tally = asyncio.run(fuzz(server, Path(place), objects=FUZZ_OBJECTS, seed=FUZZ_SEED))
    beside = f"{tally.edits} edits, {tally.invalid} invalid, {tally.foreign} names taken, seed {FUZZ_SEED}"
    for complaint in tally.complaints():
        print(complaint)
    record("operator.fuzz_objects", tally.objects, "objects", f">= {FUZZ_OBJECTS}", peer=beside)
    record("operator.fuzz_crashes", len(tally.crashes), "", "== 0")
    record("operator.fuzz_wrong_deletions", len(tally.wrong_deletions), "", "== 0")
    record("operator.fuzz_wrong_verdicts", len(tally.without_verdict) + len(tally.wrong_verdicts), "", "== 0")


async def _all_crash_points() -> list[Verdict]:
    found: list[Verdict] = []
    with server_with_kinds() as server, TemporaryDirectory() as place:
        async with rig(server, Path(place)) as made:
            await made.learn()
            for number in itertools.count(1):
                if number > max(made.writes.values()):
                    break
                found += _told(await crash_points(made, number))
            _no_exits(made)
    return found


async def _all_api_faults() -> list[Verdict]:
    found: list[Verdict] = []
    with server_with_kinds() as server, TemporaryDirectory() as place:
        async with rig(server, Path(place)) as made:
            await made.learn()
            for seed, fault in itertools.product(SEEDS, Fault):
                found += _told(await api_faults(made, fault, seed))
            _no_exits(made)
    return found


def _no_exits(made: Rig) -> None:
    if made.exits:
        raise SystemExit(f"the operator ended by itself with {made.exits}:\n{made.operator.tail()}")


def _told(found: list[Verdict]) -> list[Verdict]:
    for verdict in found:
        print(verdict, flush=True)
    return found


def _failed(found: Iterable[Verdict]) -> int:
    return sum(bool(verdict.complaints) for verdict in found)


PARTS: Final = {"crash-points": prove_crash_points, "api-faults": prove_api_faults, "fuzz": prove_fuzz}
