"""A root file system out of an image archive (`docker save` form), to run a server of another release by chroot."""

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
UNPACKED: Final = ROOT / "build" / "rootfs"
_WHITEOUT: Final = ".wh."


def unpacked(archive: Path) -> Path:
    """Where the archive's file system is unpacked; done once for each archive."""
    target = UNPACKED / archive.stem
    if target.exists():
        return target
    UNPACKED.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with tarfile.open(archive) as outer:
        manifest = json.load(_member(outer, "manifest.json"))
        for layer in manifest[0]["Layers"]:
            with tarfile.open(fileobj=_member(outer, layer)) as inner:
                _apply(inner, partial)
    try:
        partial.rename(target)
    except OSError:
        # Somebody else was faster; theirs is as good.
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _member(archive: tarfile.TarFile, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202  # a file of tarfile's private type
    found = archive.extractfile(name)
    if found is None:
        raise FileNotFoundError(f"{name} in {archive.name!r}")
    return found


def _apply(layer: tarfile.TarFile, target: Path) -> None:
    """Unpack one layer; a white-out removes what a lower layer brought."""
    for member in layer:
        path = Path(member.name)
        if path.name.startswith(_WHITEOUT):
            gone = target / path.parent / path.name.removeprefix(_WHITEOUT)
            if gone.is_dir() and not gone.is_symlink():
                shutil.rmtree(gone)
            else:
                gone.unlink(missing_ok=True)
        elif member.isdev():
            continue
        else:
            layer.extract(member, target, filter="tar", set_attrs=True)
