"""What is missing is named, with what to do."""

from pathlib import Path

import pytest

from eco_lab import existing, lifecycle, preflight
from eco_lab.errors import LabError, MissingError
from eco_lab.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(cache=tmp_path / "cache", state=tmp_path / "state")


def test_without_root_the_lab_says_so(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MissingError, match="takes root") as missing:
        preflight.check(paths, nodes=1)
    assert "ECO_LAB_USE_CURRENT_CONTEXT" in missing.value.hint


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_LAB_NO_APT", "1")
    with pytest.raises(MissingError, match=r"not installed: mkfs\.xfs") as missing:
        preflight._install({"mkfs.xfs": "xfsprogs"})
    assert missing.value.hint == "apt-get install --no-install-recommends xfsprogs"


def test_packages_are_never_installed_where_that_is_forbidden(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setenv("ECO_LAB_NO_APT", "1")
    monkeypatch.setattr(preflight, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr(preflight, "_has", lambda _: False)
    monkeypatch.setattr(preflight, "_check_rights", lambda: None)
    with pytest.raises(MissingError):
        preflight.check(paths, nodes=1)
    assert not ran


def test_a_full_disk_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_SPACE_BYTES", 1 << 60)
    with pytest.raises(MissingError, match="free at") as missing:
        preflight._check_space(paths)
    assert "ECO_LAB_STATE" in missing.value.hint


@pytest.mark.parametrize("count", [0, 4])
def test_a_number_of_nodes_that_the_lab_does_not_have_is_refused(count: int) -> None:
    with pytest.raises(LabError, match="1 to 3"):
        lifecycle.up(nodes=count, only_control_plane=False, with_programs=())


@pytest.mark.parametrize("variable", ["ECO_AMQP_URL", "ECO_POSTGRES_DSN", "ECO_S3_ENDPOINT_URL", "ECO_WORKER_IMAGE"])
def test_an_existing_cluster_without_a_server_is_refused_by_its_variable(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name, example in existing._NEEDED.items():
        monkeypatch.setenv(name, example)
    monkeypatch.delenv(variable)
    with pytest.raises(MissingError, match=f"{variable} is not set") as missing:
        existing.describe(paths)
    assert f"{variable}=" in missing.value.hint
