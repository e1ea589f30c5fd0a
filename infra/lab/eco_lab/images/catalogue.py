"""Every image of the lab and what it is made from."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eco_lab import versions
from eco_lab.images import archive, wheels
from eco_lab.images.build import Builder, Recipe
from eco_lab.paths import TREE, Paths

_HERE: Final = Path(__file__).parent
PAUSE: Final = "localhost/pause:1"
COREDNS: Final = f"localhost/coredns:{versions.COREDNS}"
_S3_PACKAGES: Final = (f"moto[s3]=={versions.MOTO}", "flask>=3", "flask-cors>=6", f"pip>={versions.PIP}")


@dataclass(frozen=True, slots=True)
class Images:
    """Names of images and the archives that hold them."""

    rabbitmq: str = ""
    postgresql: str = ""
    s3: str = ""
    worker: str = ""
    operator: str = ""
    archives: tuple[Path, ...] = ()


def of_the_cluster(paths: Paths, programs: Path) -> tuple[Path, ...]:
    """What a node needs before it runs any pod: `pause` and the cluster's DNS server, each a single program."""
    pause = archive.ImageConfig(PAUSE, entrypoint=("/pause",), user="65535:65535")
    coredns = archive.ImageConfig(COREDNS, entrypoint=("/coredns",))
    return single(paths, programs / "pause", pause), single(paths, programs / "coredns", coredns)


def of_the_servers(paths: Paths, builder: Builder) -> dict[str, tuple[str, Path]]:
    """RabbitMQ, PostgreSQL and the S3 stand-in."""
    packaged = {name: _packaged(name) for name in ("rabbitmq", "postgresql")}
    built = {name: builder.build(recipe) for name, recipe in packaged.items()}
    context = paths.build / "s3"
    wheels.fetch(context / "wheels", _S3_PACKAGES, constraints=wheels.LOCK if wheels.LOCK.exists() else None)
    for name in ("Dockerfile", "server.py"):
        shutil.copyfile(_HERE / "s3" / name, context / name)
    recipe = Recipe("eco-lab-s3", context / "Dockerfile", context, (context / "server.py", context / "wheels"))
    return {**built, "s3": builder.build(recipe)}


def of_the_tree(builder: Builder) -> dict[str, tuple[str, Path]]:
    """Operator and worker, from the Dockerfiles of this checkout."""
    packages = wheels.for_the_tree()
    common = (TREE / "crds", packages, wheels.LOCK)
    worker = Recipe("eco-worker", TREE / "workers" / "Dockerfile", TREE, (*common, TREE / "workers"), target="storage")
    operator = Recipe("eco-operator", TREE / "operator" / "Dockerfile", TREE, (*common, TREE / "operator"))
    return {"worker": builder.build(worker), "operator": builder.build(operator)}


def _packaged(name: str) -> Recipe:
    context = _HERE / name
    return Recipe(f"eco-lab-{name}", context / "Dockerfile", context, (context,), needs_packages=True)


def single(paths: Paths, program: Path, config: archive.ImageConfig) -> Path:
    """An image of one program, where its entrypoint says that it lies."""
    file = paths.archives / f"{config.name.rpartition('/')[2].replace(':', '-')}.tar"
    if not file.exists():
        root = paths.build / f"image-{program.name}"
        shutil.rmtree(root, ignore_errors=True)
        place = root / config.entrypoint[0].lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(program, place)
        archive.write(file, root, config)
        shutil.rmtree(root)
    return file
