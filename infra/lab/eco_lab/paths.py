"""Where the lab keeps things: one cache that outlives everything, one state directory that `down --wipe` removes."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from eco_lab.errors import MissingError

TREE: Final = Path(__file__).resolve().parents[3]
"""The checkout this package runs from: the images are built from its Dockerfiles."""

# A machine of the lab has a /var, a /run and other mounts of its own: what lies under these would vanish inside it.
_HIDDEN_IN_MACHINES: Final = ("/var", "/run", "/proc", "/sys", "/dev")


@dataclass(frozen=True)
class Paths:
    """Directories of one lab."""

    cache: Path
    state: Path

    @cached_property
    def bin(self) -> Path:
        """Programs built or downloaded, one directory a set of versions below it."""
        return self.cache / "bin"

    @cached_property
    def archives(self) -> Path:
        """Images as docker-archive files, named by a hash of what went into them."""
        return self.cache / "images"

    @cached_property
    def build(self) -> Path:
        """Sources and root file systems that builds work in."""
        return self.cache / "build"

    @cached_property
    def run(self) -> Path:
        """Records of processes, one file each."""
        return self.state / "run"

    @cached_property
    def log(self) -> Path:
        """Output of every process of the lab."""
        return self.state / "log"

    @cached_property
    def etc(self) -> Path:
        """Configuration files as the parts read them."""
        return self.state / "etc"

    @cached_property
    def pki(self) -> Path:
        """Keys and certificates of the cluster."""
        return self.state / "pki"

    @cached_property
    def data(self) -> Path:
        """What machines keep over a power cut: their `/var`."""
        return self.state / "data"

    @cached_property
    def volumes(self) -> Path:
        """Directories and disk images behind persistent volumes."""
        return self.data / "volumes"

    @cached_property
    def kubeconfig(self) -> Path:
        """The administrator's way in."""
        return self.state / "admin.kubeconfig"

    @cached_property
    def environment(self) -> Path:
        """What `up` left behind for others to read."""
        return self.state / "environment.json"

    @cached_property
    def audit_log(self) -> Path:
        """One JSON line for every writing request that the API server answered."""
        return self.data / "cp" / "var" / "log" / "audit.jsonl"


def find() -> Paths:
    """Directories as the environment names them, else the customary places below the home directory."""
    cache = _directory("ECO_LAB_CACHE", Path.home() / ".cache" / "eco-lab")
    state = _directory("ECO_LAB_STATE", Path.home() / ".local" / "state" / "eco-lab")
    return Paths(cache=cache, state=state)


def _directory(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable) or default).expanduser().resolve()
    for hidden in _HIDDEN_IN_MACHINES:
        if path.is_relative_to(hidden):
            raise MissingError(
                f"{variable}={path}",
                f"the lab's machines have a {hidden} of their own and would not see this directory",
                hint=f"set {variable} to a directory outside {hidden}, /srv/eco-lab for example",
            )
    return path
