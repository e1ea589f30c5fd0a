"""The story from an empty namespace to a settled ledger. Each chapter waits for a state, with a deadline."""

import asyncio
import contextlib
import signal
import time
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from eco_crds.contract import COMPONENT_WORKER, LABEL_SHORT_COMPONENT
from eco_lab.demo import broker, install, manifests
from eco_lab.demo.evidence import collect, synced_rows
from eco_lab.demo.kubectl import ApiProxy, Kubectl, api_proxy
from eco_lab.demo.ledger import Ledger, settle
from eco_lab.demo.narration import Narrator
from eco_lab.demo.pictures import Album, Picture, album
from eco_lab.demo.services import Services, renew, upload
from eco_lab.demo.trouble import Blow, Kill, delete_pod_at_once, restart_broker, strike
from eco_lab.demo.watch import Columns, Sight, Watch, columns
from eco_lab.drills import signal_process
from eco_lab.environment import LabEnvironment
from eco_lab.errors import CommandError
from eco_lab.paths import find

TASK_NAME: Final = "image.store"
FIRST_KILL_AT: Final = 0.10
SECOND_KILL_AT: Final = 0.35
BROKER_RESTART_AT: Final = 0.55
"""Shares of the tasks that have an end when the blows fall."""
READY_WAIT_S: Final = 90
NAMESPACE_GONE_WAIT_S: Final = 120
PODS_GONE_WAIT_S: Final = 60
PROGRESS_WAIT_S: Final = 120.0
REST_WAIT_S: Final = 180.0
ROWS_POLL_S: Final = 0.5
CALM_WAIT_S: Final = 45


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the story is."""

    name: str = "demo"
    """Of the namespace, virtual host, database and bucket."""
    good: int = 480
    broken: int = 20

    @property
    def tasks(self) -> int:
        """Tasks published."""
        return self.good + self.broken


@dataclass
class Outcome:
    """What came of it."""

    ledger: Ledger
    blows: list[Blow]
    broker_s: float
    """From the deletion of RabbitMQ's pod until it answered again."""
    before: str
    """`kubectl get ecoworkers,walsyncs` before the first blow."""
    after: str
    workers: Columns
    """Every line of `kubectl get ecoworkers --watch`."""
    syncs: Columns

    @property
    def resumed_s(self) -> float:
        """The longest time from a kill to the first task resumed."""
        return max(blow.resumed_s for blow in self.blows)


@dataclass
class Stage:
    """A namespace with running workers, and all that is needed to act on it and to look at it."""

    plan: Plan
    lab: LabEnvironment
    kubectl: Kubectl
    services: Services
    album: Album
    narrator: Narrator
    proxy: ApiProxy
    watch: Watch
    published: dict[str, Picture] = field(default_factory=dict)

    async def lines(self) -> str:
        """What a person sees."""
        return await self.kubectl.run("get", "ecoworkers,walsyncs", "-n", self.plan.name)


async def run(lab: LabEnvironment, plan: Plan, narrator: Narrator) -> Outcome:
    """Play the whole story on a lab that is up."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, plan, narrator, stack)
        workers = await stack.enter_async_context(columns(stage.proxy, plan.name, "ecoworkers"))
        syncs = await stack.enter_async_context(columns(stage.proxy, plan.name, "walsyncs"))
        before = await begin_work(stage)
        with narrator.chapter("work under blows"):
            blows, broker_s = await strike_thrice(stage, workers)
            await come_to_rest(stage)
        with narrator.chapter("ledger"):
            narrator.say("reading every queue, row and object for the ledger")
            evidence, _ = await asyncio.gather(collect(stage.services, stage.published), calm(workers, syncs))
            ledger = settle(evidence)
        after = await stage.lines()
        narrator.say("after:")
        narrator.show(after)
        return Outcome(ledger, blows, broker_s, before, after, workers, syncs)


async def set_up(lab: LabEnvironment, plan: Plan, narrator: Narrator, stack: AsyncExitStack) -> Stage:
    """Operator installed, a clean namespace, clean servers, uploads in the bucket."""
    kubectl = Kubectl(lab.kubectl, lab.kubeconfig)
    services = Services(plan.name, lab)
    with narrator.chapter("stage"):
        async with asyncio.TaskGroup() as group:
            pictures = group.create_task(_pictures(plan, narrator))
            group.create_task(_install(lab, narrator))
            group.create_task(_clean_slate(kubectl, services, narrator, pictures))
        await kubectl.apply([manifests.namespace(plan.name), *manifests.secrets(services)])
    proxy = await stack.enter_async_context(api_proxy(kubectl))
    return Stage(plan, lab, kubectl, services, pictures.result(), narrator, proxy, Watch(proxy, plan.name))


async def _pictures(plan: Plan, narrator: Narrator) -> Album:
    made = await asyncio.to_thread(album, find().cache / "pictures", good=plan.good, broken=plan.broken)
    narrator.say(f"{plan.good} photographs in several formats, sizes and turns, {plan.broken} files broken on purpose")
    return made


async def _install(lab: LabEnvironment, narrator: Narrator) -> None:
    said = await install.install(lab)
    narrator.say(f"helm upgrade --install: {said}")


async def _clean_slate(kubectl: Kubectl, services: Services, narrator: Narrator, pictures: asyncio.Task[Album]) -> None:
    begun = time.monotonic()
    if await remove_namespace(kubectl, services.name):
        narrator.say(f"namespace {services.name} of an earlier run is gone after {time.monotonic() - begun:.1f} s")
    await renew(services)
    narrator.say(f"an empty virtual host, database and bucket, each called {services.name}")
    size = await upload(services, await pictures)
    narrator.say(f"{len(pictures.result().pictures)} files uploaded to the bucket: {size / 1e6:.0f} MB")


async def remove_namespace(kubectl: Kubectl, name: str) -> bool:
    """Delete a namespace of ours and wait until it is gone; whether there was one.

    Workers first: with pods in it, a namespace is looked at again only after half their grace period.
    """
    if await kubectl.get("namespace", name) is None:
        return False
    await kubectl.delete("ecoworkers", "--all", "-n", name)
    pods = ("pod", "-l", f"{LABEL_SHORT_COMPONENT}={COMPONENT_WORKER}", "-n", name)
    await kubectl.run("wait", "--for=delete", *pods, f"--timeout={PODS_GONE_WAIT_S}s", timeout_s=PODS_GONE_WAIT_S + 5)
    await kubectl.delete("namespace", name, timeout_s=NAMESPACE_GONE_WAIT_S)
    return True


async def begin_work(stage: Stage) -> str:
    """Apply the resources, wait until they are Ready, publish. The lines of kubectl at that moment."""
    narrator = stage.narrator
    with narrator.chapter("workers ready"):
        await stage.kubectl.apply([manifests.eco_worker(stage.services), manifests.wal_sync(stage.services)])
        narrator.say(f"applied EcoWorker {manifests.WORKER} with {manifests.SHARDS} shards, and its WalSync")
        await wait_ready(stage)
    before = await stage.lines()
    narrator.say("before:")
    narrator.show(before)
    with narrator.chapter("publish"):
        await publish(stage)
    return before


async def wait_ready(stage: Stage) -> None:
    """Wait until the EcoWorker says Ready; when it does not, show what is there before the error."""
    what = ("--for=condition=Ready", f"ecoworker/{manifests.WORKER}", "-n", stage.plan.name)
    try:
        await stage.kubectl.run("wait", *what, f"--timeout={READY_WAIT_S}s", timeout_s=READY_WAIT_S + 10)
    except CommandError:
        stage.narrator.say("the workers are not Ready; what is there:")
        stage.narrator.show(await stage.kubectl.run("get", "ecoworkers,pods,events", "-n", stage.plan.name))
        raise


async def publish(stage: Stage, headers: Mapping[str, Any] | None = None) -> None:
    """Publish one task per upload, each confirmed by the broker; `headers` go with every message."""
    tasks = {str(uuid.uuid4()): picture for picture in stage.album.pictures}
    begun = time.monotonic()
    count = await broker.publish(
        stage.services.amqp_url,
        manifests.QUEUE,
        [broker.Task(task, TASK_NAME, {"key": picture.key}, headers or {}) for task, picture in tasks.items()],
    )
    stage.published.update(tasks)
    stage.narrator.say(f"{count} tasks published and confirmed in {time.monotonic() - begun:.1f} s")


async def strike_thrice(stage: Stage, workers: Columns) -> tuple[list[Blow], float]:
    """Kill a process, force a pod out, restart the broker: each in mid-work."""
    narrator, plan = stage.narrator, stage.plan

    async def sigkill(sight: Sight) -> None:
        await asyncio.to_thread(signal_process, plan.name, sight.pod.name, signal.SIGKILL)

    await _progress(stage, FIRST_KILL_AT)
    blows = [await _strike(stage, workers, f"{manifests.WORKER}-0", "SIGKILL to the worker process", sigkill)]
    await _progress(stage, SECOND_KILL_AT)
    force = delete_pod_at_once(stage.kubectl, plan.name)
    blows.append(await _strike(stage, workers, f"{manifests.WORKER}-1", "pod deleted by force", force))
    await _progress(stage, BROKER_RESTART_AT)
    narrator.say("BLOW: RabbitMQ's pod deleted")
    broker_s = await restart_broker(stage.services, stage.kubectl)
    narrator.say(f"RabbitMQ answers again after {broker_s:.1f} s")
    return blows, broker_s


async def _progress(stage: Stage, share: float) -> None:
    wanted = int(stage.plan.tasks * share)
    await stage.watch.until(
        f"{wanted} tasks have an end", lambda: stage.watch.ended >= wanted, within_s=PROGRESS_WAIT_S
    )
    stage.narrator.say(f"{stage.watch.ended} of {stage.plan.tasks} tasks have an end")


async def _strike(stage: Stage, workers: Columns, shard: str, what: str, kill: Kill) -> Blow:
    narrator = stage.narrator
    narrator.say(f"BLOW: {shard}: {what}")
    struck = await strike(stage.watch, shard, what, kill)
    own = "" if struck.process_s is None else f" ({struck.process_s:.2f} s of them in the new process)"
    narrator.say(
        f"{shard} has resumed {struck.resumed_s:.1f} s after it{own}; {struck.recovered} unfinished in its journal"
    )
    narrator.say("what `kubectl get ecoworkers --watch` printed meanwhile:")
    narrator.show(workers.text(since=struck.at))
    return struck


async def come_to_rest(stage: Stage) -> None:
    """Wait until every task has its row and no journal owes anything. The ledger judges a run that does not."""
    begun = time.monotonic()
    wanted = stage.plan.tasks
    rows = 0
    while time.monotonic() - begun < REST_WAIT_S:
        rows = await synced_rows(stage.services, stage.published)
        await stage.watch.look()
        if rows >= wanted and stage.watch.owed == 0:
            stage.narrator.say(f"all {wanted} tasks have an end and a row; the journals owe nothing")
            return
        await asyncio.sleep(ROWS_POLL_S)
    stage.narrator.say(f"NOT AT REST after {REST_WAIT_S:.0f} s: {rows} rows of {wanted}; {stage.watch.summary()}")


async def calm(workers: Columns, syncs: Columns) -> None:
    """Wait until kubectl's columns have caught up with the journals: the operator writes mere numbers at intervals.

    The ledger does not depend on it, so a wait in vain is no failure; the lines printed afterwards show what is wrong.
    """
    wanted = {"READY": f"{manifests.SHARDS}/{manifests.SHARDS}", "WAL": "Healthy", "PENDING": "0", "UNSYNCED": "0"}
    at_rest = {"READY": "True", "UNSYNCED": "0"}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CALM_WAIT_S):
            while not (workers.shows(wanted) and syncs.shows(at_rest)):  # noqa: ASYNC110  # two recorders, one deadline
                await asyncio.sleep(ROWS_POLL_S)
