"""Addresses and wires. One bridge in a namespace of its own joins the machines; this machine gets one veth to it.

Nothing here has a default route, so no packet of a pod or of the lab's daemons can leave the machine. Routes of the
root namespace hang on the one veth and go with it; no firewall rule and no setting of the root namespace is touched.
"""

import os
from pathlib import Path
from typing import Final

from eco_lab.mounts import is_mounted
from eco_lab.processes import run, succeeds, wait_until

PREFIX: Final = os.environ.get("ECO_LAB_PREFIX") or "eco"
"""Names of namespaces, interfaces and control groups begin with this. Another one, in another network namespace and
with another state directory, makes a second lab beside the first."""
MACHINES: Final = "10.79.0"
PODS: Final = "10.78"
PODS_CIDR: Final = f"{PODS}.0.0/16"
SERVICES_CIDR: Final = "10.77.0.0/16"
API_SERVICE: Final = "10.77.0.1"
DNS_SERVICE: Final = "10.77.0.10"
CONTROL: Final = "cp"
NODES_MAX: Final = 3
"""More would fit the addresses; two cores do not carry them."""

_HUB: Final = f"{PREFIX}-net"
_DOOR: Final = f"{PREFIX}0"
_NAMESPACES: Final = Path("/run/netns")
_MACHINE_SYSCTLS: Final = (
    "net.ipv6.conf.all.disable_ipv6=1",
    "net.ipv6.conf.default.disable_ipv6=1",
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
)


def node_names(count: int) -> tuple[str, ...]:
    """Names of the first `count` nodes."""
    return tuple(f"n{number}" for number in range(1, count + 1))


def address(machine: str) -> str:
    """Address of a machine on the bridge."""
    return f"{MACHINES}.{10 if machine == CONTROL else 10 + int(machine[1:])}"


def pods_of(node: str) -> str:
    """Range of the pods on a node."""
    return f"{PODS}.{int(node[1:])}.0/24"


def namespace(machine: str) -> Path:
    """File that holds a machine's network namespace."""
    return _NAMESPACES / f"{PREFIX}-{machine}"


def is_up() -> bool:
    """Whether the bridge's namespace exists."""
    return (_NAMESPACES / _HUB).exists()


def _ip(*words: str, within: str = "") -> None:
    run(["ip", *(("-n", within) if within else ()), *words])


def raise_hub() -> None:
    """Make the bridge and this machine's way to it, or what of them a start that was cut off did not come to."""
    if not (is_up() and succeeds(["ip", "link", "show", _DOOR])):
        lower_hub()
        _ip("netns", "add", _HUB)
        _ip("link", "set", "lo", "up", within=_HUB)
        _ip("link", "add", "br0", "type", "bridge", within=_HUB)
        _ip("link", "set", "br0", "addrgenmode", "none", "up", within=_HUB)
        # The peer lands in the namespace that this program runs in, which need not be that of PID 1.
        _ip("link", "add", "door", "type", "veth", "peer", "name", _DOOR, "netns", str(os.getpid()), within=_HUB)
    _ip("link", "set", "door", "addrgenmode", "none", "master", "br0", "up", within=_HUB)
    _ip("link", "set", _DOOR, "addrgenmode", "none", "up")
    _ip("address", "replace", f"{MACHINES}.1/24", "dev", _DOOR)
    # Cluster addresses go over the control machine: its kube-proxy outlives every node.
    _ip("route", "replace", SERVICES_CIDR, "via", address(CONTROL), "dev", _DOOR)
    for node in node_names(NODES_MAX):
        _ip("route", "replace", pods_of(node), "via", address(node), "dev", _DOOR)


def lower_hub() -> None:
    """Remove the bridge; the veth, its address and its routes go with it."""
    if is_up():
        _ip("netns", "delete", _HUB)
        # As with the cables: the kernel takes this machine's end away a moment later, and its name is wanted again.
        wait_until(f"removal of {_DOOR}", lambda: not succeeds(["ip", "link", "show", _DOOR]), timeout_s=10)


def plug_in(machine: str) -> None:
    """Make a machine's network namespace and its cable to the bridge."""
    unplug(machine)
    name = f"{PREFIX}-{machine}"
    _ip("netns", "add", name)
    _ip("link", "set", "lo", "up", within=name)
    _ip("link", "add", f"v-{machine}", "type", "veth", "peer", "name", "eth0", "netns", name, within=_HUB)
    _ip("link", "set", f"v-{machine}", "addrgenmode", "none", "master", "br0", "up", within=_HUB)
    run(["ip", "netns", "exec", name, "sysctl", "-qw", *_MACHINE_SYSCTLS])
    last = int(address(machine).rpartition(".")[2])
    # The same hardware address at each boot: neighbours would keep a dead one for half a minute.
    _ip("link", "set", "eth0", "address", f"02:00:0a:4f:00:{last:02d}", "up", within=name)
    _ip("address", "add", f"{address(machine)}/24", "dev", "eth0", within=name)
    # A local socket needs some route before kube-proxy rewrites the destination.
    _ip("route", "add", SERVICES_CIDR, "dev", "eth0", within=name)
    for node in node_names(NODES_MAX):
        if node != machine:
            _ip("route", "add", pods_of(node), "via", address(node), within=name)


def unplug(machine: str) -> None:
    """Remove a machine's network; both ends of its cable go with it."""
    if namespace(machine).exists():
        _ip("netns", "delete", f"{PREFIX}-{machine}")
    # The kernel takes a namespace's end of the cable away a moment after the namespace, and this end with it.
    wait_until(f"removal of the cable of {machine}", lambda: _cable_is_gone(machine), timeout_s=10)


def _cable_is_gone(machine: str) -> bool:
    cable = f"v-{machine}"
    if not is_up() or not succeeds(["ip", "-n", _HUB, "link", "show", cable]):
        return True
    return succeeds(["ip", "-n", _HUB, "link", "delete", cable])


def set_cable(machine: str, *, plugged: bool) -> None:
    """Pull or plug a machine's cable; all that runs on it goes on."""
    _ip("link", "set", f"v-{machine}", "up" if plugged else "down", within=_HUB)


def remove_namespace_mount() -> None:
    """Undo the mount that `ip netns` leaves on its directory, unless other namespaces are there."""
    if is_mounted(_NAMESPACES) and not any(_NAMESPACES.iterdir()):
        run(["umount", _NAMESPACES])
        _NAMESPACES.rmdir()
