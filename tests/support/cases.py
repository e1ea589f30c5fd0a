"""Objects that must be refused, as data: each a small change of an object that is accepted.

A case in `bad/` has `field` and the words that `server` and `operator` must use; one in `changes/` has a state before,
one after, and what both say. A null in a change removes the field.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml

DATA: Final = Path(__file__).parents[1] / "data"
Document = dict[str, Any]


def merge(base: Any, change: Any) -> Any:
    """`base` with `change` laid over it, as a JSON merge patch does."""
    if not isinstance(change, dict):
        return change
    merged = dict(base) if isinstance(base, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def valid(plural: str) -> Document:
    """The object of a kind that is accepted as it is."""
    document: Document = yaml.safe_load((DATA / plural / "valid.yaml").read_text())
    return document


@dataclass(frozen=True, slots=True)
class BadObject:
    """An object that must not be accepted."""

    name: str
    field: str
    server: str
    operator: str
    document: Document

    @classmethod
    def all(cls, plural: str) -> list[Self]:
        """Every case of a kind."""
        return [cls._read(plural, path) for path in sorted((DATA / plural / "bad").glob("*.yaml"))]

    @classmethod
    def _read(cls, plural: str, path: Path) -> Self:
        case = yaml.safe_load(path.read_text())
        changed = merge(valid(plural), case["object"])
        return cls(f"{plural}/{path.stem}", case["field"], case["server"], case["operator"], changed)


@dataclass(frozen=True, slots=True)
class BadChange:
    """Two objects, each accepted as a new one, of which the first must not become the second."""

    name: str
    field: str
    says: str
    before: Document
    after: Document

    @classmethod
    def all(cls, plural: str) -> list[Self]:
        """Every case of a kind."""
        found = []
        for path in sorted((DATA / plural / "changes").glob("*.yaml")):
            case = yaml.safe_load(path.read_text())
            before = merge(valid(plural), case["before"])
            after = merge(before, case["after"])
            found.append(cls(f"{plural}/{path.stem}", case["field"], case["says"], before, after))
        return found
