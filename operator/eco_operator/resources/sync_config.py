"""The ConfigMap with the sync settings of an EcoWorker, which its workers read anew whenever it changes."""

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.wal import SyncSettings
from eco_operator.resources.metadata import Manifest, object_metadata, with_hash, worker_labels


def build(worker: EcoWorker, *, settings: SyncSettings) -> Manifest:
    """The ConfigMap. It belongs to the EcoWorker; when no WalSync selects that any more, the operator deletes it."""
    name = contract.sync_config_name(worker.metadata.name)
    return with_hash(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": object_metadata(worker, name, worker_labels(worker)),
            "data": {contract.SYNC_SETTINGS_KEY: settings.model_dump_json()},
        }
    )
