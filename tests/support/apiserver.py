"""A bare API server, etcd and kube-apiserver only, for tests of the operator that need no node and no controller.

Programs come from `ECO_LAB_BIN`, the lab's cache or the PATH; nothing is downloaded or built for a test.
"""

import json
import os
import secrets
import shutil
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from eco_lab import paths as lab_paths
from eco_lab.programs import ladder
from tests.support import rights
from tests.support.audit import WRITING, AuditLog
from tests.support.parts import require
from tests.support.processes import Program, answers, free_port, scratch_directory

NEEDED = ("etcd", "kube-apiserver", "kubectl")
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True, slots=True)
class ApiServer:
    """One that runs. Its only user besides the system's is an administrator."""

    kubeconfig: Path
    kubectl: Path
    audit_log: Path
    server: Program
    etcd: Program
    port: int

    def audit(self) -> AuditLog:
        """Writes from now on."""
        return AuditLog.from_now(self.audit_log)

    def operator_writes(self, log: AuditLog) -> list[str]:
        """Writes of the operator since then, told apart by its user agent; the Lease's own are left out."""
        found = []
        with self.audit_log.open("rb") as lines:
            lines.seek(log.offset_bytes)
            for line in lines:
                event = json.loads(line)
                target = event.get("objectRef") or {}
                if event["verb"] not in WRITING or event.get("userAgent") != "eco-operator":
                    continue
                if target.get("resource") != "leases":
                    found.append(f"{event['verb']} {target.get('resource')} {target.get('name', '')}")
        return found


def programs() -> Path | None:
    """Directory with what is needed, or None."""
    named = os.environ.get("ECO_LAB_BIN")
    candidates = [Path(named)] if named else []
    candidates.append(ladder.cluster_directory(lab_paths.find()))
    on_path = shutil.which("kube-apiserver")
    if on_path:
        candidates.append(Path(on_path).parent)
    return next((it for it in candidates if all(os.access(it / name, os.X_OK) for name in NEEDED)), None)


@contextmanager
def bare_api_server() -> Iterator[ApiServer]:
    """Start one on the loopback interface; gone with all its data afterwards."""
    found = programs()
    require(found, "etcd and kube-apiserver (`eco-lab up --only control-plane` gets them)")
    assert found is not None
    place = scratch_directory()
    try:
        etcd_port, peer_port, port = free_port(), free_port(), free_port()
        etcd = Program("etcd", _etcd(found, place, etcd_port, peer_port), place / "etcd.log")
        etcd.start()
        etcd.wait_ready(lambda: answers(etcd_port))
        token = secrets.token_hex(16)
        server = Program("kube-apiserver", _server(found, place, etcd_port, port, token), place / "apiserver.log")
        server.start()
        try:
            server.wait_ready(lambda: _is_ready(port, token))
            kubeconfig = _kubeconfig(place, port, token)
            yield ApiServer(kubeconfig, found / "kubectl", place / "audit.log", server, etcd, port)
        finally:
            server.kill()
            etcd.kill()
            if calls := os.environ.get(rights.VARIABLE):
                rights.keep(place / "audit.log", Path(calls))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _etcd(found: Path, place: Path, port: int, peer_port: int) -> list[str]:
    return [
        str(found / "etcd"),
        f"--data-dir={place / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{port}",
        f"--advertise-client-urls=http://127.0.0.1:{port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _server(found: Path, place: Path, etcd_port: int, port: int, token: str) -> list[str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (place / "sa.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    (place / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    policy = rights.POLICY if os.environ.get(rights.VARIABLE) else AUDIT_POLICY
    (place / "audit.yaml").write_text(json.dumps(policy))
    return [
        str(found / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={place / 'certs'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={place / 'sa.key'}",
        f"--service-account-key-file={place / 'sa.key'}",
        "--authorization-mode=RBAC",
        # There is no controller that would make the namespaces' default accounts.
        "--disable-admission-plugins=ServiceAccount",
        f"--token-auth-file={place / 'tokens.csv'}",
        "--service-cluster-ip-range=10.97.0.0/16",
        "--endpoint-reconciler-type=none",
        f"--audit-policy-file={place / 'audit.yaml'}",
        f"--audit-log-path={place / 'audit.log'}",
    ]


def _is_ready(port: int, token: str) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(f"https://127.0.0.1:{port}/readyz", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=2, context=context) as answer:  # noqa: S310  # the address is ours
            return bool(answer.status == 200)
    except OSError:
        return False


def _kubeconfig(place: Path, port: int, token: str) -> Path:
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(place / "certs" / "apiserver.crt")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bare", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "bare", "context": {"cluster": "bare", "user": "admin"}}],
        "current-context": "bare",
    }
    file = place / "kubeconfig"
    file.write_text(json.dumps(config))
    file.chmod(0o600)
    return file
