"""What the demo applies: a namespace, the secrets of its servers, an EcoWorker with two shards and its WalSync.

Pure: a run's services in, Kubernetes objects out.
"""

from typing import Any, Final
from urllib.parse import urlsplit

from eco_crds.contract import API_VERSION
from eco_lab.demo.services import Services

WORKER: Final = "storage"
SHARDS: Final = 2
QUEUE: Final = "q.batch"
CONCURRENCY: Final = 4
MAX_UNFINISHED: Final = 100
"""Few enough that most tasks stay with the broker, whose restart then falls in mid-work; enough to go on working from
the journals while it is away."""
SYNC_INTERVAL_S: Final = 5
OWNER_LABEL: Final = {"app.kubernetes.io/part-of": "eco-lab-demo"}


def namespace(name: str) -> dict[str, Any]:
    """A namespace whose pods must keep to the strictest security profile."""
    labels = {**OWNER_LABEL, "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def secrets(services: Services) -> list[dict[str, Any]]:
    """Credentials of the broker, the database and the bucket."""
    dsn = urlsplit(services.lab.postgres_dsn)
    data = {
        "rabbitmq": {"url": services.amqp_url_in_cluster},
        "postgresql": {"user": dsn.username or "", "password": services.lab.postgres_password},
        "s3": {"access-key": services.lab.s3_access_key, "secret-key": services.lab.s3_secret_key},
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": services.name, "labels": OWNER_LABEL},
            "stringData": values,
        }
        for name, values in data.items()
    ]


def eco_worker(services: Services, *, name: str = WORKER, replicas: int = SHARDS) -> dict[str, Any]:
    """Two shards of the storage role, each with a journal on a volume of its own."""
    lab = services.lab
    return {
        "apiVersion": API_VERSION,
        "kind": "EcoWorker",
        "metadata": {"name": name, "namespace": services.name},
        "spec": {
            "role": "storage",
            "image": lab.worker_image,
            "imagePullPolicy": "IfNotPresent",
            "replicas": replicas,
            "queues": [QUEUE],
            "concurrency": CONCURRENCY,
            "maxUnfinished": MAX_UNFINISHED,
            "gracePeriodSeconds": 30,
            "broker": {"urlSecretRef": {"name": "rabbitmq", "key": "url"}},
            "databases": [
                {
                    "name": "results",
                    "host": lab.postgres_host_in_cluster,
                    "port": lab.postgres_port,
                    "database": services.name,
                    "userSecretRef": {"name": "postgresql", "key": "user"},
                    "passwordSecretRef": {"name": "postgresql", "key": "password"},
                }
            ],
            "objectStore": {
                "endpointUrl": lab.s3_endpoint_url_in_cluster,
                "bucket": services.name,
                "region": lab.s3_region,
                "accessKeySecretRef": {"name": "s3", "key": "access-key"},
                "secretKeySecretRef": {"name": "s3", "key": "secret-key"},
            },
            "wal": {"size": "256Mi"},
        },
    }


def wal_sync(services: Services, *, name: str = WORKER, worker: str = WORKER) -> dict[str, Any]:
    """Results go from the journals to PostgreSQL every few seconds."""
    return {
        "apiVersion": API_VERSION,
        "kind": "WalSync",
        "metadata": {"name": name, "namespace": services.name},
        "spec": {
            "ecoWorkers": {"names": [worker]},
            "database": "results",
            "intervalSeconds": SYNC_INTERVAL_S,
        },
    }
