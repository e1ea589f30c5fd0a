"""Drift told from managed fields. The sets below were copied from a real API server's answers."""

import copy
import json
from typing import Any

import pytest

from eco_crds import contract
from eco_operator import kinds
from eco_operator.managed_fields import to_applied
from eco_operator.objects import Child, project
from eco_operator.reconcile.ownership import drift, lost_fields
from tests.support.observed import KEY, InMemory

DESIRED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "a", "namespace": "b", "uid": "c", "labels": {"x": "1"}, "ownerReferences": [{"uid": "o"}]},
    "spec": {
        "replicas": 1,
        "containers": [
            {
                "name": "worker",
                "args": ["run"],
                "env": [{"name": "A", "value": "1"}],
                "ports": [{"containerPort": 9464, "name": "metrics"}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
            }
        ],
        "finalizers": ["f"],
        "emptyDir": {},
        "nothing": None,
    },
}
CONTAINER: dict[str, Any] = {
    ".": {},
    "f:name": {},
    "f:args": {},
    "f:env": {'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}},
    "f:ports": {'k:{"containerPort":9464,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:name": {}}},
    "f:securityContext": {"f:capabilities": {"f:drop": {}}},
}


def fields() -> dict[str, Any]:
    return {
        "f:metadata": {"f:labels": {"f:x": {}}, "f:ownerReferences": {'k:{"uid":"o"}': {}}},
        "f:spec": {
            "f:replicas": {},
            "f:containers": {'k:{"name":"worker"}': {**CONTAINER}},
            "f:finalizers": {'v:"f"': {}},
            "f:emptyDir": {},
        },
    }


def test_an_object_whose_every_field_is_ours_has_lost_none() -> None:
    assert list(lost_fields(DESIRED, fields())) == []


def test_more_than_we_want_is_no_loss() -> None:
    found = fields()
    found["f:spec"]["f:paused"] = {}
    assert list(lost_fields(DESIRED, found)) == []


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        (("f:spec", "f:replicas"), "spec.replicas"),
        (("f:metadata", "f:labels"), "metadata.labels"),
        (("f:metadata", "f:labels", "f:x"), None),
        (("f:metadata", "f:ownerReferences"), "metadata.ownerReferences"),
        (("f:spec", "f:containers", 'k:{"name":"worker"}', "f:args"), 'spec.containers{"name":"worker"}.args'),
        (("f:spec", "f:emptyDir"), "spec.emptyDir"),
        (("f:spec",), "spec"),
    ],
)
def test_a_field_that_left_our_set_is_named(path: tuple[str, ...], lost: str | None) -> None:
    found = fields()
    below = found
    for step in path[:-1]:
        below = below[step]
    below[path[-1] + "?"] = below.pop(path[-1])
    if lost is None:
        lost = ".".join(part.removeprefix("f:") for part in path)
    assert next(lost_fields(DESIRED, found)) == lost


def test_an_item_of_a_list_that_left_our_set_is_named() -> None:
    found = fields()
    found["f:spec"]["f:containers"]['k:{"name":"worker"}'] = {**CONTAINER, "f:env": {'k:{"name":"B"}': {}}}
    assert next(lost_fields(DESIRED, found)) == 'spec.containers{"name":"worker"}.env[A]'


def test_a_member_of_a_set_that_left_ours_is_named() -> None:
    found = fields()
    found["f:spec"]["f:finalizers"] = {'v:"g"': {}}
    assert next(lost_fields(DESIRED, found)) == "spec.finalizers[f]"


def budget_of(uid: str, owner_in_set: str) -> tuple[dict[str, Any], Child]:
    """A budget as wanted by the EcoWorker of that uid, and as it is, with an owner in the set of our fields."""
    world = InMemory()
    world.apply_worker()
    world.act()
    body = copy.deepcopy(world.bodies[kinds.BUDGET.kind, KEY.name])
    desired = {name: value for name, value in copy.deepcopy(body).items() if name != "managedFields"}
    text = json.dumps(body["metadata"]["managedFields"]).replace("uid-1", owner_in_set)
    body["metadata"]["managedFields"] = json.loads(text)
    for it in (body, desired):
        it["metadata"]["ownerReferences"][0]["uid"] = uid
    del desired["metadata"]["managedFields"]
    return desired, project(kinds.BUDGET, body)


def test_what_two_ecoworkers_own_is_one_and_the_same_set() -> None:
    (first, one), (second, other) = budget_of("uid-7", "uid-7"), budget_of("uid-8", "uid-8")
    assert "uid-7" not in one.owned_fields
    assert one.owned_fields is other.owned_fields
    assert drift(first, one) == drift(second, other) == ""


def test_an_owner_that_left_our_set_is_named() -> None:
    desired, child = budget_of("uid-7", "uid-9")
    assert drift(desired, child) == "metadata.ownerReferences[storage] is not ours"


def test_the_set_of_an_object_without_an_owner_stays_as_it_is() -> None:
    fields = {"f:spec": {'v:""': {}}}
    entry = {"manager": contract.FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields}
    metadata = {"name": "a", "namespace": "b", "uid": "c", "managedFields": [entry]}
    assert json.loads(project(kinds.BUDGET, {"metadata": metadata}).owned_fields) == fields


def entry(operation: str, manager: str = contract.FIELD_MANAGER, **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "apiVersion": "v1", **more}


def test_what_a_create_owns_is_made_an_applys() -> None:
    theirs = entry("Update", "kubectl", fieldsV1={"f:data": {"f:c": {}}})
    status = entry("Update", subresource="status", fieldsV1={"f:status": {}})
    created = entry("Update", fieldsV1={"f:data": {".": {}, "f:b": {}}})
    assert to_applied("u", [theirs, created, status]) == [
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "test", "path": "/metadata/managedFields/1", "value": created},
        {"op": "replace", "path": "/metadata/managedFields/1", "value": {**created, "operation": "Apply"}},
    ]


def test_what_both_a_create_and_an_apply_own_is_made_one() -> None:
    """So it is after a release that only applied has served an object that this one made."""
    applied = entry("Apply", fieldsV1={"f:data": {"f:a": {}}, "f:spec": {}})
    created = entry("Update", fieldsV1={"f:data": {".": {}, "f:b": {}}})
    both = {"f:data": {".": {}, "f:a": {}, "f:b": {}}, "f:spec": {}}
    *_, replace, remove = to_applied("u", [applied, created])
    assert replace == {"op": "replace", "path": "/metadata/managedFields/0", "value": {**applied, "fieldsV1": both}}
    assert remove == {"op": "remove", "path": "/metadata/managedFields/1"}


def test_where_nothing_is_ours_by_a_create_nothing_is_to_be_done() -> None:
    assert to_applied("u", [entry("Apply"), entry("Update", "kubectl"), entry("Update", subresource="status")]) == []


@pytest.mark.parametrize(
    ("operations", "owned", "is_as_created"),
    [(["Update"], "Update", True), (["Update", "Apply"], "Apply", True), (["Apply"], "Apply", False)],
)
def test_an_object_is_as_created_until_nothing_of_it_is_ours_by_the_create(
    operations: list[str], owned: str, is_as_created: bool
) -> None:
    entries = [entry(it, fieldsV1={f"f:{it}": {}}) for it in operations]
    metadata = {"name": "a", "namespace": "b", "uid": "c", "managedFields": entries}
    child = project(kinds.BUDGET, {"metadata": metadata})
    assert (json.loads(child.owned_fields), child.is_as_created) == ({f"f:{owned}": {}}, is_as_created)


def test_an_object_that_an_earlier_release_applied_to_is_applied_again() -> None:
    """All that is wanted is ours by its apply, and what it took back still is by our create."""
    world = InMemory()
    world.apply_worker()
    world.act()
    body = copy.deepcopy(world.bodies[kinds.BUDGET.kind, KEY.name])
    desired = {name: value for name, value in body.items() if name != "managedFields"}
    body["metadata"]["managedFields"][0]["operation"] = "Apply"
    assert drift(desired, project(kinds.BUDGET, body)) == ""
    body["metadata"]["managedFields"].append(entry("Update", fieldsV1={"f:spec": {"f:older": {}}}))
    assert drift(desired, project(kinds.BUDGET, body)) == "its fields are ours twice"
