"""Machines: sets of namespaces that stand for computers, each with its own process 1, network, `/var` and `/run`."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from eco_lab import network
from eco_lab.errors import LabError
from eco_lab.paths import TREE, Paths
from eco_lab.processes import Process, only_child, recall, record, spawn, wait_until

_CGROUPS = Path("/sys/fs/cgroup")


class Machine:
    """One machine of the lab: `cp` with the control plane, or a node `n1`, `n2`, `n3`."""

    def __init__(self, name: str, paths: Paths) -> None:
        self.name = name
        self.paths = paths
        self.var = paths.data / name / "var"
        self.address = network.address(name)
        self._run = paths.run / name
        self._log = paths.log / name

    @property
    def init(self) -> Process | None:
        """Process 1 of the machine as this machine's kernel numbers it; None when it is off."""
        return recall(self._run / "init.json")

    def boot(self, pause: Path) -> None:
        """Switch it on; of one that is on it only waits for the end of its boot, should that have been cut off."""
        booted = self._run / "booted"
        log = self.log("init")
        if self.init is not None:
            wait_until(f"boot of machine {self.name}", booted.exists, timeout_s=10, log=log)
            return
        shutil.rmtree(self._run, ignore_errors=True)
        self._run.mkdir(parents=True)
        network.plug_in(self.name)
        self._make_cgroups()
        # What the machine must still see of the outside's mounts.
        keep = {self.paths.volumes, self.paths.cache, self.paths.state, TREE, Path(sys.prefix), Path(sys.base_prefix)}
        unshare = ("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--uts", "--ipc")
        init = (sys.executable, "-m", "eco_lab.machine_init", self.name, self.var, pause, booted, *keep)
        outer = spawn(["nsenter", f"--net={network.namespace(self.name)}", *unshare, *map(str, init)], log=log)
        process = only_child(outer, what=f"machine {self.name}", log=log)
        record(self._run / "init.json", process)
        wait_until(f"boot of machine {self.name}", booted.exists, timeout_s=10, log=log, poll_s=0.01)

    def cut(self) -> None:
        """Power cut: one SIGKILL to process 1, and the kernel ends all that runs there; then its network goes."""
        init = self.init
        if init is not None:
            init.kill()
        shutil.rmtree(self._run, ignore_errors=True)
        network.unplug(self.name)
        self._remove_cgroups()

    def inside(self, *command: str | Path) -> list[str]:
        """A command line that runs `command` in all namespaces of the machine."""
        init = self.init
        if init is None:
            raise LabError(f"run {command[0]} on machine {self.name}", "it is off", hint="eco-lab up")
        return ["nsenter", "-t", str(init.pid), "-m", "-n", "-p", "-u", "-i", "--", *map(str, command)]

    def daemon(self, name: str) -> Process | None:
        """A daemon of the machine if it runs."""
        return recall(self._run / f"{name}.json")

    def start(self, name: str, command: Sequence[str | Path]) -> bool:
        """Start a daemon inside; False if it runs already."""
        if self.daemon(name) is not None:
            return False
        log = self.log(name)
        outer = spawn(self.inside(*command), log=log)
        record(self._run / f"{name}.json", only_child(outer, what=f"{name} on {self.name}", log=log))
        return True

    def seen_from_outside(self, path: str) -> Path:
        """A path of the machine's own file system, usable in this process."""
        init = self.init
        if init is None:
            raise LabError(f"look into machine {self.name}", "it is off", hint="eco-lab up")
        return Path(f"/proc/{init.pid}/root{path}")

    def log(self, name: str) -> Path:
        """File with the output of a daemon."""
        return self._log / f"{name}.log"

    def remember(self, name: str, text: str) -> None:
        """Keep a note until the machine goes off."""
        (self._run / name).write_text(text)

    def recollect(self, name: str) -> str:
        """A note kept by `remember`, or nothing."""
        file = self._run / name
        return file.read_text() if file.exists() else ""

    @property
    def cgroup(self) -> str:
        """Parent of all control groups of the machine's pods."""
        return f"/{network.PREFIX}-{self.name}"

    def _make_cgroups(self) -> None:
        """The kubelet wants its parent group in every hierarchy before it starts."""
        for hierarchy in _hierarchies():
            group = hierarchy / self.cgroup[1:]
            group.mkdir(exist_ok=True)
            for file in ("cpuset.mems", "cpuset.cpus"):
                # A new cpuset group of version 1 is empty and takes no process until both are filled.
                if (group / file).exists() and (hierarchy / file).exists():
                    (group / file).write_text((hierarchy / file).read_text())

    def _remove_cgroups(self) -> None:
        for hierarchy in _hierarchies():
            group = hierarchy / self.cgroup[1:]
            if group.is_dir():
                _remove_tree_of_groups(group)


def _hierarchies() -> list[Path]:
    if (_CGROUPS / "cgroup.procs").exists():
        return [_CGROUPS]
    return [path for path in sorted(_CGROUPS.iterdir()) if not path.is_symlink() and (path / "cgroup.procs").exists()]


def _remove_tree_of_groups(group: Path) -> None:
    for child in group.iterdir():
        if child.is_dir():
            _remove_tree_of_groups(child)
    # The kernel empties a group a moment after its last process ended.
    wait_until(f"removal of {group}", lambda: _removed(group), timeout_s=10)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
