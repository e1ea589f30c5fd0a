"""The ConfigMap that tells a shard's worker which journal it must find on its volume."""

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_operator.resources.metadata import Manifest, object_metadata, shard_labels, with_hash


def build(worker: EcoWorker, index: int, *, journal_uuid: str) -> Manifest:
    """The ConfigMap of shard `index`. It exists from the first report on: before that every journal is a new one."""
    name = contract.shard_config_name(worker.metadata.name, index)
    return with_hash(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": object_metadata(worker, name, shard_labels(worker, index)),
            "data": {contract.JOURNAL_UUID_KEY: journal_uuid},
        }
    )
