"""Two operators of which one leads, and namespaces that go while their EcoWorkers are in the middle of something."""

import asyncio
import json
import random
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from eco_operator import errors, kinds
from eco_operator.cluster import Cluster
from tests.support.apiserver import ApiServer, programs
from tests.support.fleet import fleet
from tests.support.operator_world import World, example, kubectl, operator_program
from tests.support.processes import Program, answers, free_port
from tests.support.waiting import until

TAKEN_WITHIN_S: Final = 60.0
GONE_WITHIN_S: Final = 90.0
PHASE_S_MAX: Final = 4.0
"""A namespace goes at any moment from the first write about its EcoWorker until some time after it is Ready."""


@dataclass(frozen=True, slots=True)
class Change:
    """How long nobody led."""

    taken_s: float
    """From the signal until another one held the Lease."""
    first_write_s: float
    """Until that one had set right what was broken at the moment of the signal."""


async def change_of_leader(world: World, standby: Program, number: int) -> Change:
    """Signal the leader, break something, and wait for the other one; the roles are changed afterwards.

    `world.operator` leads and `standby` runs beside it.
    """
    await until("the standby has read the Lease", partial(_is_ready, standby), within_s=TAKEN_WITHIN_S)
    holder = await _holder(world)
    begun = time.monotonic()
    world.operator.send(number)
    found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-0")
    await world.cluster.delete(kinds.DEPLOYMENT, world.namespace, "storage-0", uid=found["metadata"]["uid"])

    async def is_taken() -> bool:
        now = await _holder(world)
        return bool(now) and now != holder

    async def is_back() -> bool:
        with suppress(errors.NotFoundError):
            now = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-0")
            return bool(now["metadata"]["uid"] != found["metadata"]["uid"])
        return False

    taken_s = await until("the Lease is taken", is_taken, within_s=TAKEN_WITHIN_S)
    await until("the Deployment is back", is_back, within_s=TAKEN_WITHIN_S)
    wrote_s = time.monotonic() - begun
    ended = world.operator
    ended.stop(signal.SIGKILL)
    world.operator = standby
    ended.start()
    await world.until_ready()
    return Change(taken_s, wrote_s)


async def _is_ready(program: Program) -> bool:
    """Whether it says so itself; a standby does once it has read the Lease."""
    url = f"http://127.0.0.1:{program.env['ECO_OPERATOR_HTTP_PORT']}/readyz"

    def answer() -> bool:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2) as found:
            return bool(found.status == 200)
        return False

    return await asyncio.to_thread(answer)


async def _holder(world: World) -> str:
    try:
        lease = await world.cluster.get(kinds.LEASE, world.namespace, "eco-operator")
    except errors.NotFoundError:
        return ""
    return str(lease["spec"].get("holderIdentity") or "")


def second_operator(world: World, place: Path) -> Program:
    """One more of the same namespace, started."""
    program, _ = operator_program(world.server, world.namespace, place, ECO_OPERATOR_IDENTITY="second")
    program.start()
    return program


@contextmanager
def namespace_controller(server: ApiServer, place: Path) -> Iterator[None]:
    """Kubernetes' own controllers of namespaces and of garbage, beside a bare API server."""
    found = programs()
    assert found is not None, "the server runs"
    port = free_port()
    controller = Program(
        "kube-controller-manager",
        [
            str(found / "kube-controller-manager"),
            f"--kubeconfig={server.kubeconfig}",
            "--controllers=namespace-controller,garbage-collector-controller",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={place / 'controller-certs'}",
            "--concurrent-namespace-syncs=10",
        ],
        place / "controllers.log",
    )
    controller.start()
    try:
        controller.wait_ready(lambda: answers(port))
        yield
    finally:
        controller.kill()


async def delete_namespaces(
    server: ApiServer, cluster: Cluster, operator: Program, count: int, chance: random.Random, *, operator_is_up: bool
) -> list[str]:
    """Make namespaces with an EcoWorker each and delete each in a random phase of its life; those that did not go."""
    names = [f"phase-{chance.getrandbits(32):08x}" for _ in range(count)]
    async with AsyncExitStack() as stack:
        for name in names:
            await asyncio.to_thread(kubectl, server, "create", "namespace", name)
            await stack.enter_async_context(fleet(cluster, name))
        await asyncio.gather(*(_live_and_go(server, name, chance.uniform(0, PHASE_S_MAX)) for name in names))
        if not operator_is_up:
            operator.kill()
        await asyncio.gather(*(asyncio.to_thread(_delete, server, name) for name in names))

        async def are_gone() -> bool:
            return not await asyncio.to_thread(_still_there, server, names)

        with suppress(AssertionError):
            await until("every namespace is gone", are_gone, within_s=GONE_WITHIN_S)
        stuck = await asyncio.to_thread(_still_there, server, names)
    if not operator_is_up:
        operator.start()
    return stuck


async def _live_and_go(server: ApiServer, name: str, for_s: float) -> None:
    """Have an EcoWorker for so long; an edit in the middle makes some of them roll or scale meanwhile."""
    await asyncio.to_thread(kubectl, server, "-n", name, "apply", "-f", "-", given=example())
    await asyncio.sleep(for_s / 2)
    await asyncio.to_thread(kubectl, server, "-n", name, "apply", "-f", "-", given=example(replicas=1, concurrency=9))
    await asyncio.sleep(for_s / 2)


def _delete(server: ApiServer, name: str) -> None:
    kubectl(server, "delete", "namespace", name, "--wait=false")


def _still_there(server: ApiServer, names: list[str]) -> list[str]:
    found = json.loads(kubectl(server, "get", "namespaces", "-o", "json"))
    return sorted({item["metadata"]["name"] for item in found["items"]} & set(names))
