"""One question: where are the programs? Answered from the environment, the cache, a download or a build."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from eco_lab import versions
from eco_lab.errors import MissingError
from eco_lab.paths import Paths
from eco_lab.programs import download, gobuild
from eco_lab.progress import say, step

CLUSTER: Final = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"),
    *("etcd", "coredns"),
)
"""Programs of a cluster, without `pause`, which is compiled apart."""


def cluster(paths: Paths) -> Path:
    """Directory with every program of `CLUSTER` and `pause`."""
    named = os.environ.get("ECO_LAB_BIN")
    if named:
        directory = Path(named).expanduser().resolve()
        missing = [name for name in (*CLUSTER, "pause") if not os.access(directory / name, os.X_OK)]
        if missing:
            raise MissingError(f"ECO_LAB_BIN={named}", f"lacks {', '.join(missing)}", hint="unset it, or add them")
        return directory
    pinned = f"{versions.KUBERNETES}-{versions.ETCD}-{versions.COREDNS}"
    return _cached(paths, f"kubernetes-{_digest(pinned, *CLUSTER)}", "Kubernetes, etcd, CoreDNS", _make_cluster)


def helm(paths: Paths) -> Path:
    """The Helm program."""
    return _cached(paths, f"helm-{versions.HELM}", "Helm", _make_helm) / "helm"


def find_helm(paths: Paths) -> Path | None:
    """Helm if it is cached or on PATH; makes nothing."""
    cached = paths.bin / f"helm-{versions.HELM}" / "helm"
    found = str(cached) if cached.exists() else shutil.which("helm")
    return Path(found) if found else None


def helm_unittest(paths: Paths) -> Path:
    """The program that runs the charts' unit tests; always built, as it is for tests alone."""
    directory = f"helm-unittest-{versions.HELM_UNITTEST}"
    return _cached(paths, directory, "helm-unittest", _make_helm_unittest) / "helm-unittest"


def find_helm_unittest(paths: Paths) -> Path | None:
    """The same if it is cached or on PATH; makes nothing."""
    cached = paths.bin / f"helm-unittest-{versions.HELM_UNITTEST}" / "helm-unittest"
    found = str(cached) if cached.exists() else shutil.which("helm-unittest")
    return Path(found) if found else None


def argocd(paths: Paths) -> Path:
    """Directory with Argo CD's programs, its definitions and what else it calls; always built."""
    return _cached(paths, f"argocd-{versions.ARGOCD}", "Argo CD", _make_argocd)


def prometheus(paths: Paths) -> Path:
    """Directory with Prometheus, its operator, the reloader of its pods and the definitions; always built."""
    pinned = f"{versions.PROMETHEUS}-{versions.PROMETHEUS_OPERATOR}"
    return _cached(paths, f"prometheus-{pinned}", "Prometheus and its operator", _make_prometheus)


def cluster_directory(paths: Paths) -> Path:
    """Where `cluster` keeps what it made; to put programs there that were built elsewhere."""
    pinned = f"{versions.KUBERNETES}-{versions.ETCD}-{versions.COREDNS}"
    return paths.bin / f"kubernetes-{_digest(pinned, *CLUSTER)}"


def _cached(paths: Paths, name: str, title: str, make: Callable[[Path, Path], None]) -> Path:
    directory = paths.bin / name
    if directory.exists():
        return directory
    scratch = directory.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    paths.build.mkdir(parents=True, exist_ok=True)
    with step(title, announce=True):
        make(scratch, paths.build)
    scratch.rename(directory)
    return directory


def _make_cluster(target: Path, scratch: Path) -> None:
    if not _downloaded("Kubernetes", lambda: download.kubernetes(CLUSTER, target)):
        say("building Kubernetes, etcd and CoreDNS from Go modules: about eight minutes on two cores, once")
        gobuild.kubernetes(CLUSTER, target, scratch)
    gobuild.pause(target, scratch)


def _make_helm(target: Path, scratch: Path) -> None:
    if not _downloaded("Helm", lambda: download.helm(target)):
        say("building Helm from Go modules: about three minutes on two cores, once")
        gobuild.helm(target, scratch)


def _make_helm_unittest(target: Path, scratch: Path) -> None:
    say("building helm-unittest from Go modules: about two minutes on two cores, once")
    gobuild.helm_unittest(target, scratch)


def _make_argocd(target: Path, scratch: Path) -> None:
    say("building Argo CD from Go modules: about six minutes on two cores, once")
    gobuild.argocd(target, scratch)


def _make_prometheus(target: Path, scratch: Path) -> None:
    say("building Prometheus and its operator from Go modules: about nine minutes on two cores, once")
    gobuild.prometheus(target, scratch)


def _downloaded(what: str, attempt: Callable[[], None]) -> bool:
    if not download.is_allowed():
        return False
    try:
        attempt()
    except download.UNREACHABLE as error:
        say(f"{what}: no official download reached ({error})")
        return False
    return True


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
