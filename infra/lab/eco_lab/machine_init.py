"""First program of a machine: makes its view of the file system, then becomes the reaper of orphans.

Runs as process 1 of new mount, process, host-name and IPC namespaces, in the network namespace of the machine. One
SIGKILL to it from outside ends every process of the machine at once, as a power cut would.

    python -m eco_lab.machine_init NAME VAR_DIRECTORY PAUSE_PROGRAM BOOTED_FILE KEEP...
"""

import os
import subprocess
import sys
from pathlib import Path

from eco_lab.mounts import mounted

_PSEUDO = ("/proc", "/sys", "/dev")
# The kubelet writes these; they are the whole machine's, so it gets files of its own in their place.
_WRITTEN_BY_KUBELET = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def main() -> None:
    """Set the machine up and hand over to `pause`; does not return."""
    name, var, pause, booted, *keep = sys.argv[1:]
    # Mounts of the outside keep coming in (volumes of true size), ours never go out.
    _mount("--make-rslave", "/")
    _drop_mounts_of_others([Path(path) for path in keep])
    # Shared inside, so that a container's `mountPropagation: Bidirectional` works.
    _mount("--make-rshared", "/")
    _mount("-t", "proc", "proc", "/proc")
    _own_var(Path(var))
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    subprocess.run(["hostname", name], check=True)
    private = Path("/run/sysctl")
    private.mkdir()
    for setting in _WRITTEN_BY_KUBELET:
        file = private / setting.replace("/", "_")
        file.write_text("0\n")
        _mount("--bind", str(file), f"/proc/sys/{setting}")
    Path(booted).touch()
    os.execv(pause, [pause])  # noqa: S606 - a program of ours, no shell wanted


def _drop_mounts_of_others(keep: list[Path]) -> None:
    """Let go of mounts copied from outside: another cluster's overlays would stay pinned as long as we live."""
    for point in reversed(mounted()):
        needed = point == Path("/") or any(path.is_relative_to(point) or point.is_relative_to(path) for path in keep)
        if not needed and not str(point).startswith(_PSEUDO):
            subprocess.run(["umount", "--lazy", point], check=True)


def _own_var(var: Path) -> None:
    for directory in ("lib", "log", "tmp", "cache"):
        (var / directory).mkdir(parents=True, exist_ok=True)
    link = var / "run"
    if not link.is_symlink():
        link.symlink_to("/run")
    _mount("--bind", str(var), "/var")


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
