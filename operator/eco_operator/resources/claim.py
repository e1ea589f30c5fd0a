"""The claim on the volume that holds a shard's journal.

It has no owner on purpose: when its EcoWorker goes, unfinished work may still be in it. What a later drain needs is
therefore written on the claim itself.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_operator.resources.metadata import Manifest, shard_labels, with_hash

# References and addresses only, no value that could be a secret. User variables are left out for that reason.
_DRAIN_FIELDS: Final[dict[str, Any]] = {
    "role": True,
    "image_pull_policy": True,
    "image_pull_secrets": True,
    "service_account_name": True,
    "priority_class_name": True,
    "queues": True,
    "node_selector": True,
    "tolerations": True,
    "broker": True,
    "databases": True,
    "object_store": True,
    "wal": {"reclaim_policy": True},
}


def build(
    worker: EcoWorker,
    index: int,
    *,
    image: str,
    journal_uuid: str = "",
    size: str | None = None,
    grown: str = "",
) -> Manifest:
    """The claim of shard `index`.

    `journal_uuid` is the identity of the journal once it is known, `size` what a claim that exists is to ask for in
    place of the spec's, and `grown` the note on its last growth.
    """
    name = worker.metadata.name
    annotations = {contract.ANNOTATION_DRAIN: drain_settings(worker, image=image)}
    if journal_uuid:
        annotations[contract.ANNOTATION_JOURNAL] = journal_uuid
    if grown:
        annotations[contract.ANNOTATION_GROWN] = grown
    spec: Manifest = {
        "accessModes": [worker.spec.wal.access_mode.value],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": size or str(worker.spec.wal.size)}},
    }
    if worker.spec.wal.storage_class is not None:
        spec["storageClassName"] = worker.spec.wal.storage_class
    return with_hash(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": contract.claim_name(name, index),
                "namespace": worker.metadata.namespace,
                "labels": shard_labels(worker, index, contract.COMPONENT_WAL),
                "annotations": annotations,
            },
            "spec": spec,
        }
    )


def read_drain_settings(claim_annotations: Mapping[str, str], *, namespace: str, name: str, uid: str) -> EcoWorker:
    """The EcoWorker as far as its claim remembers it. Raises pydantic's ValidationError when nothing can be read."""
    document = json.loads(claim_annotations.get(contract.ANNOTATION_DRAIN) or "{}")
    return EcoWorker.read({"metadata": {"name": name, "namespace": namespace, "uid": uid}, "spec": document})


def drain_settings(worker: EcoWorker, *, image: str) -> str:
    """What it takes to start a worker of this kind on the claim once more, as a JSON object."""
    kept = worker.spec.model_dump(mode="json", by_alias=True, exclude_none=True, include=_DRAIN_FIELDS)
    filled = {key: value for key, value in kept.items() if value not in ([], {})}
    return json.dumps({**filled, "image": image}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
