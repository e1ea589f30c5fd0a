"""Official downloads. What cannot be reached is no error here: the caller builds it instead."""

import hashlib
import http.client
import io
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from eco_lab import versions
from eco_lab.errors import LabError

Fetch = Callable[[str], bytes]
"""Returns the body behind a URL; raises OSError when it cannot be had."""

_CONNECT_S: Final = 10
_KUBERNETES: Final = f"https://dl.k8s.io/release/v{versions.KUBERNETES}/bin/linux/amd64"
_ETCD: Final = f"https://github.com/etcd-io/etcd/releases/download/v{versions.ETCD}"
_COREDNS: Final = f"https://github.com/coredns/coredns/releases/download/v{versions.COREDNS}"
_HELM: Final = "https://get.helm.sh"


class ChecksumError(LabError):
    """A download is not what its publisher says it is. It is never used."""


def fetch(url: str) -> bytes:
    """Body of an https URL."""
    with urllib.request.urlopen(url, timeout=_CONNECT_S) as answer:  # noqa: S310 - the https URLs of this module
        return bytes(answer.read())


def is_allowed() -> bool:
    """Whether the user lets the lab download programs; `ECO_LAB_NO_DOWNLOAD=1` forbids it."""
    return os.environ.get("ECO_LAB_NO_DOWNLOAD") != "1"


def kubernetes(names: tuple[str, ...], target: Path, get: Fetch = fetch) -> None:
    """Kubernetes' own programs, etcd and CoreDNS into `target`. Raises OSError where they cannot be reached."""
    for name in names:
        if name == "etcd":
            archive = f"etcd-v{versions.ETCD}-linux-amd64.tar.gz"
            body = _verified(f"{_ETCD}/{archive}", f"{_ETCD}/SHA256SUMS", get)
            body = _member(body, f"etcd-v{versions.ETCD}-linux-amd64/etcd")
        elif name == "coredns":
            archive = f"coredns_{versions.COREDNS}_linux_amd64.tgz"
            body = _member(_verified(f"{_COREDNS}/{archive}", f"{_COREDNS}/{archive}.sha256", get), "coredns")
        else:
            body = _verified(f"{_KUBERNETES}/{name}", f"{_KUBERNETES}/{name}.sha256", get)
        _install(target / name, body)


def helm(target: Path, get: Fetch = fetch) -> None:
    """Helm into `target`."""
    archive = f"helm-v{versions.HELM}-linux-amd64.tar.gz"
    body = _verified(f"{_HELM}/{archive}", f"{_HELM}/{archive}.sha256sum", get)
    _install(target / "helm", _member(body, "linux-amd64/helm"))


def _verified(url: str, checksums: str, get: Fetch) -> bytes:
    """A body whose SHA-256 is the one published beside it."""
    published = get(checksums).decode()
    body = get(url)
    name = url.rpartition("/")[2]
    # Either a bare digest or lines of "digest  file name".
    lines = [line.split() for line in published.splitlines() if line.strip()]
    wanted = next((line[0] for line in lines if len(line) == 1 or line[-1].lstrip("*") == name), None)
    found = hashlib.sha256(body).hexdigest()
    if wanted != found:
        raise ChecksumError(f"download {url}", f"SHA-256 is {found}, published is {wanted}", hint="try again later")
    return body


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(name)
        if file is None:
            raise LabError("unpack a download", f"{name} is no file in it")
        return file.read()


def _install(file: Path, body: bytes) -> None:
    file.write_bytes(body)
    file.chmod(0o755)


UNREACHABLE: Final = (urllib.error.URLError, TimeoutError, ConnectionError, OSError, http.client.HTTPException)
"""The last one: an answer that was cut off."""
