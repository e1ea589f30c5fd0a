"""The objects of an EcoWorker, as they are meant to be: each golden file beside the input that leads to it.

`ECO_WRITE_GOLDEN=1 pytest tests/unit/operator/test_resources.py` writes the files anew; read the difference before
you commit it.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import given, strategies

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.jobs import JobName
from eco_crds.wal import SyncSettings
from eco_operator.resources import (
    budget,
    claim,
    controller_revision,
    deployment,
    job,
    metadata,
    service,
    shard_config,
    sync_config,
    token_secret,
)

DATA: Final = Path(__file__).parents[2] / "data" / "resources"
CASES: Final = sorted(path.name for path in DATA.iterdir())
IMAGE: Final = "eco-worker-storage:default"
UUID: Final = "2f0c6a2e-3b1f-4d55-9a57-0f4b8e0f7a11"
CLAIM_UID: Final = "6f1d5d5e-0000-4000-8000-00000000000b"
TOKEN: Final = "not-a-real-token"

BUILDERS: Final[dict[str, Callable[[EcoWorker], dict[str, Any]]]] = {
    "deployment": lambda worker: deployment.build(worker, 1, image=worker.spec.image or IMAGE),
    "claim": lambda worker: claim.build(worker, 1, image=worker.spec.image or IMAGE, journal_uuid=UUID),
    "service": service.build,
    "budget": budget.build,
    "controller-revision": lambda worker: controller_revision.build(worker, number=3, image=worker.spec.image or IMAGE),
    "job": lambda worker: job.build(
        worker, 1, job=JobName.DRAIN, image=worker.spec.image or IMAGE, claim_uid=CLAIM_UID
    ),
    "token-secret": lambda worker: token_secret.build(worker, token=TOKEN),
    "shard-config": lambda worker: shard_config.build(worker, 1, journal_uuid=UUID),
    "sync-config": lambda worker: sync_config.build(worker, settings=SyncSettings(target="results")),
}


def read(case: str) -> EcoWorker:
    return EcoWorker.read(yaml.safe_load((DATA / case / "ecoworker.yaml").read_text()))


@pytest.fixture
def full() -> EcoWorker:
    return read("full")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", BUILDERS)
def test_an_object_is_built_as_its_golden_file_says(case: str, name: str) -> None:
    built = BUILDERS[name](read(case))
    path = DATA / case / f"{name}.yaml"
    if os.environ.get("ECO_WRITE_GOLDEN") == "1":
        path.write_text(yaml.safe_dump(built, sort_keys=False, width=118))
    assert built == yaml.safe_load(path.read_text())


def test_every_golden_file_belongs_to_a_builder() -> None:
    found = {path.stem for case in CASES for path in (DATA / case).glob("*.yaml")}
    assert found == {*BUILDERS, "ecoworker"}


@pytest.mark.parametrize("name", BUILDERS)
def test_building_twice_gives_the_same_object(name: str, full: EcoWorker) -> None:
    assert BUILDERS[name](full) == BUILDERS[name](full)


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - {"claim", "job"}))
def test_an_object_goes_with_its_ecoworker(name: str, full: EcoWorker) -> None:
    [owner] = BUILDERS[name](full)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("EcoWorker", "storage", full.metadata.uid)


def test_a_claim_has_no_owner_and_says_whose_it_is(full: EcoWorker) -> None:
    meta = BUILDERS["claim"](full)["metadata"]
    assert "ownerReferences" not in meta
    assert meta["labels"][contract.LABEL_WORKER_UID] == full.metadata.uid
    assert meta["labels"][contract.LABEL_SHARD] == "storage-1"
    assert meta["annotations"][contract.ANNOTATION_JOURNAL] == UUID
    assert "postgresql.eco-lab.svc" in meta["annotations"][contract.ANNOTATION_DRAIN]


def test_a_claim_never_carries_the_values_of_user_variables(full: EcoWorker) -> None:
    drain = BUILDERS["claim"](full)["metadata"]["annotations"][contract.ANNOTATION_DRAIN]
    assert "LOG_LEVEL" not in drain
    assert "partner" not in drain


def test_a_claim_asks_for_the_size_of_the_spec_or_the_one_it_has_come_to(full: EcoWorker) -> None:
    def requested(size: str | None) -> str:
        built = claim.build(full, 0, image=IMAGE, size=size)
        return str(built["spec"]["resources"]["requests"]["storage"])

    assert (requested("1Ti"), requested(None)) == ("1Ti", "20Gi")


def test_a_claim_that_has_grown_carries_the_note_of_it(full: EcoWorker) -> None:
    annotations = claim.build(full, 0, image=IMAGE, grown="30Gi from 7")["metadata"]["annotations"]
    assert annotations[contract.ANNOTATION_GROWN] == "30Gi from 7"
    assert contract.ANNOTATION_GROWN not in claim.build(full, 0, image=IMAGE)["metadata"]["annotations"]


def test_labels_and_annotations_of_the_ecoworker_do_not_reach_its_children(full: EcoWorker) -> None:
    for build in BUILDERS.values():
        meta = build(full)["metadata"]
        assert "argocd.argoproj.io/tracking-id" not in meta.get("annotations", {})
        assert "team" not in meta["labels"]


def test_the_label_component_tells_pods_from_volumes(full: EcoWorker) -> None:
    template = BUILDERS["deployment"](full)["spec"]["template"]
    assert template["metadata"]["labels"]["component"] == "worker"
    assert BUILDERS["claim"](full)["metadata"]["labels"]["component"] == "wal"
    assert BUILDERS["job"](full)["spec"]["template"]["metadata"]["labels"]["component"] == "job"
    others = set(BUILDERS) - {"claim", "job"}
    assert all("component" not in BUILDERS[name](full)["metadata"]["labels"] for name in others)


def test_the_selectors_select_the_pods_of_the_right_shard(full: EcoWorker) -> None:
    built = BUILDERS["deployment"](full)
    labels = built["spec"]["template"]["metadata"]["labels"].items()
    assert built["spec"]["selector"]["matchLabels"].items() <= labels
    assert service.build(full)["spec"]["selector"].items() <= labels
    other = deployment.build(full, 2, image=IMAGE)["spec"]["template"]["metadata"]["labels"].items()
    assert not built["spec"]["selector"]["matchLabels"].items() <= other
    assert metadata.selector_text(full) == "component=worker,eco.growbin.app/ecoworker=storage"


def test_every_variable_of_the_contract_is_rendered(full: EcoWorker) -> None:
    left_to_the_worker = {contract.ENV_MAX_WAITING}
    known = {value for name, value in vars(contract).items() if name.startswith("ENV_")}
    rendered = [variable["name"] for variable in deployment.environment(full, 0)]
    assert known - left_to_the_worker <= set(rendered)
    assert len(rendered) == len(set(rendered))


def test_passwords_and_keys_come_by_reference_only(full: EcoWorker) -> None:
    secret = {"RABBITMQ_URL", "POSTGRES_USER", "POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    by_name = {variable["name"]: variable for variable in deployment.environment(full, 0)}
    assert all("secretKeyRef" in by_name[name]["valueFrom"] and "value" not in by_name[name] for name in secret)


def test_a_pod_keeps_to_the_restricted_profile(full: EcoWorker) -> None:
    pod = BUILDERS["deployment"](full)["spec"]["template"]["spec"]
    container = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} <= {
        "persistentVolumeClaim", "emptyDir", "secret", "configMap",
    }  # fmt: skip


def test_a_shard_is_never_started_beside_its_predecessor(full: EcoWorker) -> None:
    spec = BUILDERS["deployment"](full)["spec"]
    assert spec["strategy"] == {"type": "Recreate"}
    assert spec["replicas"] == 1


def test_a_stopped_shard_keeps_its_template(full: EcoWorker) -> None:
    started, stopped = (deployment.build(full, 0, image=IMAGE, replicas=count) for count in (1, 0))
    assert started["spec"]["template"] == stopped["spec"]["template"]
    assert _hash(started) != _hash(stopped)


def test_any_change_of_what_is_wanted_changes_the_hash(full: EcoWorker) -> None:
    before = BUILDERS["deployment"](full)
    changed = full.model_copy(update={"spec": full.spec.model_copy(update={"concurrency": 9})})
    assert _hash(BUILDERS["deployment"](changed)) != _hash(before)


def test_the_hash_of_a_secret_tells_nothing_of_its_value(full: EcoWorker) -> None:
    assert _hash(token_secret.build(full, token="a")) == _hash(token_secret.build(full, token="b"))


def test_names_of_the_longest_worker_stay_within_the_limit_of_labels_and_services() -> None:
    name = "a" * 45
    names = [
        contract.shard_name(name, 99),
        contract.claim_name(name, 99),
        contract.token_secret_name(name),
        contract.sync_config_name(name),
        contract.shard_config_name(name, 99),
    ]
    assert max(map(len, names)) <= 63


def _hash(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["annotations"][contract.ANNOTATION_HASH])


JSON_VALUES: Final = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(),
    lambda below: strategies.lists(below) | strategies.dictionaries(strategies.text(), below),
)


@given(JSON_VALUES)
def test_a_hash_is_that_of_sorted_json_without_spaces_whatever_writes_it(content: Any) -> None:
    """It is on every object of every cluster: another one would have all of them applied, and all workers restarted."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert metadata.digest(content) == hashlib.sha256(canonical.encode()).hexdigest()[:32]
