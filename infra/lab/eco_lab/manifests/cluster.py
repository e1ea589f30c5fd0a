"""Parts of every cluster: the DNS server and the storage classes."""

from typing import Any, Final

from eco_lab import network
from eco_lab.images.catalogue import COREDNS
from eco_lab.provisioner import PROVISIONER

# The order of plugins is fixed in the program, so names outside of the cluster need a server block of their own.
_COREFILE: Final = """\
cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
    errors
    health {
        lameduck 1s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    cache 5
    loadbalance
}
.:53 {
    template ANY ANY . {
        rcode NXDOMAIN
    }
}
"""
_NAME: Final = "coredns"
_SYSTEM: Final = "kube-system"
_RBAC: Final = "rbac.authorization.k8s.io"
_SELECTOR: Final = {"k8s-app": "kube-dns"}


def dns(replicas: int) -> list[dict[str, Any]]:
    """CoreDNS with just the rights it needs, at the address that every pod asks."""
    named = {"name": _NAME, "namespace": _SYSTEM}
    role = {"name": "eco-lab:coredns"}
    watched = ["endpoints", "services", "pods", "namespaces"]
    rules = [
        {"apiGroups": [""], "resources": watched, "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    reference = {"apiGroup": _RBAC, "kind": "ClusterRole", **role}
    subject = {"kind": "ServiceAccount", **named}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": role, "rules": rules},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": role,
            "roleRef": reference,
            "subjects": [subject],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {"Corefile": _COREFILE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": named,
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": _SELECTOR},
                "template": {"metadata": {"labels": _SELECTOR}, "spec": _dns_pod()},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": _SYSTEM, "labels": _SELECTOR},
            "spec": {"selector": _SELECTOR, "clusterIP": network.DNS_SERVICE, "ports": ports},
        },
    ]


def _dns_pod() -> dict[str, Any]:
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": _SELECTOR},
    }
    container = {
        "name": _NAME,
        "image": COREDNS,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"containerPort": 53, "name": "dns", "protocol": "UDP"},
            {"containerPort": 53, "name": "dns-tcp", "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 30},
        "resources": {"requests": {"cpu": "20m", "memory": "40Mi"}, "limits": {"memory": "170Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    return {
        "serviceAccountName": _NAME,
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "topologySpreadConstraints": [spread],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": _NAME}}],
    }


def storage_classes() -> list[dict[str, Any]]:
    """`directory` (default), `disk` (true size, of one node) and `shared-disk` (true size, on any node)."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    return [
        _storage_class("directory", {"backend": "directory"}, annotations=default),
        _storage_class("disk", {"backend": "disk"}),
        _storage_class("shared-disk", {"backend": "disk", "shared": "true"}, binding="Immediate"),
    ]


def _storage_class(
    name: str,
    parameters: dict[str, str],
    *,
    annotations: dict[str, str] | None = None,
    binding: str = "WaitForFirstConsumer",
) -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations or {}},
        "provisioner": PROVISIONER,
        "parameters": parameters,
        "volumeBindingMode": binding,
        "reclaimPolicy": "Delete",
        "allowVolumeExpansion": True,
    }
