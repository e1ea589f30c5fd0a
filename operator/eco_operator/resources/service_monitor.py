"""The ServiceMonitor of an EcoWorker: has the Prometheus operator scrape its workers by their Service."""

from collections.abc import Mapping
from typing import Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_operator.resources.metadata import Manifest, object_metadata, with_hash, worker_labels

INTERVAL: Final = "15s"


def build(worker: EcoWorker, *, labels: Mapping[str, str]) -> Manifest:
    """The ServiceMonitor; `labels` are those by which a Prometheus selects what it scrapes."""
    metadata = object_metadata(worker, worker.metadata.name, {**labels, **worker_labels(worker)})
    return with_hash(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": metadata,
            "spec": {
                # The job is called after the kind of worker, as in storage-worker.
                "jobLabel": contract.LABEL_NAME,
                # A series says which worker and which shard it is of.
                "podTargetLabels": [contract.LABEL_WORKER, contract.LABEL_SHARD],
                "selector": {"matchLabels": {contract.LABEL_WORKER: worker.metadata.name}},
                "endpoints": [{"port": contract.ADMIN_PORT_NAME, "interval": INTERVAL}],
            },
        }
    )
