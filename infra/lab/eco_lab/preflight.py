"""What the lab needs of this machine, looked at before anything is started."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from eco_lab.errors import CommandError, MissingError
from eco_lab.paths import Paths
from eco_lab.processes import run
from eco_lab.progress import step

# Program → Debian package that has it.
_CONTROL_PLANE: Final = {
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
    "sysctl": "procps",
    "gcc": "gcc",
    "/usr/include/stdlib.h": "libc6-dev",
}
_NODES: Final = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "mkfs.xfs": "xfsprogs",
    "losetup": "mount",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
_FILESYSTEMS: Final = ("overlay", "tmpfs")
_SPACE_BYTES: Final = 8 << 30
_APT_S: Final = 600


def check(paths: Paths, *, nodes: int, also: Mapping[str, str] | None = None) -> None:
    """Raise MissingError for the first thing that is missing; install Debian packages where that is allowed.

    `also` names programs, with their packages, that only this lab needs.
    """
    _check_rights()
    _check_kernel(nodes=nodes)
    _check_space(paths)
    wanted = {**_CONTROL_PLANE, **(_NODES if nodes else {}), **(also or {})}
    missing = {program: package for program, package in wanted.items() if not _has(program)}
    if missing:
        _install(missing)


def _check_rights() -> None:
    if os.uname().sysname != "Linux":
        raise MissingError("start the lab", f"this is {os.uname().sysname}", hint="run it on Linux, or in a Linux VM")
    if os.geteuid() != 0:
        hint = "run it as root, or name an existing cluster: ECO_LAB_USE_CURRENT_CONTEXT=1"
        raise MissingError("start the lab", "making network namespaces and mounts takes root", hint=hint)
    if os.uname().machine != "x86_64":
        raise MissingError("start the lab", f"machine type {os.uname().machine}", hint="use an x86_64 machine")


def _check_kernel(*, nodes: int) -> None:
    for name in ("net", "mnt", "pid", "uts", "ipc"):
        if not Path(f"/proc/self/ns/{name}").exists():
            raise MissingError("start the lab", f"the kernel has no {name} namespaces")
    if not nodes:
        return
    known = Path("/proc/filesystems").read_text().split()
    for name in _FILESYSTEMS:
        if name not in known and not _loads(name):
            raise MissingError("start the lab", f"the kernel has no {name} file system", hint=f"modprobe {name}")
    if not Path("/sys/fs/cgroup").is_mount() and not any(Path("/sys/fs/cgroup").glob("*/cgroup.procs")):
        raise MissingError("start the lab", "no control groups at /sys/fs/cgroup", hint="mount cgroup v1 or v2 there")


def _loads(module: str) -> bool:
    try:
        run(["modprobe", module])
    except (CommandError, MissingError):
        return False
    return True


def _check_space(paths: Paths) -> None:
    for path in (paths.cache, paths.state):
        path.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path).free
        if free < _SPACE_BYTES:
            hint = "free some, or set ECO_LAB_CACHE and ECO_LAB_STATE to another disk"
            raise MissingError(
                "start the lab", f"{free >> 30} GiB free at {path}, {_SPACE_BYTES >> 30} needed", hint=hint
            )


def _has(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program) is not None


def _install(missing: dict[str, str]) -> None:
    packages = sorted(set(missing.values()))
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    allowed = os.environ.get("ECO_LAB_NO_APT") != "1"
    if not allowed or shutil.which("apt-get") is None:
        raise MissingError("start the lab", f"not installed: {', '.join(sorted(missing))}", hint=command)
    with step(f"Debian packages {' '.join(packages)}", announce=True):
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "-qq", "update"], what="apt-get update", environ=environ, timeout_s=_APT_S)
        words = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages]
        run(words, what=command, environ=environ, timeout_s=_APT_S)
    still = [program for program in missing if not _has(program)]
    if still:
        raise MissingError("start the lab", f"not there after {command}: {', '.join(still)}")
