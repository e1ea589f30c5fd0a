"""What `kubectl eco` makes of words and of objects, without a cluster."""

import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from eco_crds import contract
from eco_operator import plugin
from eco_operator.plugin import show
from eco_operator.plugin.__main__ import app, hoisted
from eco_operator.plugin.completion import candidates, option
from eco_operator.plugin.kubectl import Kubectl, KubectlError

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def printed(found: Any) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(found)
    return capture.get()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["status", "-n", "shop", "storage"], ["-n", "shop", "status", "storage"]),
        (["status", "--context=lab", "-A"], ["--context=lab", "-A", "status"]),
        (["wal", "-o", "json"], ["wal", "-o", "json"]),
        (["wal", "-n"], ["-n", "wal"]),
    ],
)
def test_options_of_every_command_may_stand_anywhere(words: list[str], expected: list[str]) -> None:
    assert hoisted(words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["re"], ["recover", "resume"]),
        (["-n", "shop", "hib"], ["hibernate"]),
        (["recover", "storage", "--d"], ["--dry-run"]),
        (["fence", "--na"], ["--namespace"]),
        (["orphans", "x"], []),
    ],
)
def test_words_are_completed(words: list[str], expected: list[str]) -> None:
    assert candidates(words, Kubectl("/nonexistent/kubectl")) == expected


def test_options_are_read_from_unfinished_words() -> None:
    assert option(["-n", "shop", "status"], "-n", "--namespace") == "shop"
    assert option(["--namespace=shop"], "-n", "--namespace") == "shop"
    assert option([], "-n") is None


def test_a_kubectl_that_is_not_there_is_named() -> None:
    with pytest.raises(KubectlError, match="/nonexistent/kubectl cannot be run"):
        Kubectl("/nonexistent/kubectl").get("pods")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-27T11:59:01Z", "59s"),
        ("2026-11-27T11:58:00Z", "2m"),
        ("2026-11-25T12:00:00Z", "2d"),
        ("2026-11-27T12:00:09Z", "0s"),
        (None, ""),
    ],
)
def test_ages_are_short(moment: str | None, expected: str) -> None:
    assert show.age(moment, NOW) == expected


def test_what_is_not_known_is_never_shown_as_zero() -> None:
    worker = {
        "metadata": {"namespace": "shop", "name": "storage", "generation": 1},
        "status": {"observedGeneration": 1, "shards": [{"name": "storage-0", "wal": "Unknown"}]},
    }
    shown = printed(show.tree(worker, [], NOW))
    assert "pending ?  unsynced ?" in shown
    assert "0 " not in shown.replace("storage-0 ", "")


def test_an_old_verdict_is_called_old_and_a_recovery_is_shown() -> None:
    recovery = {"succeeded": True, "action": "rebuilt", "time": "2026-11-27T11:00:00Z"}
    worker = {
        "metadata": {"namespace": "shop", "name": "storage", "generation": 2},
        "status": {"observedGeneration": 1, "shards": [{"name": "storage-0", "lastRecovery": recovery}]},
    }
    shown = printed(show.tree(worker, [], NOW))
    assert "has not looked at the present spec yet" in shown
    assert "recovery done 60m ago (rebuilt)" in shown


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (None, "no job has looked yet"),
        ('{"empty":true}', "its journal is empty"),
        ('{"unfinished":3}', "its journal holds 3 unfinished tasks, 0 unsynced results and 0 unsent messages"),
        ("3", "not readable: 3"),
    ],
)
def test_an_unused_claim_says_since_when_and_what_is_left(left: str | None, expected: str) -> None:
    marks = {contract.ANNOTATION_SCALED_IN: "2026-11-27T09:00:00Z"}
    if left is not None:
        marks[contract.ANNOTATION_LEFT] = left
    labels = {contract.LABEL_WORKER: "storage"}
    metadata = {"namespace": "shop", "name": "wal-storage-1", "labels": labels, "annotations": marks}
    line = printed(show.orphans_table([{"metadata": metadata}], NOW)).splitlines()[1]
    assert line.split() == ["shop", "wal-storage-1", "storage", "3h", "scaled", "in", *expected.split()]


@pytest.mark.parametrize("name", sorted(get_command(app).commands))  # type: ignore[attr-defined]  # of a group
def test_the_help_of_every_command_has_an_example(name: str) -> None:
    found = CliRunner().invoke(app, [name, "--help"])
    assert found.exit_code == 0
    assert f"kubectl eco {name}" in " ".join(found.output.split()), found.output


def test_where_a_package_is_missing_it_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "eco_operator.plugin.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        plugin.main()
    assert ended.value.code == 2
    assert "eco-operator[plugin]" in capsys.readouterr().err
