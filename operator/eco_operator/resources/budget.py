"""The disruption budget of an EcoWorker: whoever empties nodes takes its workers one at a time."""

from eco_crds.ecoworker import EcoWorker
from eco_operator.resources.metadata import Manifest, object_metadata, pod_selector, with_hash, worker_labels


def build(worker: EcoWorker) -> Manifest:
    """The budget. A worker that is not ready may go at any time: it does no work that would be interrupted."""
    return with_hash(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": object_metadata(worker, worker.metadata.name, worker_labels(worker)),
            "spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": pod_selector(worker)},
            },
        }
    )
