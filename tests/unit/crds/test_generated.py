"""What `python -m eco_crds` writes besides the definitions: tables, schemas of values, and the check of all of it."""

from pathlib import Path
from typing import Any

import pytest

from eco_crds import __main__ as generator
from eco_crds import values_schema
from eco_crds.base import Rule
from eco_crds.chart_readme import BEGIN, END, table, with_values
from eco_crds.ecoworker import EcoWorkerSpec

VALUES = """
# About the name.
name: ""
plain: 1

# A mapping that is one value.
whole: {a: 1, b: 2}
parts:
  # First of two.
  one: x
  two: [1]
  # Text that a table | would split.
  three: null
# Too long to be shown.
long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
"""


def test_each_value_has_a_row_with_its_comment() -> None:
    rows = [[cell.strip() for cell in row.split(" | ")] for row in table(VALUES).splitlines()[2:]]
    assert rows == [
        ["| `name`", "", "About the name. |"],
        ["| `plain`", "`1`", "|"],
        ["| `whole`", '`{"a": 1, "b": 2}`', "A mapping that is one value. |"],
        ["| `parts.one`", "`x`", "First of two. |"],
        ["| `parts.two`", "`[1]`", "|"],
        ["| `parts.three`", "", r"Text that a table \| would split. |"],
        ["| `long`", "see `values.yaml`", "Too long to be shown. |"],
    ]


def test_a_table_stands_between_its_marks_and_the_rest_stays() -> None:
    once = with_values(f"before\n{BEGIN}old\n{END}\nafter\n", VALUES)
    assert once == f"before\n{BEGIN}{table(VALUES)}{END}\nafter\n"
    assert with_values(once, VALUES) == once
    assert with_values("without marks\n", VALUES) == "without marks\n"


def test_a_rule_that_no_check_of_the_chart_knows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new rule on a model would else be one that the chart lets pass."""
    rule = Rule(cel="true", message="", field=".tolerations", holds=lambda _: True)
    monkeypatch.setattr(EcoWorkerSpec, "rules", (*EcoWorkerSpec.rules, rule))
    with pytest.raises(ValueError, match="tolerations"):
        values_schema.values_schema()


def test_unknown_fields_are_refused_at_every_level() -> None:
    def open_nodes(node: Any, path: str) -> list[str]:
        if isinstance(node, list):
            return [found for item in node for found in open_nodes(item, path)]
        if not isinstance(node, dict):
            return []
        is_open = "properties" in node and "type" in node and node.get("additionalProperties") is not False
        below = [found for key, child in node.items() for found in open_nodes(child, f"{path}/{key}")]
        return [path, *below] if is_open else below

    assert open_nodes(values_schema.values_schema(), "") == []


def test_a_stale_file_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main([str(tmp_path)]) == 0
    assert generator.main(["--check", str(tmp_path)]) == 0
    stale = next(tmp_path.glob("*.yaml"))
    stale.write_text("something else\n")
    capsys.readouterr()
    assert generator.main(["--check", str(tmp_path)]) == 1
    assert str(stale) in capsys.readouterr().out
    assert stale.read_text() == "something else\n"
