"""The manifests on a real API server: what it refuses, fills in, shows and lets others scale."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.schema import KINDS
from eco_crds.walsync import WalSync
from tests.support.api import ROOT, Api, api_server, install_definitions
from tests.support.cases import BadChange, BadObject, merge, valid

pytestmark = pytest.mark.cluster

BAD = [case for plural in ("ecoworkers", "walsyncs") for case in BadObject.all(plural)]
CHANGES = BadChange.all("ecoworkers")
# An operator that may run on a developer's own server leaves these objects alone.
PAUSED = {"metadata": {"annotations": {contract.ANNOTATION_PAUSED: "true"}}}
OBJECTS = sorted(path for path in (ROOT / "tests/data/resources").glob("*/*.yaml") if path.stem != "ecoworker")


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with api_server() as server:
        install_definitions(server)
        name = f"crds-{uuid.uuid4().hex[:8]}"
        server.must("create", "namespace", name)
        yield replace(server, namespace=name)
        server.must("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize("path", sorted((ROOT / "crds/examples").iterdir()), ids=lambda path: path.stem)
def test_an_example_is_accepted(api: Api, path: Any) -> None:
    api.must("apply", "--dry-run=server", "-f", str(path))


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_a_bad_object_is_refused_with_field_and_reason(api: Api, case: BadObject) -> None:
    answer = api.run("create", "--dry-run=server", "-f", "-", given=case.document)
    assert not answer.accepted
    assert case.server in answer.text
    if case.field != "metadata.name":  # a rule on the name stands at the root, where a path cannot be given
        assert case.field in answer.text


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.name)
def test_a_forbidden_change_is_refused_with_field_and_reason(api: Api, case: BadChange) -> None:
    name = {"metadata": {"name": f"change-{uuid.uuid4().hex[:8]}"}}
    api.must("create", "-f", "-", given=merge(merge(case.before, PAUSED), name))
    answer = api.run("replace", "-f", "-", given=merge(merge(case.after, PAUSED), name))
    assert not answer.accepted
    assert case.field in answer.text
    assert case.says in answer.text


def test_an_allowed_change_is_accepted(api: Api) -> None:
    before = merge(merge(valid("ecoworkers"), PAUSED), {"metadata": {"name": "allowed"}})
    api.must("apply", "-f", "-", given=before)
    api.must("apply", "-f", "-", given=merge(before, {"spec": {"wal": {"size": "20Gi"}, "replicas": 3}}))


def test_the_server_fills_in_what_the_models_would(api: Api) -> None:
    """A default that stands in one place only would make operator and user see two objects."""
    for plural, model in (("ecoworkers", EcoWorker), ("walsyncs", WalSync)):
        given = merge(valid(plural), {**PAUSED, "status": None})
        if plural == "ecoworkers":
            given = merge(given, {"spec": {"wal": None, "concurrency": None}})
        answered = yaml.safe_load(api.must("create", "--dry-run=server", "-o", "yaml", "-f", "-", given=given))
        by_server, by_model = model.model_validate(answered), model.model_validate(given)
        assert by_server.spec == by_model.spec


def test_a_size_may_be_given_in_bytes(api: Api) -> None:
    given = merge(valid("ecoworkers"), {"spec": {"wal": {"size": 10 * 2**30}}})
    api.must("create", "--dry-run=server", "-f", "-", given=given)


def test_the_scale_subresource_is_that_of_the_ecoworker(api: Api) -> None:
    api.must("apply", "-f", "-", given=merge(merge(valid("ecoworkers"), PAUSED), {"metadata": {"name": "scaled"}}))
    api.must("scale", "ecoworker/scaled", "--replicas=4")
    assert api.get("ecoworker", "scaled")["spec"]["replicas"] == 4
    answer = api.run("scale", "ecoworker/scaled", "--replicas=101")
    assert not answer.accepted


def test_columns_show_what_the_status_says(api: Api) -> None:
    api.must("apply", "-f", "-", given=merge(merge(valid("ecoworkers"), PAUSED), {"metadata": {"name": "shown"}}))
    status = {
        "oldestPendingTime": "2020-01-01T00:00:00Z",
        "summary": {"ready": "1/2", "wal": "Unknown", "pending": ">=12", "unsynced": "7", "disk": "41", "message": "m"},
    }
    api.must(
        "patch", "ecoworker", "shown", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    header, row = (line.split() for line in api.must("get", "ew", "shown").splitlines())
    assert header == ["NAME", "READY", "WAL", "PENDING", "OLDEST", "UNSYNCED", "DISK%", "AGE"]
    shown = dict(zip(header, row, strict=True))
    assert (shown["READY"], shown["WAL"], shown["PENDING"], shown["DISK%"]) == ("1/2", "Unknown", ">=12", "41")
    assert shown["OLDEST"].endswith("d")
    wide = api.must("get", "ew", "shown", "-o", "wide").splitlines()[0].split()
    assert wide[-3:] == ["IMAGE", "LAST-RECOVERY", "MESSAGE"]


def test_both_kinds_answer_to_short_names_and_category(api: Api) -> None:
    api.must("apply", "-f", "-", given=merge(merge(valid("walsyncs"), PAUSED), {"metadata": {"name": "listed"}}))
    assert "listed" in api.must("get", "ws")
    header = api.must("get", "walsync", "listed").splitlines()[0].split()
    assert header == ["NAME", "READY", "STATE", "UNSYNCED", "LAG", "LAST-SYNC", "PARKED", "AGE"]
    assert "walsync.eco.growbin.app/listed" in api.must("get", "eco")


def test_a_status_cannot_be_slipped_in_with_the_spec(api: Api) -> None:
    given = merge(merge(valid("ecoworkers"), PAUSED), {"metadata": {"name": "slipped"}, "status": {"replicas": 5}})
    api.must("create", "-f", "-", given=given)
    assert "status" not in api.get("ecoworker", "slipped")


@pytest.mark.parametrize("kind", [kind.name.lower() for kind in KINDS])
def test_explain_has_a_text_for_every_field(api: Api, kind: str) -> None:
    for part in ("spec", "status"):
        text = api.must("explain", f"{kind}.{part}")
        assert "<no description>" not in text
    assert "FIELDS" in api.must("explain", f"{kind}.spec", "--recursive")


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_server_takes_what_the_operator_builds(api: Api, path: Any) -> None:
    manifest = merge(yaml.safe_load(path.read_text()), {"metadata": {"namespace": api.namespace}})
    arguments = ("--server-side", "--dry-run=server", "--validate=strict", f"--field-manager={contract.FIELD_MANAGER}")
    api.must("apply", *arguments, "-f", "-", given=manifest)
