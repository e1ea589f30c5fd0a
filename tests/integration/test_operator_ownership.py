"""Whose the fields of an object are, by a create and by applies, on a real API server."""

import asyncio
import json
from typing import Any

import pytest

from eco_crds import contract
from eco_operator import kinds
from tests.support.operator_world import World, example, until_quiet
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


async def test_a_field_set_to_nothing_is_owned_like_any_other(world: World) -> None:
    """A create owns no such field, so the object is applied once more; and that is all, also for the next process."""
    empty = {"name": "EMPTY", "value": ""}
    world.kubectl("apply", "-f", "-", given=example(replicas=1, env=[empty]))
    await world.until_ready()
    await until_quiet(world, for_s=2)
    log = world.server.audit()
    world.restart_operator()
    await world.until_operator_ready()
    await asyncio.sleep(3)  # the measurement itself: nothing may be written in this time
    assert world.server.operator_writes(log) == []
    patch = [{"name": "worker", "env": [{"name": "EMPTY", "value": "theirs"}]}]
    template = {"spec": {"template": {"spec": {"containers": patch}}}}
    world.kubectl("patch", "deployment", "storage-0", "-p", json.dumps(template))

    async def mended() -> bool:
        return empty["name"] not in {it["name"] for it in await environment(world) if it.get("value")}

    await until("the variable is empty again", mended, within_s=10)


async def test_what_a_spec_no_longer_asks_for_goes_from_an_object_that_nobody_has_changed_yet(world: World) -> None:
    """It was made by a create, whose fields no apply takes away unless they were made an apply's before."""
    kept, dropped = {"name": "KEPT", "value": "yes"}, {"name": "DROPPED", "value": "yes"}
    world.kubectl("apply", "-f", "-", given=example(replicas=1, env=[kept, dropped]))
    await world.until_ready()
    assert dropped in await environment(world)
    world.kubectl("apply", "-f", "-", given=example(replicas=1, env=[kept]))

    async def is_gone() -> bool:
        return dropped not in await environment(world)

    await until("the variable is gone", is_gone, within_s=10)
    assert kept in await environment(world)
    assert await our_writes(world) == ["Apply"]


async def test_an_object_that_another_release_applied_to_belongs_to_one_entry_in_the_end(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    await world.until_ready()
    assert await our_writes(world) == ["Update"]
    metadata = {"name": "storage-0", "annotations": {"example.org/older": "yes"}}
    older = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    world.kubectl("apply", "--server-side", f"--field-manager={contract.FIELD_MANAGER}", "-f", "-", given=older)

    async def is_gone() -> bool:
        found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-0")
        return "example.org/older" not in found["metadata"]["annotations"]

    await until("what only the other release wanted is gone", is_gone, within_s=10)
    assert await our_writes(world) == ["Apply"]


async def our_writes(world: World) -> list[str]:
    """By which kinds of write fields of the first shard are ours."""
    found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-0")
    entries = found["metadata"]["managedFields"]
    return [it["operation"] for it in entries if it["manager"] == contract.FIELD_MANAGER]


async def environment(world: World) -> list[dict[str, Any]]:
    """Variables of the first shard."""
    found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-0")
    variables: list[dict[str, Any]] = found["spec"]["template"]["spec"]["containers"][0]["env"]
    return variables
