"""An EcoWorker that Argo CD applies on the server's side, and an operator at work: Git and cluster stay the same.

What a further sync would change is asked of the API server itself, by a dry run under Argo CD's field manager.
"""

import json
from typing import Any, Final

import pytest
import yaml

from eco_crds import contract
from eco_operator import kinds
from tests.support.charts import CHARTS, Manifest, by_kind, render
from tests.support.operator_world import World
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

DEV: Final = ("--values", str(CHARTS / "waste" / "values-dev.yaml"), "--set", "image.repository=a,image.tag=v1")
AUTOSCALED: Final = ("--set", "workers.storage-worker.autoscaled=true")
NAME: Final = "storage-worker"
AS_ARGO_CD: Final = ("apply", "--server-side", "--force-conflicts", "--field-manager=argocd-controller", "-f", "-")


def in_git(world: World, *arguments: str, replicas: int | None = None) -> list[Manifest]:
    """The chart's EcoWorker and WalSync, for the namespace of the test."""
    scale = () if replicas is None else ("--set", f"workers.{NAME}.spec.replicas={replicas}")
    manifests = render("waste", *DEV, *scale, *arguments)
    chosen = by_kind(manifests, "EcoWorker") + by_kind(manifests, "WalSync")
    return [{**it, "metadata": {**it["metadata"], "namespace": world.namespace}} for it in chosen]


def sync(world: World, manifests: list[Manifest], *options: str) -> list[dict[str, Any]]:
    """Apply, and what the server made of it."""
    return [json.loads(world.kubectl(*AS_ARGO_CD, *options, "-o", "json", given=it)) for it in manifests]


def without_bookkeeping(document: dict[str, Any]) -> dict[str, Any]:
    metadata = {k: v for k, v in document["metadata"].items() if k not in {"managedFields", "resourceVersion"}}
    return {**document, "metadata": metadata, "status": None}


def drift(world: World, manifests: list[Manifest]) -> list[str]:
    """Objects that a sync would change now."""
    wanted = sync(world, manifests, "--dry-run=server")
    live = [json.loads(world.kubectl("get", it["kind"], it["metadata"]["name"], "-o", "json")) for it in manifests]
    pairs = zip(map(without_bookkeeping, wanted), map(without_bookkeeping, live), strict=True)
    return [yaml.safe_dump([one, other]) for one, other in pairs if one != other]


async def until_all_ready(world: World) -> None:
    async def ready() -> bool:
        return await world.condition("Ready", NAME) == ("True", "AllShardsReady")

    await until(f"{NAME} is ready", ready, within_s=30)


async def test_the_operators_work_is_no_drift(world: World) -> None:
    manifests = in_git(world, replicas=2)
    sync(world, manifests)
    await until_all_ready(world)
    assert drift(world, manifests) == []
    world.kubectl("delete", "deployment", f"{NAME}-0")

    async def back() -> bool:
        return await world.exists(kinds.DEPLOYMENT, f"{NAME}-0")

    await until("the deployment is back", back, within_s=15)
    await until_all_ready(world)
    assert drift(world, manifests) == []


@pytest.mark.parametrize(
    ("kind", "annotation"),
    [
        ("ecoworker", contract.ANNOTATION_PAUSED),
        ("ecoworker", contract.ANNOTATION_HIBERNATE),
        ("ecoworker", contract.ANNOTATION_RECOVER),
        ("walsync", contract.ANNOTATION_SYNC_NOW),
    ],
)
async def test_an_action_is_not_undone_by_the_next_sync(world: World, kind: str, annotation: str) -> None:
    manifests = in_git(world)
    sync(world, manifests)
    world.kubectl("annotate", kind, NAME, f"{annotation}=true")
    assert drift(world, manifests) == []
    sync(world, manifests)
    found = json.loads(world.kubectl("get", kind, NAME, "-o", "json"))
    assert found["metadata"]["annotations"][annotation] == "true"


async def test_an_autoscaler_and_self_heal_do_not_fight(world: World) -> None:
    manifests = in_git(world, *AUTOSCALED)
    sync(world, manifests)
    world.kubectl("scale", "ecoworker", NAME, "--replicas=3")
    assert drift(world, manifests) == []
    sync(world, manifests)
    assert (await world.worker(NAME))["spec"]["replicas"] == 3


async def test_a_number_in_git_is_set_back_which_is_why_it_has_to_be_left_out(world: World) -> None:
    manifests = in_git(world, replicas=2)
    sync(world, manifests)
    world.kubectl("scale", "ecoworker", NAME, "--replicas=3")
    assert len(drift(world, manifests)) == 1
    sync(world, manifests)
    assert (await world.worker(NAME))["spec"]["replicas"] == 2


async def test_letting_go_of_a_number_that_nobody_else_has_set_is_a_scale_in(world: World) -> None:
    """What charts/eco-operator/argocd/README.md warns of, and the order that avoids it."""
    sync(world, in_git(world, replicas=3))
    sync(world, in_git(world, *AUTOSCALED))
    assert (await world.worker(NAME))["spec"]["replicas"] == 1
    sync(world, in_git(world, replicas=3))
    world.kubectl("scale", "ecoworker", NAME, "--replicas=2")
    sync(world, in_git(world, *AUTOSCALED))
    assert (await world.worker(NAME))["spec"]["replicas"] == 2
