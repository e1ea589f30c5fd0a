"""Loads the annotated SQL of the journal by name."""

from importlib.resources import files
from types import MappingProxyType
from typing import Final

from eco_workers.journal.records import OutboxRow, TaskRow

_MARK: Final = "-- name: "
_REPORTED: Final = "(state = 'completed' OR state = 'failed' OR state = 'timeout')"
"""States that owe a report, as the indexes say it: SQLite uses a partial index only for a query that has its condition.
A chain meets a list as well, which is how files say it that were made earlier; a list does not meet a chain."""


def _columns(fields: tuple[str, ...]) -> str:
    return ", ".join(fields)


def load(text: str) -> dict[str, str]:
    """Statements of an annotated SQL text by name; comments are dropped, column lists filled in."""
    statements = {}
    for part in text.split(_MARK)[1:]:
        name, _, body = part.partition("\n")
        lines = [line.strip() for line in body.splitlines() if not line.startswith("--")]
        statement = " ".join(line for line in lines if line)
        statement = statement.replace("{task}", _columns(TaskRow._fields))
        statement = statement.replace("{reported}", _REPORTED)
        statements[name.strip()] = statement.replace("{outbox}", _columns(OutboxRow._fields))
    return statements


def _read(name: str) -> str:
    return files("eco_workers.journal").joinpath(name).read_text(encoding="utf-8")


QUERIES: Final = MappingProxyType(load(_read("queries.sql")))
"""What the journal runs unless a test hands it something else."""

SCHEMA: Final = _read("schema.sql")
