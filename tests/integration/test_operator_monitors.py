"""ServiceMonitors on a real API server: none while the kind is missing, one for each EcoWorker once it is there."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from eco_operator import kinds
from tests.support.apiserver import ApiServer
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

DEFINITION: Final[dict[str, Any]] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                },
            }
        ],
    },
}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with server_with_kinds() as running:
        yield running


@pytest.fixture
async def world(server: ApiServer, tmp_path: Path) -> AsyncIterator[World]:
    wishes = {
        "ECO_OPERATOR_SERVICE_MONITORS": "true",
        "ECO_OPERATOR_SERVICE_MONITOR_LABELS": '{"release": "prometheus"}',
    }
    async with operator_world(server, tmp_path, **wishes) as made:
        yield made


async def test_they_come_with_their_kind_and_cost_nothing_before(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_ready()
    await until_quiet(world, for_s=3)
    kubectl(world.server, "apply", "--server-side", "-f", "-", given=DEFINITION)

    async def is_there() -> bool:
        return await world.exists(kinds.SERVICE_MONITOR, "storage")

    await until("the ServiceMonitor is there", is_there, within_s=30)
    found = await world.cluster.get(kinds.SERVICE_MONITOR, world.namespace, "storage")
    assert found["metadata"]["labels"]["release"] == "prometheus"
    await until_quiet(world, for_s=3)
    assert await writes_during(world, for_s=4) == []
    await world.cluster.delete(kinds.SERVICE_MONITOR, world.namespace, "storage", uid=found["metadata"]["uid"])
    await until("it is made again", is_there, within_s=30)


async def test_a_label_that_somebody_changed_is_set_back(world: World) -> None:
    """A Prometheus that selects by it would lose the workers. Only lists tell of monitors: a resync has to see it."""
    kubectl(world.server, "apply", "--server-side", "-f", "-", given=DEFINITION)
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_ready()

    async def is_selected() -> bool:
        if not await world.exists(kinds.SERVICE_MONITOR, "storage"):
            return False
        found = await world.cluster.get(kinds.SERVICE_MONITOR, world.namespace, "storage")
        return bool(found["metadata"]["labels"].get("release") == "prometheus")

    await until("the ServiceMonitor is there", is_selected, within_s=30)
    world.kubectl("label", "servicemonitor", "storage", "release=another", "--overwrite")
    await until("its label is ours again", is_selected, within_s=30)


async def test_a_monitor_of_that_name_which_is_not_ours_is_left_alone(world: World) -> None:
    kubectl(world.server, "apply", "--server-side", "-f", "-", given=DEFINITION)
    kubectl(world.server, "wait", "--for=condition=Established", f"crd/{DEFINITION['metadata']['name']}")
    kind = kinds.SERVICE_MONITOR
    theirs = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "storage"}, "spec": {}}
    world.kubectl("create", "-f", "-", given=theirs)
    before = await world.cluster.get(kind, world.namespace, "storage")
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_condition("Stalled", "True", "NameConflict")
    assert await world.cluster.get(kind, world.namespace, "storage") == before
