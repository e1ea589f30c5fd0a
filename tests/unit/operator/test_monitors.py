"""ServiceMonitors: made where they are wanted and their kind is known, and nowhere else."""

from dataclasses import replace
from typing import Any

from eco_crds import contract
from eco_operator import kinds
from tests.support.observed import POLICY, InMemory

LABELS = {"release": "prometheus"}


def monitors(world: InMemory) -> list[dict[str, Any]]:
    return [body for (kind, _), body in world.bodies.items() if kind == kinds.SERVICE_MONITOR.kind]


def test_one_for_each_ecoworker_selects_its_service_and_names_shards() -> None:
    world = InMemory(policy=replace(POLICY, monitor_labels=LABELS))
    world.ready(2)
    [found] = monitors(world)
    assert found["metadata"]["labels"]["release"] == "prometheus"
    assert found["metadata"]["ownerReferences"][0]["kind"] == "EcoWorker"
    service = world.bodies[(kinds.SERVICE.kind, "storage")]
    selected = found["spec"]["selector"]["matchLabels"].items()
    assert selected <= service["metadata"]["labels"].items()
    assert found["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert contract.LABEL_SHARD in found["spec"]["podTargetLabels"]
    assert not world.act().steps


def test_none_where_none_is_wanted_or_the_kind_is_missing() -> None:
    world = InMemory()
    world.ready(1)
    assert monitors(world) == []


def test_labels_that_change_are_brought_up_to_date() -> None:
    world = InMemory(policy=replace(POLICY, monitor_labels=LABELS))
    world.ready(1)
    world.policy = replace(POLICY, monitor_labels={"release": "another"})
    world.settle()
    assert monitors(world)[0]["metadata"]["labels"]["release"] == "another"
