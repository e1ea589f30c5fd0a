"""Proofs of the operator's steadiness, on a bare API server with workers that are stand-ins.

`crash-points`: the operator is killed after every single write of six stretches of an EcoWorker's life, and one that
is broken on purpose after a few of them: that must be seen. `api-faults`: the API server misbehaves in every way that
`tests.support.faulty_api` knows. Each run must come to the state that one without faults came to, with no claim lost
and nothing there twice. `fuzz`: random objects and edits, valid and not. `leader`: of two operators the one that leads
is killed, or asked to end. `namespaces`: they go in the middle of things.
"""

import asyncio
import itertools
import random
import signal
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from eco_operator import cluster as operator_cluster
from tests.support.apiserver import ApiServer
from tests.support.fault_runs import SETTINGS, Rig, Verdict, api_faults, crash_points, rig
from tests.support.fault_scenarios import SCENARIOS
from tests.support.faulty_api import Fault
from tests.support.figures import record
from tests.support.operator_fuzz import fuzz, permissive_server
from tests.support.operator_lives import (
    Change,
    change_of_leader,
    delete_namespaces,
    namespace_controller,
    second_operator,
)
from tests.support.operator_world import environment_with, example, operator_program, operator_world, server_with_kinds

CRASH_POINTS_MIN: Final = 40
CONTROL_POINTS: Final = (1, 4, 7)
CONTROL_WITHIN_S: Final = 10.0
CONTROL_SCENARIOS: Final = [it for it in SCENARIOS if it.name == "apply"]
API_FAULT_RUNS_MIN: Final = 100
SEEDS: Final = (1, 2)
FUZZ_OBJECTS: Final = 500
FUZZ_SEED: Final = 20
LEADER_ROUNDS: Final = 4
LEADER_KILL_S_MAX: Final = 18
LEADER_TERM_S_MAX: Final = 3
NAMESPACES: Final = 100
NAMESPACES_AT_ONCE: Final = 10
NAMESPACES_SEED: Final = 7


def prove_crash_points() -> None:
    """Kill the operator after each write."""
    found, control = asyncio.run(_all_crash_points())
    record("operator.crash_points", len(found), "writes killed after", f">= {CRASH_POINTS_MIN}")
    record("operator.crash_points_failed", _failed(found), "", "== 0")
    peer = f"of {len(control)}, by an operator that takes up nothing that a crash left half made"
    record("operator.crash_points_control_failed", _failed(control), "", ">= 1", peer=peer)
    record("operator.crash_converged_s", round(max(it.seconds for it in found), 1), "s", peer="slowest of them")


def prove_api_faults() -> None:
    """Let the API server misbehave."""
    found, exits = asyncio.run(_all_api_faults())
    record("operator.api_fault_exits", exits, "exits", "== 0", peer="of the operator by itself")
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


def prove_leader() -> None:
    """End the leader of two, both ways in turn."""
    with server_with_kinds() as server, TemporaryDirectory() as place:
        found = asyncio.run(_changes(server, Path(place)))
    for number, limit_s, name in (
        (signal.SIGKILL, LEADER_KILL_S_MAX, "kill"),
        (signal.SIGTERM, LEADER_TERM_S_MAX, "term"),
    ):
        taken = [change.taken_s for change in found[number]]
        wrote = [change.first_write_s for change in found[number]]
        peer = f"slowest of {len(taken)}; first write after {max(wrote):.1f} s"
        record(f"operator.leader_{name}_s", round(max(taken), 1), "s", f"<= {limit_s}", peer=peer)


async def _changes(server: ApiServer, place: Path) -> dict[int, list[Change]]:
    found: dict[int, list[Change]] = {signal.SIGKILL: [], signal.SIGTERM: []}
    (place / "second").mkdir()
    async with operator_world(server, place, ECO_OPERATOR_IDENTITY="first") as world:
        world.kubectl("apply", "-f", "-", given=example())
        await world.until_ready()
        standby = second_operator(world, place / "second")
        try:
            for _ in range(LEADER_ROUNDS):
                for number, changes in found.items():
                    leader = world.operator
                    changes.append(await change_of_leader(world, standby, number))
                    print(f"{signal.Signals(number).name}: {changes[-1]}", flush=True)
                    standby = leader
        finally:
            standby.kill()
    return found


def prove_namespaces() -> None:
    """Delete namespaces in every phase of an EcoWorker's life, half of them while nobody operates."""
    with server_with_kinds() as server, TemporaryDirectory() as place:
        stuck = asyncio.run(_all_namespaces(server, Path(place)))
    peer = f"half with the operator down, seed {NAMESPACES_SEED}"
    record("operator.namespace_deletions", NAMESPACES, "namespaces", f">= {NAMESPACES}", peer=peer)
    record("operator.namespace_stuck", len(stuck), "namespaces", "== 0", peer=", ".join(stuck[:3]) or None)


async def _all_namespaces(server: ApiServer, place: Path) -> list[str]:
    chance = random.Random(NAMESPACES_SEED)
    operator, _ = operator_program(server, "", place, **SETTINGS)
    with environment_with("KUBECONFIG", str(server.kubeconfig)), namespace_controller(server, place):
        async with await operator_cluster.connect() as cluster:
            cluster._client.user_agent = "stand-in"
            operator.start()
            stuck: list[str] = []
            try:
                for number in range(NAMESPACES // NAMESPACES_AT_ONCE):
                    is_up = number % 2 == 0
                    stuck += await delete_namespaces(
                        server, cluster, operator, NAMESPACES_AT_ONCE, chance, operator_is_up=is_up
                    )
                    print(f"{(number + 1) * NAMESPACES_AT_ONCE} namespaces, {len(stuck)} stuck", flush=True)
            finally:
                operator.kill()
            return stuck


async def _all_crash_points() -> tuple[list[Verdict], list[Verdict]]:
    """The operator's verdicts, and those of the one that is broken."""
    found: list[Verdict] = []
    with server_with_kinds() as server, TemporaryDirectory() as place:
        async with rig(server, Path(place)) as made:
            await made.learn()
            for number in itertools.count(1):
                if number > max(made.writes.values()):
                    break
                found += _told(await crash_points(made, number))
            _no_exits(made)
        with TemporaryDirectory() as other:
            return found, await _control(server, Path(other), made)


async def _control(server: ApiServer, place: Path, learnt: Rig) -> list[Verdict]:
    """A few of the points with an operator that must not come through them."""
    async with rig(server, place, module="tests.support.forgetful_operator") as broken:
        broken.ends, broken.writes, broken.end_within_s = learnt.ends, learnt.writes, CONTROL_WITHIN_S
        print("control, which must fail:")
        return [it for at in CONTROL_POINTS for it in _told(await crash_points(broken, at, CONTROL_SCENARIOS))]


async def _all_api_faults() -> tuple[list[Verdict], int]:
    found: list[Verdict] = []
    with server_with_kinds() as server, TemporaryDirectory() as place:
        async with rig(server, Path(place)) as made:
            await made.learn()
            for seed, fault in itertools.product(SEEDS, Fault):
                found += _told(await api_faults(made, fault, seed))
            return found, len(made.exits)


def _no_exits(made: Rig) -> None:
    if made.exits:
        raise SystemExit(f"the operator ended by itself with {made.exits}:\n{made.operator.tail()}")


def _told(found: list[Verdict]) -> list[Verdict]:
    for verdict in found:
        print(verdict, flush=True)
    return found


def _failed(found: Iterable[Verdict]) -> int:
    return sum(bool(verdict.complaints) for verdict in found)


PARTS: Final = {
    "crash-points": prove_crash_points,
    "api-faults": prove_api_faults,
    "fuzz": prove_fuzz,
    "leader": prove_leader,
    "namespaces": prove_namespaces,
}
