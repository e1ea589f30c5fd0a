"""Lost nodes on a lab of two: `make prove-nodes`; `--drill` runs some of them.

A worker with a journal on a volume that both nodes reach works on the second node, which is lost in the middle of it:
its power is cut, or its network cable is pulled while everything on it runs on. With `tainted` somebody declares the
node out of service, as one may only do with a node that is off. With `lockless` the worker's image has no lock. Seen
from outside: how many containers had the journal open for writing at once, when the work went on, what was lost.

The two drills `cable-tainted` break that rule on purpose: without the lock there must be a second writer, or this proof
could not see one. Exit status 1 when a target is missed.
"""

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eco_lab import drills, environment
from eco_lab import paths as lab_paths
from eco_lab.demo import install, manifests
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Plan, Stage, publish, remove_namespace, set_up, wait_ready
from eco_lab.environment import LabEnvironment
from eco_lab.images.build import Builder, Recipe
from eco_lab.nodes import Node
from tests.prove.cluster import at_rest, journal_of, status
from tests.support import figures
from tests.support.waiting import until
from tests.support.writers import Seen, watched

SAFE, LOST = "n1", "n2"
LOCKLESS: Final = Path(__file__).parents[1] / "support" / "lockless"
TAINT: Final = "node.kubernetes.io/out-of-service"
BEGUN_SHARE: Final = 0.1
NOT_READY_WAIT_S: Final = 120.0
"""Kubernetes takes 50 s of silence for a lost node."""
SAID_AFTER_S: Final = 30.0
"""How long after the node is NotReady the columns are read, and a node without the taint is left alone."""
GOES_ON_WAIT_S: Final = 180.0
SECOND_WRITER_WATCH_S: Final = 45.0


@dataclass(frozen=True, slots=True)
class Drill:
    """One way to lose a node."""

    is_cable: bool
    is_tainted: bool
    is_lockless: bool

    @property
    def name(self) -> str:
        """As `--drill` takes it."""
        words = ["cable" if self.is_cable else "power"]
        words += ["tainted"] * self.is_tainted + ["lockless"] * self.is_lockless
        return "-".join(words)

    @property
    def is_control(self) -> bool:
        """Whether a second writer must be seen."""
        return self.is_cable and self.is_tainted and self.is_lockless


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it."""

    seen: Seen
    goes_on_s: float
    """From the loss to the first task that ended afterwards."""
    said: str
    """The conditions while the node was lost."""
    lost: int
    duplicates: int


DRILLS: Final = {
    drill.name: drill
    for drill in (
        Drill(cable, taint, free) for free in (False, True) for cable in (False, True) for taint in (False, True)
    )
}


async def lose(lab: LabEnvironment, drill: Drill, image: str, narrator: Narrator) -> Result:
    """Set the stage with the worker on the node that will be lost, lose it, and close the books."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name=f"prove-node-{drill.name}"), narrator, stack)
        await operator_is_safe(stage)
        stack.push_async_callback(_put_right, stage)
        worker = manifests.eco_worker(stage.services, replicas=1)
        worker["spec"]["image"] = image
        worker["spec"]["wal"]["storageClass"] = "shared-disk"
        await stage.kubectl.run("cordon", SAFE)
        await stage.kubectl.apply([worker, manifests.wal_sync(stage.services)])
        await wait_ready(stage)
        await stage.kubectl.run("uncordon", SAFE)
        await publish(stage)
        begun = int(stage.plan.tasks * BEGUN_SHARE)
        await stage.watch.until(f"{begun} tasks have an end", lambda: stage.watch.ended >= begun, within_s=120)
        with watched(await journal_of(stage, 0)) as seen:
            goes_on_s, said = await _lost_and_found(stage, drill)
        await _put_right(stage)
        ledger = await at_rest(stage)
        await remove_namespace(stage.kubectl, stage.plan.name)
        return Result(seen, goes_on_s, said, len(ledger.lost), len(ledger.duplicates))


async def _lost_and_found(stage: Stage, drill: Drill) -> tuple[float, str]:
    """Lose the node, do what the drill says, bring it back; when the work went on, and what was said meanwhile."""
    narrator, kubectl = stage.narrator, stage.kubectl
    before = stage.watch.shards[f"{manifests.WORKER}-0"].report
    at = time.monotonic()
    await asyncio.to_thread(drills.cable if drill.is_cable else drills.cut, LOST)
    goes_on = asyncio.create_task(_goes_on(stage, before.incarnation, at, is_cable=drill.is_cable))
    try:
        not_ready_s = await until("the node is NotReady", lambda: _is_silent(stage), within_s=NOT_READY_WAIT_S)
        narrator.say(f"{LOST} is NotReady after {not_ready_s:.1f} s")
        if drill.is_tainted:
            await kubectl.run("taint", "node", LOST, f"{TAINT}=nodeshutdown:NoExecute")
        await asyncio.sleep(SECOND_WRITER_WATCH_S if drill.is_tainted else SAID_AFTER_S)  # the time that is watched
        said = told(await status(stage))
        narrator.show(await stage.lines())
        narrator.say(said)
        if drill.is_cable:
            await asyncio.to_thread(drills.plug, LOST)
        elif not drill.is_tainted:
            await asyncio.to_thread(drills.boot, LOST)
        return await asyncio.wait_for(goes_on, GOES_ON_WAIT_S), said
    finally:
        goes_on.cancel()


async def _goes_on(stage: Stage, incarnation: str, at: float, *, is_cable: bool) -> float:
    """Seconds until a task has ended after the loss, in another process or, behind a cable, in the same."""
    shard = f"{manifests.WORKER}-0"
    ended = stage.watch.ended

    def again() -> bool:
        report = stage.watch.shards[shard].report
        is_news = stage.watch.shards[shard].at > at + 1
        return is_news and (report.incarnation != incarnation or is_cable) and stage.watch.ended > ended

    await stage.watch.until("the work goes on", again, within_s=NOT_READY_WAIT_S + 2 * GOES_ON_WAIT_S)
    return round(time.monotonic() - at, 1)


async def _is_silent(stage: Stage) -> bool:
    node = await stage.kubectl.get("node", LOST)
    return any(it["type"] == "Ready" and it["status"] != "True" for it in node["status"]["conditions"])


def told(said: dict[str, Any]) -> str:
    """The conditions in one line."""
    found = [f"{it['type']}={it['status']} {it['reason']}" for it in said.get("conditions", ())]
    return "; ".join([*found, str(said.get("summary", {}).get("message", ""))])


async def operator_is_safe(stage: Stage) -> None:
    """Have the operator on the node that stays: what a lost operator does is another proof."""
    selector = ("-n", install.NAMESPACE, "-l", f"app.kubernetes.io/name={install.RELEASE}")
    await stage.kubectl.run("cordon", LOST)
    try:
        for pod in (await stage.kubectl.get("pods", *selector))["items"]:
            if pod["spec"].get("nodeName") == LOST:
                await stage.kubectl.run("delete", "pod", pod["metadata"]["name"], "-n", install.NAMESPACE)
        rollout = ("rollout", "status", f"deployment/{install.RELEASE}", "-n", install.NAMESPACE, "--timeout=60s")
        await stage.kubectl.run(*rollout, timeout_s=70)
    finally:
        await stage.kubectl.run("uncordon", LOST)


async def _put_right(stage: Stage) -> None:
    """Both nodes there, ready and without a taint."""
    await stage.kubectl.run("uncordon", SAFE)
    node = Node(LOST, lab_paths.find(), stage.lab.kubectl.parent)
    if node.machine.init is None:
        await asyncio.to_thread(drills.boot, LOST)
    await asyncio.to_thread(drills.plug, LOST)
    found = await stage.kubectl.get("node", LOST)
    if any(taint["key"] == TAINT for taint in found["spec"].get("taints", ())):
        await stage.kubectl.run("taint", "node", LOST, f"{TAINT}-")

    async def is_well() -> bool:
        node = await stage.kubectl.get("node", LOST)
        return not node["spec"].get("taints") and not await _is_silent(stage)

    await until("the node is ready and without a taint", is_well, within_s=NOT_READY_WAIT_S)


def lockless_image(lab: LabEnvironment) -> str:
    """The worker's image without its lock, on both nodes."""
    paths = lab_paths.find()
    recipe = Recipe(
        "eco-worker-lockless",
        LOCKLESS / "Dockerfile",
        LOCKLESS,
        (LOCKLESS / "lockless.py",),
        arguments={"WORKER": lab.worker_image},
    )
    image, archive = Builder(paths).build(recipe)
    for name in lab.nodes:
        Node(name, paths, lab.kubectl.parent).import_images([archive])
    return image


def tell(found: dict[str, Result]) -> None:
    """The figures."""
    for name, result in found.items():
        seen = result.seen
        print(
            f"{name:<24} {seen.writers_max} writer(s) at most in {seen.looks} looks, two for {seen.twice_s:.1f} s; "
            f"goes on after {result.goes_on_s} s; {result.lost} lost, {result.duplicates} doubled\n    {result.said}"
        )
    promised = {name: result for name, result in found.items() if not DRILLS[name].is_control}
    controls = [result for name, result in found.items() if DRILLS[name].is_control]
    if promised:
        seconds = ", ".join(f"{name} {result.goes_on_s}" for name, result in promised.items())
        doubles = sum(max(0, result.seen.writers_max - 1) for result in promised.values())
        figures.record("operator.node_loss_second_writers", doubles, "writers", "== 0", peer=f"{len(promised)} drills")
        figures.record("operator.node_loss_lost", sum(result.lost for result in promised.values()), "tasks", "== 0")
        figures.record("operator.node_loss_s", max(it.goes_on_s for it in promised.values()), "s", peer=seconds)
    if controls:
        doubles = sum(max(0, result.seen.writers_max - 1) for result in controls)
        figures.record("operator.node_loss_control_writers", doubles, "writers", ">= 1")


def main() -> None:
    """Parse the command line, take the figures, print them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.prove.nodes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drill", choices=tuple(DRILLS), action="append", help="default: all of them")
    arguments = parser.parse_args()
    lab = environment.up(nodes=2, with_programs=("helm",))
    chosen = arguments.drill or list(DRILLS)
    lockless = lockless_image(lab) if any(DRILLS[name].is_lockless for name in chosen) else ""
    found = {}
    for name in chosen:
        narrator = Narrator()
        narrator.say(f"DRILL: {name}")
        image = lockless if DRILLS[name].is_lockless else lab.worker_image
        found[name] = asyncio.run(lose(lab, DRILLS[name], image, narrator))
    tell(found)
    print(figures.table())
    sys.exit(1 if figures.missed() else 0)


if __name__ == "__main__":
    main()
