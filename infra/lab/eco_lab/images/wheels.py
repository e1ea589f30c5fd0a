"""Wheels for the images' Python, fetched on this machine so that a build asks nobody.

Every wheel that the lock file knows must have one of the lock's digests; a wheel that does not is deleted and named.
"""

import hashlib
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from eco_lab import versions
from eco_lab.errors import LabError, MissingError
from eco_lab.paths import TREE
from eco_lab.processes import run, succeeds
from eco_lab.progress import step

LOCK: Final = TREE / "requirements.lock"
TARGET: Final = TREE / "build" / "wheels"
_PROJECTS: Final = ("crds", "operator", "workers")
_EXTRAS: Final = ("storage",)
# What builds our own packages, and pip itself; tools of the build stage, in no final image.
_BUILD_TOOLS: Final = ("hatchling>=1.27", f"pip>={versions.PIP}")
_PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_DOWNLOAD_S: Final = 900


def for_the_tree() -> Path:
    """Wheels for the operator's and worker's image, in `build/wheels`; fetched again only when a list changed."""
    wanted = sorted({*_dependencies(), *_BUILD_TOOLS})
    fetch(TARGET, wanted, constraints=LOCK if LOCK.exists() else None)
    return TARGET


def fetch(target: Path, wanted: Sequence[str], *, constraints: Path | None) -> None:
    """Fetch wheels of `wanted` and all they need into `target`, unless they are there."""
    locked = constraints.read_text() if constraints else ""
    key = hashlib.sha256("\n".join([versions.PYTHON, *wanted, locked]).encode()).hexdigest()
    mark = target / "complete"
    if mark.exists() and mark.read_text() == key:
        return
    with step(f"wheels of {wanted[0]} and {len(wanted) - 1} others", announce=True):
        scratch = target.with_suffix(".partial")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        listed = scratch / "requirements.txt"
        listed.write_text("\n".join(wanted) + "\n")
        pins = scratch / "constraints.txt"
        pins.write_text("\n".join(re.findall(r"^[\w.-]+==[^\s\\;]+(?: *;[^\\\n]*)?", locked, re.MULTILINE)) + "\n")
        platforms = [f"--platform={platform}" for platform in _PLATFORMS]
        options = (
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary=:all:",
            f"--python-version={versions.PYTHON}",
        )
        words = ("download", *options, "--implementation=cp", *platforms, "-r", listed, "-c", pins, "-d", scratch)
        run([*_pip(), *map(str, words)], what="pip download", timeout_s=_DOWNLOAD_S)
        pins.unlink()
        if locked:
            _verify(scratch.glob("*.whl"), locked)
        (scratch / "complete").write_text(key)
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)


def _dependencies() -> Iterable[str]:
    for project in _PROJECTS:
        about = tomllib.loads((TREE / project / "pyproject.toml").read_text())["project"]
        extras = about.get("optional-dependencies", {})
        names = [*about["dependencies"], *(name for extra in _EXTRAS for name in extras.get(extra, ()))]
        yield from (name for name in names if not name.startswith("eco-"))


def _verify(wheels: Iterable[Path], locked: str) -> None:
    digests = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", locked))
    known = {_normal(name) for name in re.findall(r"^([\w.-]+)==", locked, re.MULTILINE)}
    for wheel in wheels:
        if _normal(wheel.name.split("-")[0]) not in known:
            continue
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest not in digests:
            wheel.unlink()
            raise LabError(
                f"check {wheel.name}", f"SHA-256 {digest} is not in {LOCK.name}", hint="make lock, or repeat"
            )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip() -> list[str]:
    """A pip that can download for another Python than its own."""
    candidates = [[sys.executable, "-m", "pip"], ["python3", "-m", "pip"], ["uv", "tool", "run", "pip"]]
    for command in candidates:
        if (shutil.which(command[0]) or os.access(command[0], os.X_OK)) and succeeds(
            [*command, "--version"], timeout_s=60
        ):
            return command
    raise MissingError("fetch wheels", "neither pip nor uv is installed", hint="apt-get install python3-pip")
