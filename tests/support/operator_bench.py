"""A fleet to measure the operator by: EcoWorkers on a real API server, pods that are objects, workers behind the probe.

The addresses of the pods lie on the loopback interface, where one server answers for every worker.
"""

import asyncio
import itertools
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from eco_crds import contract
from eco_crds.wal import JournalMode, WalReport, WalVolume
from eco_operator import kinds
from eco_operator.cluster import REQUESTS_MAX, Cluster
from tests.support.apiserver import ApiServer
from tests.support.fleet import uuid_of
from tests.support.operator_world import example, kubectl
from tests.support.processes import Program
from tests.support.waiting import until

SHARDS: Final = 2
CREATING_AT_ONCE: Final = 32
CONVERGED_WITHIN_S: Final = 600.0
REST_S: Final = 120.0
QUIET_S: Final = 15.0
EDITS: Final = 200
NEWS: Final = 60
FIRST_WRITE_WITHIN_S: Final = 30.0
STATUS_WITHIN_S: Final = 60.0
MIB: Final = 1024 * 1024
BUILT: Final = (
    kinds.SECRET,
    kinds.SERVICE,
    kinds.BUDGET,
    kinds.REVISION,
    kinds.CLAIM,
    kinds.DEPLOYMENT,
)
"""What an EcoWorker consists of before its first pod runs."""
_PLURALS: Final = {kind.plural for kind in BUILT}
_SERVERS_OWN: Final = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences")


@dataclass(slots=True)
class Fleet:
    """Workers behind the probe: a report for each, by the address of its pod."""

    reports: dict[str, WalReport] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    """By shard."""
    _numbers: Iterable[int] = field(default_factory=lambda: itertools.count(1))

    def add(self, shard: str) -> str:
        """A worker that is well; its address."""
        number = next(iter(self._numbers))
        address = f"127.{20 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
        self.reports[address] = WalReport(
            shard=shard,
            journal_uuid=uuid_of(shard),
            incarnation=f"boot:{number}",
            mode=JournalMode.NORMAL,
            consuming=True,
            volume=WalVolume(total_bytes=100, used_bytes=10),
        )
        self.addresses[shard] = address
        return address

    def says(self, shard: str, **changes: Any) -> None:
        """Change a report."""
        address = self.addresses[shard]
        self.reports[address] = self.reports[address].model_copy(update=changes)

    async def answer(self, request: web.Request) -> web.Response:
        """`GET /wal` of the worker whose address was asked."""
        assert request.transport is not None
        report = self.reports[request.transport.get_extra_info("sockname")[0]]
        return web.Response(text=report.model_dump_json(), content_type="application/json")


@asynccontextmanager
async def workers() -> AsyncIterator[Fleet]:
    """One server at every address of the loopback interface."""
    made = Fleet()
    application = web.Application()
    application.router.add_get("/wal", made.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", contract.ADMIN_PORT).start()  # noqa: S104  # whatever a pod's address is
        yield made
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True)
class Phase:
    """How long something took, and what processor time it cost whom."""

    took_s: float
    processor_s: Mapping[str, float]

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {spent:.1f}" for name, spent in self.processor_s.items())
        return f"{self.took_s:.1f} s (processor time: {shares})"


@dataclass(slots=True)
class Bench:
    """One size on one API server."""

    server: ApiServer
    cluster: Cluster
    fleet: Fleet
    operator: Program
    namespace: str
    size: int

    async def converge(self) -> tuple[Phase, float]:
        """From the start of the operator until every object of every EcoWorker is there; seconds until all is said."""
        await _at_once(self._create(kinds.ECO_WORKER, _worker(number)) for number in range(self.size))
        log, begun, before = self.server.audit(), datetime.now(UTC), self._processor_s()
        self.operator.start()
        await until("every object is there", self._is_built, within_s=CONVERGED_WITHIN_S)
        after = self._processor_s()
        # The question comes now and then, and its answer takes its time on a busy server: the server knows better.
        created = [it.when for it in log.writes(None) if it.verb == "create" and it.resource in _PLURALS]
        took_s = (max(map(datetime.fromisoformat, created)) - begun).total_seconds()
        phase = Phase(took_s, {"operator": _processor_s(self.operator.pid), **_spent(before, after)})
        await until("every EcoWorker has a status", self._are_told, within_s=CONVERGED_WITHIN_S)
        told_s = (datetime.now(UTC) - begun).total_seconds()
        await self._until_quiet()  # What it writes must not slow down the peer.
        return phase, told_s

    async def bare(self) -> Phase:
        """A bare client creates the same objects in another namespace, as many at once."""
        other = f"{self.namespace}-bare"
        await asyncio.to_thread(kubectl, self.server, "create", "namespace", other)
        found = [item for kind in BUILT for item in await self._all(kind)]
        copies = [_copy(item, other) for item in found]
        begun, before, client = time.monotonic(), self._processor_s(), time.process_time()
        await self._create_bare(copies, other)
        took_s, after = time.monotonic() - begun, self._processor_s()
        phase = Phase(took_s, {"client": time.process_time() - client, **_spent(before, after)})
        for kind in BUILT:
            path = f"{kind.path(other)}"
            await self.cluster._request("delete", kind, path)
        return phase

    async def run_pods(self) -> None:
        """A pod for every Deployment, and both say that they are ready."""
        await _at_once(self._run_pod(item) for item in await self._all(kinds.DEPLOYMENT))
        await until("every EcoWorker is Ready", self._are_ready, within_s=CONVERGED_WITHIN_S)

    async def rest(self) -> tuple[list[str], float]:
        """Writes at rest, and the share of a processor that the operator takes, in percent."""
        await self._until_quiet()
        log, before = self.server.audit(), _processor_s(self.operator.pid)
        await asyncio.sleep(REST_S)  # the measurement itself: a resync and more falls into it
        return self.server.operator_writes(log), 100 * (_processor_s(self.operator.pid) - before) / REST_S

    async def edits(self, chance: random.Random) -> list[float]:
        """Seconds from the answer to an edit until the first write about it has been seen, one edit after the other."""
        found = []
        async with self._watched(kinds.REVISION) as seen:
            for number in range(EDITS):
                name = f"w{chance.randrange(self.size):04d}"
                # Another value each time: an edit that changes nothing is followed by no write.
                patch = {"spec": {"concurrency": 5 + number}}
                seen.clear()
                await self._patch(name, patch)
                begun = time.monotonic()
                found.append(await seen.wait(name, within_s=FIRST_WRITE_WITHIN_S) - begun)
        return sorted(found)

    async def news(self, chance: random.Random) -> list[float]:
        """Seconds from a change in a journal until the status says it."""
        found = []
        shards = chance.sample(sorted(self.fleet.addresses), NEWS)
        async with self._watched(kinds.ECO_WORKER, lambda item: _wal(item) == "Full") as seen:
            for shard in shards:
                seen.clear()
                begun = time.monotonic()
                self.fleet.says(shard, mode=JournalMode.READ_ONLY)
                found.append(await seen.wait(shard.rpartition("-")[0], within_s=STATUS_WITHIN_S) - begun)
                self.fleet.says(shard, mode=JournalMode.NORMAL)
        return sorted(found)

    def _processor_s(self) -> dict[str, float]:
        return {program.name: _processor_s(program.pid) for program in (self.server.server, self.server.etcd)}

    async def _create_bare(self, items: Iterable[dict[str, Any]], namespace: str) -> None:
        """As a plain program would: one POST for each, by a client that shares nothing with the operator's."""
        async with aiohttp.ClientSession(headers=self._authorization()) as session:

            async def post(item: dict[str, Any]) -> None:
                url = f"https://127.0.0.1:{self.server.port}{kinds.BY_NAME[item['kind']].path(namespace)}"
                async with session.post(url, json=item, ssl=False) as answer:
                    answer.raise_for_status()
                    await answer.json()

            await _at_once((post(item) for item in items), REQUESTS_MAX)

    def _authorization(self) -> dict[str, str]:
        config = json.loads(self.server.kubeconfig.read_text())
        return {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}

    async def _create(self, kind: kinds.Kind, body: dict[str, Any]) -> None:
        await self.cluster._request("create", kind, kind.path(self.namespace), body=body)

    async def _patch(self, name: str, patch: dict[str, Any]) -> None:
        body = {"apiVersion": contract.API_VERSION, "kind": "EcoWorker", "metadata": {"name": name}, **patch}
        query = {"fieldManager": "person", "force": "true"}
        path = kinds.ECO_WORKER.path(self.namespace, name)
        await self.cluster._request("apply", kinds.ECO_WORKER, path, query=query, body=body)

    async def _all(self, kind: kinds.Kind) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async for chunk, _ in self.cluster.list(kind, (self.namespace,)):
            found += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in chunk]
        return found

    async def _count(self, kind: kinds.Kind) -> int:
        answer = await self.cluster._request("list", kind, kind.path(self.namespace), query={"limit": "1"})
        return len(answer["items"]) + int(answer["metadata"].get("remainingItemCount") or 0)

    async def _is_built(self) -> bool:
        """Whether all is there. The first kind that is not ends the question: each answer costs the server's time."""
        wanted = {kinds.DEPLOYMENT: SHARDS, kinds.CLAIM: SHARDS}
        await asyncio.sleep(0.2)
        for kind in reversed(BUILT):
            if await self._count(kind) < self.size * wanted.get(kind, 1):
                return False
        return True

    async def _are_told(self) -> bool:
        await asyncio.sleep(0.5)
        return all(item.get("status") for item in await self._all(kinds.ECO_WORKER))

    async def _are_ready(self) -> bool:
        await asyncio.sleep(0.5)
        return all(_is_ready(item) for item in await self._all(kinds.ECO_WORKER))

    async def _run_pod(self, deployment: dict[str, Any]) -> None:
        name = deployment["metadata"]["name"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        spec = {"containers": [{"name": contract.CONTAINER_NAME, "image": "none"}], "nodeName": "nowhere"}
        pod = await self.cluster._request(
            "create",
            kinds.POD,
            kinds.POD.path(self.namespace),
            body={
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{name}-pod", "namespace": self.namespace, "labels": labels},
                "spec": {**spec, "automountServiceAccountToken": False},
            },
        )
        address = self.fleet.add(name)
        container = {"name": contract.CONTAINER_NAME, "image": "none", "imageID": "", "ready": True, "restartCount": 0}
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{**container, "state": {"running": {}}}],
        }
        path = kinds.POD.path(self.namespace, f"{name}-pod", "status")
        await self.cluster._request("replace", kinds.POD, path, body={**pod, "status": status})
        path = kinds.DEPLOYMENT.path(self.namespace, name, "status")
        counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
        body = {**deployment, "status": {"observedGeneration": deployment["metadata"]["generation"], **counts}}
        await self.cluster._request("replace", kinds.DEPLOYMENT, path, body=body)

    async def _until_quiet(self) -> None:
        async def is_quiet() -> bool:
            log = self.server.audit()
            await asyncio.sleep(QUIET_S)
            return not self.server.operator_writes(log)

        await until("the operator has settled", is_quiet, within_s=CONVERGED_WITHIN_S)

    @asynccontextmanager
    async def _watched(
        self, kind: kinds.Kind, counts: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> AsyncIterator["Seen"]:
        """When an object of each EcoWorker was last seen to change so that it counts."""
        version = (await self.cluster._request("list", kind, kind.path(self.namespace), query={"limit": "1"}))[
            "metadata"
        ]["resourceVersion"]
        url = f"https://127.0.0.1:{self.server.port}{kind.path(self.namespace)}?watch=true&resourceVersion={version}"
        seen = Seen()

        async def read() -> None:
            timeout, headers = aiohttp.ClientTimeout(total=None), self._authorization()
            async with (
                aiohttp.ClientSession(timeout=timeout, read_bufsize=4 * MIB) as session,
                session.get(url, headers=headers, ssl=False) as answer,
            ):
                async for line in answer.content:
                    item = json.loads(line)["object"]
                    if counts(item):
                        labels = item["metadata"].get("labels") or {}
                        seen.note(labels.get(contract.LABEL_WORKER) or item["metadata"]["name"])

        reading = asyncio.create_task(read())
        try:
            yield seen
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading


class Seen:
    """Moments at which something was seen, by name."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._news = asyncio.Event()

    def note(self, name: str) -> None:
        """It was seen now."""
        self._at.setdefault(name, time.monotonic())
        self._news.set()

    def clear(self) -> None:
        """Forget all of it."""
        self._at.clear()

    async def wait(self, name: str, *, within_s: float) -> float:
        """When it was seen; raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while name not in self._at:
                self._news.clear()
                await self._news.wait()
        return self._at[name]


def _worker(number: int) -> dict[str, Any]:
    document = example(replicas=SHARDS)
    document["metadata"] = {"name": f"w{number:04d}"}
    return document


def _copy(item: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The object as somebody would create it anew elsewhere."""
    metadata = {name: value for name, value in item["metadata"].items() if name not in _SERVERS_OWN}
    made = {name: value for name, value in item.items() if name != "status"}
    if item["kind"] == kinds.SERVICE.kind:
        made["spec"] = {name: value for name, value in item["spec"].items() if not name.startswith("clusterIP")}
        made["spec"]["clusterIP"] = "None"
    return {**made, "metadata": {**metadata, "namespace": namespace}}


def _is_ready(item: dict[str, Any]) -> bool:
    found = (item.get("status") or {}).get("conditions") or ()
    return any(it["type"] == "Ready" and it["status"] == "True" for it in found)


def _wal(item: dict[str, Any]) -> str:
    return str(((item.get("status") or {}).get("summary") or {}).get("wal", ""))


async def _at_once(calls: Iterable[Coroutine[Any, Any, None]], limit: int = CREATING_AT_ONCE) -> None:
    pending = iter(calls)

    async def take() -> None:
        for call in pending:
            await call

    async with asyncio.TaskGroup() as group:
        for _ in range(limit):
            group.create_task(take())


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
