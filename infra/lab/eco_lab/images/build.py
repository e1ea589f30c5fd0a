"""Dockerfiles into docker-archives, by buildah with a store of the lab's own."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eco_lab.images import base
from eco_lab.mounts import unmount_all_below
from eco_lab.paths import Paths
from eco_lab.processes import run, succeeds
from eco_lab.progress import step

_BUILD_S: Final = 900
_TRANSPORT: Final = re.compile(r"Acquire::(https?|Retries)\b")
# The bundle only: packages write into the directory around it.
_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image is made, and everything that its content depends on."""

    name: str
    """Short name; the image becomes `localhost/NAME:HASH`."""
    dockerfile: Path
    context: Path
    inputs: tuple[Path, ...]
    """Files and directories below the context that the Dockerfile copies."""
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    needs_packages: bool = False
    """Whether the build installs Debian packages, and so needs this machine's way to a mirror."""


class Builder:
    """Builds what is not in the cache yet."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._base = os.environ.get("ECO_LAB_BASE", "")

    def build(self, recipe: Recipe) -> tuple[str, Path]:
        """Full name and docker-archive of an image."""
        digest = self._digest(recipe)
        image = f"localhost/{recipe.name}:{digest}"
        file = self._paths.archives / f"{recipe.name}-{digest}.tar"
        if not file.exists():
            base_image = self._base_image()
            with step(f"image {recipe.name}", announce=True):
                try:
                    self._build(recipe, image, base_image)
                    self._save(image, file)
                finally:
                    # buildah leaves its store mounted on itself.
                    unmount_all_below(self._store)
            self._forget_older(recipe.name, keep=file)
        return image, file

    def _build(self, recipe: Recipe, image: str, base_image: str) -> None:
        arguments = {"BASE": base_image, **recipe.arguments}
        words: list[str | Path] = [
            "build",
            "--isolation=chroot",
            "--layers",
            "--format=docker",
            f"--file={recipe.dockerfile}",
        ]
        words += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        if recipe.target:
            words.append(f"--target={recipe.target}")
        if base_image == base.NAME:
            words.append("--pull-never")
        if recipe.needs_packages:
            words += [f"--volume={source}:{target}:ro" for source, target in self._way_to_packages().items()]
        run(self._buildah(*words, f"--tag={image}", recipe.context), what=f"image {recipe.name}", timeout_s=_BUILD_S)

    def _way_to_packages(self) -> dict[Path, Path]:
        """Files for the build: as this machine reaches Debian's packages (proxies, authorities), the build does too."""
        config = self._paths.build / "apt.conf"
        config.touch(mode=0o600)
        dumped = run(["apt-config", "dump"]) if shutil.which("apt-config") else ""
        config.write_text("".join(f"{line}\n" for line in dumped.splitlines() if _TRANSPORT.match(line)))
        files = {config: Path("/etc/apt/apt.conf")}
        if base.mirror_of_this_machine().startswith("https:"):
            files[_CERTIFICATES] = _CERTIFICATES
        return files

    def _save(self, image: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".partial")
        scratch.unlink(missing_ok=True)
        run(self._buildah("push", "--quiet", image, f"docker-archive:{scratch}:{image}"), timeout_s=300)
        scratch.replace(file)

    def _base_image(self) -> str:
        """The base of every image: what `ECO_LAB_BASE` names, else the lab's own."""
        if self._base:
            return self._base
        if not succeeds(self._buildah("inspect", "--type=image", base.NAME)):
            archive = base.archive_file(self._paths)
            run(self._buildah("pull", "--quiet", f"docker-archive:{archive}"), timeout_s=300)
        return base.NAME

    @property
    def _store(self) -> Path:
        return self._paths.build / "buildah"

    def _buildah(self, *words: str | Path) -> list[str | Path]:
        options = (f"--root={self._store / 'root'}", f"--runroot={self._store / 'run'}", "--storage-driver=overlay")
        return ["buildah", *options, *words]

    def _digest(self, recipe: Recipe) -> str:
        digest = hashlib.sha256()
        fixed = [self._base or base.NAME, recipe.target, *(f"{key}={value}" for key, value in recipe.arguments.items())]
        digest.update("\n".join(fixed).encode())
        for file in [recipe.dockerfile, *_files(recipe.inputs)]:
            digest.update(f"\n{file.relative_to(recipe.context)}\n".encode())
            digest.update(file.read_bytes())
        return digest.hexdigest()[:12]

    def _forget_older(self, name: str, *, keep: Path) -> None:
        """Keep the newest archives of a name only: each is a hundred megabytes and more."""
        found = sorted(
            self._paths.archives.glob(f"{name}-" + "[0-9a-f]" * 12 + ".tar"), key=lambda path: path.stat().st_mtime
        )
        for file in found[:-3]:
            if file != keep:
                file.unlink()


def _files(inputs: Iterable[Path]) -> list[Path]:
    found = []
    for path in inputs:
        if path.is_dir():
            found += [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        else:
            found.append(path)
    return sorted(found)
