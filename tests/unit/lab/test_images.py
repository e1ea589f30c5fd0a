"""Images are made again exactly when something in them changed."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from eco_lab.errors import LabError
from eco_lab.images import archive, base, catalogue, wheels
from eco_lab.images.build import Builder, Recipe
from eco_lab.paths import TREE, Paths


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    context = tmp_path / "context"
    (context / "code").mkdir(parents=True)
    (context / "code" / "a.py").write_text("a = 1\n")
    (context / "Dockerfile").write_text("FROM scratch\n")
    return Recipe("thing", context / "Dockerfile", context, (context / "code",), arguments={"KEY": "value"})


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(Paths(cache=tmp_path / "cache", state=tmp_path / "state"))


def test_the_same_inputs_have_the_same_name(builder: Builder, recipe: Recipe) -> None:
    assert builder._digest(recipe) == builder._digest(recipe)


def test_compiled_files_do_not_count(builder: Builder, recipe: Recipe) -> None:
    before = builder._digest(recipe)
    cache = recipe.context / "code" / "__pycache__"
    cache.mkdir()
    (cache / "a.cpython-313.pyc").write_bytes(b"compiled")
    assert builder._digest(recipe) == before


@pytest.mark.parametrize("change", ["content", "name", "new", "dockerfile"])
def test_any_change_makes_another_image(builder: Builder, recipe: Recipe, change: str) -> None:
    before = builder._digest(recipe)
    code = recipe.context / "code"
    match change:
        case "content":
            (code / "a.py").write_text("a = 2\n")
        case "name":
            (code / "a.py").rename(code / "b.py")
        case "new":
            (code / "c.py").touch()
        case "dockerfile":
            recipe.dockerfile.write_text("FROM scratch\nUSER 1\n")
    assert builder._digest(recipe) != before


def test_an_archive_holds_one_layer_with_the_digest_it_claims(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "program").write_text("runs")
    config = archive.ImageConfig("localhost/thing:1", entrypoint=("/program",), user="10001")
    file = archive.write(tmp_path / "images" / "thing.tar", root, config)
    with tarfile.open(file) as tar:
        manifest = json.loads(read(tar, "manifest.json"))[0]
        about = json.loads(read(tar, manifest["Config"]))
        layer = read(tar, manifest["Layers"][0])
    assert manifest["RepoTags"] == ["localhost/thing:1"]
    assert about["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert about["config"]["User"] == "10001"
    assert len(about["history"]) == len(manifest["Layers"])
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["thing.tar"]


def read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def test_files_keep_their_times_in_an_archive(tmp_path: Path) -> None:
    """Python compares a source's time with the one in its compiled file, and compiles again when they differ."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.py").touch()
    file = archive.write(tmp_path / "thing.tar", root, archive.ImageConfig("localhost/thing:1"))
    with tarfile.open(file) as tar:
        layer = tar.extractfile(next(name for name in tar.getnames() if name.endswith("layer.tar")))
        with tarfile.open(fileobj=layer) as inner:
            assert inner.getmember("./a.py").mtime == pytest.approx((root / "a.py").stat().st_mtime, abs=1)


def wheel(directory: Path, name: str, body: bytes) -> Path:
    file = directory / f"{name}-1.0-py3-none-any.whl"
    file.write_bytes(body)
    return file


def test_a_wheel_that_the_lock_knows_must_have_its_digest(tmp_path: Path) -> None:
    lock = f"some-thing==1.0 \\\n    --hash=sha256:{hashlib.sha256(b'good').hexdigest()}\n"
    wheels._verify([wheel(tmp_path, "some_thing", b"good")], lock)
    forged = wheel(tmp_path, "some_thing", b"forged")
    with pytest.raises(LabError, match=r"some_thing.*is not in requirements.lock"):
        wheels._verify([forged], lock)
    assert not forged.exists()


def test_the_images_want_what_the_packages_declare() -> None:
    wanted = set(wheels._dependencies())
    assert any(name.startswith("kopf") for name in wanted)
    assert any(name.startswith("aioboto3") for name in wanted)
    assert not [name for name in wanted if name.startswith("eco-")]


def test_the_mirror_is_one_of_debians_or_left_to_debootstrap() -> None:
    assert base.mirror_of_this_machine().rstrip("/").endswith("debian") or not base.mirror_of_this_machine()


@pytest.mark.parametrize("name", ["workers", "operator"])
def test_what_runs_is_not_root_and_brings_no_installer(name: str) -> None:
    text = (TREE / name / "Dockerfile").read_text()
    last = text[text.rindex("\nFROM ") :]
    assert "\nUSER 10001:10001\n" in last
    assert "pip" not in last
    assert "ARG BASE=docker.io/library/python:3.13-slim-trixie\n" in text


def test_an_image_of_one_program_holds_it_where_the_entrypoint_says(tmp_path: Path) -> None:
    program = tmp_path / "prometheus"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    config = archive.ImageConfig("localhost/prometheus:1", entrypoint=("/bin/prometheus",))
    file = catalogue.single(Paths(cache=tmp_path / "cache", state=tmp_path / "state"), program, config)
    with tarfile.open(file) as image:
        manifest = json.loads(read(image, "manifest.json"))
        layer = image.extractfile(manifest[0]["Layers"][0])
        assert layer is not None
        with tarfile.open(fileobj=layer) as files:
            assert files.getmember("./bin/prometheus").mode == 0o755
