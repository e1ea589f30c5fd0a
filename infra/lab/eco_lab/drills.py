"""Breaking things on purpose: processes, pods, nodes. Works on a cluster that the lab started itself."""

import signal

from eco_lab import environment, network
from eco_lab import paths as lab_paths
from eco_lab.control_plane import ControlPlane
from eco_lab.environment import LabEnvironment
from eco_lab.errors import LabError
from eco_lab.kubernetes import Kubectl, is_ready
from eco_lab.nodes import Node
from eco_lab.processes import run, wait_until


def signal_process(namespace: str, pod: str, number: int = signal.SIGKILL, *, container: str | None = None) -> int:
    """Signal the main process of a pod's container from outside, as the kernel would; returns its process id.

    No `exec` takes part: a process that is process 1 of its namespace ignores SIGKILL from within. The kubelet sees a
    container that ended and starts it again in the same pod. Returns once the signal was delivered.
    """
    lab = _managed_lab()
    found = _kubectl(lab).get("-n", namespace, "pod", pod)
    statuses = found["status"].get("containerStatuses", [])
    chosen = [status for status in statuses if container is None or status["name"] == container]
    if not chosen or not chosen[0].get("containerID"):
        raise LabError(f"signal a process of pod {namespace}/{pod}", "no such container runs")
    node = _node(found["spec"]["nodeName"], lab)
    process = node.container_process(chosen[0]["containerID"].removeprefix("containerd://"))
    run(node.machine.inside("kill", f"-{int(number)}", str(process)))
    return process


def restart(server: str, *, namespace: str = "", grace_s: int | None = None, ready_s: float = 90) -> None:
    """Delete the pods of a server such as `rabbitmq` or `postgresql`; with `grace_s=0` at once, as a crash would.

    Returns when a successor is Ready. A Service may take another second to lead to it: connect with retries.
    """
    lab = _managed_lab()
    kubectl = _kubectl(lab)
    selected = ["-n", namespace or lab.services_namespace, "pod", "-l", f"app={server}"]
    before = {pod["metadata"]["uid"] for pod in kubectl.get(*selected)["items"]}
    if not before:
        raise LabError(f"restart {server}", "it has no pod")
    words = ["delete", *selected, "--wait=false"]
    if grace_s is not None:
        words.append(f"--grace-period={grace_s}")
    if grace_s == 0:
        words.append("--force")
    kubectl(*words)

    def is_replaced() -> bool:
        pods = kubectl.get(*selected)["items"]
        return any(pod["metadata"]["uid"] not in before and is_ready(pod) for pod in pods)

    wait_until(f"successor of {server}", is_replaced, timeout_s=ready_s, poll_s=0.25)


def cut(node: str) -> None:
    """Power cut of a node: everything on it ends at once. `boot` brings it back."""
    _node(node, _managed_lab()).machine.cut()


def cable(node: str) -> None:
    """Pull a node's network cable: everything on it runs on, unseen."""
    _node(node, _managed_lab())
    network.set_cable(node, plugged=False)


def plug(node: str) -> None:
    """Put a node's network cable back."""
    _node(node, _managed_lab())
    network.set_cable(node, plugged=True)


def boot(node: str) -> None:
    """Switch a node on after `cut`; returns when it is Ready."""
    lab = _managed_lab()
    machine = _node(node, lab)
    control_plane = ControlPlane(lab_paths.find(), lab.kubectl.parent)
    machine.start_runtime()
    machine.start_kubelet(control_plane)
    machine.wait_ready(control_plane.client())


def _managed_lab() -> LabEnvironment:
    lab = environment.load()
    if lab is None:
        raise LabError("break something", "the lab is not up", hint="eco-lab up")
    if not lab.managed:
        raise LabError("break something", "this cluster was not started by the lab")
    return lab


def _kubectl(lab: LabEnvironment) -> Kubectl:
    return Kubectl(lab.kubectl, lab.kubeconfig)


def _node(name: str, lab: LabEnvironment) -> Node:
    if name not in lab.nodes:
        raise LabError(f"break node {name}", f"the nodes are {', '.join(lab.nodes)}")
    return Node(name, lab_paths.find(), lab.kubectl.parent)
