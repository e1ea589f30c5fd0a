"""Prometheus beside the cluster: its operator as a daemon of the control machine, and one server that it runs in a pod.

The server takes every ServiceMonitor of every namespace, so that a monitor is proved by what comes of it: a target that
is scraped.
"""

from pathlib import Path
from typing import Any, Final

from eco_lab import network, versions
from eco_lab.images import archive, catalogue
from eco_lab.kubernetes import Kubectl
from eco_lab.machines import Machine
from eco_lab.nodes import Node
from eco_lab.paths import Paths
from eco_lab.processes import wait_until
from eco_lab.progress import step

NAMESPACE: Final = "monitoring"
"""Which the operator's chart lets in, unless told otherwise."""
NAME: Final = "lab"
PORT: Final = 9090
_IMAGE: Final = f"localhost/prometheus:{versions.PROMETHEUS}"
_RELOADER: Final = f"localhost/prometheus-config-reloader:{versions.PROMETHEUS_OPERATOR}"
_KNOWN_VERSION: Final = "3.5.0"
"""What the operator takes the server for: the newest that it knows how to configure."""
_USER: Final = 65534
_RBAC: Final = "rbac.authorization.k8s.io"
_START_S: Final = 120.0
_KINDS: Final = "monitoring.coreos.com"


class Prometheus:
    """The lab's Prometheus and its operator."""

    def __init__(self, paths: Paths, programs: Path, kubectl: Kubectl, nodes: list[Node]) -> None:
        self._paths = paths
        self._programs = programs
        self._kubectl = kubectl
        self._nodes = nodes
        self._machine = Machine(network.CONTROL, paths)

    def start(self) -> None:
        """Start what does not run and wait until the server's pod is ready."""
        with step("Prometheus and its operator"):
            for node in self._nodes:
                node.import_images(self._images())
            self._define()
            self._kubectl.apply(*server())
            self._machine.start(
                "prometheus-operator",
                [
                    *("env", f"KUBECONFIG={self._paths.kubeconfig}"),
                    self._programs / "prometheus-operator",
                    "--web.listen-address=127.0.0.1:8090",
                    f"--prometheus-config-reloader={_RELOADER}",
                ],
            )
            log = self._machine.log("prometheus-operator")
            wait_until("Prometheus", self._is_available, timeout_s=_START_S, log=log)

    def _images(self) -> tuple[Path, ...]:
        user = str(_USER)
        programs = {
            "prometheus": archive.ImageConfig(_IMAGE, entrypoint=("/bin/prometheus",), user=user),
            "prometheus-config-reloader": archive.ImageConfig(
                _RELOADER, entrypoint=("/bin/prometheus-config-reloader",), user=user
            ),
        }
        return tuple(catalogue.single(self._paths, self._programs / name, config) for name, config in programs.items())

    def _define(self) -> None:
        self._kubectl("apply", "--server-side", "--force-conflicts", "-f", str(self._programs / "crds"))
        names = [f"{file.stem.partition('_')[2]}.{_KINDS}" for file in (self._programs / "crds").glob("*.yaml")]
        wait_until("Prometheus' definitions", lambda: all(map(self._kubectl.is_established, names)), timeout_s=_START_S)

    def _is_available(self) -> bool:
        found = self._kubectl.get("-n", NAMESPACE, f"prometheus.{_KINDS}/{NAME}").get("status", {})
        said = found.get("conditions") or ()
        return any(it["type"] == "Available" and it["status"] == "True" for it in said)


def server() -> list[dict[str, Any]]:
    """The namespace, the rights that a server needs to find pods, and the server."""
    named = {"name": "prometheus", "namespace": NAMESPACE}
    role = {"name": "eco-lab:prometheus"}
    verbs = ["get", "list", "watch"]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": role,
            "rules": [
                {"apiGroups": [""], "resources": ["services", "endpoints", "pods"], "verbs": verbs},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs},
            ],
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": role,
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", **role},
            "subjects": [{"kind": "ServiceAccount", **named}],
        },
        {
            "apiVersion": f"{_KINDS}/v1",
            "kind": "Prometheus",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "version": _KNOWN_VERSION,
                "image": _IMAGE,
                "imagePullPolicy": "Never",
                "serviceAccountName": named["name"],
                "serviceMonitorSelector": {},
                "serviceMonitorNamespaceSelector": {},
                "scrapeInterval": "5s",
                "securityContext": {"runAsUser": _USER, "runAsNonRoot": True, "fsGroup": _USER},
            },
        },
    ]
