"""Stand-ins for what a bare API server lacks: controllers of deployments, jobs and volumes, kubelet, garbage collector.

Each shard's pod gets a loopback address of its own, and there a small HTTP server that answers `GET /wal` as a worker
would, with a report that the test may change, and obeys commands that come with the right token. Jobs end as the test
says. Everything else between the operator and the API server is real.
"""

import asyncio
import base64
import contextlib
import itertools
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from eco_crds import contract
from eco_crds.jobs import JobName, JobReport
from eco_crds.quantity import parse
from eco_crds.wal import JournalMode, WalCounts, WalReport, WalVolume
from eco_operator import errors, kinds
from eco_operator.cluster import Cluster

POLL_S: Final = 0.1
_COLLECTED: Final = (
    kinds.DEPLOYMENT,
    kinds.SERVICE,
    kinds.SECRET,
    kinds.CONFIG_MAP,
    kinds.BUDGET,
    kinds.REVISION,
)
"""What goes with its EcoWorker."""
# Runs side by side on one machine begin far from each other.
_addresses = itertools.count(1 + os.getpid() % 100 * 60_000)


@dataclass(slots=True)
class Worker:
    """The worker of one shard, as far as the operator can see it."""

    shard: str
    ip: str
    report: WalReport
    token: str = ""
    is_silent: bool = False
    is_busy: bool = False
    """Keeps its tasks when it is told to drain."""
    asked: int = 0
    told: list[str] = field(default_factory=list)
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Answer at port 9464 of its own address."""
        server = web.Application()
        server.router.add_get("/wal", self._answer)
        server.router.add_post("/wal/{command}", self._obey)
        self.runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.ip, contract.ADMIN_PORT).start()

    async def stop(self) -> None:
        """Answer no more."""
        if self.runner is not None:
            await self.runner.cleanup()

    def fills(self, percent: int) -> None:
        """Have so much of the volume used."""
        total = self.report.volume.total_bytes
        self.says(volume=self.report.volume.model_copy(update={"used_bytes": -(-total * percent // 100)}))

    def says(self, **changes: Any) -> None:
        """Change the report."""
        self.report = self.report.model_copy(update=changes)

    async def _obey(self, request: web.Request) -> web.Response:
        if self.is_silent:
            return web.Response(status=503)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        command = request.match_info["command"]
        self.told.append(command)
        match command:
            case "drain":
                counts = self.report.counts if self.is_busy else WalCounts(unsynced=self.report.counts.unsynced)
                self.says(mode=JournalMode.DRAINING, counts=counts)
            case "fence":
                self.says(mode=JournalMode.FENCED)
            case "resume":
                self.says(mode=JournalMode.NORMAL)
            case "sync":
                self.says(counts=self.report.counts.model_copy(update={"unsynced": 0}))
        return web.json_response({})

    async def _answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.is_silent:
            return web.Response(status=503)
        return web.Response(text=self.report.model_dump_json(), content_type="application/json")


@dataclass(slots=True)
class Fleet:
    """Pods and workers for every Deployment of one namespace."""

    cluster: Cluster
    namespace: str
    workers: dict[str, Worker] = field(default_factory=dict)
    pulls_images: bool = True
    job_reports: dict[str, JobReport] = field(default_factory=dict)
    """How the job of that name ends; one that is not here ends well and leaves an empty journal."""
    holds_jobs: bool = False
    """Jobs run and do not end."""
    holds_volumes: bool = False
    """Volumes that are to be made larger stay as they are."""
    jobs_run: list[str] = field(default_factory=list)
    last_error: str = ""

    async def step(self) -> None:
        """Bring pods and statuses in line with the Deployments, and remove what lost its owner."""
        owned = {kind: await self._all(kind) for kind in _COLLECTED}
        # Owners are listed after what they own, or an object of an owner made in between would seem to have lost it.
        living = {item["metadata"]["uid"] for item in await self._all(kinds.ECO_WORKER)}
        for kind, items in owned.items():
            for item in items:
                owners = [owner["uid"] for owner in item["metadata"].get("ownerReferences", ())]
                if owners and not living.intersection(owners):
                    await self.cluster.delete(
                        kind, self.namespace, item["metadata"]["name"], uid=item["metadata"]["uid"]
                    )
        everything = await self._all(kinds.POD)
        job_pods = [item for item in everything if _component(item) == contract.COMPONENT_JOB]
        pods = {item["metadata"]["labels"][contract.LABEL_SHARD]: item for item in everything if item not in job_pods}
        await self._keep_claims({item["metadata"]["labels"][contract.LABEL_SHARD] for item in everything})
        await self._work_off_jobs(job_pods)
        deployments = {item["metadata"]["name"]: item for item in await self._all(kinds.DEPLOYMENT)}
        running = {name for name, deployment in deployments.items() if deployment["spec"]["replicas"]}
        for name in set(pods) - running:
            await self._remove(name, pods[name])
        for name, deployment in deployments.items():
            if name not in pods and name in running:
                await self._run(name, deployment)
            await self._report(deployment, ready=int(self.pulls_images and name in self.workers))

    async def run(self) -> None:
        """Step after step until cancelled."""
        while True:
            try:
                await self.step()
            except errors.ApiError as error:
                # Between two requests anything may have changed; the next step sees it.
                self.last_error = str(error)
            await asyncio.sleep(POLL_S)

    async def _keep_claims(self, in_use: set[str]) -> None:
        """Bind each claim, and let one go that is to go once no pod has it: the server's own protection holds it."""
        for claim in await self._all(kinds.CLAIM):
            metadata = claim["metadata"]
            if "deletionTimestamp" in metadata:
                if metadata["labels"][contract.LABEL_SHARD] not in in_use:
                    path = kinds.CLAIM.path(self.namespace, metadata["name"])
                    free = {**claim, "metadata": {**metadata, "finalizers": []}}
                    await self.cluster._request("replace", kinds.CLAIM, path, body=free)
            else:
                await self._make_room(claim)

    async def _make_room(self, claim: dict[str, Any]) -> None:
        """Bind a claim, and give it what it asks for; its worker sees the room as soon as there is any."""
        status = claim.get("status") or {}
        wanted = {"phase": "Bound", "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]}}
        is_bound = status.get("phase") == "Bound"
        if (is_bound and self.holds_volumes) or status.items() >= wanted.items():
            return
        metadata = claim["metadata"]
        path = kinds.CLAIM.path(self.namespace, metadata["name"], "status")
        await self.cluster._request("replace", kinds.CLAIM, path, body={**claim, "status": {**status, **wanted}})
        worker = self.workers.get(metadata["labels"][contract.LABEL_SHARD])
        if worker is not None and is_bound:
            worker.says(volume=worker.report.volume.model_copy(update={"total_bytes": _room(claim)}))

    async def _work_off_jobs(self, pods: list[dict[str, Any]]) -> None:
        """Make a pod for each job, let it end, and remove the pods of jobs that are gone."""
        jobs = {item["metadata"]["uid"]: item for item in await self._all(kinds.JOB)}
        seen = set()
        for pod in pods:
            owner = pod["metadata"]["ownerReferences"][0]["uid"]
            seen.add(owner)
            if owner not in jobs:
                metadata = pod["metadata"]
                await self.cluster.delete(kinds.POD, self.namespace, metadata["name"], uid=metadata["uid"])
            elif not self.holds_jobs and pod["status"]["phase"] == "Running":
                await self._end_job(jobs[owner], pod)
        for uid in set(jobs) - seen:
            await self._start_job(jobs[uid])

    async def _start_job(self, job: dict[str, Any]) -> None:
        metadata = job["metadata"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{metadata['name']}-{next(_addresses)}",
                "namespace": self.namespace,
                "labels": job["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "spec": {
                "containers": [{"name": contract.JOB_CONTAINER_NAME, "image": "none"}],
                "nodeName": "nowhere",
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
            },
        }
        pod = await self.cluster._request("create", kinds.POD, kinds.POD.path(self.namespace), body=body)
        self.jobs_run.append(metadata["name"])
        container = {**_container({"running": {}}), "name": contract.JOB_CONTAINER_NAME}
        await self._set_pod(pod, {"phase": "Running", "containerStatuses": [container]})

    async def _end_job(self, job: dict[str, Any], pod: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        shard = job["metadata"]["labels"][contract.LABEL_SHARD]
        usual = JobReport(
            job=JobName(name.rpartition("-")[2]), shard=shard, succeeded=True, empty=True, journal_uuid=uuid_of(shard)
        )
        report = self.job_reports.get(name, usual)
        ended = {"exitCode": int(not report.succeeded), "reason": "Ended", "message": report.model_dump_json()}
        container = {**_container({"terminated": ended}), "name": contract.JOB_CONTAINER_NAME, "ready": False}
        await self._set_pod(
            pod, {"phase": "Succeeded" if report.succeeded else "Failed", "containerStatuses": [container]}
        )
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        names = ("SuccessCriteriaMet", "Complete") if report.succeeded else ("FailureTarget", "Failed")
        conditions = [{"type": it, "status": "True", "reason": "Ended", "lastTransitionTime": now} for it in names]
        status: dict[str, Any] = {"startTime": now, "conditions": conditions}
        status |= {"succeeded": 1, "completionTime": now} if report.succeeded else {"failed": 1}
        path = kinds.JOB.path(self.namespace, name, "status")
        await self.cluster._request("replace", kinds.JOB, path, body={**job, "status": status})

    async def _run(self, name: str, deployment: dict[str, Any]) -> None:
        labels = {**deployment["spec"]["template"]["metadata"]["labels"]}
        number = next(_addresses)
        ip = f"127.{10 + number // 60000 % 100}.{number // 250 % 240}.{1 + number % 250}"
        spec = {"containers": [{"name": contract.CONTAINER_NAME, "image": "none"}], "nodeName": "nowhere"}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{name}-{number}", "namespace": self.namespace, "labels": labels},
            "spec": {**spec, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False},
        }
        # Before the pod: without its token a worker would never come up, and this shard would not be tried again.
        secret = contract.token_secret_name(name.rpartition("-")[0])
        found = await self.cluster.get(kinds.SECRET, self.namespace, secret)
        pod = await self.cluster._request("create", kinds.POD, kinds.POD.path(self.namespace), body=body)
        if not self.pulls_images:
            waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
            await self._set_pod(pod, {"phase": "Pending", "containerStatuses": [_container({"waiting": waiting})]})
            return
        worker = self.workers.get(name)
        if worker is None:
            worker = Worker(name, ip, WalReport(shard=name, journal_uuid=uuid_of(name), mode=JournalMode.NORMAL))
            claim = await self.cluster.get(kinds.CLAIM, self.namespace, f"wal-{name}")
            volume = WalVolume(total_bytes=_room(claim))
            worker.says(volume=volume, incarnation=f"boot:{number}", consuming=True)
            worker.fills(10)
            worker.token = base64.b64decode(found["data"][contract.TOKEN_KEY]).decode()
            await worker.start()
            self.workers[name] = worker
        status = {
            "phase": "Running",
            "podIP": worker.ip,
            "podIPs": [{"ip": worker.ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [_container({"running": {}})],
        }
        await self._set_pod(pod, status)

    async def _remove(self, name: str, pod: dict[str, Any]) -> None:
        worker = self.workers.pop(name, None)
        if worker is not None:
            await worker.stop()
        await self.cluster.delete(kinds.POD, self.namespace, pod["metadata"]["name"], uid=pod["metadata"]["uid"])

    async def _set_pod(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        path = kinds.POD.path(self.namespace, pod["metadata"]["name"], "status")
        await self.cluster._request("replace", kinds.POD, path, body={**pod, "status": status})

    async def _report(self, deployment: dict[str, Any], *, ready: int) -> None:
        status = deployment.get("status") or {}
        generation = deployment["metadata"]["generation"]
        if status.get("readyReplicas", 0) == ready and status.get("observedGeneration") == generation:
            return
        path = kinds.DEPLOYMENT.path(self.namespace, deployment["metadata"]["name"], "status")
        counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "availableReplicas": ready}
        new = {"observedGeneration": generation, **counts}
        await self.cluster._request("replace", kinds.DEPLOYMENT, path, body={**deployment, "status": new})

    async def _all(self, kind: kinds.Kind) -> list[dict[str, Any]]:
        selector = "" if kind == kinds.ECO_WORKER else f"{contract.LABEL_MANAGED_BY}={contract.MANAGED_BY}"
        found = []
        async for chunk, _ in self.cluster.list(kind, (self.namespace,), label_selector=selector):
            found.extend(chunk)
        return found


def uuid_of(shard: str) -> str:
    """Identity of the journal of a shard of that name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, shard))


@asynccontextmanager
async def fleet(cluster: Cluster, namespace: str) -> AsyncIterator[Fleet]:
    """A fleet that keeps up with the namespace by itself."""
    made = Fleet(cluster, namespace)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        for worker in made.workers.values():
            await worker.stop()


def _room(claim: dict[str, Any]) -> int:
    """What a file system leaves of the volume of a claim, in bytes."""
    return int(parse(claim["spec"]["resources"]["requests"]["storage"]) * 95 / 100)


def _component(item: dict[str, Any]) -> str:
    return str(item["metadata"]["labels"].get(contract.LABEL_SHORT_COMPONENT, ""))


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": contract.CONTAINER_NAME,
        "image": "none",
        "imageID": "",
        "ready": True,
        "restartCount": 0,
        "state": state,
    }
