"""Stand-ins for what a bare API server lacks: deployment controller, kubelet, garbage collector and workers.

Each shard's pod gets a loopback address of its own, and there a small HTTP server that answers `GET /wal` as a worker
would, with a report that the test may change. Everything else between the operator and the API server is real.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from eco_crds import contract
from eco_crds.wal import JournalMode, WalReport, WalVolume
from eco_operator import errors, kinds
from eco_operator.cluster import Cluster

POLL_S: Final = 0.1
_addresses = itertools.count(1)


@dataclass(slots=True)
class Worker:
    """The worker of one shard, as far as the operator can see it."""

    shard: str
    ip: str
    report: WalReport
    is_silent: bool = False
    asked: int = 0
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Answer at port 9464 of its own address."""
        server = web.Application()
        server.router.add_get("/wal", self._answer)
        self.runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.ip, contract.ADMIN_PORT).start()

    async def stop(self) -> None:
        """Answer no more."""
        if self.runner is not None:
            await self.runner.cleanup()

    def says(self, **changes: Any) -> None:
        """Change the report."""
        self.report = self.report.model_copy(update=changes)

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
    last_error: str = ""

    async def step(self) -> None:
        """Bring pods and statuses in line with the Deployments, and remove what lost its owner."""
        living = {item["metadata"]["uid"] for item in await self._all(kinds.ECO_WORKER)}
        for kind in (kinds.DEPLOYMENT, kinds.SERVICE, kinds.SECRET, kinds.CONFIG_MAP):
            for item in await self._all(kind):
                owners = [owner["uid"] for owner in item["metadata"].get("ownerReferences", ())]
                if owners and not living.intersection(owners):
                    await self.cluster.delete(
                        kind, self.namespace, item["metadata"]["name"], uid=item["metadata"]["uid"]
                    )
        deployments = {item["metadata"]["name"]: item for item in await self._all(kinds.DEPLOYMENT)}
        pods = {item["metadata"]["labels"][contract.LABEL_SHARD]: item for item in await self._all(kinds.POD)}
        for name in set(pods) - set(deployments):
            await self._remove(name, pods[name])
        for name, deployment in deployments.items():
            if name not in pods and deployment["spec"]["replicas"]:
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
        pod = await self.cluster._request("create", kinds.POD, kinds.POD.path(self.namespace), body=body)
        if not self.pulls_images:
            waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
            await self._set_pod(pod, {"phase": "Pending", "containerStatuses": [_container({"waiting": waiting})]})
            return
        worker = self.workers.get(name)
        if worker is None:
            worker = Worker(name, ip, WalReport(shard=name, journal_uuid=f"uuid-{name}", mode=JournalMode.NORMAL))
            worker.says(volume=WalVolume(total_bytes=100, used_bytes=10), incarnation=f"boot:{number}", consuming=True)
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


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": contract.CONTAINER_NAME,
        "image": "none",
        "imageID": "",
        "ready": True,
        "restartCount": 0,
        "state": state,
    }
