"""The control plane: etcd, API server, controller manager, scheduler and the provisioner of volumes."""

import sys
from pathlib import Path
from typing import Final

import yaml

from eco_lab import network
from eco_lab.certificates import Authority
from eco_lab.kubernetes import ApiClient, answers, unverified
from eco_lab.machines import Machine
from eco_lab.mounts import share
from eco_lab.paths import Paths
from eco_lab.processes import recall, record, spawn, wait_until
from eco_lab.progress import step

_ADDRESS: Final = network.address(network.CONTROL)
SERVER: Final = f"https://{_ADDRESS}:6443"
# Only writes are kept: a test counts them. Leases and events would drown what it looks for.
_AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "resources": [{"group": "", "resources": ["events"]}, {"group": "events.k8s.io"}]},
        {"level": "None", "users": ["system:kube-scheduler", "system:apiserver"]},
        {"level": "None", "userGroups": ["system:nodes"]},
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        # Of the operator the reads too: what it asks is held against what its chart allows.
        {"level": "Metadata", "users": ["system:serviceaccount:eco-system:eco-operator"]},
        {"level": "None"},
    ],
}


class ControlPlane:
    """The lab's one control plane."""

    def __init__(self, paths: Paths, programs: Path) -> None:
        self.paths = paths
        self.machine = Machine(network.CONTROL, paths)
        self.authority = Authority(paths.pki, SERVER)
        self._programs = programs

    def start(self) -> None:
        """Start what does not run and wait until the API server is ready."""
        with step("certificates, network, machine cp"):
            self.authority.prepare()
            self.authority.write_kubeconfig(self.paths.kubeconfig, "admin")
            for user in ("controller-manager", "scheduler", "kube-proxy"):
                self.authority.write_kubeconfig(self._kubeconfig(user), user)
            share(self.paths.volumes)
            network.raise_hub()
            self.machine.boot(self._programs / "pause")
        with step("etcd and API server"):
            self._start_etcd()
            self._start_api_server()
        with step("controller manager, scheduler, provisioner"):
            self._start_controllers()
            self._start_provisioner()
            self._wait_healthy("kube-controller-manager", 10257)
            self._wait_healthy("kube-scheduler", 10259)

    def client(self) -> ApiClient:
        """A client with all rights."""
        return ApiClient.from_kubeconfig(self.paths.kubeconfig)

    def start_proxy(self, machine: Machine, node: str) -> None:
        """Start kube-proxy on a machine. It runs under the name of a node that exists."""
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "hostnameOverride": node,
            "clientConnection": {"kubeconfig": str(self._kubeconfig("kube-proxy"))},
            "clusterCIDR": network.PODS_CIDR,
            "bindAddress": machine.address,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "nodePortAddresses": [f"{machine.address}/32"],
            # The limits of connection tracking are the whole machine's: leave them alone.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        file = write_config(self.paths.etc / f"kube-proxy-{machine.name}.yaml", config)
        machine.start("kube-proxy", [self._programs / "kube-proxy", f"--config={file}"])

    def stop(self) -> None:
        """Stop everything; etcd and the provisioner get the time to end in order."""
        provisioner = recall(self._provisioner_record)
        if provisioner is not None:
            provisioner.stop(grace_s=10)
        self._provisioner_record.unlink(missing_ok=True)
        # etcd waits for its clients before it ends, and the API server is its only one.
        server = self.machine.daemon("kube-apiserver")
        if server is not None:
            server.kill()
        etcd = self.machine.daemon("etcd")
        if etcd is not None:
            etcd.stop(grace_s=5)
        self.machine.cut()

    @property
    def is_running(self) -> bool:
        """Whether its machine is on and the API server's process lives."""
        return self.machine.daemon("kube-apiserver") is not None

    @property
    def _provisioner_record(self) -> Path:
        return self.paths.run / "provisioner.json"

    def _kubeconfig(self, user: str) -> Path:
        return self.paths.etc / f"{user}.kubeconfig"

    def _start_etcd(self) -> None:
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        self.machine.start(
            "etcd",
            [
                self._programs / "etcd",
                "--name=eco-lab",
                "--data-dir=/var/lib/etcd",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=eco-lab={peer}",
                f"--listen-metrics-urls=http://{_ADDRESS}:2381",
                "--log-level=warn",
            ],
        )
        # The API server looks for etcd once a second only: waiting here is quicker.
        health = f"http://{_ADDRESS}:2381/health"
        wait_until("etcd", lambda: answers(health), timeout_s=30, log=self.machine.log("etcd"))

    def _start_api_server(self) -> None:
        policy = write_config(self.paths.etc / "audit-policy.yaml", _AUDIT_POLICY)
        pki = self.authority.file
        self.machine.start(
            "kube-apiserver",
            [
                self._programs / "kube-apiserver",
                "--etcd-servers=http://127.0.0.1:2379",
                f"--bind-address={_ADDRESS}",
                f"--advertise-address={_ADDRESS}",
                "--secure-port=6443",
                f"--service-cluster-ip-range={network.SERVICES_CIDR}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--anonymous-auth=false",
                "--allow-privileged=true",
                f"--client-ca-file={pki('ca.crt')}",
                f"--tls-cert-file={pki('apiserver.crt')}",
                f"--tls-private-key-file={pki('apiserver.key')}",
                f"--kubelet-certificate-authority={pki('ca.crt')}",
                f"--kubelet-client-certificate={pki('apiserver-kubelet-client.crt')}",
                f"--kubelet-client-key={pki('apiserver-kubelet-client.key')}",
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={pki('sa.pub')}",
                f"--service-account-signing-key-file={pki('sa.key')}",
                f"--requestheader-client-ca-file={pki('front-proxy-ca.crt')}",
                "--requestheader-allowed-names=front-proxy-client",
                "--requestheader-username-headers=X-Remote-User",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                f"--proxy-client-cert-file={pki('front-proxy-client.crt')}",
                f"--proxy-client-key-file={pki('front-proxy-client.key')}",
                f"--audit-policy-file={policy}",
                "--audit-log-path=/var/log/audit.jsonl",
                "--audit-log-maxsize=100",
                "--audit-log-maxbackup=2",
            ],
        )
        client = self.client()
        wait_until("API server", client.is_ready, timeout_s=60, log=self.machine.log("kube-apiserver"))

    def _start_controllers(self) -> None:
        pki = self.authority.file
        controller, scheduler = self._kubeconfig("controller-manager"), self._kubeconfig("scheduler")
        self.machine.start(
            "kube-controller-manager",
            [
                self._programs / "kube-controller-manager",
                f"--kubeconfig={controller}",
                f"--authentication-kubeconfig={controller}",
                f"--authorization-kubeconfig={controller}",
                f"--bind-address={_ADDRESS}",
                "--leader-elect=false",
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={pki('sa.key')}",
                f"--root-ca-file={pki('ca.crt')}",
                f"--cluster-signing-cert-file={pki('ca.crt')}",
                f"--cluster-signing-key-file={pki('ca.key')}",
                f"--service-cluster-ip-range={network.SERVICES_CIDR}",
                f"--cluster-cidr={network.PODS_CIDR}",
                "--allocate-node-cidrs=false",
            ],
        )
        self.machine.start(
            "kube-scheduler",
            [
                self._programs / "kube-scheduler",
                f"--kubeconfig={scheduler}",
                f"--authentication-kubeconfig={scheduler}",
                f"--authorization-kubeconfig={scheduler}",
                f"--bind-address={_ADDRESS}",
                "--leader-elect=false",
            ],
        )

    def _start_provisioner(self) -> None:
        if recall(self._provisioner_record) is None:
            command: list[str | Path] = [
                sys.executable,
                "-m",
                "eco_lab.provisioner",
                self.paths.kubeconfig,
                self.paths.volumes,
            ]
            record(self._provisioner_record, spawn(command, log=self.paths.log / "provisioner.log"))

    def _wait_healthy(self, name: str, port: int) -> None:
        url = f"https://{_ADDRESS}:{port}/healthz"
        context = unverified()
        wait_until(name, lambda: answers(url, context), timeout_s=60, log=self.machine.log(name))


def write_config(file: Path, content: object) -> Path:
    """Write YAML unless the file says the same: kube-proxy ends itself whenever its file is written."""
    text = yaml.safe_dump(content, sort_keys=False)
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".new")
        scratch.write_text(text)
        scratch.replace(file)
    return file
