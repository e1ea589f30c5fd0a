"""Names that operator, worker and charts must spell alike.

A name stands here once; the operator renders it into a pod, the worker reads it there. Nothing here depends on a
Kubernetes client or on a worker's code.
"""

from typing import Final

GROUP: Final = "eco.growbin.app"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

# Labels. `managed-by` is what the operator's caches filter on, server-side.
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_PART_OF: Final = "app.kubernetes.io/part-of"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
MANAGED_BY: Final = "eco-operator"
LABEL_WORKER: Final = f"{GROUP}/ecoworker"
LABEL_WORKER_UID: Final = f"{GROUP}/ecoworker-uid"
LABEL_SHARD: Final = f"{GROUP}/shard"
# On an object that lies in another namespace than its EcoWorker: that of the EcoWorker.
LABEL_NAMESPACE: Final = f"{GROUP}/namespace"
# The short form that people select volumes and pods by.
LABEL_SHORT_COMPONENT: Final = "component"
COMPONENT_WAL: Final = "wal"
COMPONENT_WORKER: Final = "worker"
COMPONENT_JOB: Final = "job"

# Annotations
ANNOTATION_HASH: Final = f"{GROUP}/desired-hash"
ANNOTATION_PAUSED: Final = f"{GROUP}/paused"
# On an EcoWorker, by people: stop every shard, make shards stand still (`true`, or names of shards), and have a damaged
# journal looked at (`dry-run`) or set right (`true`). On a WalSync: send now; each new value once.
ANNOTATION_HIBERNATE: Final = f"{GROUP}/hibernate"
ANNOTATION_FENCE: Final = f"{GROUP}/fence"
ANNOTATION_RECOVER: Final = f"{GROUP}/recover"
ANNOTATION_SYNC_NOW: Final = f"{GROUP}/sync-now"
# On a claim, which outlives its EcoWorker: what it takes to start a worker on it once more, and whose journal it holds.
ANNOTATION_DRAIN: Final = f"{GROUP}/drain"
ANNOTATION_JOURNAL: Final = f"{GROUP}/journal-uuid"
ANNOTATION_ORPHANED: Final = f"{GROUP}/orphaned-since"
# Likewise, of a shard that is not wanted any more; and what the last job on the volume left in the journal.
ANNOTATION_SCALED_IN: Final = f"{GROUP}/scaled-in-since"
ANNOTATION_LEFT: Final = f"{GROUP}/left"
# What its request for room was last raised to, and how large the worker saw the volume before that.
ANNOTATION_GROWN: Final = f"{GROUP}/grown"
# On the Deployment of a shard that is stopped for a recovery: what its worker said of the journal.
ANNOTATION_RECOVERY: Final = f"{GROUP}/recovery"
PART_OF: Final = "eco"

# Field managers
FIELD_MANAGER: Final = "eco-operator"
STATUS_FIELD_MANAGER: Final = "eco-operator-status"
# Owns nothing but the marks on a claim that no shard uses, so that an adoption can take them off.
ORPHAN_FIELD_MANAGER: Final = "eco-operator-orphans"
# What Argo CD applies under.
ARGOCD_FIELD_MANAGER: Final = "argocd-controller"

# Inside a worker's pod
CONTAINER_NAME: Final = "worker"
JOB_CONTAINER_NAME: Final = "job"
ADMIN_PORT: Final = 9464
ADMIN_PORT_NAME: Final = "metrics"
WAL_MOUNT: Final = "/var/lib/ecoeco/wal"
TOKEN_FILE: Final = "/etc/eco/admin/token"  # noqa: S105  # a path, not a token
TOKEN_KEY: Final = "token"  # noqa: S105  # the key inside the Secret
SYNC_SETTINGS_DIR: Final = "/etc/eco/sync"
SYNC_SETTINGS_KEY: Final = "sync.json"
SHARD_SETTINGS_DIR: Final = "/etc/eco/shard"
JOURNAL_UUID_KEY: Final = "journal-uuid"
USER_ID: Final = 10001

# Environment of a worker (`eco_workers.settings` reads exactly these)
ENV_NAMESPACE: Final = "ECO_NAMESPACE"
ENV_WORKER: Final = "ECO_WORKER"
ENV_SHARD: Final = "ECO_SHARD"
ENV_ROLE: Final = "ECO_ROLE"
ENV_QUEUES: Final = "ECO_QUEUES"  # comma separated
ENV_CONCURRENCY: Final = "ECO_CONCURRENCY"
ENV_MAX_UNFINISHED: Final = "ECO_MAX_UNFINISHED"
ENV_MAX_WAITING: Final = "ECO_MAX_WAITING"
ENV_GRACE_PERIOD: Final = "ECO_GRACE_PERIOD_S"
ENV_ACK_POLICY: Final = "ECO_ACK_POLICY"
ENV_WAL_DB_PATH: Final = "WAL_DB_PATH"
ENV_RABBITMQ_URL: Final = "RABBITMQ_URL"
ENV_POSTGRES_HOST: Final = "POSTGRES_HOST"
ENV_POSTGRES_PORT: Final = "POSTGRES_PORT"
ENV_POSTGRES_DB: Final = "POSTGRES_DB"
ENV_POSTGRES_USER: Final = "POSTGRES_USER"
ENV_POSTGRES_PASSWORD: Final = "POSTGRES_PASSWORD"  # noqa: S105  # a variable's name
ENV_S3_ENDPOINT_URL: Final = "S3_ENDPOINT_URL"
ENV_S3_BUCKET: Final = "S3_BUCKET"
ENV_AWS_REGION: Final = "AWS_REGION"
ENV_AWS_ACCESS_KEY_ID: Final = "AWS_ACCESS_KEY_ID"
ENV_AWS_SECRET_ACCESS_KEY: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105  # a variable's name

# Variables that a worker reads and a pod may not set: its ports, mounts and probes are built for the usual values.
FIXED_ENV: Final = (
    "ECO_ADMIN_HOST",
    "ECO_ADMIN_PORT",
    "ECO_SHARD_SETTINGS_DIR",
    "ECO_SYNC_SETTINGS_DIR",
    "ECO_TOKEN_FILE",
)


def shard_name(worker: str, index: int) -> str:
    """Name of shard `index` (from 0) of an EcoWorker; its Deployment is called the same."""
    return f"{worker}-{index}"


def claim_name(worker: str, index: int) -> str:
    """Name of the PersistentVolumeClaim that holds the journal of a shard."""
    return f"wal-{worker}-{index}"


def token_secret_name(worker: str) -> str:
    """Name of the Secret with the bearer token of the admin API, one for all shards of an EcoWorker."""
    return f"{worker}-admin-token"


def sync_config_name(worker: str) -> str:
    """Name of the ConfigMap with the sync settings of an EcoWorker; absent while no WalSync selects it."""
    return f"{worker}-sync"


def shard_config_name(worker: str, index: int) -> str:
    """Name of the ConfigMap that carries what the operator knows of one shard's journal."""
    return f"{worker}-{index}-journal"


def job_name(worker: str, index: int, job: str) -> str:
    """Name of a job on a shard's volume, as in `storage-0-drain`."""
    return f"{worker}-{index}-{job}"


def component_name(role: str) -> str:
    """What the workers of a role are called in `app.kubernetes.io/name`, as in `storage-worker`."""
    return f"{role}-worker"


def wal_db_path(role: str) -> str:
    """File of the journal inside a worker's pod."""
    return f"{WAL_MOUNT}/{role}_worker.db"
