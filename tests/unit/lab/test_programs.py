"""Where programs come from, and what is refused on the way."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from http.client import IncompleteRead
from pathlib import Path
from typing import ClassVar

import pytest

from eco_lab import versions
from eco_lab.errors import LabError, MissingError
from eco_lab.paths import Paths
from eco_lab.programs import download, gobuild, ladder


def archive(name: str, body: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(body)
        tar.addfile(entry, io.BytesIO(body))
    return buffer.getvalue()


class Server:
    """Publishes bodies with the digests that belong to them."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    def publish(self, name: str, body: bytes, *, checksums: str, listed: bool) -> None:
        digest = hashlib.sha256(body).hexdigest()
        self.bodies[name] = body
        self.bodies[checksums] = f"{digest}  {name}\n".encode() if listed else digest.encode()

    def get(self, url: str) -> bytes:
        name = url.rpartition("/")[2]
        if name not in self.bodies:
            raise ConnectionError(f"no answer from {url}")
        return self.bodies[name]


def test_a_download_with_the_published_digest_is_installed(tmp_path: Path) -> None:
    server = Server()
    server.publish("kubectl", b"program", checksums="kubectl.sha256", listed=False)
    etcd = archive(f"etcd-v{versions.ETCD}-linux-amd64/etcd", b"database")
    server.publish(f"etcd-v{versions.ETCD}-linux-amd64.tar.gz", etcd, checksums="SHA256SUMS", listed=True)
    download.kubernetes(("kubectl", "etcd"), tmp_path, server.get)
    assert (tmp_path / "kubectl").read_bytes() == b"program"
    assert (tmp_path / "etcd").read_bytes() == b"database"
    assert (tmp_path / "etcd").stat().st_mode & 0o111


def test_a_download_with_another_digest_is_never_installed(tmp_path: Path) -> None:
    server = Server()
    server.publish("kubectl", b"program", checksums="kubectl.sha256", listed=False)
    server.bodies["kubectl"] = b"something else"
    with pytest.raises(download.ChecksumError, match="kubectl"):
        download.kubernetes(("kubectl",), tmp_path, server.get)
    assert not list(tmp_path.iterdir())


def test_a_digest_of_another_file_does_not_count(tmp_path: Path) -> None:
    name = f"helm-v{versions.HELM}-linux-amd64.tar.gz"
    server = Server()
    server.publish(name, archive("linux-amd64/helm", b"helm"), checksums=f"{name}.sha256sum", listed=True)
    server.bodies[f"{name}.sha256sum"] = server.bodies[f"{name}.sha256sum"].replace(b"helm-v", b"other-v")
    with pytest.raises(download.ChecksumError):
        download.helm(tmp_path, server.get)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(cache=tmp_path / "cache", state=tmp_path / "state")


def test_the_environment_comes_first(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in (*ladder.CLUSTER, "pause"):
        (mine / name).touch(mode=0o755)
    monkeypatch.setenv("ECO_LAB_BIN", str(mine))
    assert ladder.cluster(paths) == mine


def test_a_directory_that_lacks_a_program_is_refused_by_name(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*ladder.CLUSTER, "pause"):
        if name != "kubelet":
            (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("ECO_LAB_BIN", str(tmp_path))
    with pytest.raises(MissingError, match="lacks kubelet"):
        ladder.cluster(paths)


def test_what_is_cached_is_neither_downloaded_nor_built(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECO_LAB_BIN", raising=False)
    monkeypatch.setattr(download, "kubernetes", None)
    monkeypatch.setattr(gobuild, "kubernetes", None)
    ladder.cluster_directory(paths).mkdir(parents=True)
    assert ladder.cluster(paths) == ladder.cluster_directory(paths)


@pytest.mark.parametrize("error", [ConnectionError("no route"), IncompleteRead(b"half")], ids=["no-way", "cut-off"])
def test_what_cannot_be_downloaded_is_built(paths: Paths, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.delenv("ECO_LAB_BIN", raising=False)
    monkeypatch.delenv("ECO_LAB_NO_DOWNLOAD", raising=False)

    def unreachable(*_: object) -> None:
        raise error

    def build(names: tuple[str, ...], target: Path, _: Path) -> None:
        for name in names:
            (target / name).touch(mode=0o755)

    monkeypatch.setattr(download, "kubernetes", unreachable)
    monkeypatch.setattr(gobuild, "kubernetes", build)
    monkeypatch.setattr(gobuild, "pause", lambda target, _: (target / "pause").touch())
    assert {file.name for file in ladder.cluster(paths).iterdir()} == {*ladder.CLUSTER, "pause"}


def test_a_forged_download_is_not_replaced_by_a_build(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody tampers with downloads: that must be seen, not worked around."""
    monkeypatch.delenv("ECO_LAB_BIN", raising=False)
    monkeypatch.delenv("ECO_LAB_NO_DOWNLOAD", raising=False)

    def forged(*_: object) -> None:
        raise download.ChecksumError("download kubectl", "SHA-256 differs")

    monkeypatch.setattr(download, "kubernetes", forged)
    with pytest.raises(download.ChecksumError):
        ladder.cluster(paths)


def test_a_build_cut_off_leaves_nothing_that_looks_whole(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECO_LAB_BIN", raising=False)
    monkeypatch.setenv("ECO_LAB_NO_DOWNLOAD", "1")

    def cut_off(_: tuple[str, ...], target: Path, __: Path) -> None:
        (target / "kubectl").touch()
        raise LabError("go build", "killed")

    monkeypatch.setattr(gobuild, "kubernetes", cut_off)
    with pytest.raises(LabError, match="killed"):
        ladder.cluster(paths)
    assert not ladder.cluster_directory(paths).exists()


def test_no_toolchain_is_said_with_a_way_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(MissingError, match=r"neither Go 1\.26 nor uv") as missing:
        gobuild.GoToolchain(tmp_path)
    assert "install uv" in missing.value.hint


def test_a_toolchain_cut_off_while_it_was_installed_is_installed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with a uv that pip installed for this user, whose directory is not on PATH."""
    uv = str(Path.home() / ".local" / "bin" / "uv")
    monkeypatch.setattr("shutil.which", lambda program: uv if program == uv else None)
    half = tmp_path / "go" / "bin" / "go"
    half.parent.mkdir(parents=True)
    half.touch(mode=0o755)
    ran = []

    def install(command: Sequence[str | Path], **_: object) -> str:
        ran.append([str(word) for word in command])
        half.parent.mkdir(parents=True, exist_ok=True)
        return ""

    monkeypatch.setattr(gobuild, "run", install)
    gobuild.GoToolchain(tmp_path)
    gobuild.GoToolchain(tmp_path)
    assert [words[:3] for words in ran] == [[uv, "venv", "--quiet"], [uv, "pip", "install"]]


@pytest.mark.parametrize(("said", "enough"), [("go1.26.0", True), ("go2.0", True), ("go1.25.9", False), ("?", False)])
def test_an_old_toolchain_is_not_used(monkeypatch: pytest.MonkeyPatch, said: str, enough: bool) -> None:
    monkeypatch.setattr(gobuild, "run", lambda _: f"go version {said} linux/amd64")
    assert gobuild._is_new_enough("go") is enough


class RecordedGo:
    """A toolchain that writes down what it is asked to do."""

    upstream = "module example.org/upstream\n\ngo 1.26\n\nreplace a => ./a\n\nreplace b => c v1.0.0\n"
    asked: ClassVar[list[tuple[str, ...]]] = []

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def __call__(self, *words: str, cwd: Path, timeout_s: float = 900) -> str:
        assert timeout_s > 0
        self.asked.append(words)
        if words[0] == "build":
            RecordedGo.module_file = (cwd / "go.mod").read_text()
            Path(words[words.index("-o") + 1]).touch(mode=0o755)
        return ""

    def module(self, name: str, version: str, cwd: Path) -> dict[str, str]:
        self.asked.append((name, version))
        (cwd / "upstream.mod").write_text(self.upstream)
        return {"GoMod": str(cwd / "upstream.mod")}

    module_file: ClassVar[str] = ""


@pytest.mark.parametrize(
    ("make", "module", "version"),
    [
        (gobuild.helm, "helm.sh/helm/v4", versions.HELM),
        (gobuild.helm_unittest, "github.com/helm-unittest/helm-unittest", versions.HELM_UNITTEST),
    ],
)
def test_a_program_is_built_in_a_module_that_takes_published_replacements_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path, Path], None], module: str, version: str
) -> None:
    monkeypatch.setattr(gobuild, "GoToolchain", RecordedGo)
    monkeypatch.setattr(RecordedGo, "asked", [])
    make(tmp_path, tmp_path / "scratch")
    name = make.__name__.replace("_", "-")
    assert RecordedGo.module_file == f"module eco-lab/{name}\n\ngo 1.26\n\n\nreplace b => c v1.0.0\n"
    fetched, required, built = RecordedGo.asked
    assert fetched == (module, f"v{version}")
    assert required == ("mod", "edit", "-require", f"{module}@v{version}")
    assert built[-1] == f"{module}/cmd/{name}"
    assert (tmp_path / name).exists()


def test_what_runs_the_charts_tests_is_built_once_and_then_found(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert ladder.find_helm_unittest(paths) is None
    monkeypatch.setattr(gobuild, "helm_unittest", lambda target, _: (target / "helm-unittest").touch())
    made = ladder.helm_unittest(paths)
    monkeypatch.setattr(gobuild, "helm_unittest", None)
    assert ladder.helm_unittest(paths) == ladder.find_helm_unittest(paths) == made
