"""Counted proofs with the real Argo CD on the lab's cluster: `make prove-gitops`; `--part` runs one of them.

A local repository holds the chart of workers and their values. Everything that changes them is a commit: the first
installation, an edit, a scale-in under load. Then nothing is committed for ten minutes while the operator works, and
each look at the Application that finds a difference is drift. Exit status 1 when a target is missed.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from eco_lab import argocd, environment
from eco_lab import paths as lab_paths
from eco_lab.demo import install, manifests
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Plan, Stage, publish, remove_namespace, set_up
from eco_lab.drills import signal_process
from eco_lab.environment import LabEnvironment
from tests.prove.cluster import at_rest, condition, fill_volume, identities, status, volume_of
from tests.support import figures
from tests.support.api import ROOT
from tests.support.audit import AuditLog
from tests.support.waiting import until

NAME: Final = "waste"
"""Of the namespace, which the chart fixes, and so of everything else."""
DELIVERED: Final = "prove-delivery"
WORKER: Final = manifests.WORKER
DRIFT_S: Final = 600.0
QUICK_DRIFT_S: Final = 60.0
SYNC_WAIT_S: Final = 180.0
SCALE_IN_WAIT_S: Final = 240.0
LOOK_S: Final = 1.0
FIRST_SHARDS: Final = 3
STALL_S: Final = 10
SIZE: Final = "64Mi"
LARGER: Final = "128Mi"
APPLICATION: Final = ("-n", argocd.NAMESPACE, "application", NAME)


@dataclass
class Deployed:
    """A stage whose EcoWorker comes out of a repository."""

    stage: Stage
    content: Path
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> dict[str, Any]:
        """Spec of the EcoWorker as it will be committed."""
        found: dict[str, Any] = self.values["workers"][WORKER]["spec"]
        return found

    async def commit(self, message: str) -> str:
        """Commit the chart with the values as they are, and tell Argo CD, as a webhook would; the repository's URL."""
        (self.content / "values-lab.yaml").write_text(yaml.safe_dump(self.values))
        url = await asyncio.to_thread(argocd.publish, lab_paths.find(), NAME, self.content, message=message)
        if await self.application():
            refresh = "argocd.argoproj.io/refresh=normal"
            await self.stage.kubectl.run("annotate", *APPLICATION, refresh, "--overwrite")
        return url

    async def application(self) -> dict[str, Any]:
        """The Application as it is; empty when there is none."""
        found: dict[str, Any] = await self.stage.kubectl.get(*APPLICATION) or {}
        return found

    async def until_synced(self, generation: int = 0) -> float:
        """Wait until the Application is Synced and Healthy, and the EcoWorker of that generation Ready; seconds."""

        async def well() -> bool:
            said = (await self.application()).get("status", {})
            if said.get("sync", {}).get("status") != "Synced" or said.get("health", {}).get("status") != "Healthy":
                return False
            worker = await self.stage.kubectl.get("ecoworker", WORKER, "-n", NAME)
            ready = [it for it in (worker or {}).get("status", {}).get("conditions", ()) if it["type"] == "Ready"]
            return bool(
                ready
                and ready[0]["status"] == "True"
                and ready[0]["observedGeneration"] == worker["metadata"]["generation"]
                and worker["metadata"]["generation"] > generation
            )

        return await until("Application Synced and Healthy, EcoWorker Ready", well, within_s=SYNC_WAIT_S)

    async def generation(self) -> int:
        """Of the EcoWorker."""
        return int((await self.stage.kubectl.get("ecoworker", WORKER, "-n", NAME))["metadata"]["generation"])


@asynccontextmanager
async def deployed(lab: LabEnvironment, narrator: Narrator, *, replicas: int) -> AsyncIterator[Deployed]:
    """Commit, point an Application there, wait until workers are Ready. The time of that is a figure."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name=NAME), narrator, stack)
        content = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.copytree(ROOT / "charts" / "waste", content / "charts" / "waste", ignore=shutil.ignore_patterns("tests"))
        made = Deployed(stage, content, values(stage, replicas))
        begun = time.monotonic()
        url = await made.commit("The workers of the lab")
        await stage.kubectl.apply([application(url)])
        await made.until_synced()
        took_s = round(time.monotonic() - begun, 1)
        narrator.say(f"from the first commit to Synced, Healthy and Ready: {took_s} s")
        narrator.show(await stage.lines())
        figures.record("charts.argocd_sync_s", took_s, "s", peer="commit, Application made, image there, Ready")
        try:
            yield made
        finally:
            await stage.kubectl.delete(*APPLICATION, "--wait=false")
            await remove_namespace(stage.kubectl, NAME)
            await stage.kubectl.delete(*APPLICATION, timeout_s=90)


def values(stage: Stage, replicas: int) -> dict[str, Any]:
    """Values of the chart for the lab: its own servers, and nothing whose operator the lab lacks."""
    spec = manifests.eco_worker(stage.services, replicas=replicas)["spec"]
    spec["wal"] |= {"size": SIZE, "storageClass": "disk", "stallAfterSeconds": STALL_S}
    sync = manifests.wal_sync(stage.services)["spec"]
    del sync["ecoWorkers"]
    return {
        "environment": "lab",
        "workers": {"storage-worker": {"enabled": False}, WORKER: {"enabled": True, "spec": spec, "sync": sync}},
        "namespaces": {"create": False},
        "broker": {"enabled": False},
        "networkPolicies": {"enabled": False},
        "priorityClasses": {"create": False},
    }


def application(url: str) -> dict[str, Any]:
    """An Application as the chart of Applications makes it."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": NAME,
            "namespace": argocd.NAMESPACE,
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],
        },
        "spec": {
            "project": "default",
            "source": {
                "repoURL": url,
                "targetRevision": "main",
                "path": "charts/waste",
                "helm": {"releaseName": NAME, "valueFiles": ["../../values-lab.yaml"]},
            },
            "destination": {"server": argocd.DESTINATION, "namespace": NAME},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                "syncOptions": ["ServerSideApply=true"],
                "retry": {
                    "limit": 5,
                    "refresh": True,
                    "backoff": {"duration": "2s", "factor": 2, "maxDuration": "10s"},
                },
            },
        },
    }


async def edit_and_drift(lab: LabEnvironment, narrator: Narrator, drift_s: float) -> None:
    """An edit by commit, a hand's edit undone, then minutes in which nobody commits and the operator works."""
    async with deployed(lab, narrator, replicas=manifests.SHARDS) as made:
        before = await made.generation()
        begun = time.monotonic()
        made.spec["concurrency"] = manifests.CONCURRENCY + 1
        await made.commit("One task more at a time")
        await made.until_synced(before)
        edited_s = round(time.monotonic() - begun, 1)
        narrator.say(f"from the commit of an edit until every shard has rolled: {edited_s} s")
        figures.record("charts.argocd_edit_s", edited_s, "s", peer=f"commit to {manifests.SHARDS} shards rolled")
        await undone(made)
        await made.until_synced()
        await stalled(made)
        await grown(made)
        await drift(made, drift_s)


async def undone(made: Deployed) -> None:
    """Somebody edits the EcoWorker by hand: Argo CD puts back what Git says."""
    before = await made.generation()
    patch = json.dumps({"spec": {"concurrency": 1}})
    await made.stage.kubectl.run("patch", "ecoworker", WORKER, "-n", NAME, "--type=merge", "-p", patch)
    begun = time.monotonic()

    async def back() -> bool:
        found = await made.stage.kubectl.get("ecoworker", WORKER, "-n", NAME)
        own, generation = found["spec"]["concurrency"], found["metadata"]["generation"]
        return bool(own == made.spec["concurrency"] and generation > before)

    await until("the hand's edit is undone", back, within_s=60)
    made.stage.narrator.say(f"an edit by hand was undone after {time.monotonic() - begun:.1f} s")


async def stalled(made: Deployed) -> None:
    """The object store no longer answers: nothing moves, and Argo CD calls the Application Degraded."""
    stage = made.stage
    found = await stage.kubectl.get("pods", "-n", stage.lab.services_namespace, "-l", "app=s3")
    pod = found["items"][0]["metadata"]["name"]

    async def health() -> str:
        return str((await made.application())["status"].get("health", {}).get("status", ""))

    async def is_degraded() -> bool:
        return await health() == "Degraded"

    async def is_healthy() -> bool:
        return await health() == "Healthy"

    await asyncio.to_thread(signal_process, stage.lab.services_namespace, pod, signal.SIGSTOP)
    try:
        await publish(stage)
        took_s = await until("the Application is Degraded", is_degraded, within_s=120)
    finally:
        await asyncio.to_thread(signal_process, stage.lab.services_namespace, pod, signal.SIGCONT)
    figures.record("charts.argocd_degraded_s", round(took_s, 1), "s", peer=f"{STALL_S} s of them the bound of the spec")
    await until("the Application is Healthy again", is_healthy, within_s=120)
    await at_rest(stage)


async def grown(made: Deployed) -> None:
    """A volume is filled to the last byte, and a commit of a larger size is all that is done about it."""
    stage = made.stage
    filler = await volume_of(stage, 0) / "filler"
    await asyncio.to_thread(fill_volume, filler)
    await publish(stage)

    async def is_full() -> bool:
        return condition(await status(stage), "WALHealthy")[1] == "Full"

    async def is_well() -> bool:
        return condition(await status(stage), "WALHealthy")[1] != "Full"

    await until("the journal is Full", is_full, within_s=60)
    begun = time.monotonic()
    made.spec["wal"]["size"] = LARGER
    await made.commit("A larger volume")
    await until("the journal is no longer Full", is_well, within_s=120)
    figures.record("charts.argocd_grown_s", round(time.monotonic() - begun, 1), "s", peer=f"{SIZE} to {LARGER}, commit")
    filler.unlink()
    await made.until_synced()
    ledger = await at_rest(stage)
    figures.record("charts.argocd_grown_lost", len(ledger.lost), "tasks", "== 0", peer=f"{ledger.published} tasks")


async def drift(made: Deployed, drift_s: float) -> None:
    """Look each second for a difference, with tasks running for the first of the minutes."""
    narrator = made.stage.narrator
    narrator.say(f"{drift_s:.0f} s without a commit")
    assert made.stage.lab.audit_log is not None
    audit = AuditLog.from_now(made.stage.lab.audit_log)
    await publish(made.stage)
    history = len((await made.application())["status"].get("history", ()))
    different: list[str] = []
    looks, deadline = 0, time.monotonic() + drift_s
    while time.monotonic() < deadline:
        said = (await made.application())["status"]
        looks += 1
        if said["sync"]["status"] != "Synced":
            late = [f"{it['kind']}/{it['name']}" for it in said.get("resources", ()) if it.get("status") != "Synced"]
            different.append(", ".join(late) or said["sync"]["status"])
        await asyncio.sleep(LOOK_S)
    syncs = len((await made.application())["status"].get("history", ())) - history
    for each in sorted(set(different)):
        narrator.say(f"different: {each}")
    peer = f"{looks} looks in {drift_s:.0f} s, {len(audit.writes())} writes by the operator meanwhile"
    figures.record("charts.argocd_drift", len(different) + syncs, "looks + syncs", "== 0", peer=peer)
    ledger = await at_rest(made.stage)
    figures.record("charts.argocd_drift_lost", len(ledger.lost), "tasks", "== 0", peer=f"{ledger.published} tasks")


async def scale_in(lab: LabEnvironment, narrator: Narrator, _: float) -> None:
    """A commit takes two of three shards away while they work; then the Application goes and comes again."""
    async with deployed(lab, narrator, replicas=FIRST_SHARDS) as made:
        stage = made.stage
        await publish(stage)
        begun_tasks = stage.plan.tasks // 10
        await stage.watch.until(
            f"{begun_tasks} tasks have an end", lambda: stage.watch.ended >= begun_tasks, within_s=120
        )
        begun = time.monotonic()
        made.spec["replicas"] = 1
        await made.commit("One shard")

        async def alone() -> bool:
            return len((await stage.kubectl.get("deployments", "-n", NAME))["items"]) == 1

        await until("one shard is left", alone, within_s=SCALE_IN_WAIT_S)
        took_s = round(time.monotonic() - begun, 1)
        await made.until_synced()
        ledger = await at_rest(stage)
        peer = f"{ledger.published} tasks, {FIRST_SHARDS} shards to 1 after {took_s} s"
        figures.record("charts.argocd_scale_in_lost", len(ledger.lost), "tasks", "== 0", peer=peer)
        await removed_and_back(made)


async def removed_and_back(made: Deployed) -> None:
    """The Application is deleted with its objects: volumes stay, and a new one goes on with them."""
    kubectl = made.stage.kubectl

    async def claims() -> dict[str, str]:
        found = await kubectl.get("pvc", "-n", NAME)
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in found["items"]}

    before = await claims()
    await kubectl.delete(*APPLICATION, timeout_s=120)

    async def gone() -> bool:
        return not await made.stage.proxy.worker_pods(NAME)

    await until("the workers are gone", gone, within_s=90)
    kept = await claims()
    await kubectl.apply([application(await made.commit("The same again"))])
    await made.until_synced()
    changed = len(set(before.items()) ^ set(kept.items())) + len(set(before.items()) - set((await claims()).items()))
    figures.record("charts.argocd_reinstall_claims_lost", changed, "claims", "== 0", peer=f"{len(before)} claims")


async def delivery(lab: LabEnvironment, narrator: Narrator, _: float) -> None:
    """An EcoWorker that Argo CD delivers for the operator: hands change under load, then shards go."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name=DELIVERED), narrator, stack)
        content = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.copytree(ROOT / "charts" / "eco-worker", content / "charts" / "eco-worker")
        url = await asyncio.to_thread(
            argocd.publish, lab_paths.find(), "charts", content, message="The chart of workers"
        )
        await install.install(lab, {"argocd": {"enabled": True, "repoURL": url, "targetRevision": "main"}})
        try:
            await _delivered(stage)
        finally:
            await remove_namespace(stage.kubectl, DELIVERED)
            await install.install(lab)


async def _delivered(stage: Stage) -> None:
    kubectl, narrator = stage.kubectl, stage.narrator
    worker = manifests.eco_worker(stage.services, replicas=FIRST_SHARDS)
    worker["spec"]["delivery"] = "ArgoCD"
    begun = time.monotonic()
    await kubectl.apply([worker, manifests.wal_sync(stage.services)])
    await _until_delivered(stage, "True")
    ready_s = round(time.monotonic() - begun, 1)
    narrator.show(await kubectl.run("get", "applications", "-n", argocd.NAMESPACE))
    await publish(stage)
    before = await identities(stage)
    for hands, wanted in (("Direct", ""), ("ArgoCD", "True")):
        begun = time.monotonic()
        worker["spec"]["delivery"] = hands
        await kubectl.apply([worker])
        await _until_delivered(stage, wanted)
        narrator.say(f"delivered by {hands} after {time.monotonic() - begun:.1f} s")
    changed = before ^ await identities(stage)
    await kubectl.run("scale", f"ecoworker/{WORKER}", "--replicas=1", "-n", DELIVERED)

    async def alone() -> bool:
        found = await kubectl.get("applications", "-n", argocd.NAMESPACE)
        return sorted(item["metadata"]["name"] for item in found["items"]) == [
            f"{DELIVERED}.{WORKER}-0",
            f"{DELIVERED}.{WORKER}.shared",
        ]

    await until("two Applications are left", alone, within_s=SCALE_IN_WAIT_S)
    ledger = await at_rest(stage)
    claims = await kubectl.get("pvc", "-n", DELIVERED)
    kept = len(claims["items"])
    figures.record("charts.delivery_ready_s", ready_s, "s", peer=f"{FIRST_SHARDS} shards, all Applications Synced")
    figures.record("charts.delivery_restarts", len(changed), "pods changed", "== 0", peer="both changes of hands")
    figures.record("charts.delivery_lost", len(ledger.lost), "tasks", "== 0", peer=f"{ledger.published} tasks")
    figures.record("charts.delivery_claims_lost", FIRST_SHARDS - kept, "claims", "== 0")


async def _until_delivered(stage: Stage, wanted: str) -> None:
    """Wait for Ready and for the condition Delivered to have this status; empty: not to be there."""

    async def so() -> bool:
        said = await status(stage)
        if condition(said, "Ready")[0] != "True" or condition(said, "Delivered")[0] != wanted:
            return False
        found = await stage.kubectl.get("ecoworker", WORKER, "-n", DELIVERED)
        return bool(said.get("observedGeneration") == found["metadata"]["generation"])

    await until(f"Ready and Delivered is {wanted or 'gone'}", so, within_s=SYNC_WAIT_S)


PARTS: Final[dict[str, Callable[[LabEnvironment, Narrator, float], Awaitable[None]]]] = {
    "scale-in": scale_in,
    "delivery": delivery,
    "drift": edit_and_drift,
}


async def run(lab: LabEnvironment, parts: list[str], drift_s: float) -> None:
    """The parts asked for, in order."""
    for name in parts:
        await PARTS[name](lab, Narrator(), drift_s)


def main() -> None:
    """Parse the command line, take the figures, print them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.prove.gitops", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="default: all of them")
    parser.add_argument("--quick", action="store_true", help=f"look for drift for {QUICK_DRIFT_S:.0f} s only")
    arguments = parser.parse_args()
    lab = environment.up(with_programs=("helm", "argocd"))
    drift_s = QUICK_DRIFT_S if arguments.quick else DRIFT_S
    asyncio.run(run(lab, arguments.part or list(PARTS), drift_s))
    print(figures.table())
    sys.exit(1 if figures.missed() else 0)


if __name__ == "__main__":
    main()
