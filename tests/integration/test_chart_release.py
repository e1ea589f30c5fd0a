"""A release of the operator's chart comes, changes, goes back, goes and comes again beside shards that hold work.

What holds the work is looked at after every step: the same objects, never applied anew, and the same pods.
"""

import json
from collections.abc import Iterator
from typing import Final

import pytest

from eco_crds.wal import WalAges, WalCounts
from eco_operator import kinds
from tests.support.apiserver import ApiServer, bare_api_server
from tests.support.charts import CHARTS, run
from tests.support.operator_world import World, example, kubectl, until_quiet

pytestmark = pytest.mark.cluster

RELEASE: Final = "eco-operator"
HOME: Final = "eco-system"
HOLDERS: Final = (kinds.ECO_WORKER, kinds.DEPLOYMENT, kinds.CLAIM, kinds.SECRET, kinds.SERVICE, kinds.POD)


def helm(server: ApiServer, *arguments: str) -> None:
    done = run(*arguments, "--kubeconfig", str(server.kubeconfig), "--namespace", HOME)
    assert done.returncode == 0, done.stderr


def install(server: ApiServer, *values: str) -> None:
    helm(server, "upgrade", "--install", "--create-namespace", RELEASE, str(CHARTS / RELEASE), *values)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """Its definitions come from the chart."""
    with bare_api_server() as running:
        install(running)
        kubectl(running, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield running


async def holders(world: World) -> dict[str, tuple[str, int]]:
    """Identity and generation of everything that holds work or runs it."""
    found = {}
    for kind in HOLDERS:
        async for chunk, _ in world.cluster.list(kind, (world.namespace,)):
            for it in chunk:
                metadata = it["metadata"]
                found[f"{kind.kind} {metadata['name']}"] = (metadata["uid"], metadata.get("generation", 0))
    return found


async def test_shards_with_work_outlive_every_change_of_the_release(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_ready()
    for worker in world.fleet.workers.values():
        worker.says(counts=WalCounts(due=5, running=2), ages=WalAges(last_progress_s=1))
    await until_quiet(world, for_s=4)
    before, log = await holders(world), world.server.audit()
    assert {"Deployment storage-1", "PersistentVolumeClaim wal-storage-1"} <= set(before)
    steps = {
        "upgrade": lambda: install(
            world.server, "--set", "replicas=1,settings.logLevel=debug,networkPolicy.enabled=true"
        ),
        "roll back": lambda: helm(world.server, "rollback", RELEASE, "1"),
        "uninstall": lambda: helm(world.server, "uninstall", RELEASE),
        "install again": lambda: install(world.server),
    }
    for step, do in steps.items():
        do()
        assert await holders(world) == before, step
        definition = json.loads(kubectl(world.server, "get", "crd", "ecoworkers.eco.growbin.app", "-o", "json"))
        assert "deletionTimestamp" not in definition["metadata"], step
        is_there = step != "uninstall"
        assert (
            "deployment.apps/eco-operator" in kubectl(world.server, "-n", HOME, "get", "deploy", "-o", "name")
        ) is is_there
    touched = [write for write in world.server.operator_writes(log) if " ecoworkers" not in write]
    assert touched == []
