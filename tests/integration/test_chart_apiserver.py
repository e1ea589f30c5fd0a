"""The operator's chart on a real API server: every object is accepted, and its rights suffice and go no further."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from eco_crds import contract
from eco_crds.jobs import Left
from tests.support.api import ROOT, Api, api_server, install_definitions
from tests.support.cases import merge, valid
from tests.support.charts import CHARTS, by_kind, render, run

pytestmark = pytest.mark.cluster

DEADLINE_S = 30.0
RELEASE = ("--set", "rbac.aggregate=false")
# The status code stands alone: the microseconds of a timestamp may hold the same digits.
REFUSED = re.compile(r"\b403\b|forbidden", re.IGNORECASE)


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with api_server() as running:
        yield running


@pytest.fixture(scope="module")
def api(server: Api) -> Iterator[Api]:
    """A namespace of its own, which is the operator's and the one it serves."""
    install_definitions(server)
    name = f"chart-{uuid.uuid4().hex[:8]}"
    server.must("create", "namespace", name)
    yield replace(server, namespace=name)
    server.must("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def installed(api: Api) -> str:
    """Name of the service account, with the rights that the chart gives it in this namespace."""
    manifests = render("eco-operator", *RELEASE, "--set", f"namespaces={{{api.namespace}}}", namespace=api.namespace)
    for kind in ("ServiceAccount", "Role", "RoleBinding"):
        for manifest in by_kind(manifests, kind):
            api.must("apply", "-f", "-", given=manifest)
    return "eco-operator"


def test_a_release_can_be_made_changed_and_removed_without_losing_an_ecoworker(server: Api) -> None:
    """Runs before any other test has put definitions there: Helm takes over nothing that it did not make."""
    if server.run("get", "crd", "ecoworkers.eco.growbin.app").accepted:
        pytest.skip("the server of ECO_TEST_KUBECONFIG has the definitions already")
    name = f"release-{uuid.uuid4().hex[:8]}"
    where = ("--kubeconfig", server.kubeconfig, "--namespace", name)
    chart = (*where, "eco-operator", str(CHARTS / "eco-operator"))
    done = run("upgrade", "--install", "--create-namespace", *chart)
    assert done.returncode == 0, done.stderr
    assert "serves every namespace" in done.stdout
    inside = replace(server, namespace=name)
    inside.must("apply", "-f", str(ROOT / "crds/examples/ecoworker-storage.yaml"))
    done = run("upgrade", "--install", *chart, "--set", f"replicas=1,namespaces={{{name}}}")
    assert done.returncode == 0, done.stderr
    assert not server.run("get", "clusterrole", "eco-operator").accepted
    assert exists(inside, "role", "eco-operator")
    done = run("uninstall", *where, "eco-operator")
    assert done.returncode == 0, done.stderr
    assert not exists(inside, "deployment", "eco-operator")
    assert exists(inside, "ecoworker", "storage")
    done = run("upgrade", "--install", *chart)
    assert done.returncode == 0, done.stderr
    assert exists(inside, "deployment", "eco-operator")
    assert run("uninstall", *where, "eco-operator").returncode == 0


@pytest.mark.parametrize("arguments", [(), ("--set", "namespaces={NAMESPACE}")], ids=["cluster", "namespace"])
def test_the_server_takes_every_object_of_the_chart(api: Api, arguments: tuple[str, ...]) -> None:
    chosen = [it.replace("NAMESPACE", api.namespace) for it in arguments]
    for manifest in render("eco-operator", *chosen, namespace=api.namespace):
        api.must("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", given=manifest)


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("watch", "ecoworkers.eco.growbin.app", True),
        ("patch", "ecoworkers.eco.growbin.app --subresource=status", True),
        ("create", "deployments.apps", True),
        ("delete", "deployments.apps", True),
        ("patch", "persistentvolumeclaims", True),
        ("update", "leases.coordination.k8s.io/eco-operator", True),
        ("create", "jobs.batch", True),
        ("delete", "jobs.batch", True),
        ("create", "controllerrevisions.apps", True),
        ("delete", "controllerrevisions.apps", True),
        ("create", "poddisruptionbudgets.policy", True),
        # Only what `wal.reclaimPolicy: Delete` asks for; the value rbac.deleteClaims takes it away.
        ("delete", "persistentvolumeclaims", True),
        ("delete", "poddisruptionbudgets.policy", False),
        ("delete", "services", False),
        ("create", "pods", False),
        ("delete", "ecoworkers.eco.growbin.app", False),
        ("patch", "ecoworkers.eco.growbin.app", False),
        ("delete", "pods", False),
        ("create", "pods --subresource=exec", False),
        ("delete", "secrets", False),
        ("update", "leases.coordination.k8s.io/another", False),
        ("create", "rolebindings.rbac.authorization.k8s.io", False),
        ("list", "nodes", False),
    ],
)
def test_the_operator_may_do_what_it_must_and_nothing_else(
    api: Api, installed: str, verb: str, resource: str, allowed: bool
) -> None:
    who = f"system:serviceaccount:{api.namespace}:{installed}"
    answer = api.run("auth", "can-i", verb, *resource.split(), f"--as={who}")
    assert answer.accepted is allowed, answer.text


def test_another_namespace_is_out_of_reach(api: Api, installed: str) -> None:
    who = f"system:serviceaccount:{api.namespace}:{installed}"
    elsewhere = replace(api, namespace="default")
    assert api.run("auth", "can-i", "list", "secrets", f"--as={who}").accepted
    assert not elsewhere.run("auth", "can-i", "list", "secrets", f"--as={who}").accepted


def test_the_operator_brings_up_an_ecoworker_with_these_rights_alone(api: Api, installed: str, tmp_path: Path) -> None:
    """The whole of a life: made, scaled in and out, rolled, synced, deleted; not one request is refused."""
    with operator(api, installed, tmp_path) as log:
        wanted = merge(valid("ecoworkers"), {"spec": {"image": "eco-worker:test", "wal": {"reclaimPolicy": "Delete"}}})
        api.must("apply", "-f", "-", "-f", str(ROOT / "crds/examples/walsync-storage.yaml"), given=wanted)
        for kind, name in (
            ("deployment", "storage-0"),
            ("deployment", "storage-1"),
            ("pvc", "wal-storage-1"),
            ("service", "storage"),
            ("pdb", "storage"),
            ("secret", "storage-admin-token"),
            ("configmap", "storage-sync"),
        ):
            wait_for(partial(exists, api, kind, name), f"{kind} {name}", log)
        wait_for(lambda: bool(ready_condition(api)), "a condition Ready", log)
        assert ready_condition(api)["status"] != "True"
        shown = api.must("get", "ecoworker", "storage").splitlines()[1].split()
        assert shown[1:3] == ["0/2", "Unknown"]
        scale_in_and_out(api, log)
        make_revisions(api, log)
        api.must("delete", "walsync", "storage")
        wait_for(lambda: not exists(api, "configmap", "storage-sync"), "the end of the sync", log)
        api.must("delete", "ecoworker", "storage")
        wait_for(lambda: "wal-storage-0" in events(api), "an event on the kept claim", log)
        assert exists(api, "pvc", "wal-storage-0")
    written = log.read_text()
    assert "storage" in written
    assert not [line for line in written.splitlines() if REFUSED.search(line)]


def scale_in_and_out(api: Api, log: Path) -> None:
    """A shard that is not heard of is removed, a job drains its volume, and the claim goes once that found it empty.

    Nothing runs here: what a controller would write, the administrator does.
    """
    job, claim = "storage-1-drain", "wal-storage-1"
    scaled_in(api, log)
    bound = json.dumps({"status": {"phase": "Bound"}})
    api.must("patch", "pvc", claim, "--subresource=status", "--type=merge", "-p", bound)
    wait_for(partial(exists, api, "job", job), "the job", log)
    api.must("scale", "ecoworker/storage", "--replicas=2")
    wait_for(lambda: not exists(api, "job", job), "the end of the job", log)
    wait_for(partial(exists, api, "deployment", "storage-1"), "the shard again", log)
    scaled_in(api, log)
    wait_for(partial(exists, api, "job", job), "the job again", log)
    left = Left(empty=True).model_dump_json()
    api.must("annotate", "--overwrite", "pvc", claim, f"{contract.ANNOTATION_LEFT}={left}")
    api.must("delete", "job", job, "--wait=false")
    wait_for(lambda: "ClaimDeleted" in events(api), "the end of the claim", log)
    assert not exists(api, "pvc", claim) or "deletionTimestamp" in api.get("pvc", claim)["metadata"]


def scaled_in(api: Api, log: Path) -> None:
    api.must("scale", "ecoworker/storage", "--replicas=1")
    wait_for(lambda: not exists(api, "deployment", "storage-1"), "the end of the shard", log)


def make_revisions(api: Api, log: Path) -> None:
    """Each change of the spec begins one, and the oldest go."""
    for number in range(11, 16):
        change = json.dumps({"spec": {"concurrency": number}})
        api.must("patch", "ecoworker", "storage", "--type=merge", "-p", change)
        wait_for(partial(is_newest, api, number - 9), f"revision {number - 9}", log)
    wait_for(lambda: len(revisions(api)) == 3, "the end of the oldest", log)


def revisions(api: Api) -> list[int]:
    listed = json.loads(api.must("get", "controllerrevisions", "-o", "json"))["items"]
    return [item["revision"] for item in listed if item["metadata"]["name"].startswith("storage-")]


def is_newest(api: Api, number: int) -> bool:
    return max(revisions(api), default=0) == number


@contextmanager
def operator(api: Api, account: str, tmp_path: Path) -> Iterator[Path]:
    """The operator as a process, which knows nothing but the token of its service account."""
    log = tmp_path / "operator.log"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(credentials(api, account)))
    settings = {
        "KUBECONFIG": str(kubeconfig),
        "ECO_OPERATOR_NAMESPACES": api.namespace,
        "ECO_OPERATOR_LEASE_NAMESPACE": api.namespace,
        "ECO_OPERATOR_HTTP_HOST": "127.0.0.1",
        "ECO_OPERATOR_HTTP_PORT": "0",
        "ECO_OPERATOR_PROBE_INTERVAL_S": "1",
        "ECO_OPERATOR_STATUS_INTERVAL_S": "1",
        # What is tried here are rights: one list more proves them as well, and makes up for a watch that is late.
        "ECO_OPERATOR_RESYNC_INTERVAL_S": "10",
    }
    command = [sys.executable, "-m", "eco_operator", "run"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=output, stderr=output)
        try:
            yield log
        finally:
            process.terminate()
            status = process.wait(timeout=DEADLINE_S)
    assert status == 0, log.read_text()[-4000:]


def credentials(api: Api, account: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(api.must("config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
    token = api.must("create", "token", account).strip()
    config["users"] = [{"name": account, "user": {"token": token}}]
    config["contexts"][0]["context"] |= {"user": account, "namespace": api.namespace}
    return config


def exists(api: Api, kind: str, name: str) -> bool:
    return api.run("get", kind, name).accepted


def ready_condition(api: Api) -> dict[str, Any]:
    conditions = api.get("ecoworker", "storage").get("status", {}).get("conditions", [])
    return next((it for it in conditions if it["type"] == "Ready"), {})


def events(api: Api) -> str:
    return api.must("get", "events", "-o", "jsonpath={range .items[*]}{.involvedObject.name} {.reason}{'\\n'}{end}")


def wait_for(state: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not state():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}: {log.read_text()[-4000:]}"


def test_users_see_both_kinds_by_the_clusters_own_roles() -> None:
    manifests = render("eco-operator")
    labels = {it["metadata"]["name"]: it["metadata"]["labels"] for it in by_kind(manifests, "ClusterRole")}
    assert labels["eco-operator-view"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in labels["eco-operator-edit"]
    assert labels["eco-operator"][contract.LABEL_NAME] == "eco-operator"
