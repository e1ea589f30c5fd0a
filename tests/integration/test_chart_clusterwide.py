"""One operator for every namespace, with the account and the rights that the chart gives it and no others."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from eco_operator import cluster as operator_cluster
from eco_operator import kinds
from tests.support.apiserver import ApiServer
from tests.support.charts import render
from tests.support.fleet import fleet
from tests.support.operator_world import World, example, kubectl, operator_program, server_with_kinds
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

HOME: Final = "eco-system"
SERVED: Final = ("one", "two")
ACCOUNT: Final = "eco-operator"
RIGHTS: Final = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
# The status code stands alone: the microseconds of a timestamp may hold the same digits.
REFUSED: Final = re.compile(r"\b403\b|forbidden", re.IGNORECASE)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with server_with_kinds() as running:
        for namespace in (HOME, *SERVED):
            kubectl(running, "create", "namespace", namespace)
        for manifest in render("eco-operator", "--set", "rbac.aggregate=false", namespace=HOME):
            if manifest["kind"] in RIGHTS:
                kubectl(running, "apply", "-f", "-", given=manifest)
        yield running


def credentials(server: ApiServer, file: Path) -> Path:
    """A kubeconfig with nothing but a token of the operator's account."""
    config = json.loads(server.kubeconfig.read_text())
    token = kubectl(server, "-n", HOME, "create", "token", ACCOUNT).strip()
    config["users"] = [{"name": ACCOUNT, "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = ACCOUNT
    file.write_text(yaml.safe_dump(config))
    file.chmod(0o600)
    return file


@asynccontextmanager
async def worlds(server: ApiServer, place: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[World]]:
    """Two namespaces with fleets, and the one operator of both."""
    account = str(credentials(server, place / "kubeconfig"))
    settings = {"KUBECONFIG": account, "ECO_OPERATOR_NAMESPACES": ""}
    operator, port = operator_program(server, HOME, place, **settings)
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    async with (
        await operator_cluster.connect() as cluster,
        fleet(cluster, SERVED[0]) as first,
        fleet(cluster, SERVED[1]) as second,
    ):
        cluster._client.user_agent = "stand-in"
        made = [World(server, it.namespace, cluster, it, operator, port) for it in (first, second)]
        try:
            operator.start()
            await made[0].until_operator_ready()
            yield made
        finally:
            operator.stop()


async def test_ecoworkers_of_two_namespaces_come_up_and_no_request_is_refused(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worlds(server, tmp_path, monkeypatch) as made:
        for world in made:
            world.kubectl("apply", "-f", "-", given=example(replicas=1))
        await asyncio.gather(*(world.until_ready() for world in made))
        for world in made:
            world.kubectl("delete", "ecoworker", "storage")

            async def orphaned(world: World = world) -> bool:
                return any(kind == "PersistentVolumeClaim" for _, kind in await world.events())

            assert await world.exists(kinds.CLAIM, "wal-storage-0")
            await until("an event on the kept claim", orphaned, within_s=15)
        log = made[0].operator.log.read_text()
    assert "storage" in log
    assert not [line for line in log.splitlines() if REFUSED.search(line)]


async def test_a_class_is_looked_at_before_anything_is_asked_of_it_and_again_when_it_has_changed(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about: dict[str, Any] = {"apiVersion": kinds.STORAGE_CLASS.api_version, "kind": kinds.STORAGE_CLASS.kind}
    about |= {"metadata": {"name": "rigid"}, "provisioner": "stand-in.example", "allowVolumeExpansion": False}
    kubectl(server, "apply", "-f", "-", given=about)
    document = example(replicas=1)
    document["spec"]["wal"] = {"size": "10Gi", "storageClass": "rigid", "growth": {"max": "20Gi"}}
    async with worlds(server, tmp_path, monkeypatch) as (world, _):
        world.kubectl("delete", "pvc", "--all", "--wait=false")  # those that another test has left

        async def is_empty() -> bool:
            return not world.kubectl("get", "pvc", "-o", "name").strip()

        # A volume that is there for a moment would be told of as well.
        await until("the claims are gone", is_empty, within_s=15)
        world.kubectl("apply", "-f", "-", given=document)
        await world.until_ready()
        await world.until_condition("StorageGrowing", "False", "NotExpandable")
        world.fleet.workers["storage-0"].fills(90)

        async def is_full() -> bool:
            return "90" in (await world.worker())["status"]["summary"]["disk"]

        await until("the status has the use", is_full, within_s=15)
        assert not [line for line in world.operator.log.read_text().splitlines() if REFUSED.search(line)]
        kubectl(server, "apply", "-f", "-", given={**about, "allowVolumeExpansion": True})

        async def has_grown() -> bool:
            return bool((await world.worker())["status"]["shards"][0].get("volumeSize") == "15Gi")

        await until("the volume has grown", has_grown, within_s=20)
        told = [reason for reason, _ in await world.events() if reason.startswith("Volume")]
        assert sorted(told) == ["VolumeGrowing", "VolumeGrown", "VolumeNotExpandable"]
