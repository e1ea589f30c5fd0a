"""How the operator's calls are read from an audit log and held against the chart's roles (`make prove-rights`)."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.prove.rights import CLUSTER_ONLY, chart_roles
from tests.support import rights
from tests.support.rights import Call, Role

PATCH = Call("apps", "deployments", "patch")
ROLES = [
    {
        "rules": [
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch", "create"]},
            {"apiGroups": [""], "resources": ["leases"], "verbs": ["get"], "resourceNames": ["mine"]},
        ]
    }
]


def event(verb: str, *, agent: str = "eco-operator", code: int = 200, **target: str) -> dict[str, Any]:
    about = {"resource": "deployments", "apiGroup": "apps", "name": "storage-0", **target}
    return {"verb": verb, "userAgent": agent, "objectRef": about, "responseStatus": {"code": code}, "requestURI": "/"}


def write(path: Path, *events: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(it) + "\n" for it in events))
    return path


@pytest.mark.parametrize("agent", ["kubectl/v1.36.3", "stand-in", "eco-operator-of-somebody"])
def test_only_the_operator_and_its_library_count(tmp_path: Path, agent: str) -> None:
    log = write(tmp_path / "log", event("patch"), event("watch", agent="kopf/1.45.2"), event("delete", agent=agent))
    assert {call.verb for call, _ in rights.asked(log)} == {"patch", "watch"}


def test_an_apply_that_makes_an_object_is_a_creation_too(tmp_path: Path) -> None:
    log = write(tmp_path / "log", event("patch", code=201), event("patch", subresource="status"))
    assert {str(call) for call, _ in rights.asked(log)} == {
        "patch deployments.apps",
        "create deployments.apps",
        "patch deployments/status.apps",
    }


def test_what_a_refused_call_asked_is_known_as_well(tmp_path: Path) -> None:
    log = write(tmp_path / "log", event("delete", code=403))
    assert rights.missing(rights.asked(log), rights.allowed(ROLES)) == {Call("apps", "deployments", "delete")}


def test_looking_around_the_api_takes_no_right_and_other_paths_do(tmp_path: Path) -> None:
    found = [{"verb": "get", "userAgent": "kopf/1", "requestURI": uri} for uri in ("/apis/apps/v1?x=1", "/metrics")]
    calls = list(rights.asked(write(tmp_path / "log", *found)))
    assert [call.resource for call, _ in calls] == ["/metrics"]


def test_a_right_on_one_name_is_no_right_on_another() -> None:
    lease = Call("", "leases", "get")
    roles = rights.allowed(ROLES)
    assert rights.missing({(lease, "mine")}, roles) == set()
    assert rights.missing({(lease, "other")}, roles) == {lease}
    assert lease in rights.unused({(lease, "other")}, roles)


def test_each_right_and_each_call_is_looked_for() -> None:
    roles = rights.allowed(ROLES)
    assert rights.unused({(PATCH, "storage-0")}, roles) == {
        Call("apps", "deployments", "create"),
        Call("", "leases", "get"),
    }
    assert rights.missing({(PATCH, "storage-0")}, roles - {Role(PATCH)}) == {PATCH}


def test_what_several_servers_have_kept_comes_back_whole(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    rights.keep(write(tmp_path / "one", event("patch"), event("patch")), file)
    rights.keep(write(tmp_path / "two", event("list", name="")), file)
    assert len(file.read_text().splitlines()) == 2
    assert rights.kept(file) == {(PATCH, "storage-0"), (Call("apps", "deployments", "list"), "")}


def test_both_modes_of_the_chart_give_the_same_rights_but_on_what_is_in_no_namespace() -> None:
    everywhere, listed = chart_roles(), chart_roles("--set", "namespaces={one}")
    assert everywhere - listed == CLUSTER_ONLY
    assert listed < everywhere
    assert Role(Call("coordination.k8s.io", "leases", "update"), "eco-operator") in listed
