"""A revision of an EcoWorker: the pod of its shards as it was rendered when the spec last changed.

A newer operator may render the same spec otherwise. What runs is held to the revision, so that the workers restart when
their spec changes and never because the operator was.
"""

from typing import Any, Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_operator.resources import deployment
from eco_operator.resources.metadata import Manifest, digest, object_metadata, with_hash, worker_labels

# Fields of the spec that no pod of a worker is made from: a change of these alone begins no revision.
NOT_OF_A_POD: Final[dict[str, Any]] = {
    "image": True,
    "replicas": True,
    "drain_deadline_seconds": True,
    "recovery": True,
    "wal": True,
    "delivery": True,
}


def source(worker: EcoWorker) -> str:
    """What a revision is of: a hash of the fields that a pod is made from, the image left out.

    Values that are the defaults do not count, so that a field which a newer operator knows changes nothing by being
    there.
    """
    return digest(worker.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=NOT_OF_A_POD))


def build(worker: EcoWorker, *, number: int, image: str) -> Manifest:
    """The revision, with the pod of shard 0 as this operator renders it."""
    template = deployment.pod_template(worker, 0, image=image)
    data = {"source": source(worker), "image": image, "template": template}
    name = f"{worker.metadata.name}-{digest([number, data])[:10]}"
    metadata = object_metadata(worker, name, {**worker_labels(worker), contract.LABEL_COMPONENT: "revision"})
    return with_hash(
        {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": metadata,
            "revision": number,
            "data": data,
        }
    )
