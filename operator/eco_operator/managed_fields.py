"""What the managed fields of an object say is ours, and how what is by our create becomes so by our applies.

The API server keeps one entry for each manager and kind of write. What a create sets belongs to an entry of kind
Update, from which no apply ever takes a field away; so it is made one of kind Apply before the first apply.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from eco_crds import contract

APPLIED: Final = "Apply"
CREATED: Final = "Update"
"""Kinds of write. Of ours, only a create is of the second."""

OWNER: Final = "owner"
"""Stands for the uid of an object's owner in the set of its fields."""
_ORDERED: Final = msgspec.json.Encoder(order="sorted")

Entry = Mapping[str, Any]


def is_ours(entry: Entry, operation: str) -> bool:
    """Whether an entry is that of our applies or, by the operation, of our create."""
    found = (entry.get("manager"), entry.get("operation"), entry.get("subresource", ""))
    return found == (contract.FIELD_MANAGER, operation, "")


def ours_by(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Kinds of write by which fields of an object are ours."""
    entries = metadata.get("managedFields") or ()
    return tuple(it for it in (APPLIED, CREATED) if any(is_ours(entry, it) for entry in entries))


def owned_fields(metadata: Mapping[str, Any]) -> str:
    """The set of fields that are ours by applies, or by the create while there is none, as JSON; empty without one.

    The uid of the owner reads `OWNER` in it.
    """
    entries = metadata.get("managedFields") or ()
    ours = [entry for operation in (APPLIED, CREATED) for entry in entries if is_ours(entry, operation)]
    if not ours:
        return ""
    text = _ORDERED.encode(ours[0].get("fieldsV1") or {}).decode()
    for owner in (metadata.get("ownerReferences") or ())[:1]:
        text = text.replace(_escaped(owner["uid"]), _escaped(OWNER))
    return sys.intern(text)


def _escaped(value: str) -> str:
    """A text as it stands in a JSON value that stands in a JSON text."""
    return msgspec.json.encode(msgspec.json.encode(value).decode()).decode()[1:-1]


def to_applied(uid: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A JSON patch (RFC 6902) that makes what is ours by a create ours by an apply; empty when nothing is.

    It holds for the object of that uid and as long as our entries are as they were read; others may change meanwhile.
    An object may have both, made by this release and applied by one before: then the fields of both are ours.
    """
    ours = [(at, it) for at, it in enumerate(entries) if is_ours(it, APPLIED) or is_ours(it, CREATED)]
    if not any(is_ours(it, CREATED) for _, it in ours):
        return []
    fields: Mapping[str, Any] = {}
    for _, it in ours:
        fields = _union(fields, it.get("fieldsV1") or {})
    (first, entry), *rest = ours
    return [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        *({"op": "test", "path": _path(at), "value": it} for at, it in ours),
        {"op": "replace", "path": _path(first), "value": {**entry, "operation": APPLIED, "fieldsV1": fields}},
        *({"op": "remove", "path": _path(at)} for at, _ in reversed(rest)),
    ]


def _path(at: int) -> str:
    return f"/metadata/managedFields/{at}"


def _union(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two sets of fields as one."""
    both = {name: _union(one[name], entry) for name, entry in other.items() if name in one}
    return {**one, **other, **both}
