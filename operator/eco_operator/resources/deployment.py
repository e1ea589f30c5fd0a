"""The Deployment of one shard: one pod, replaced only after its predecessor is gone."""

from typing import Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.fields import SecretKeyRef
from eco_operator.resources.metadata import Manifest, object_metadata, shard_labels, with_hash

# Scratch space for what is in the making; the rest of the root is read-only.
TMP_SIZE_LIMIT: Final = "512Mi"
DEFAULT_REQUESTS: Final = {"cpu": "100m", "memory": "160Mi"}
# A start may wait 30 s for the lock of a predecessor and then reads its journal.
STARTUP_PERIOD_S: Final = 2
STARTUP_FAILURES_MAX: Final = 60
_SECRET_MODE: Final = 0o440
_TOKEN_DIR, _TOKEN_NAME = contract.TOKEN_FILE.rsplit("/", 1)


def build(
    worker: EcoWorker,
    index: int,
    *,
    image: str,
    replicas: int = 1,
    recovery: str = "",
    template: Manifest | None = None,
) -> Manifest:
    """The Deployment of shard `index`. `image` is the resolved one; `replicas` 0 stops the shard.

    `recovery` notes why it is stopped for one. `template` is the pod as an earlier operator had it, in place of the one
    that is built here.
    """
    name = contract.shard_name(worker.metadata.name, index)
    metadata = object_metadata(worker, name, shard_labels(worker, index))
    if recovery:
        metadata["annotations"] = {contract.ANNOTATION_RECOVERY: recovery}
    return with_hash(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": replicas,
                # A second pod beside the first could not have the journal anyway: it would only wait and time out.
                "strategy": {"type": "Recreate"},
                "revisionHistoryLimit": 2,
                "selector": {"matchLabels": _selector(worker, index)},
                "template": pod_template(worker, index, image=image) if template is None else template,
            },
        }
    )


def _selector(worker: EcoWorker, index: int) -> dict[str, str]:
    return {
        contract.LABEL_SHARD: contract.shard_name(worker.metadata.name, index),
        contract.LABEL_SHORT_COMPONENT: contract.COMPONENT_WORKER,
    }


def pod_template(worker: EcoWorker, index: int, *, image: str) -> Manifest:
    """The pod of a shard. It runs as nobody in particular, on a read-only root, without rights on the cluster."""
    spec = worker.spec
    pod: Manifest = {
        "terminationGracePeriodSeconds": spec.grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": contract.USER_ID,
            "runAsGroup": contract.USER_ID,
            "fsGroup": contract.USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(worker, index, image)],
        "volumes": _volumes(worker, index),
    }
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": it.name} for it in spec.image_pull_secrets]
    if spec.service_account_name:
        pod["serviceAccountName"] = spec.service_account_name
    if spec.priority_class_name:
        pod["priorityClassName"] = spec.priority_class_name
    if spec.node_selector:
        pod["nodeSelector"] = dict(spec.node_selector)
    if spec.tolerations:
        pod["tolerations"] = [it.model_dump(mode="json", by_alias=True, exclude_none=True) for it in spec.tolerations]
    return {"metadata": {"labels": shard_labels(worker, index, contract.COMPONENT_WORKER)}, "spec": pod}


def of_shard(template: Manifest, worker: EcoWorker, index: int) -> Manifest:
    """The pod of shard `index`, from that of any other shard of the same EcoWorker."""
    name = worker.metadata.name
    shard = contract.shard_name(name, index)
    places = {"wal": ("persistentVolumeClaim", "claimName", contract.claim_name(name, index))}
    places["shard-settings"] = ("configMap", "name", contract.shard_config_name(name, index))
    volumes = []
    for volume in template["spec"]["volumes"]:
        source, key, value = places.get(volume["name"], ("", "", ""))
        volumes.append({**volume, source: {**volume[source], key: value}} if source else volume)
    containers = [
        {
            **it,
            "env": [
                _plain(contract.ENV_SHARD, shard) if var["name"] == contract.ENV_SHARD else var for var in it["env"]
            ],
        }
        for it in template["spec"]["containers"]
    ]
    labels = {**template["metadata"]["labels"], contract.LABEL_SHARD: shard}
    return {
        "metadata": {**template["metadata"], "labels": labels},
        "spec": {**template["spec"], "containers": containers, "volumes": volumes},
    }


def _container(worker: EcoWorker, index: int, image: str) -> Manifest:
    spec = worker.spec
    resources = spec.resources.model_dump(mode="json", by_alias=True, exclude_none=True)
    container: Manifest = {
        "name": contract.CONTAINER_NAME,
        "image": image,
        "args": ["run"],
        "env": environment(worker, index),
        "ports": [{"name": contract.ADMIN_PORT_NAME, "containerPort": contract.ADMIN_PORT, "protocol": "TCP"}],
        "resources": resources or {"requests": dict(DEFAULT_REQUESTS)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe("/livez", period_s=STARTUP_PERIOD_S, timeout_s=2, failures=STARTUP_FAILURES_MAX),
        "livenessProbe": _probe("/livez", period_s=10, timeout_s=5, failures=6),
        "readinessProbe": _probe("/readyz", period_s=5, timeout_s=3, failures=2),
        # A worker that gives up its journal says so here; without a word from it the end of its log has to do.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "wal", "mountPath": contract.WAL_MOUNT},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # a volume of the pod's own
            {"name": "admin-token", "mountPath": _TOKEN_DIR, "readOnly": True},
            {"name": "shard-settings", "mountPath": contract.SHARD_SETTINGS_DIR, "readOnly": True},
            {"name": "sync-settings", "mountPath": contract.SYNC_SETTINGS_DIR, "readOnly": True},
        ],
    }
    if spec.image_pull_policy is not None:
        container["imagePullPolicy"] = spec.image_pull_policy.value
    return container


def _probe(path: str, *, period_s: int, timeout_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": contract.ADMIN_PORT_NAME},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def _volumes(worker: EcoWorker, index: int) -> list[Manifest]:
    """The journal's claim, scratch space, and what the operator hands in.

    Both ConfigMaps are optional: the one of the sync comes and goes, the one of the shard comes with the first report.
    """
    name = worker.metadata.name
    token = {
        "secretName": contract.token_secret_name(name),
        "defaultMode": _SECRET_MODE,
        "items": [{"key": contract.TOKEN_KEY, "path": _TOKEN_NAME}],
    }
    return [
        {"name": "wal", "persistentVolumeClaim": {"claimName": contract.claim_name(name, index)}},
        {"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE_LIMIT}},
        {"name": "admin-token", "secret": token},
        {"name": "shard-settings", "configMap": {"name": contract.shard_config_name(name, index), "optional": True}},
        {"name": "sync-settings", "configMap": {"name": contract.sync_config_name(name), "optional": True}},
    ]


def environment(worker: EcoWorker, index: int) -> list[Manifest]:
    """The variables of a shard's worker: what it is, then what it may use. Secrets come by reference only."""
    spec = worker.spec
    name = worker.metadata.name
    variables = [
        _plain(contract.ENV_NAMESPACE, worker.metadata.namespace),
        _plain(contract.ENV_WORKER, name),
        _plain(contract.ENV_SHARD, contract.shard_name(name, index)),
        _plain(contract.ENV_ROLE, spec.role.value),
        _plain(contract.ENV_QUEUES, ",".join(spec.effective_queues)),
        _plain(contract.ENV_CONCURRENCY, spec.concurrency),
        _plain(contract.ENV_MAX_UNFINISHED, spec.effective_max_unfinished),
        _plain(contract.ENV_GRACE_PERIOD, spec.grace_period_seconds),
        _plain(contract.ENV_ACK_POLICY, spec.wal.ack_policy.value),
        _plain(contract.ENV_WAL_DB_PATH, contract.wal_db_path(spec.role)),
        _secret(contract.ENV_RABBITMQ_URL, spec.broker.url_secret_ref),
        *_database(worker),
        *_object_store(worker),
    ]
    for extra in spec.env:
        if extra.value_from is not None:
            variables.append(_secret(extra.name, extra.value_from.secret_key_ref))
        else:
            variables.append(_plain(extra.name, extra.value or ""))
    return variables


def _database(worker: EcoWorker) -> list[Manifest]:
    if not worker.spec.databases:
        return []
    database = worker.spec.databases[0]  # the schema admits one
    return [
        _plain(contract.ENV_POSTGRES_HOST, database.host),
        _plain(contract.ENV_POSTGRES_PORT, database.port),
        _plain(contract.ENV_POSTGRES_DB, database.database),
        _secret(contract.ENV_POSTGRES_USER, database.user_secret_ref),
        _secret(contract.ENV_POSTGRES_PASSWORD, database.password_secret_ref),
    ]


def _object_store(worker: EcoWorker) -> list[Manifest]:
    store = worker.spec.object_store
    if store is None:
        return []
    variables = [_plain(contract.ENV_S3_BUCKET, store.bucket), _plain(contract.ENV_AWS_REGION, store.region)]
    if store.endpoint_url is not None:
        variables.append(_plain(contract.ENV_S3_ENDPOINT_URL, store.endpoint_url))
    if store.access_key_secret_ref is not None and store.secret_key_secret_ref is not None:
        variables.append(_secret(contract.ENV_AWS_ACCESS_KEY_ID, store.access_key_secret_ref))
        variables.append(_secret(contract.ENV_AWS_SECRET_ACCESS_KEY, store.secret_key_secret_ref))
    return variables


def _plain(name: str, value: object) -> Manifest:
    return {"name": name, "value": str(value)}


def _secret(name: str, ref: SecretKeyRef) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}
