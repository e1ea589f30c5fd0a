"""What is committed is what the models say."""

from pathlib import Path

import pytest
import yaml

from eco_crds.__main__ import main, render, with_table
from eco_crds.schema import KINDS, Kind
from eco_crds.validation import validate

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "crds" / "manifests"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.short)
def test_a_manifest_is_fresh(kind: Kind) -> None:
    committed = (MANIFESTS / f"{kind.crd_name}.yaml").read_text(encoding="utf-8")
    assert committed == render(kind), "run `python -m eco_crds`"


def test_there_is_a_manifest_for_each_kind_and_no_other() -> None:
    assert {path.name for path in MANIFESTS.iterdir()} == {f"{kind.crd_name}.yaml" for kind in KINDS}


def test_the_command_writes_what_is_committed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out")]) == 0
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {path.name: path.read_text() for path in MANIFESTS.iterdir()}
    assert len(capsys.readouterr().out.splitlines()) == len(KINDS)


def test_the_table_of_conditions_in_the_readme_is_fresh() -> None:
    readme = (ROOT / "crds" / "README.md").read_text(encoding="utf-8")
    assert readme == with_table(readme), "run `python -m eco_crds`"
    assert "| Ready | False | WALUnhealthy |" in readme


def test_every_example_is_named_in_the_readme() -> None:
    readme = (ROOT / "crds" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "crds/examples").iterdir() if f"examples/{path.name}" not in readme] == []


@pytest.mark.parametrize("path", sorted((ROOT / "crds/examples").iterdir()), ids=lambda path: path.stem)
def test_an_example_is_valid(path: Path) -> None:
    assert validate(yaml.safe_load(path.read_text())) == []
