"""Says what is wrong with an object, field by field, without an API server.

The same demands as in the manifests: bounds come from the models, rules from their `rules` and `transitions`. The
operator asks again before it acts, since an object may be older than a rule, or the rule's server older than the
operator.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from eco_crds.base import ApiModel
from eco_crds.ecoworker import EcoWorker
from eco_crds.schema import KINDS

_MODELS: Final[Mapping[str, type[ApiModel]]] = {kind.name: kind.model for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an object."""

    path: str
    """The field, as in `spec.wal.size` or `spec.env[0].name`."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def validate(document: Mapping[str, Any], *, old: Mapping[str, Any] | None = None) -> list[Problem]:
    """Every problem of an object; with `old` also those of the change from it. None found: an empty list.

    Raises KeyError for a kind that is not of this API.
    """
    new, problems = read(document)
    if new is not None and old is not None:
        problems.extend(_forbidden_changes(new, type(new).model_validate({**old, "status": {}}), ""))
    return problems


def read(document: Mapping[str, Any]) -> tuple[ApiModel | None, list[Problem]]:
    """An object without its status, and every problem of it. None when it does not even have the form of its kind.

    Raises KeyError for a kind that is not of this API.
    """
    model = _MODELS[document.get("kind", EcoWorker.__name__)]
    # What the operator itself reports is no input, and must never make an object invalid.
    wanted = {key: value for key, value in document.items() if key != "status"}
    try:
        found = model.model_validate(wanted)
    except ValidationError as error:
        return None, [Problem(_path(detail["loc"]), detail["msg"]) for detail in error.errors(include_url=False)]
    return found, list(_broken_rules(found, ""))


def _path(location: tuple[int | str, ...]) -> str:
    """Pydantic's location as people write it. Branches of a union are pydantic's own and are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in {"int", "str", "[key]"} and not part.startswith(("function-", "constrained-")):
            path += f".{part}" if path else part
    return path


def _children(node: ApiModel, path: str) -> Iterator[tuple[str, ApiModel]]:
    for name, field in type(node).model_fields.items():
        value = getattr(node, name)
        if isinstance(value, ApiModel):
            yield f"{path}.{field.alias or name}".lstrip("."), value
        elif isinstance(value, list) and value:
            below = f"{path}.{field.alias or name}".lstrip(".")
            yield from ((f"{below}[{i}]", item) for i, item in enumerate(value) if isinstance(item, ApiModel))


def _broken_rules(node: ApiModel, path: str) -> Iterator[Problem]:
    for rule in node.rules:
        if not rule.holds(node):
            yield Problem(f"{path}{rule.field}".lstrip("."), rule.message)
    yield from _duplicates(node, path)
    for below, child in _children(node, path):
        yield from _broken_rules(child, below)


def _duplicates(node: ApiModel, path: str) -> Iterator[Problem]:
    """Lists whose entries must differ, by the marks that the schema carries."""
    for name, alias, keys in _lists_without_duplicates(type(node)):
        seen: list[Any] = []
        for index, item in enumerate(getattr(node, name) or ()):
            identity = [getattr(item, key) for key in keys] if keys else item
            if identity in seen:
                yield Problem(f"{path}.{alias}[{index}]".lstrip("."), "appears more than once")
            seen.append(identity)


@cache
def _lists_without_duplicates(model: type[ApiModel]) -> Sequence[tuple[str, str, Sequence[str]]]:
    """Name and alias of each such field of a model, and what its entries are known by when that is not all of them."""
    found = []
    for name, field in model.model_fields.items():
        marks = field.json_schema_extra
        if not isinstance(marks, dict) or marks.get("x-kubernetes-list-type") not in {"set", "map"}:
            continue
        keys = marks.get("x-kubernetes-list-map-keys")
        found.append((name, field.alias or name, [str(key) for key in keys] if isinstance(keys, list) else ()))
    return found


def _forbidden_changes(new: ApiModel, old: BaseModel, path: str) -> Iterator[Problem]:
    for rule in new.transitions:
        if not rule.holds(new, old):
            yield Problem(f"{path}{rule.field}".lstrip("."), rule.message)
    for name, field in type(new).model_fields.items():
        after, before = getattr(new, name), getattr(old, name)
        if isinstance(after, ApiModel) and isinstance(before, type(after)):
            yield from _forbidden_changes(after, before, f"{path}.{field.alias or name}".lstrip("."))
