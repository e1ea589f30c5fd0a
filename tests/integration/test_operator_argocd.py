"""Delivery through Argo CD against a real API server: real chart, real field managers, a stand-in controller."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from eco_crds import contract
from eco_crds.wal import WalAges, WalCounts
from eco_operator import kinds
from tests.support.apiserver import ApiServer
from tests.support.argocd_controller import DEFINITION, ArgoCd, argocd
from tests.support.charts import helm
from tests.support.operator_world import (
    World,
    example,
    kubectl,
    operator_world,
    server_with_kinds,
    until_quiet,
    writes_during,
)
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

SETTINGS = {
    "ECO_OPERATOR_ARGOCD_REPO_URL": "https://git.example/eco.git",
    "ECO_OPERATOR_ARGOCD_REVISION": "v1",
}


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    helm()
    with server_with_kinds() as running:
        kubectl(running, "apply", "--server-side", "-f", "-", given=DEFINITION)
        kubectl(running, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield running


@pytest.fixture
async def world(server: ApiServer, tmp_path: Path) -> AsyncIterator[World]:
    async with operator_world(server, tmp_path, argocd=True, **SETTINGS) as made:
        yield made


@pytest.fixture
async def controller(world: World) -> AsyncIterator[ArgoCd]:
    async with argocd(world.cluster, world.namespace) as running:
        yield running


async def applications(world: World) -> set[str]:
    found = set()
    async for chunk, _ in world.cluster.list(kinds.APPLICATION, (world.namespace,)):
        found |= {item["metadata"]["name"].removeprefix(f"{world.namespace}.") for item in chunk}
    return found


async def identity(world: World) -> dict[str, Any]:
    """What must stay over a change of hands: pods, the Deployments' templates, the claims."""
    async for chunk, _ in world.cluster.list(kinds.POD, (world.namespace,)):
        pods = {item["metadata"]["name"]: item["metadata"]["uid"] for item in chunk}
    deployments = [await world.cluster.get(kinds.DEPLOYMENT, world.namespace, f"storage-{n}") for n in (0, 1)]
    claims = [await world.cluster.get(kinds.CLAIM, world.namespace, f"wal-storage-{n}") for n in (0, 1)]
    return {
        "pods": pods,
        "deployments": [(it["metadata"]["uid"], it["spec"]) for it in deployments],
        "claims": [(it["metadata"]["uid"], it["spec"]["resources"]) for it in claims],
    }


async def managers(world: World) -> set[str]:
    """Whose the Deployments, claims and what the shards share are: by an apply, and of us also by a create."""
    found = set()
    for kind in (kinds.DEPLOYMENT, kinds.CLAIM, kinds.SERVICE, kinds.BUDGET, kinds.CONFIG_MAP):
        async for chunk, _ in world.cluster.list(
            kind, (world.namespace,), label_selector=f"{contract.LABEL_MANAGED_BY}={contract.MANAGED_BY}"
        ):
            found |= {
                entry["manager"]
                for item in chunk
                for entry in item["metadata"].get("managedFields", ())
                if entry["operation"] == "Apply" or entry["manager"] == contract.FIELD_MANAGER
            }
    return found


async def deliver(world: World, delivery: str, **changes: Any) -> None:
    world.kubectl("apply", "-f", "-", given=example(delivery=delivery, **changes))


async def until_managers(world: World, *wanted: str) -> None:
    async def so() -> bool:
        return await managers(world) == set(wanted)

    await until(f"{wanted} own everything", so, within_s=40)


async def test_an_ecoworker_comes_about_through_applications_and_rests(world: World, controller: ArgoCd) -> None:
    await deliver(world, "ArgoCD")
    await world.until_ready()
    await world.until_condition("Delivered", "True", "Synced", within_s=40)
    assert await applications(world) == {"storage-0", "storage-1", "storage.shared"}
    assert await managers(world) == {contract.ARGOCD_FIELD_MANAGER}
    assert controller.last_error == ""
    await until_quiet(world, for_s=4)
    assert await writes_during(world, for_s=8) == []


async def test_a_change_of_hands_restarts_no_pod_and_moves_no_volume(world: World, controller: ArgoCd) -> None:
    await deliver(world, "Direct")
    await world.until_ready()
    assert await managers(world) == {contract.FIELD_MANAGER}
    before = await identity(world)
    await deliver(world, "ArgoCD")
    await until_managers(world, contract.ARGOCD_FIELD_MANAGER)
    await world.until_condition("Delivered", "True", "Synced", within_s=40)
    assert await identity(world) == before
    await deliver(world, "Direct")
    await until_managers(world, contract.FIELD_MANAGER)
    await world.until_ready()
    assert await applications(world) == set()
    assert await identity(world) == before
    assert controller.last_error == ""
    # And what was taken out of the spec in between really goes.
    await deliver(world, "Direct", env=[{"name": "LATER", "value": "1"}])
    await world.until_ready()


async def test_a_shard_gives_back_its_tasks_before_its_application_goes(world: World, controller: ArgoCd) -> None:
    await deliver(world, "ArgoCD")
    await world.until_ready()
    leaving = world.fleet.workers["storage-1"]
    leaving.is_busy = True
    leaving.says(counts=WalCounts(due=5, running=1), ages=WalAges(last_progress_s=1))
    world.kubectl("scale", "ecoworker/storage", "--replicas=1")

    async def told() -> bool:
        return leaving.told == ["drain"]

    await until("it is told to drain", told, within_s=15)
    assert "storage-1" in await applications(world)
    leaving.is_busy = False
    leaving.says(counts=WalCounts())

    async def gone() -> bool:
        return "storage-1" not in await applications(world) and not await world.exists(kinds.DEPLOYMENT, "storage-1")

    await until("Application and Deployment are gone", gone, within_s=30)
    assert await world.exists(kinds.CLAIM, "wal-storage-1")
    await world.until_ready()
    assert controller.last_error == ""


async def test_an_application_of_somebody_else_is_left_alone_and_reported(world: World, controller: ArgoCd) -> None:
    name = f"{world.namespace}.storage-0"
    foreign = {
        "apiVersion": kinds.APPLICATION.api_version,
        "kind": "Application",
        "metadata": {"name": name},
        "spec": {"project": "theirs", "destination": {"server": "https://elsewhere"}},
    }
    controller.is_stopped = True
    world.kubectl("apply", "-f", "-", given=foreign)
    await deliver(world, "ArgoCD")
    await world.until_condition("Stalled", "True", "NameConflict")
    found = await world.cluster.get(kinds.APPLICATION, world.namespace, name)
    assert found["spec"] == foreign["spec"]


async def test_what_argocd_says_is_in_the_status_and_goes_when_it_can(world: World, controller: ArgoCd) -> None:
    controller.fails_with = "chart not found"
    await deliver(world, "ArgoCD")
    await world.until_condition("Delivered", "False", "SyncFailed")
    controller.fails_with = ""
    await world.until_ready()
    await world.until_condition("Delivered", "True", "Synced", within_s=40)


async def test_applications_go_with_their_ecoworker_and_claims_stay(world: World, controller: ArgoCd) -> None:
    await deliver(world, "ArgoCD")
    await world.until_ready()
    world.kubectl("delete", "ecoworker", "storage")

    async def gone() -> bool:
        return not await applications(world) and not await world.exists(kinds.DEPLOYMENT, "storage-0")

    await until("nothing runs any more", gone, within_s=30)
    assert await world.exists(kinds.CLAIM, "wal-storage-0")
    assert controller.last_error == ""
