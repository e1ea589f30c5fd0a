"""Keys, certificates and kubeconfigs of the cluster. Made once a lab; a node not seen before gets its own added.

Every certificate carries subject and authority key identifiers: Python 3.13 refuses a chain without them.
"""

import base64
import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from eco_lab import network

_VALID: Final = dt.timedelta(days=3650)
_SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a certificate says."""

    name: str
    common_name: str
    organization: str = ""
    names: tuple[str, ...] = ()
    """Host names and addresses of a server; empty for a client."""
    authority: str = "ca"


class Authority:
    """The lab's certificate authority and the files it wrote."""

    def __init__(self, directory: Path, api_server: str) -> None:
        self.directory = directory
        self.api_server = api_server

    def file(self, name: str) -> Path:
        """Path of a key or certificate."""
        return self.directory / name

    def prepare(self) -> None:
        """Make what every control plane needs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._make_authority("ca", "eco-lab cluster")
        self._make_authority("front-proxy-ca", "eco-lab front proxy")
        self._make_service_account_key()
        api_names = (
            *("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"),
            *("localhost", "127.0.0.1", network.address(network.CONTROL), network.API_SERVICE),
        )
        for leaf in (
            Leaf("apiserver", "kube-apiserver", names=api_names),
            Leaf("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
            Leaf("front-proxy-client", "front-proxy-client", authority="front-proxy-ca"),
            Leaf("admin", "kubernetes-admin", "system:masters"),
            Leaf("controller-manager", "system:kube-controller-manager"),
            Leaf("scheduler", "system:kube-scheduler"),
            Leaf("kube-proxy", "system:kube-proxy"),
        ):
            self._issue(leaf)

    def prepare_node(self, node: str) -> None:
        """Make what one node needs."""
        user = f"system:node:{node}"
        self._issue(Leaf(f"kubelet-client-{node}", user, "system:nodes"))
        names = (node, network.address(node), "127.0.0.1")
        self._issue(Leaf(f"kubelet-server-{node}", user, "system:nodes", names=names))

    def write_kubeconfig(self, file: Path, user: str) -> Path:
        """Write a kubeconfig for the holder of a client certificate, unless it is there."""
        if file.exists():
            return file
        cluster = {"server": self.api_server, "certificate-authority-data": self._encoded("ca.crt")}
        holder = {
            "client-certificate-data": self._encoded(f"{user}.crt"),
            "client-key-data": self._encoded(f"{user}.key"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "eco-lab", "cluster": cluster}],
            "users": [{"name": user, "user": holder}],
            "contexts": [{"name": "eco-lab", "context": {"cluster": "eco-lab", "user": user}}],
            "current-context": "eco-lab",
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_private(file, yaml.safe_dump(config, sort_keys=False).encode())
        return file

    def _encoded(self, name: str) -> str:
        return base64.b64encode(self.file(name).read_bytes()).decode()

    def _make_authority(self, name: str, common_name: str) -> None:
        if self.file(f"{name}.crt").exists():
            return
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        _write_private(self.file(f"{name}.key"), _pem(key))
        certificate = builder.sign(key, hashes.SHA256())
        _write(self.file(f"{name}.crt"), certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)

    def _issue(self, leaf: Leaf) -> None:
        file = self.file(f"{leaf.name}.crt")
        if file.exists():
            return
        authority = x509.load_pem_x509_certificate(self.file(f"{leaf.authority}.crt").read_bytes())
        signer = serialization.load_pem_private_key(self.file(f"{leaf.authority}.key").read_bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101 - narrows a type; we wrote this key
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]
        if leaf.organization:
            parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.organization))
        usage = x509.KeyUsage(True, False, True, False, False, False, False, False, False)
        builder = (
            _builder(x509.Name(parts), authority.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([_SERVER if leaf.names else _CLIENT]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if leaf.names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_alternative, leaf.names))), False)
        _write_private(self.file(f"{leaf.name}.key"), _pem(key))
        certificate = builder.sign(signer, hashes.SHA256())
        _write(file, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)

    def _make_service_account_key(self) -> None:
        if self.file("sa.pub").exists():
            return
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _write_private(self.file("sa.key"), _pem(key))
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        _write(self.file("sa.pub"), public, mode=0o644)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A little in the past: clocks of containers are the machine's, those of a debugger may not be.
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _write_private(file: Path, content: bytes) -> None:
    _write(file, content, mode=0o600)


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """Write a file that is whole or not there: one that is there is never made again."""
    scratch = file.with_name(f"{file.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=mode)
    scratch.write_bytes(content)
    scratch.replace(file)
