"""No field is decoration: every one of a spec changes something, every one of a status is written by the operator."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from eco_crds.ecoworker import EcoWorker
from eco_crds.ecoworker_status import EcoWorkerStatus, EcoWorkerSummary, RecoveryResult, ShardStatus
from eco_crds.fields import OwnerMetadata
from eco_crds.schema import KINDS, structural_schema
from eco_crds.wal import SyncSettings
from eco_crds.walsync import SyncedWorkerStatus, WalSync, WalSyncStatus, WalSyncSummary
from eco_operator.resources import claim, deployment, service, shard_config, sync_config, token_secret
from tests.support.cases import valid

FULL = Path(__file__).parents[1] / "data" / "resources" / "full" / "ecoworker.yaml"
OPERATOR = Path(__file__).parents[2] / "operator" / "eco_operator" / "reconcile"
SOURCE = "\n".join(path.read_text() for path in sorted(OPERATOR.glob("*.py")))

# Read by the operator's own decisions, not by an object it builds.
DECIDED_ON = {
    "spec.replicas",
    "spec.drainDeadlineSeconds",
    "spec.recovery.mode",
    "spec.delivery",
    "spec.wal.stallAfterSeconds",
    "spec.wal.maxLagSeconds",
    "spec.wal.growth.at",
    "spec.wal.growth.max",
    "spec.databases[0].name",
}
# The one value there is so far.
SINGLE = {"spec.role"}


def leaves(value: Any, path: str) -> Iterator[tuple[str, list[str | int], Any]]:
    def walk(value: Any, keys: list[str | int], path: str) -> Iterator[tuple[str, list[str | int], Any]]:
        if isinstance(value, dict):
            for key, child in value.items():
                yield from walk(child, [*keys, key], f"{path}.{key}")
        elif isinstance(value, list) and value:
            for index, child in enumerate(value):
                yield from walk(child, [*keys, index], f"{path}[{index}]")
        else:
            yield path, keys, value

    yield from walk(value, [], path)


SWAPS = {
    "Delete": "Retain",
    "ReadWriteOnce": "ReadWriteOncePod",
    "Replicated": "Completed",
    "Always": "Never",
    "q.batch": "q.ai",
    "q.api": "q.sched",
}
SWAPS |= {"Equal": "Exists", "Exists": "Equal", "NoSchedule": "NoExecute", "NoExecute": "NoSchedule"}


def other(value: Any) -> Any:
    """A value of the same kind that is still valid."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    text = str(value)
    if text in SWAPS:
        return SWAPS[text]
    quantity = re.fullmatch(r"([0-9]+)(Gi|Mi|m)", text)
    return f"{int(quantity[1]) + 1}{quantity[2]}" if quantity else f"{text}x"


def built(document: dict[str, Any]) -> list[dict[str, Any]]:
    worker = EcoWorker.read(document)
    image = worker.spec.image or "image"
    return [
        deployment.build(worker, 0, image=image),
        claim.build(worker, 0, image=image),
        service.build(worker),
        token_secret.build(worker, token=""),
        shard_config.build(worker, 0, journal_uuid=""),
        sync_config.build(worker, settings=SyncSettings(target="t")),
    ]


def changed(document: dict[str, Any], keys: list[str | int]) -> dict[str, Any]:
    copy: dict[str, Any] = yaml.safe_load(yaml.safe_dump(document))
    parent: Any = copy["spec"]
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = other(parent[keys[-1]])
    return copy


FULL_DOCUMENT: dict[str, Any] = yaml.safe_load(FULL.read_text())
FIELDS = [
    pytest.param(keys, id=path)
    for path, keys, _ in leaves(FULL_DOCUMENT["spec"], "spec")
    if path not in DECIDED_ON | SINGLE
]


@pytest.mark.parametrize("keys", FIELDS)
def test_a_field_of_an_ecoworker_changes_what_is_built(keys: list[str | int]) -> None:
    assert built(changed(FULL_DOCUMENT, keys)) != built(FULL_DOCUMENT)


@pytest.mark.parametrize("path", sorted(DECIDED_ON))
def test_a_field_that_shows_in_no_object_is_read_by_the_operator(path: str) -> None:
    name = re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", path.removeprefix("spec.").split(".")[-1])
    accessor = ".spec.database(" if path.endswith("[0].name") else f".{name}"
    assert accessor in SOURCE


def test_the_full_example_has_every_field_of_the_schema() -> None:
    """Else the test above would overlook a new one."""

    def missing(node: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        for name, child in node.get("properties", {}).items():
            samples = value if isinstance(value, list) else [value]
            found = [sample[name] for sample in samples if name in sample]
            if not found:
                yield f"{path}.{name}"
            for sample in found:
                yield from missing(child.get("items", child), sample, f"{path}.{name}")

    spec = structural_schema(KINDS[0])["properties"]["spec"]
    # One of the two, never both.
    lacking = [path for path in missing(spec, FULL_DOCUMENT["spec"], "spec") if path != "spec.tolerations.value"]
    assert lacking == []


@pytest.mark.parametrize("field", ["database", "interval_seconds", "batch_size", "max_attempts", "suspend"])
def test_a_field_of_a_walsync_changes_what_the_workers_are_told(field: str) -> None:
    sync = WalSync.read(valid("walsyncs"))
    spec = sync.spec.model_copy(update={field: other(getattr(sync.spec, field))})
    assert spec.settings() != sync.spec.settings()


def test_the_selector_of_a_walsync_selects() -> None:
    selector = WalSync.read(valid("walsyncs")).spec.eco_workers
    assert selector.matches(OwnerMetadata(name="storage"))
    assert not selector.matches(OwnerMetadata(name="other"))


STATUSES: list[type[BaseModel]] = [
    EcoWorkerStatus, EcoWorkerSummary, ShardStatus, RecoveryResult, WalSyncStatus, WalSyncSummary, SyncedWorkerStatus,
]  # fmt: skip


@pytest.mark.parametrize("field", [f"{model.__name__}.{name}" for model in STATUSES for name in model.model_fields])
def test_a_field_of_a_status_is_written_by_the_operator(field: str) -> None:
    name = field.rpartition(".")[2]
    assert f"{name}=" in SOURCE or f'"{name}":' in SOURCE
