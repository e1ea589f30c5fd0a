"""The headless Service of an EcoWorker: names its workers for scrapers of metrics."""

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_operator.resources.metadata import Manifest, object_metadata, pod_selector, with_hash, worker_labels


def build(worker: EcoWorker) -> Manifest:
    """The Service. Workers that are not ready are named too: their metrics are wanted most."""
    return with_hash(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": object_metadata(worker, worker.metadata.name, worker_labels(worker)),
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": pod_selector(worker),
                "ports": [
                    {
                        "name": contract.ADMIN_PORT_NAME,
                        "port": contract.ADMIN_PORT,
                        "targetPort": contract.ADMIN_PORT_NAME,
                        "protocol": "TCP",
                    }
                ],
            },
        }
    )
