"""What of the lab runs right now, as far as this machine can see it without asking the cluster's users."""

from dataclasses import asdict, dataclass
from typing import Any

from eco_lab import environment, network
from eco_lab import paths as lab_paths
from eco_lab.errors import LabError
from eco_lab.kubernetes import Kubectl, is_ready
from eco_lab.machines import Machine

_CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_ON_REQUEST = (("argocd-redis", "argocd-repo-server", "argocd-application-controller"), ("prometheus-operator",))
"""Daemons that come together, when they are asked for."""
_NODE = ("containerd", "kubelet", "kube-proxy")


@dataclass(frozen=True, slots=True)
class Status:
    """Daemons of each machine, and the pods of the lab's servers."""

    is_up: bool
    daemons: dict[str, dict[str, bool]]
    """Machine → daemon → whether it runs. A machine that is off has none."""
    pods: dict[str, str]
    """Pod of a server → ready or what it is."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """For people."""
        lines = ["lab: up" if self.is_up else "lab: not up"]
        for machine, daemons in self.daemons.items():
            words = [name if runs else f"{name} (not running)" for name, runs in daemons.items()]
            lines.append(f"  {machine:<4} {', '.join(words) or 'off'}")
        lines += [f"  pod  {name}: {state}" for name, state in self.pods.items()]
        return "\n".join(lines)


def observe() -> Status:
    """Look at processes and pods."""
    paths = lab_paths.find()
    daemons: dict[str, dict[str, bool]] = {}
    for name in (network.CONTROL, *network.node_names(network.NODES_MAX)):
        machine = Machine(name, paths)
        wanted = _CONTROL_PLANE if name == network.CONTROL else _NODE
        if machine.init is not None:
            running = {
                daemon: machine.daemon(daemon) is not None for group in (wanted, *_ON_REQUEST) for daemon in group
            }
            # What was not asked for is not missing.
            asked = {*wanted, *(it for group in _ON_REQUEST if any(running[it] for it in group) for it in group)}
            daemons[name] = {daemon: runs for daemon, runs in running.items() if daemon in asked}
    found = environment.load()
    pods: dict[str, str] = {}
    if found is not None and daemons:
        try:
            listed = Kubectl(found.kubectl, found.kubeconfig).get("-n", found.services_namespace, "pods")["items"]
        except LabError as error:
            pods = {"?": str(error).splitlines()[0]}
        else:
            pods = {pod["metadata"]["name"]: _readiness(pod) for pod in listed}
    return Status(found is not None and (bool(daemons) or not found.managed), daemons, pods)


def _readiness(pod: dict[str, Any]) -> str:
    return "ready" if is_ready(pod) else str(pod["status"].get("phase", "unknown"))
