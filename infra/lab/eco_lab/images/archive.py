"""A one-layer image from a directory, in the docker-archive format that containerd and buildah read."""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eco_lab.processes import run

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What runs in the image, and as whom."""

    name: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""

    def to_json(self, layer: str) -> bytes:
        """The image's configuration file."""
        config = {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": list(self.entrypoint) or None,
            "Cmd": list(self.command) or None,
            "User": self.user,
        }
        roots = {"type": "layers", "diff_ids": [f"sha256:{layer}"]}
        # buildah refuses to build on an image whose history counts fewer layers than it has.
        history = [{"created": "1970-01-01T00:00:00Z", "created_by": "eco-lab"}]
        about = {"architecture": "amd64", "os": "linux", "rootfs": roots, "config": config, "history": history}
        return json.dumps(about).encode()


def write(file: Path, root: Path, config: ImageConfig) -> Path:
    """Pack `root` as an image; the file appears only when whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    layer = file.with_suffix(".layer")
    # File times stay: Python compares a source's time with the one in its compiled file.
    run(["tar", "-C", root, "--numeric-owner", "--sort=name", "--one-file-system", "-cf", layer, "."], timeout_s=300)
    try:
        digest = _sha256(layer)
        body = config.to_json(digest)
        name = f"{hashlib.sha256(body).hexdigest()}.json"
        manifest = [{"Config": name, "RepoTags": [config.name], "Layers": [f"{digest}/layer.tar"]}]
        scratch = file.with_suffix(".partial")
        with tarfile.open(scratch, "w") as tar:
            _add(tar, name, body)
            tar.add(layer, f"{digest}/layer.tar")
            _add(tar, "manifest.json", json.dumps(manifest).encode())
        scratch.replace(file)
    finally:
        layer.unlink(missing_ok=True)
    return file


def _add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(body)
    tar.addfile(entry, io.BytesIO(body))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while block := source.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
