"""Labels, owners and the hash that every object of an EcoWorker carries."""

import hashlib
from typing import Any, Final

import msgspec

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker

Manifest = dict[str, Any]
Labels = dict[str, str]

# What a hash does not cover: the hash itself, and values that are nobody's to know.
_UNHASHED = frozenset({"data", "stringData"})
_CANONICAL: Final = msgspec.json.Encoder(order="sorted")


def worker_labels(worker: EcoWorker) -> Labels:
    """Labels of an object that all shards share."""
    return {
        contract.LABEL_NAME: contract.component_name(worker.spec.role),
        contract.LABEL_INSTANCE: worker.metadata.name,
        contract.LABEL_PART_OF: contract.PART_OF,
        contract.LABEL_MANAGED_BY: contract.MANAGED_BY,
        contract.LABEL_WORKER: worker.metadata.name,
        contract.LABEL_WORKER_UID: worker.metadata.uid,
    }


def shard_labels(worker: EcoWorker, index: int, component: str | None = None) -> Labels:
    """Labels of an object that belongs to one shard; with `component` also those that people select by."""
    labels = {**worker_labels(worker), contract.LABEL_SHARD: contract.shard_name(worker.metadata.name, index)}
    if component is None:
        return labels
    return {**labels, contract.LABEL_COMPONENT: component, contract.LABEL_SHORT_COMPONENT: component}


def pod_selector(worker: EcoWorker) -> Labels:
    """What selects the pods of all shards, and nothing else. Pods of jobs carry no component `worker`."""
    return {
        contract.LABEL_WORKER: worker.metadata.name,
        contract.LABEL_SHORT_COMPONENT: contract.COMPONENT_WORKER,
    }


def selector_text(worker: EcoWorker) -> str:
    """The same selector as `status.selector` has it, for autoscalers."""
    return ",".join(f"{key}={value}" for key, value in sorted(pod_selector(worker).items()))


def owner_references(worker: EcoWorker) -> list[Manifest]:
    """Makes the garbage collector remove an object with its EcoWorker.

    `blockOwnerDeletion` stays off: it would need a right on finalizers and win nothing, as nothing waits for children.
    """
    return [
        {
            "apiVersion": worker.api_version,
            "kind": worker.kind,
            "name": worker.metadata.name,
            "uid": worker.metadata.uid,
            "controller": True,
        }
    ]


def object_metadata(worker: EcoWorker, name: str, labels: Labels) -> Manifest:
    """Metadata of an object that goes with its EcoWorker."""
    return {
        "name": name,
        "namespace": worker.metadata.namespace,
        "labels": labels,
        "ownerReferences": owner_references(worker),
    }


def digest(content: Any) -> str:
    """A short hash of any JSON value, independent of the order of keys."""
    return hashlib.sha256(_CANONICAL.encode(content)).hexdigest()[:32]


def with_hash(manifest: Manifest) -> Manifest:
    """The object with an annotation that says what was wanted; a Secret's values are left out of it."""
    is_secret = manifest.get("kind") == "Secret"
    hashed = {key: value for key, value in manifest.items() if not (is_secret and key in _UNHASHED)}
    annotations = {**manifest["metadata"].get("annotations", {}), contract.ANNOTATION_HASH: digest(hashed)}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}
