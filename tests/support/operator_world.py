"""The operator as a process of its own against a real API server, in a namespace of its own, with a fleet beside it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from eco_operator import cluster as operator_cluster
from eco_operator import errors, kinds
from eco_operator.cluster import Cluster
from tests.support.api import ROOT
from tests.support.apiserver import ApiServer, bare_api_server
from tests.support.fleet import Fleet, fleet
from tests.support.processes import Program, free_port
from tests.support.waiting import until

IMAGE: Final = "registry.example/worker:1"


@contextmanager
def server_with_kinds() -> Iterator[ApiServer]:
    """A bare API server that knows our kinds."""
    with bare_api_server() as running:
        for manifest in sorted((ROOT / "crds/manifests").iterdir()):
            kubectl(running, "apply", "--server-side", "-f", str(manifest))
        kubectl(running, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield running


@dataclass(slots=True)
class World:
    """One namespace with an operator that serves it."""

    server: ApiServer
    namespace: str
    cluster: Cluster
    fleet: Fleet
    operator: Program
    port: int

    def kubectl(self, *arguments: str, given: Any = None) -> str:
        """Run kubectl in the namespace; what it printed."""
        return kubectl(self.server, "-n", self.namespace, *arguments, given=given)

    async def worker(self, name: str = "storage") -> dict[str, Any]:
        """The EcoWorker as it is."""
        return await self.cluster.get(kinds.ECO_WORKER, self.namespace, name)

    async def condition(self, type_: str, name: str = "storage") -> tuple[str, str]:
        """Status and reason, two empty strings when it is not there."""
        found = (await self.worker(name)).get("status", {}).get("conditions", [])
        return next(((it["status"], it["reason"]) for it in found if it["type"] == type_), ("", ""))

    async def until_condition(self, type_: str, status: str, reason: str, *, within_s: float = 15) -> float:
        """Wait for a verdict; seconds it took."""

        async def holds() -> bool:
            return await self.condition(type_) == (status, reason)

        return await until(f"{type_}={status}/{reason}", holds, within_s=within_s)

    async def until_ready(self) -> None:
        """Wait until all is well."""
        await self.until_condition("Ready", "True", "AllShardsReady")

    async def exists(self, kind: kinds.Kind, name: str) -> bool:
        """Whether an object is there."""
        try:
            await self.cluster.get(kind, self.namespace, name)
        except errors.NotFoundError:
            return False
        return True

    async def events(self) -> list[tuple[str, str]]:
        """Reason and kind of the subject of every event."""
        answer = json.loads(self.kubectl("get", "events", "-o", "json"))
        return [(item["reason"], item["involvedObject"]["kind"]) for item in answer["items"]]

    def restart_operator(self, number: int = signal.SIGTERM) -> None:
        """Stop it and start it again."""
        self.operator.stop(number)
        self.operator.start()

    def health(self, path: str) -> int:
        """HTTP status of one of its routes; 0 without an answer."""
        return health(self.port, path)

    def is_leading(self) -> bool:
        """Whether it holds the Lease."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as answer:
            return b"eco_operator_leader 1.0" in answer.read()

    async def until_operator_ready(self) -> None:
        """Wait until it has listed everything."""

        async def ready() -> bool:
            return await asyncio.to_thread(self.health, "/readyz") == 200

        await until("the operator is ready", ready, within_s=60)


def health(port: int, path: str) -> int:
    """HTTP status of a route of the operator at that port; 0 without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@asynccontextmanager
async def operator_world(
    server: ApiServer, place: Path, *, argocd: bool = False, **settings: str
) -> AsyncIterator[World]:
    """A namespace, a fleet, and an operator that is ready; with `argocd` the namespace is Argo CD's as well."""
    namespace = f"op-{uuid.uuid4().hex[:8]}"
    kubectl(server, "create", "namespace", namespace)
    os.environ["KUBECONFIG"] = str(server.kubeconfig)
    if argocd:
        settings = {"ECO_OPERATOR_ARGOCD_NAMESPACE": namespace, **settings}
    operator, port = operator_program(server, namespace, place, **settings)
    async with await operator_cluster.connect() as cluster, fleet(cluster, namespace) as simulated:
        # The operator is told apart by its user agent; what the stand-ins write must not count as its writes.
        cluster._client.user_agent = "stand-in"
        made = World(server, namespace, cluster, simulated, operator, port)
        try:
            operator.start()
            await made.until_operator_ready()
            yield made
        finally:
            # A test may have put another one in its place.
            made.operator.stop()
            os.environ.pop("KUBECONFIG", None)


@contextmanager
def environment_with(name: str, value: str) -> Iterator[None]:
    """A variable of this process's environment for a moment."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def operator_program(server: ApiServer, namespace: str, place: Path, **settings: str) -> tuple[Program, int]:
    """The operator, not started, and its port."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": str(server.kubeconfig),
        "ECO_OPERATOR_NAMESPACES": namespace,
        "ECO_OPERATOR_LEASE_NAMESPACE": namespace,
        "ECO_OPERATOR_HTTP_HOST": "127.0.0.1",
        "ECO_OPERATOR_HTTP_PORT": str(port),
        "ECO_OPERATOR_DEFAULT_WORKER_IMAGE": IMAGE,
        "ECO_OPERATOR_PROBE_INTERVAL_S": "0.3",
        "ECO_OPERATOR_PROBE_TIMEOUT_S": "0.5",
        "ECO_OPERATOR_RESYNC_INTERVAL_S": "1.5",
        "ECO_OPERATOR_STATUS_INTERVAL_S": "3",
        **settings,
    }
    return Program("operator", [sys.executable, "-m", "eco_operator", "run"], place / "operator.log", environment), port


def example(**changes: Any) -> dict[str, Any]:
    """The example EcoWorker with changes of its spec."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "crds/examples/ecoworker-storage.yaml").read_text())
    document["spec"].update(changes)
    return document


def sync() -> dict[str, Any]:
    """The example WalSync."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "crds/examples/walsync-storage.yaml").read_text())
    return document


def kubectl(server: ApiServer, *arguments: str, given: Any = None) -> str:
    """Run kubectl as administrator; what it printed."""
    done = subprocess.run(
        [str(server.kubectl), "--kubeconfig", str(server.kubeconfig), *arguments],
        input=None if given is None else yaml.safe_dump(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


async def writes_during(world: World, *, for_s: float) -> list[str]:
    """Writes of the operator in the coming seconds."""
    log = world.server.audit()
    await asyncio.sleep(for_s)  # the measurement itself: what is counted is what happens in this time
    return world.server.operator_writes(log)


async def until_quiet(world: World, *, for_s: float) -> None:
    """Wait until it has written nothing for so long."""

    async def quiet() -> bool:
        return not await writes_during(world, for_s=for_s)

    await until("the operator has settled", quiet, within_s=20)
