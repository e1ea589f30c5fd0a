"""Each state of a journal, caused on a real worker: `make prove-states`. How long until `kubectl get` says so.

One EcoWorker on the lab with a volume of true size, whose recovery waits for a person. A state is caused from outside
of the worker and the operator (a stopped process, a filled volume, overwritten pages), the time until the column says
it is taken, and it is ended again. Bounds of the spec and periods of the probe are in the times: they are printed.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from eco_crds.contract import ANNOTATION_FENCE, ANNOTATION_HIBERNATE, ANNOTATION_RECOVER
from eco_crds.ecoworker_status import WalState
from eco_lab.demo import manifests
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Plan, Stage, publish, remove_namespace, set_up, wait_ready
from eco_lab.demo.watch import Columns, columns
from eco_lab.drills import signal_process
from eco_lab.environment import LabEnvironment
from tests.prove.cluster import JOURNAL, at_rest, damage, fill_volume, volume_of
from tests.support import figures, proof
from tests.support.api import ROOT
from tests.support.waiting import until

NAME: Final = "prove-states"
KEPT: Final = ROOT / "build" / "states"
"""The EcoWorker in each state, as it was."""
SHARD: Final = f"{manifests.WORKER}-0"
BOUND_S: Final = 10
"""Of the spec, for a journal that stalls and for one that lags."""
STATE_WAIT_S: Final = 90.0
WORKED_OFF_WAIT_S: Final = 240.0
SIZE: Final = "64Mi"
LARGER: Final = "128Mi"


class Scene:
    """The worker, its volume and the column that people see."""

    def __init__(self, stage: Stage, workers: Columns, volume: Path) -> None:
        self.stage = stage
        self.volume = volume
        self._workers = workers
        self.took_s: dict[WalState, float] = {}

    async def shows(self, state: WalState, *, since: float, within_s: float = STATE_WAIT_S) -> float:
        """Wait until the column says it; seconds since the cause."""

        async def said() -> bool:
            return bool(self._workers.lines) and self._workers.values("WAL")[-1] == state.value

        await until(f"kubectl says {state.value}", said, within_s=within_s)
        return round(time.monotonic() - since, 1)

    async def leaves(self, state: WalState, *, since: float) -> float:
        """Wait until the column says something else; seconds since the cause."""

        async def said() -> bool:
            return self._workers.values("WAL")[-1] != state.value

        await until(f"kubectl no longer says {state.value}", said, within_s=STATE_WAIT_S)
        return round(time.monotonic() - since, 1)

    async def caused(self, state: WalState, cause: Callable[[], Awaitable[None]]) -> None:
        """Cause a state and note how long it took to be said."""
        begun = time.monotonic()
        await cause()
        self.took_s[state] = await self.shows(state, since=begun)
        await self.keep(state)
        row = self._workers.lines[-1]
        self.stage.narrator.say(f"{state.value} after {self.took_s[state]} s: {' '.join(row.cells)}")

    async def keep(self, state: WalState) -> None:
        """Write the object down as it is, for whoever wants to see what is said in this state."""
        found = await self.stage.kubectl.get("ecoworker", manifests.WORKER, "-n", NAME)
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{state.value.lower()}.json").write_text(json.dumps(found, indent=1))

    async def annotate(self, annotation: str) -> None:
        """Set an annotation of the EcoWorker, or remove it (`NAME-`)."""
        await self.stage.kubectl.run("annotate", f"ecoworker/{manifests.WORKER}", "-n", NAME, "--overwrite", annotation)

    async def signal(self, number: signal.Signals, *, server: str = "") -> None:
        """Signal the worker's process, or that of a server."""
        kubectl, namespace = self.stage.kubectl, NAME
        selector = ("-l", f"eco.growbin.app/shard={SHARD}")
        if server:
            namespace, selector = self.stage.lab.services_namespace, ("-l", f"app={server}")
        pods = (await kubectl.get("pods", "-n", namespace, *selector))["items"]
        await asyncio.to_thread(signal_process, namespace, pods[0]["metadata"]["name"], number)

    async def well_again(self) -> None:
        """Wait until the journal is well: what waits in it is worked off, one task at a time."""
        await self.shows(WalState.HEALTHY, since=time.monotonic(), within_s=WORKED_OFF_WAIT_S)


@asynccontextmanager
async def scene(lab: LabEnvironment, narrator: Narrator) -> AsyncIterator[Scene]:
    """One shard, one task at a time, a small volume that is really full when it is full."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name=NAME), narrator, stack)
        workers = await stack.enter_async_context(columns(stage.proxy, NAME, "ecoworkers"))
        worker = manifests.eco_worker(stage.services, replicas=1)
        worker["spec"] |= {"concurrency": 1, "maxUnfinished": stage.plan.tasks, "recovery": {"mode": "Manual"}}
        worker["spec"]["wal"] |= {
            "size": SIZE,
            "storageClass": "disk",
            "stallAfterSeconds": BOUND_S,
            "maxLagSeconds": BOUND_S,
        }
        begun = time.monotonic()
        await stage.kubectl.apply([worker, manifests.wal_sync(stage.services)])
        await wait_ready(stage)
        made = Scene(stage, workers, await volume_of(stage, 0))
        made.took_s[WalState.HEALTHY] = await made.shows(WalState.HEALTHY, since=begun)
        await made.keep(WalState.HEALTHY)
        yield made
        await remove_namespace(stage.kubectl, NAME)


async def play(lab: LabEnvironment, narrator: Narrator) -> None:
    """Every state in turn."""
    async with scene(lab, narrator) as made:
        await slow(made)
        await told_to_stop(made)
        await full(made)
        await silent(made)
        ledger = await at_rest(made.stage)
        await harmed(made)
    for state, took_s in made.took_s.items():
        figures.record(f"operator.state_{state.value.lower()}_s", took_s, "s", peer=EXPLAINED.get(state, ""))
    figures.record("operator.states_shown", len(made.took_s), "states", f"== {len(WalState)}")
    figures.record("operator.states_lost", len(ledger.lost), "tasks", "== 0", peer="before the journal was harmed")


EXPLAINED: Final = {
    WalState.HEALTHY: "from the apply, with pod and volume",
    WalState.LAGGING: f"{BOUND_S} s of them the bound",
    WalState.STALLED: f"{BOUND_S} s of them the bound",
    WalState.UNKNOWN: "three periods of the probe",
    WalState.DISABLED: "with the end of the worker",
    WalState.CORRUPT: "with the restart of the worker",
    WalState.LOST: "with the restart of the worker",
}


async def slow(made: Scene) -> None:
    """A backlog, and then an object store that no longer answers."""

    async def backlog() -> None:
        await publish(made.stage)

    async def hang() -> None:
        await made.signal(signal.SIGSTOP, server="s3")

    await made.caused(WalState.LAGGING, backlog)
    try:
        await made.caused(WalState.STALLED, hang)
    finally:
        await made.signal(signal.SIGCONT, server="s3")
    await made.well_again()


async def told_to_stop(made: Scene) -> None:
    """By a person: fenced, hibernated."""
    for state, annotation in ((WalState.FENCED, ANNOTATION_FENCE), (WalState.DISABLED, ANNOTATION_HIBERNATE)):
        await made.caused(state, partial(made.annotate, f"{annotation}=true"))
        await made.annotate(f"{annotation}-")
        await made.well_again()


async def full(made: Scene) -> None:
    """Somebody else fills the volume to the last byte; a task comes. A larger size in the spec is all it takes."""
    filler = made.volume / "filler"

    async def fill() -> None:
        await asyncio.to_thread(fill_volume, filler)
        await publish(made.stage)

    try:
        await made.caused(WalState.FULL, fill)
        begun = time.monotonic()
        patch = json.dumps({"spec": {"wal": {"size": LARGER}}})
        words = ("patch", "ecoworker", manifests.WORKER, "-n", NAME, "--type=merge", "-p", patch)
        await made.stage.kubectl.run(*words)
        grown_s = await made.leaves(WalState.FULL, since=begun)
        made.stage.narrator.say(f"no longer Full {grown_s} s after the edit of its size")
        figures.record("operator.full_volume_grown_s", grown_s, "s", peer=f"{SIZE} to {LARGER} by an edit of the spec")
    finally:
        filler.unlink(missing_ok=True)
    await made.well_again()


async def silent(made: Scene) -> None:
    """The worker's process stands still."""

    async def stop() -> None:
        await made.signal(signal.SIGSTOP)

    try:
        await made.caused(WalState.UNKNOWN, stop)
    finally:
        await made.signal(signal.SIGCONT)
    await made.well_again()


async def harmed(made: Scene) -> None:
    """Pages overwritten, and then no journal at all; a person approves each recovery."""

    async def overwrite() -> None:
        await made.signal(signal.SIGKILL)
        await asyncio.to_thread(damage, made.volume / JOURNAL, random.Random(1))

    async def remove() -> None:
        await made.signal(signal.SIGKILL)
        for file in made.volume.glob(f"{JOURNAL}*"):
            await asyncio.to_thread(os.unlink, file)

    for state, harm in ((WalState.CORRUPT, overwrite), (WalState.LOST, remove)):
        await made.caused(state, harm)
        begun = time.monotonic()
        await made.annotate(f"{ANNOTATION_RECOVER}=true")
        await made.shows(WalState.HEALTHY, since=begun)
        made.stage.narrator.say(f"recovered {time.monotonic() - begun:.1f} s after a person approved")
        await made.annotate(f"{ANNOTATION_RECOVER}-")


if __name__ == "__main__":
    proof.main("tests.prove.states", __doc__, play)
