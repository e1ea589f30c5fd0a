"""Where the lab may keep things."""

from pathlib import Path

import pytest

from eco_lab import paths
from eco_lab.errors import MissingError


@pytest.mark.parametrize("variable", ["ECO_LAB_STATE", "ECO_LAB_CACHE"])
@pytest.mark.parametrize("place", ["/var/tmp/lab", "/run/lab", "/dev/shm/lab"])
def test_a_place_that_machines_cannot_see_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, place: str
) -> None:
    monkeypatch.setenv(variable, place)
    with pytest.raises(MissingError, match=variable) as refused:
        paths.find()
    assert refused.value.hint


def test_both_places_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ECO_LAB_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ECO_LAB_CACHE", str(tmp_path / "cache"))
    found = paths.find()
    assert (found.state, found.cache) == (tmp_path / "state", tmp_path / "cache")
    assert found.audit_log.is_relative_to(found.state)


def test_the_tree_is_the_checkout_with_the_dockerfiles() -> None:
    assert (paths.TREE / "workers" / "Dockerfile").exists()
    assert (paths.TREE / "operator" / "Dockerfile").exists()
