"""A newer operator restarts no worker: what runs is held to the revision, which only a change of the spec ends."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings

from eco_crds.ecoworker import EcoWorker
from eco_operator import kinds
from eco_operator.reconcile.plan import Apply
from eco_operator.resources import deployment
from tests.support.observed import InMemory
from tests.support.specs import Document, eco_workers

ANOTHER = {"name": "OF_A_NEWER_OPERATOR", "value": "1"}
built_now = deployment.pod_template


def built_by_a_newer_operator(worker: EcoWorker, index: int, *, image: str) -> dict[str, Any]:
    template = built_now(worker, index, image=image)
    template["spec"]["terminationGracePeriodSeconds"] += 1
    template["spec"]["containers"][0]["env"].append(ANOTHER)
    return template


@pytest.fixture
def world() -> InMemory:
    made = InMemory()
    made.ready(2)
    return made


def upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "pod_template", built_by_a_newer_operator)


def templates(world: InMemory) -> dict[str, Any]:
    return {
        name: copy.deepcopy(body["spec"]["template"])
        for (kind, name), body in world.bodies.items()
        if kind == kinds.DEPLOYMENT.kind
    }


def numbers(world: InMemory) -> list[int]:
    return sorted(body["revision"] for (kind, _), body in world.bodies.items() if kind == kinds.REVISION.kind)


def test_an_upgrade_with_changed_builders_writes_nothing(world: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    before = templates(world)
    upgrade(monkeypatch)
    assert world.plan().steps == ()
    assert templates(world) == before
    assert world.conclude().condition("Reconciling") is None


def test_a_shard_that_is_made_again_or_added_runs_the_same_pod(
    world: InMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = templates(world)
    upgrade(monkeypatch)
    world.remove(kinds.DEPLOYMENT, "storage-1")
    world.settle()
    assert templates(world) == before
    world.apply_worker(replicas=3)
    world.settle()
    added = templates(world)["storage-2"]
    assert ANOTHER not in added["spec"]["containers"][0]["env"]
    assert numbers(world) == [1]


@pytest.mark.parametrize(
    "change",
    [{"replicas": 3}, {"wal": {"size": "30Gi"}}, {"drainDeadlineSeconds": 60}, {"recovery": {"mode": "Manual"}}],
)
def test_a_change_that_no_pod_is_made_from_begins_no_revision(
    world: InMemory, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    before = templates(world)
    upgrade(monkeypatch)
    world.apply_worker(**change)
    world.settle()
    assert {name: it for name, it in templates(world).items() if name in before} == before
    assert numbers(world) == [1]


def test_a_change_of_the_spec_brings_what_the_newer_operator_builds(
    world: InMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(monkeypatch)
    world.apply_worker(concurrency=9)
    world.act()
    assert numbers(world) == [1, 2]
    assert ANOTHER in templates(world)["storage-0"]["spec"]["containers"][0]["env"]


def test_a_field_with_its_default_is_the_same_as_none(world: InMemory) -> None:
    world.apply_worker(gracePeriodSeconds=60)
    assert [it.desired["kind"] for it in world.plan().steps if isinstance(it, Apply)] == []


def test_in_the_middle_of_a_roll_a_shard_whose_turn_has_not_come_is_held_to_its_own_revision(world: InMemory) -> None:
    world.apply_worker(concurrency=9)
    world.act()
    body = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]
    world.put(kinds.DEPLOYMENT, {**body, "status": {}})
    body = copy.deepcopy(world.bodies[(kinds.DEPLOYMENT.kind, "storage-1")])
    del body["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]
    world.put(kinds.DEPLOYMENT, body)
    steps = [it for it in world.plan().steps if isinstance(it, Apply)]
    assert [it.desired["metadata"]["name"] for it in steps] == ["storage-1"]
    variables = steps[0].desired["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "ECO_CONCURRENCY", "value": "9"} not in variables


def test_only_a_few_revisions_are_kept(world: InMemory) -> None:
    for number in range(5, 11):
        world.apply_worker(concurrency=number)
        for _ in range(3):
            world.settle()
            for shard in ("storage-0", "storage-1"):
                world.run_shard(shard)
    world.settle()
    assert numbers(world) == [5, 6, 7]


def test_a_revision_that_somebody_spoiled_is_made_anew(world: InMemory) -> None:
    (name,) = [name for kind, name in world.bodies if kind == kinds.REVISION.kind]
    world.put(kinds.REVISION, {**world.bodies[(kinds.REVISION.kind, name)], "data": {"x": 1}, "revision": 1})
    world.settle()
    before = templates(world)
    assert world.plan().steps == ()
    assert templates(world) == before


@given(eco_workers())
@settings(max_examples=40, deadline=None)
def test_the_pod_of_one_shard_is_that_of_any_other_with_its_name_in_the_right_places(document: Document) -> None:
    """Should a builder make another part of the pod depend on the shard, `of_shard` must know that part."""
    worker = EcoWorker.read(document)
    first = deployment.pod_template(worker, 0, image="i")
    assert deployment.of_shard(first, worker, 7) == deployment.pod_template(worker, 7, image="i")


def test_each_shard_names_its_revision(world: InMemory) -> None:
    (first,) = [name for kind, name in world.bodies if kind == kinds.REVISION.kind]
    assert [it.revision for it in world.conclude().shards] == [first, first]
    world.apply_worker(concurrency=9)
    world.act()
    (second,) = [name for kind, name in world.bodies if kind == kinds.REVISION.kind and name != first]
    assert [it.revision for it in world.conclude().shards] == [second, first]
