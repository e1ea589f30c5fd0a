"""RabbitMQ, PostgreSQL and the S3 stand-in as pods that others reach by name and this machine by a fixed address."""

from dataclasses import dataclass, field
from typing import Any, Final

from eco_lab import network

NAMESPACE: Final = "eco-lab"
DATABASE: Final = "eco"
USER: Final = "eco"
BUCKET: Final = "eco-lab"
ADDRESSES: Final = {"rabbitmq": "10.77.0.21", "postgresql": "10.77.0.22", "s3": "10.77.0.23"}
PORTS: Final[dict[str, dict[str, int]]] = {
    "rabbitmq": {"amqp": 5672, "management": 15672, "metrics": 15692},
    "postgresql": {"postgresql": 5432},
    "s3": {"http": 9000},
}
_CREDENTIALS: Final = "lab-credentials"
_USER_ID: Final = 10001


@dataclass(frozen=True, slots=True)
class Credentials:
    """Passwords of the servers, made once a lab."""

    rabbitmq: str = field(repr=False)
    postgresql: str = field(repr=False)
    s3: str = field(repr=False)


def secrets(credentials: Credentials) -> list[dict[str, Any]]:
    """The namespace and what must be there before the servers."""
    # Read at the first start only: afterwards the user is in the broker's own database.
    rabbitmq = f"default_user = {USER}\ndefault_pass = {credentials.rabbitmq}\n" + _RABBITMQ_CONFIG
    content = {"rabbitmq.conf": rabbitmq, "postgresql-password": credentials.postgresql}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": _CREDENTIALS, "namespace": NAMESPACE},
            "stringData": content,
        },
    ]


_RABBITMQ_CONFIG: Final = """\
loopback_users = none
listeners.tcp.default = 5672
management.tcp.port = 15672
prometheus.tcp.port = 15692
log.console.level = warning
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 500MB
"""


def servers(images: dict[str, str]) -> list[dict[str, Any]]:
    """Workloads and services."""
    rabbitmq = _container(
        images["rabbitmq"],
        "rabbitmq",
        probe={"tcpSocket": {"port": 5672}},
        mounts={"data": "/var/lib/rabbitmq", "config": "/etc/rabbitmq/conf.d"},
        memory="160Mi",
    )
    postgresql = _container(
        images["postgresql"],
        "postgresql",
        probe={"exec": {"command": ["pg_isready", "-q", "-h", "127.0.0.1", "-U", USER]}},
        mounts={"data": "/var/lib/postgresql/data", "config": "/etc/database"},
        memory="64Mi",
        environment={"POSTGRES_USER": USER, "POSTGRES_DB": DATABASE},
    )
    s3 = _container(
        images["s3"],
        "s3",
        probe={"httpGet": {"path": f"/{BUCKET}", "port": 9000}},
        mounts={},
        memory="128Mi",
        environment={"PORT": "9000", "BUCKET": BUCKET},
    )
    return [
        _stateful("rabbitmq", rabbitmq, key="rabbitmq.conf", path="10-lab.conf", size="4Gi"),
        _stateful("postgresql", postgresql, key="postgresql-password", path="password", size="4Gi"),
        _stateless("s3", s3),
        *(_service(name) for name in ADDRESSES),
    ]


def _container(
    image: str,
    name: str,
    *,
    probe: dict[str, Any],
    mounts: dict[str, str],
    memory: str,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": key, "value": value} for key, value in (environment or {}).items()],
        "ports": [{"name": key, "containerPort": port} for key, port in PORTS[name].items()],
        "readinessProbe": {**probe, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 3},
        "volumeMounts": [{"name": key, "mountPath": path} for key, path in {**mounts, "tmp": "/tmp"}.items()],  # noqa: S108 - a volume of the pod's own
        "resources": {"requests": {"cpu": "20m", "memory": memory}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _pod(name: str, container: dict[str, Any], volumes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"app": name}},
        "spec": {
            # The first node is in every lab and no drill takes it away; the S3 stand-in keeps all in its memory.
            "nodeSelector": {"kubernetes.io/hostname": network.node_names(1)[0]},
            "terminationGracePeriodSeconds": 20,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": _USER_ID, "runAsGroup": _USER_ID},
            "containers": [container],
            "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}],
        },
    }


def _stateful(name: str, container: dict[str, Any], *, key: str, path: str, size: str) -> dict[str, Any]:
    item = {"key": key, "path": path, "mode": 0o444}
    config = {"name": "config", "secret": {"secretName": _CREDENTIALS, "items": [item]}}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "serviceName": name,
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": _pod(name, container, [config]),
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
        },
    }


def _stateless(name: str, container: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": name}},
            "template": _pod(name, container, []),
        },
    }


def _service(name: str) -> dict[str, Any]:
    ports = [{"name": key, "port": port} for key, port in PORTS[name].items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": name}, "clusterIP": ADDRESSES[name], "ports": ports},
    }
