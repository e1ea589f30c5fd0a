"""Nodes: machines with containerd, kubelet and kube-proxy."""

import datetime as dt
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from eco_lab import network
from eco_lab.control_plane import ControlPlane, write_config
from eco_lab.errors import CommandError
from eco_lab.kubernetes import ApiClient
from eco_lab.machines import Machine
from eco_lab.paths import Paths
from eco_lab.processes import run, succeeds, wait_until

_SOCKET: Final = "/run/containerd/containerd.sock"
# Version 2 of the format: Debian 12 has containerd 1.6, and later ones still read it.
_CONTAINERD: Final = f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Without CAP_SYS_RESOURCE, as in many virtual machines, no score below one's own can be set and no pod would start.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/var/lib/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


class Node:
    """One node of the lab's cluster."""

    def __init__(self, name: str, paths: Paths, programs: Path) -> None:
        self.name = name
        self.paths = paths
        self.machine = Machine(name, paths)
        self._programs = programs

    def start_runtime(self) -> None:
        """Switch the machine on and start containerd; needs the network, not the API server."""
        self.machine.boot(self._programs / "pause")
        config = self.paths.etc / "containerd.toml"
        if not config.exists() or config.read_text() != _CONTAINERD:
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text(_CONTAINERD)
        self.machine.start("containerd", ["containerd", "--config", config])
        wait_until(
            f"containerd on {self.name}",
            lambda: succeeds([*self._ctr(), "version"], timeout_s=3),
            timeout_s=30,
            log=self.machine.log("containerd"),
        )

    def import_images(self, archives: Iterable[Path]) -> list[str]:
        """Import docker-archives that this node does not have yet; returns the names of those it took in."""
        imported = []
        for archive in archives:
            # An archive's name holds the hash of what made it: once imported it need not be looked at again.
            mark = self.machine.var / "lib" / "imported" / archive.stem
            if mark.exists():
                continue
            run([*self._ctr(), "-n", "k8s.io", "images", "import", archive], timeout_s=300)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
            imported.append(archive.stem)
        return imported

    def start_kubelet(self, control_plane: ControlPlane) -> None:
        """Start kubelet and kube-proxy; needs the API server."""
        control_plane.authority.prepare_node(self.name)
        kubeconfig = self.paths.etc / f"kubelet-{self.name}.kubeconfig"
        control_plane.authority.write_kubeconfig(kubeconfig, f"kubelet-client-{self.name}")
        self._write_pod_network()
        (self.machine.var / "lib" / "resolv.conf").touch()
        config = write_config(self.paths.etc / f"kubelet-{self.name}.yaml", self._kubelet_config(control_plane))
        started = self.machine.start(
            "kubelet",
            [
                self._programs / "kubelet",
                f"--config={config}",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--node-ip={self.machine.address}",
                "--v=1",
            ],
        )
        if started:
            self.machine.remember("kubelet-since", dt.datetime.now(dt.UTC).strftime("%FT%TZ"))
        control_plane.start_proxy(self.machine, self.name)

    def wait_ready(self, client: ApiClient, *, timeout_s: float = 120) -> None:
        """Wait for a heartbeat newer than the kubelet: after a restart the API still holds its predecessor's word."""
        since = self.machine.recollect("kubelet-since")

        def is_ready() -> bool:
            try:
                status = client.call("GET", f"/api/v1/nodes/{self.name}")["status"]
            except OSError:
                return False
            ready = [condition for condition in status.get("conditions", ()) if condition["type"] == "Ready"]
            return bool(ready and ready[0]["status"] == "True" and ready[0]["lastHeartbeatTime"] >= since)

        log = self.machine.log("kubelet")
        wait_until(f"node {self.name} Ready", is_ready, timeout_s=timeout_s, log=log, poll_s=0.1)

    def container_process(self, container_id: str) -> int:
        """Number of a container's main process, as the machine's processes see it."""
        file = self.machine.seen_from_outside(
            f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{container_id}/init.pid"
        )
        try:
            return int(file.read_text())
        except (FileNotFoundError, ValueError) as error:
            raise CommandError(f"find container {container_id[:12]} on {self.name}", "it does not run") from error

    def _ctr(self) -> list[str]:
        return self.machine.inside("ctr")

    def _write_pod_network(self) -> None:
        routes = [network.PODS_CIDR, network.SERVICES_CIDR, f"{network.MACHINES}.0/24"]
        config = {
            "cniVersion": "1.0.0",
            "name": "eco-lab",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/var/lib/cni/ipam",
                        "ranges": [[{"subnet": network.pods_of(self.name)}]],
                        # No default route: a pod reaches the cluster and nothing else.
                        "routes": [{"dst": route} for route in routes],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        file = self.machine.var / "lib" / "cni" / "net.d" / "10-eco-lab.conflist"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config, indent=1))

    def _kubelet_config(self, control_plane: ControlPlane) -> dict[str, object]:
        pki = control_plane.authority.file
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.machine.address,
            "port": 10250,
            "readOnlyPort": 0,
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": 10248,
            "tlsCertFile": str(pki(f"kubelet-server-{self.name}.crt")),
            "tlsPrivateKeyFile": str(pki(f"kubelet-server-{self.name}.key")),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki("ca.crt"))},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "cgroupDriver": "cgroupfs",
            # A parent of its own for each node: kubelets would remove one another's groups.
            "cgroupRoot": self.machine.cgroup,
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDomain": "cluster.local",
            "clusterDNS": [network.DNS_SERVICE],
            "resolvConf": "/var/lib/resolv.conf",
            "registerNode": True,
            # An image collected could not be pulled again: there is no registry.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
                "nodefs.inodesFree": "1%",
            },
        }
