"""`eco-lab demo` ends with the verdict of its ledger and leaves its figures behind."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eco_lab import environment, figures
from eco_lab.demo import command
from eco_lab.demo.ledger import Ledger
from eco_lab.demo.story import Outcome
from eco_lab.demo.trouble import Blow
from eco_lab.demo.watch import Columns
from eco_lab.errors import LabError
from eco_lab.paths import Paths

SOUND = Ledger(
    published=60,
    completed=40,
    failed_as_they_should=20,
    objects=80,
    rows=60,
    follow_ups=40,
    follow_ups_raw=41,
    dead_letters_raw=20,
    lost=(),
    duplicates=(),
    reasons={"empty": 20},
    problems=(),
)


def played(ledger: Ledger) -> Outcome:
    blows = [Blow("a kill", f"storage-{n}", 0.0, 4, 30, 2.5 + n, 0.4) for n in range(2)]
    return Outcome(ledger, blows, 9.0, "before", "after", Columns("ecoworkers"), Columns("walsyncs"))


@pytest.fixture
def run_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command over a story that has already been played."""
    file = tmp_path / "figures.jsonl"
    monkeypatch.setattr(figures, "FILE", file)
    monkeypatch.setattr(command, "find", lambda: Paths(cache=tmp_path / "cache", state=tmp_path))
    monkeypatch.setattr(environment, "up", lambda **_: SimpleNamespace(kubectl="kubectl", managed=True))

    def demo(ledger: Ledger) -> tuple[int, str, dict[str, dict[str, Any]]]:
        async def story(*_: object) -> Outcome:
            return played(ledger)

        monkeypatch.setattr(command, "run", story)
        app = typer.Typer()
        app.command()(command.demo)
        ended = CliRunner().invoke(app, [])
        written = [json.loads(line) for line in file.read_text().splitlines()]
        return ended.exit_code, ended.output, {figure["name"]: figure for figure in written}

    return demo


def test_a_sound_ledger_ends_with_status_0_and_its_figures(run_demo: Any) -> None:
    status, said, written = run_demo(SOUND)
    assert status == 0
    assert written["demo.lost"]["value"] == written["demo.duplicates"]["value"] == 0
    assert written["demo.resumed_s"]["value"] == 3.5
    assert "eco-lab down" in said


@pytest.mark.parametrize(
    "change", [{"lost": ("a",)}, {"duplicates": ("row of a",)}, {"problems": ("something is out of place",)}]
)
def test_anything_wrong_ends_with_status_1(run_demo: Any, change: dict[str, Any]) -> None:
    status, _, written = run_demo(replace(SOUND, **change))
    assert status == 1
    assert written["demo.lost"]["ok"] is ("lost" not in change)


def test_a_lab_without_cached_programs_counts_as_cold(run_demo: Any, tmp_path: Path) -> None:
    assert "demo.cold_s" in run_demo(SOUND)[2]
    program = tmp_path / "cache" / "bin" / "kubernetes-1" / "kubectl"
    program.parent.mkdir(parents=True)
    program.touch()
    assert "demo.wall_s" in run_demo(SOUND)[2]


def test_a_cluster_that_the_lab_did_not_start_is_refused_before_anything_is_done(
    run_demo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_demo(SOUND)
    monkeypatch.setattr(environment, "up", lambda **_: SimpleNamespace(kubectl="kubectl", managed=False))
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("the story began"))
    with pytest.raises(LabError, match="not started by the lab"):
        command.demo()
