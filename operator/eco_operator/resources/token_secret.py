"""The Secret with the bearer token of the workers' admin API, one for all shards of an EcoWorker."""

import base64

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_operator.resources.metadata import Manifest, object_metadata, with_hash, worker_labels


def build(worker: EcoWorker, *, token: str) -> Manifest:
    """The Secret with the given token. The token is made by the caller, once, and kept: here nothing is random."""
    name = contract.token_secret_name(worker.metadata.name)
    return with_hash(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": object_metadata(worker, name, worker_labels(worker)),
            "data": {contract.TOKEN_KEY: base64.b64encode(token.encode()).decode()},
        }
    )
