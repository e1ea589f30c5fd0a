"""Charts eco-worker and waste on a real API server: objects are accepted strictly, and no release loses a claim."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pytest

from tests.support.api import Api, api_server, install_definitions
from tests.support.charts import CHARTS, by_kind, render, run

pytestmark = pytest.mark.cluster

STORAGE: Final = ("--values", str(CHARTS / "eco-worker" / "ci" / "storage-values.yaml"))
# Kinds of controllers that a bare API server does not know; `make prove-charts` holds them against their schemas.
FOREIGN: Final = ("rabbitmq.com/", "external-secrets.io/", "monitoring.coreos.com/", "argoproj.io/")


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with api_server() as running:
        install_definitions(running)
        yield running


@pytest.fixture
def api(server: Api) -> Iterator[Api]:
    name = f"workers-{uuid.uuid4().hex[:8]}"
    server.must("create", "namespace", name)
    yield replace(server, namespace=name)
    server.must("delete", "namespace", name, "--wait=false")


def accept(api: Api, manifest: dict[str, Any]) -> None:
    """Have the server check an object as strictly as it can, and keep nothing of it."""
    strictly = ("--server-side", "--validate=strict", "--dry-run=server", "--force-conflicts")
    api.must("apply", *strictly, "-f", "-", given=manifest)


def test_the_server_takes_every_shard_strictly(api: Api) -> None:
    for manifest in render("eco-worker", *STORAGE, namespace=api.namespace):
        accept(api, manifest)


@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
def test_the_server_takes_every_object_of_an_environment_strictly(server: Api, environment: str) -> None:
    values = CHARTS / "waste" / f"values-{environment}.yaml"
    manifests = render("waste", "--values", str(values))
    for namespace in by_kind(manifests, "Namespace"):
        server.must("apply", "--server-side", "--force-conflicts", "-f", "-", given=namespace)
    checked = 0
    for manifest in manifests:
        if not manifest["apiVersion"].startswith(FOREIGN):
            accept(replace(server, namespace=manifest["metadata"].get("namespace", "default")), manifest)
            checked += 1
    assert checked > len(by_kind(manifests, "Namespace"))


def test_a_misspelt_field_is_refused(api: Api) -> None:
    """The proof that strictness is on."""
    deployment = by_kind(render("eco-worker", *STORAGE, namespace=api.namespace), "Deployment")[0]
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    answer = api.run("apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-", given=deployment)
    assert not answer.accepted
    assert "enableServiceLink" in answer.text


def release(api: Api, *arguments: str) -> None:
    done = run(*arguments, "--kubeconfig", api.kubeconfig, "--namespace", api.namespace)
    assert done.returncode == 0, done.stderr


def upgrade(api: Api, *settings: str) -> None:
    chart = str(CHARTS / "eco-worker")
    release(
        api, "upgrade", "--install", "storage", chart, *STORAGE, *(it for word in settings for it in ("--set", word))
    )


def names(api: Api, kind: str) -> set[str]:
    return set(api.must("get", kind, "-o", "name").split())


def uids(api: Api) -> dict[str, str]:
    return {name: api.get(name)["metadata"]["uid"] for name in names(api, "pvc")}


def test_a_release_keeps_its_claims_through_scale_in_rollback_and_uninstall(api: Api) -> None:
    upgrade(api)
    claims = uids(api)
    assert set(claims) == {"persistentvolumeclaim/wal-storage-0", "persistentvolumeclaim/wal-storage-1"}
    upgrade(api, "spec.replicas=1", "image=registry.example/eco-worker:0.2.0")
    assert names(api, "deployment") == {"deployment.apps/storage-0"}
    assert uids(api) == claims
    release(api, "rollback", "storage", "1")
    assert names(api, "deployment") == {"deployment.apps/storage-0", "deployment.apps/storage-1"}
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    assert api.must("get", "deployment", "storage-0", "-o", image) == "registry.example/eco-worker:0.1.0"
    release(api, "uninstall", "storage")
    assert names(api, "deployment") == set()
    assert uids(api) == claims
    upgrade(api)
    assert names(api, "deployment") == {"deployment.apps/storage-0", "deployment.apps/storage-1"}
    assert uids(api) == claims
