"""The chart eco-worker renders what the operator would apply, refuses what the API refuses, and says so by name."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from eco_crds import contract
from eco_crds.__main__ import generated
from eco_crds.ecoworker import EcoWorkerSpec
from eco_crds.values_schema import values_schema
from tests.support import parity
from tests.support.cases import BadObject, valid
from tests.support.charts import CHARTS, Manifest, by_kind, render, run, template

CHART: Final = CHARTS / "eco-worker"
ROOT: Final = CHARTS.parent
STORAGE: Final = ("--values", str(CHART / "ci" / "storage-values.yaml"))
SAMPLE: Final = 12
SEED: Final = 20261121

# What is wrong with an EcoWorker and has no counterpart here: an object's own name is given otherwise.
BAD: Final = [case for case in BadObject.all("ecoworkers") if not case.field.startswith("metadata")]


@pytest.fixture(scope="module")
def storage() -> list[Manifest]:
    return render("eco-worker", *STORAGE, namespace="pictures")


def written_down() -> list[parity.Case]:
    paths = [*ROOT.glob("crds/examples/ecoworker*.yaml"), *ROOT.glob("tests/data/resources/*/ecoworker.yaml")]
    return [parity.case_of(yaml.safe_load(path.read_text())) for path in sorted(paths)]


def test_chart_and_operator_agree_on_examples_and_random_ecoworkers(tmp_path: Path) -> None:
    """A sample of what `make prove-charts` compares at length."""
    cases = [*written_down(), *parity.random_cases(SAMPLE, SEED)]
    assert len(cases) > SAMPLE
    _, objects = parity.render(cases, tmp_path)
    found = [parity.differences(case, rendered) for case, rendered in zip(cases, objects, strict=True)]
    assert [case for case in found if case] == []


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("_pod.tpl", "failureThreshold: 60", "failureThreshold: 61", "startupProbe.failureThreshold"),
        ("_pod.tpl", "default (add $spec.concurrency 256)", "default (add $spec.concurrency 255)", "env[6].value"),
        ("shards.yaml", '"Recreate"', '"RollingUpdate"', "strategy.type"),
        ("_shard.tpl", '(dict "port" 5432)', "(dict)", "eco.growbin.app/drain"),
        ("shared.yaml", '"publishNotReadyAddresses" true', "", "publishNotReadyAddresses: missing"),
    ],
)  # fmt: skip
def test_a_template_that_strays_from_the_operator_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, before: str, after: str, said: str
) -> None:
    changed = tmp_path / "eco-worker"
    shutil.copytree(CHART, changed)
    template_file = changed / "templates" / file
    text = template_file.read_text()
    assert before in text
    template_file.write_text(text.replace(before, after))
    monkeypatch.setattr(parity, "CHART", changed)
    cases = written_down()
    _, objects = parity.render(cases, tmp_path)
    found = [it for case, rendered in zip(cases, objects, strict=True) for it in parity.differences(case, rendered)]
    assert any(said in line for line in found), found


def test_the_chart_is_clean() -> None:
    done = run("lint", "--strict", str(CHART), *STORAGE)
    assert done.returncode == 0, done.stdout


def test_generated_files_are_fresh() -> None:
    """Schema, tables and definitions are what `python -m eco_crds` writes."""
    files = generated(ROOT)
    assert CHART / "values.schema.json" in files
    assert CHART / "README.md" in files
    assert [str(path) for path, text in files.items() if path.read_text() != text] == []


def test_every_field_of_the_spec_is_a_value() -> None:
    fields = {field.alias for field in EcoWorkerSpec.model_fields.values()}
    assert set(values_schema()["properties"]["spec"]["properties"]) == fields


def test_defaults_of_the_values_are_those_of_the_api() -> None:
    """Helm fills in no default of a schema, so the values repeat them."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    properties = values_schema()["properties"]["spec"]["properties"]
    for name, value in values["spec"].items():
        default = properties[name].get("default")
        wanted = {key: it for key, it in default.items() if it is not None} if isinstance(default, dict) else default
        assert value == wanted, name
    given = {name for name, it in properties.items() if it.get("default") not in (None, [], {})}
    assert given == set(values["spec"])


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_what_the_api_refuses_the_chart_refuses(case: BadObject, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    given = {"name": "storage", "image": "eco-worker:test", "spec": case.document["spec"]}
    values.write_text(json.dumps(given))
    done = template("eco-worker", "--values", str(values))
    assert done.returncode != 0
    last = case.field.replace("]", "").replace("[", ".").split(".")[-1]
    parents = case.field.rpartition(".")[0].replace("[", ".").split(".")[-1].strip("]")
    assert last in done.stderr or parents in done.stderr


def test_what_the_api_takes_the_chart_takes(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps({"name": "storage", "image": "eco-worker:test", "spec": valid("ecoworkers")["spec"]}))
    assert template("eco-worker", "--values", str(values)).returncode == 0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("nonsense=1", "nonsense"),
        ("spec.nonsense=1", "nonsense"),
        ("image=", "spec.image: missing"),
        ("name=Storage", "/name"),
        ("name=" + "a" * 46, "/name"),
        ("sync.database=other", "sync.database"),
        ("sync.intervalSeconds=0", "/sync/intervalSeconds"),
        ("shards[0].index=100", "/shards/0/index"),
        ("shards[0].replicas=2", "/shards/0/replicas"),
        ("spec.broker=null", "broker"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(setting: str, said: str) -> None:
    done = template("eco-worker", *STORAGE, "--set", setting)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_name_of_a_release_that_no_ecoworker_may_have_is_refused() -> None:
    done = run("template", "0-storage", str(CHART), *STORAGE, "--set", "name=")
    assert done.returncode != 0
    assert "begin with a letter" in done.stderr


def test_alone_it_is_called_after_its_release() -> None:
    names = {it["metadata"]["name"] for it in render("eco-worker", *STORAGE, "--set", "name=")}
    assert {"eco-worker", "eco-worker-0", "eco-worker-1", "wal-eco-worker-0", "wal-eco-worker-1"} <= names


def test_without_an_owner_no_operator_takes_the_objects_for_its_own(storage: list[Manifest]) -> None:
    for it in storage:
        assert it["metadata"]["labels"][contract.LABEL_MANAGED_BY] != contract.MANAGED_BY
        assert contract.LABEL_WORKER_UID not in it["metadata"]["labels"]
        assert "ownerReferences" not in it["metadata"]


def test_a_shard_for_each_replica_each_with_its_own_claim(storage: list[Manifest]) -> None:
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for it in by_kind(storage, "Deployment")
        for volume in it["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == ["wal-storage-0", "wal-storage-1"]
    assert claims == [it["metadata"]["name"] for it in by_kind(storage, "PersistentVolumeClaim")]
    assert len(by_kind(render("eco-worker", *STORAGE, "--set", "spec.replicas=100"), "Deployment")) == 100
    assert by_kind(render("eco-worker", *STORAGE, "--set", "spec.replicas=0"), "Deployment") == []


def test_the_readme_names_each_difference_that_the_comparison_allows() -> None:
    readme = (CHART / "README.md").read_text()
    allowed = [path.removeprefix("metadata.annotations.") for _, path in parity.ALLOWED]
    assert [path for path in allowed if f"annotation `{path}`" not in readme] == []
    assert list(parity.NOT_RENDERED) == ["Secret", "Job", "ControllerRevision", "ServiceMonitor"]
    for what in ("admin token", "jobs on a volume", "revisions", "ServiceMonitor"):
        assert f"| {what} | not rendered |" in readme


def test_no_tool_that_installs_the_chart_removes_a_claim(storage: list[Manifest]) -> None:
    for claim in by_kind(storage, "PersistentVolumeClaim"):
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert claim["metadata"]["annotations"]["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"


def test_a_release_may_hold_one_shard_or_only_what_all_share() -> None:
    one = render("eco-worker", *STORAGE, "--set", "shared=false,shards[0].index=1,shards[0].replicas=0")
    assert {(it["kind"], it["metadata"]["name"]) for it in one} == {
        ("Deployment", "storage-1"),
        ("PersistentVolumeClaim", "wal-storage-1"),
    }
    assert by_kind(one, "Deployment")[0]["spec"]["replicas"] == 0
    shared = render("eco-worker", *STORAGE, "--set-json", "shards=[]")
    assert {it["kind"] for it in shared} == {"Service", "PodDisruptionBudget", "ConfigMap"}


def test_the_secret_of_the_admin_api_may_have_another_name() -> None:
    deployment = by_kind(render("eco-worker", *STORAGE, "--set", "adminTokenSecret=mine"), "Deployment")[0]
    volumes: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["volumes"]
    assert [it["secret"]["secretName"] for it in volumes if "secret" in it] == ["mine"]


def test_rendering_twice_gives_the_same() -> None:
    assert template("eco-worker", *STORAGE).stdout == template("eco-worker", *STORAGE).stdout
