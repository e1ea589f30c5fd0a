"""The command line tells what it does, and fails with words."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from eco_lab import __main__ as command_line
from eco_lab import environment
from eco_lab.errors import BusyError, LabError


@pytest.fixture(autouse=True)
def no_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_LAB_STATE", str(tmp_path))


@pytest.mark.parametrize("command", ["up", "down", "status", "env", "images"])
def test_each_command_shows_an_example(command: str) -> None:
    shown = CliRunner().invoke(command_line.app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"eco-lab {command}" in shown.output


def test_status_without_a_lab_says_so_and_fails() -> None:
    shown = CliRunner().invoke(command_line.app, ["status"])
    assert "not up" in shown.output
    assert shown.exit_code == 1


def test_an_error_of_the_lab_ends_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["eco-lab", "env"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 2
    assert "what to do: eco-lab up" in capsys.readouterr().err


def test_a_busy_lab_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def busy(**_: object) -> None:
        raise BusyError("change the lab", "process 7 is still at it")

    monkeypatch.setattr(environment, "up", busy)
    monkeypatch.setattr("sys.argv", ["eco-lab", "up"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert capsys.readouterr().err.startswith("eco-lab: change the lab: process 7")


def test_down_without_a_lab_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_LAB_STATE", str(tmp_path / "nothing"))
    assert CliRunner().invoke(command_line.app, ["down"]).exit_code == 0
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("words", [["up"], ["down", "--wipe"]])
def test_a_directory_with_files_of_somebody_else_is_never_taken_for_a_labs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """A slip in ECO_LAB_STATE, the home directory for one, must not cost what is in it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis").write_text("years of work")
    monkeypatch.setenv("ECO_LAB_STATE", str(tmp_path))
    monkeypatch.setenv("ECO_LAB_USE_CURRENT_CONTEXT", "1")
    result = CliRunner().invoke(command_line.app, words)
    assert isinstance(result.exception, LabError)
    assert "ECO_LAB_STATE" in str(result.exception)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "thesis"]
