"""The lab's own base image: Debian's smallest system with Python, where no image registry can be reached."""

import re
import shutil
from pathlib import Path
from typing import Final

from eco_lab import versions
from eco_lab.errors import MissingError
from eco_lab.images import archive
from eco_lab.mounts import unmount_all_below
from eco_lab.paths import Paths
from eco_lab.processes import run
from eco_lab.progress import step

NAME: Final = f"localhost/eco-lab-base:{versions.DEBIAN}-3"
_INCLUDE: Final = "python3,ca-certificates"
_DEBOOTSTRAP_S: Final = 900
# Nobody reads these in a container. Compiled Python stays: it is what makes a start quick.
_NOT_WANTED: Final = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "var/log",
)


def archive_file(paths: Paths) -> Path:
    """The base as a docker-archive; made once, in about a minute."""
    file = paths.archives / f"{NAME.rpartition('/')[2].replace(':', '-')}.tar"
    if file.exists():
        return file
    root = paths.build / f"rootfs-{versions.DEBIAN}"
    with step(f"base image: Debian {versions.DEBIAN} with Python {versions.PYTHON}", announce=True):
        _remove(root)
        root.parent.mkdir(parents=True, exist_ok=True)
        mirror = mirror_of_this_machine()
        command: list[str | Path] = ["debootstrap", "--variant=minbase", f"--include={_INCLUDE}", versions.DEBIAN, root]
        if mirror:
            command.append(mirror)
        try:
            run(command, what=f"debootstrap {versions.DEBIAN} {mirror}".strip(), timeout_s=_DEBOOTSTRAP_S)
            _slim(root)
            archive.write(file, root, archive.ImageConfig(NAME, command=("python3",)))
        finally:
            _remove(root)
    return file


def _remove(root: Path) -> None:
    """Delete a root file system. A debootstrap cut off leaves /proc and /sys mounted in it: not through those."""
    unmount_all_below(root)
    shutil.rmtree(root, ignore_errors=True)


def mirror_of_this_machine() -> str:
    """The Debian mirror that apt uses here, known to be reachable; empty when apt names none: debootstrap knows one."""
    for file in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for uri in re.findall(r"^URIs:\s*(\S+)", file.read_text(), re.MULTILINE):
            if uri.rstrip("/").endswith("/debian"):
                return str(uri)
    listed = Path("/etc/apt/sources.list")
    text = listed.read_text() if listed.exists() else ""
    found = re.search(r"^deb (?:\[[^\]]*\] )?(\S+/debian/?)\s", text, re.MULTILINE)
    return found[1] if found else ""


def _slim(root: Path) -> None:
    for name in _NOT_WANTED:
        directory = root / name
        for path in directory.iterdir() if directory.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    (root / "etc" / "hostname").unlink(missing_ok=True)
    (root / "etc" / "resolv.conf").write_text("")
    # Packages must not start what they install.
    policy = root / "usr" / "sbin" / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    python = root / "usr" / "bin" / f"python{versions.PYTHON}"
    if not python.exists():
        raise MissingError(f"base image from Debian {versions.DEBIAN}", f"it has no Python {versions.PYTHON}")
