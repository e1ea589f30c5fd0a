"""Plays the scenarios under faults and says which did not come to the end that a run without faults came to."""

import asyncio
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from eco_operator import cluster as operator_cluster
from eco_operator.cluster import Cluster
from tests.support.apiserver import ApiServer
from tests.support.fault_scenarios import SCENARIOS, Place, Scenario, Snapshot, places
from tests.support.faulty_api import Fault, FaultyApi, faulty_api, kubeconfig_through
from tests.support.operator_world import environment_with, health, operator_program
from tests.support.processes import Program
from tests.support.waiting import until

SETTLED_S: Final = 1.0
"""How long nothing may be written before a state counts as the end; longer than a round of probes."""
LOOK_S: Final = 0.3
BASE_WITHIN_S: Final = 60.0
END_WITHIN_S: Final = 60.0
SUPERVISED_S: Final = 0.1
DIFFERENCES_MAX: Final = 5
UNEXPECTED: Final = "look failed unexpectedly"
SETTINGS: Final = {
    "ECO_OPERATOR_NAMESPACES": "",
    # There is one operator, and the next must not wait for the Lease of the one that was killed.
    "ECO_OPERATOR_LEADER_ELECTION": "false",
    "ECO_OPERATOR_RESYNC_INTERVAL_S": "1",
    "ECO_OPERATOR_PROBE_INTERVAL_S": "0.2",
    "ECO_OPERATOR_PROBE_TIMEOUT_S": "0.5",
    "ECO_OPERATOR_BACKOFF_S_MIN": "0.05",
    "ECO_OPERATOR_BACKOFF_S_MAX": "0.5",
    "ECO_OPERATOR_STATUS_INTERVAL_S": "3",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one scenario ended under one fault."""

    scenario: str
    fault: str
    seconds: float
    complaints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.scenario} under {self.fault}: {'; '.join(self.complaints) or 'converged'} ({self.seconds:.1f} s)"


@dataclass(slots=True)
class Rig:
    """One operator behind a proxy, started again whenever it ends, as the kubelet does."""

    server: ApiServer
    cluster: Cluster
    api: FaultyApi
    operator: Program
    ends: dict[str, Snapshot] = field(default_factory=dict)
    """By scenario: what a run without faults ended in."""
    end_within_s: float = END_WITHIN_S
    writes: dict[str, int] = field(default_factory=dict)
    """By scenario: how many writes a run without faults took."""
    exits: list[int] = field(default_factory=list)
    """Exit codes of operators that ended without being killed."""
    _kills: int = 0

    async def play(
        self, scenarios: Sequence[Scenario], fault: str, begin: Callable[[dict[str, Place]], None]
    ) -> list[Verdict]:
        """Bring each scenario to its beginning, have `begin` switch faults on, act, and compare the ends."""
        async with places(self.server, self.cluster, scenarios, uuid.uuid4().hex[:6]) as made:
            await self._bases(scenarios, made)
            logged = self.operator.log.stat().st_size
            begin(made)
            try:
                found = await asyncio.gather(*(self._play(it, made[it.name], fault) for it in scenarios))
            finally:
                self.api.end()
            if any(verdict.complaints for verdict in found):
                return found
            await self.until_settled()
            again = await asyncio.gather(*(self._complaints(it, made[it.name]) for it in scenarios))
            unexpected = self._unexpected_since(logged)
            return [
                Verdict(verdict.scenario, fault, verdict.seconds, (*complaints, *unexpected))
                for verdict, complaints in zip(found, again, strict=True)
            ]

    async def learn(self, scenarios: Sequence[Scenario] = SCENARIOS) -> None:
        """Play without faults and keep the ends."""
        async with places(self.server, self.cluster, scenarios, uuid.uuid4().hex[:6]) as made:
            await self._bases(scenarios, made)
            self.api.begin()
            for scenario in scenarios:
                await scenario.act(made[scenario.name])
            for scenario in scenarios:
                place = made[scenario.name]
                over = partial(scenario.is_over, place)
                await until(f"{scenario.name} is over", over, within_s=END_WITHIN_S)
            await self.until_settled()
            for scenario in scenarios:
                self.ends[scenario.name] = await made[scenario.name].snapshot()
                self.writes[scenario.name] = self.api.writes[made[scenario.name].namespace]

    async def until_settled(self) -> None:
        """Wait until nothing has been written for a while."""
        last, since = -1, time.monotonic()

        async def settled() -> bool:
            nonlocal last, since
            if (now := self.api.writes.total()) != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since >= SETTLED_S

        await until("the operator has settled", settled, within_s=BASE_WITHIN_S)

    def kill(self) -> None:
        """End the operator without a warning; the next one is on its way."""
        self._kills += 1
        self.operator.kill()

    async def supervise(self) -> None:
        """Start the operator whenever it is not there."""
        while True:
            if not self.operator.is_running:
                if self._kills:
                    self._kills -= 1
                else:
                    self.exits.append(self.operator.exit_code or 0)
                self.operator.start()
            await asyncio.sleep(SUPERVISED_S)

    async def _bases(self, scenarios: Sequence[Scenario], made: dict[str, Place]) -> None:
        self.api.begin()
        based = {scenario: made[scenario.name] for scenario in scenarios if scenario.needs_base}
        for scenario, place in based.items():
            await place.create(scenario.document())
        for place in based.values():
            await until(f"{place.namespace} is ready", place.is_ready, within_s=BASE_WITHIN_S)
        await self.until_settled()
        for place in based.values():
            await place.snapshot()  # What is there now must still be there at the end.

    async def _play(self, scenario: Scenario, place: Place, fault: str) -> Verdict:
        begun = time.monotonic()
        complaints: list[str] = []
        with suppress(AssertionError):
            await scenario.act(place)
            while time.monotonic() - begun < self.end_within_s:
                complaints = await self._complaints(scenario, place)
                if not complaints:
                    break
                await asyncio.sleep(LOOK_S)
        if time.monotonic() - begun >= self.end_within_s and not complaints:
            complaints = ["came to no end"]
        return Verdict(scenario.name, fault, time.monotonic() - begun, tuple(complaints))

    async def _complaints(self, scenario: Scenario, place: Place) -> list[str]:
        found = differences(self.ends[scenario.name], await place.snapshot())
        found += [f"lost: {it}" for it in await place.lost()]
        return found + [f"two pods of {shard} at once" for shard in sorted(place.twice)]

    def _unexpected_since(self, offset_bytes: int) -> tuple[str, ...]:
        with self.operator.log.open("rb") as log:
            log.seek(offset_bytes)
            return tuple(line.decode(errors="replace")[:300] for line in log if UNEXPECTED.encode() in line)


@asynccontextmanager
async def rig(server: ApiServer, place: Path, *, module: str = "eco_operator") -> AsyncIterator[Rig]:
    """An operator behind a proxy, ready; `module` may name one that was sabotaged."""
    with environment_with("KUBECONFIG", str(server.kubeconfig)):
        connected = await operator_cluster.connect()
    async with connected as cluster:
        cluster._client.user_agent = "stand-in"
        made: list[Rig] = []

        def kill() -> None:
            made[0].kill()

        async with faulty_api(server, kill) as api:
            settings = {**SETTINGS, "KUBECONFIG": str(kubeconfig_through(api, place))}
            operator, port = operator_program(server, "", place, **settings)
            operator.argv = [sys.executable, "-m", module, "run"]

            async def ready() -> bool:
                return await asyncio.to_thread(health, port, "/readyz") == 200

            operator.start()
            made.append(Rig(server, cluster, api, operator))
            supervisor = asyncio.create_task(made[0].supervise(), name="supervisor")
            try:
                await until("the operator has listed everything", ready, within_s=BASE_WITHIN_S)
                yield made[0]
            finally:
                supervisor.cancel()
                operator.kill()


async def crash_points(made: Rig, number: int, scenarios: Sequence[Scenario] = SCENARIOS) -> list[Verdict]:
    """Kill the operator after write `number` of each scenario; only those that have so many writes are returned."""

    def begin(at: dict[str, Place]) -> None:
        made.api.begin()
        made.api.crash_at = {place.namespace: number for place in at.values()}

    played = [it for it in scenarios if made.writes[it.name] >= number]
    found = await made.play(played, f"a crash after write {number}", begin)
    crashed = {namespace.rpartition("-")[0] for namespace in made.api.crashed_at}
    return [verdict for verdict in found if verdict.scenario in crashed or verdict.complaints]


async def api_faults(made: Rig, fault: Fault, seed: int, scenarios: Sequence[Scenario] = SCENARIOS) -> list[Verdict]:
    """Let the API server misbehave in one way while each scenario is played."""

    def begin(_: dict[str, Place]) -> None:
        made.api.begin(fault, seed=seed, budget=BUDGETS.get(fault, 40), probability=PROBABILITIES.get(fault, 0.4))

    found = await made.play(scenarios, f"{fault} (seed {seed})", begin)
    if not made.api.injected:
        return [Verdict(it.scenario, it.fault, it.seconds, ("no fault was injected",)) for it in found]
    return found


BUDGETS: Final = {Fault.TIME_OUT: 2, Fault.SILENT_WATCHES: 11, Fault.TOO_MANY: 15, Fault.DROP_EVENTS: 200}
PROBABILITIES: Final = {Fault.DROP_EVENTS: 0.7, Fault.CUT_WATCHES: 0.2, Fault.GONE: 0.3}


def differences(wanted: Snapshot, found: Snapshot) -> list[str]:
    """What is missing, too much or other, by object, each on a line."""
    lines = [f"missing: {name}" for name in wanted if name not in found]
    lines += [f"too much: {name}" for name in found if name not in wanted]
    for name in wanted:
        if name in found and wanted[name] != found[name]:
            lines.append(f"other: {name}: {_first_difference(wanted[name], found[name])}")
    return lines[:DIFFERENCES_MAX]


def _first_difference(wanted: Any, found: Any, path: str = "") -> str:
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted({*wanted, *found}):
            if wanted.get(key) != found.get(key):
                return _first_difference(wanted.get(key), found.get(key), f"{path}.{key}")
    return f"{path} is {json.dumps(found)[:300]}, not {json.dumps(wanted)[:300]}"
