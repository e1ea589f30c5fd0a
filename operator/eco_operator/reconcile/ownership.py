"""Whether an object still is as we applied it, told from its managed fields alone.

The API server keeps, for each field manager, the set of fields it owns (`fieldsV1`). When somebody changes a field that
we set, by the create or by an apply, the field leaves our set; the values need not be compared, nor the defaults that
the server filled in. So an object is as wanted when it carries the hash of what we want and our set still has every
field of it. Both survive a restart of the operator, so a restart applies nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from eco_crds import contract
from eco_operator.cache import Child
from eco_operator.managed_fields import OWNER

KNOWN_MAX: Final = 20_000
SETS_MAX: Final = 512
"""So many sets are kept as read: those of all kinds in a few shapes each."""
KEYS_MAX: Final = 4096
_ORDERED: Final = msgspec.json.Encoder(order="sorted")
_IDENTIFYING: Final = frozenset({"apiVersion", "kind"})
_IDENTIFYING_METADATA: Final = frozenset({"name", "namespace", "uid", "resourceVersion"})


def drift(desired: Mapping[str, Any], child: Child) -> str:
    """Why the object must be applied again, or empty when it is as wanted."""
    wanted = desired["metadata"]["annotations"][contract.ANNOTATION_HASH]
    if child.desired_hash != wanted:
        return "the wanted state changed"
    if not child.owned_fields:
        return "none of its fields is ours any more"
    if len(child.ours_by) > 1:
        # Made by this release and applied by an earlier one: what that took back would stay, for it is still ours.
        return "its fields are ours twice"
    seen = (child.desired_hash, child.owner, child.owned_fields)
    if (lost := _known.get(seen)) is None:
        lost = next(lost_fields(_without_owner(desired, child), _fields(child.owned_fields)), "")
        _known[seen] = lost
        if len(_known) > KNOWN_MAX:
            del _known[next(iter(_known))]
    if lost and child.is_as_created:
        # Or a create set it to nothing, as the empty value of a variable: that it does not own.
        return f"{lost} is not ours"
    return f"somebody else changed {lost}" if lost else ""


_known: Final[dict[tuple[str, str, str], str]] = {}
"""What has been compared before, by what decides how that ends: a look at an object that nobody touched costs nothing.

A hash is of everything wanted but for the values of a Secret, and a set has names of fields only.
"""


def _without_owner(desired: Mapping[str, Any], child: Child) -> Mapping[str, Any]:
    """The object with the name that `project` gives its owner, so that one set serves a whole fleet."""
    metadata = desired["metadata"]
    owners = [
        {**owner, "uid": OWNER} if owner["uid"] == child.owner else owner
        for owner in metadata.get("ownerReferences") or ()
    ]
    return {**desired, "metadata": {**metadata, "ownerReferences": owners}} if owners else desired


@lru_cache(maxsize=SETS_MAX)
def _fields(owned_fields: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = msgspec.json.decode(owned_fields)
    return found


@lru_cache(maxsize=KEYS_MAX)
def _keys(entry: str) -> Mapping[str, Any]:
    """What an entry for an item of a list says that the item is known by, as in `k:{"name":"worker"}`."""
    found: Mapping[str, Any] = msgspec.json.decode(entry[2:])
    return found


def lost_fields(desired: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    """Paths of the desired object that a `fieldsV1` set does not have."""
    for name, value in desired.items():
        if name in _IDENTIFYING:
            continue
        if name == "metadata":
            rest = {key: entry for key, entry in value.items() if key not in _IDENTIFYING_METADATA}
            yield from _lost_in_map(rest, fields.get("f:metadata", {}), "metadata")
        else:
            yield from _lost_in_map({name: value}, fields, "")


def _lost_in_map(desired: Mapping[str, Any], fields: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, value in desired.items():
        here = f"{path}.{name}" if path else name
        if value is None:
            continue
        owned = fields.get(f"f:{name}")
        if owned is None:
            yield here
        elif owned:
            # An empty set below a field says that it is owned as one piece: a scalar, or an atomic list or map.
            yield from _lost_in_value(value, owned, here)


def _lost_in_value(value: object, owned: Mapping[str, Any], path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _lost_in_map(value, owned, path)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        names = next((tuple(_keys(entry)) for entry in owned if entry.startswith("k:")), ())
        for item in value:
            yield from _lost_item(item, owned, names, path)


def _lost_item(item: object, owned: Mapping[str, Any], names: Sequence[str], path: str) -> Iterator[str]:
    if not isinstance(item, Mapping):
        if f"v:{msgspec.json.encode(item).decode()}" not in owned:
            yield f"{path}[{item}]"
    elif (entry := _entry_of(item, owned, names)) is None:
        yield f"{path}[{item.get('name', '?')}]"
    elif owned[entry]:
        yield from _lost_in_map(item, owned[entry], f"{path}{entry[2:]}")


def _entry_of(item: Mapping[str, Any], owned: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The entry for an item in the set of a list whose items are known by `names`; None when it has none."""
    usual = "k:" + _ORDERED.encode({name: item[name] for name in names if name in item}).decode()
    if usual in owned:
        return usual
    # A key that the item leaves to its default (the protocol of a port) is in the set all the same.
    entries = (entry for entry in owned if entry.startswith("k:"))
    return next((it for it in entries if all(item.get(name, at) == at for name, at in _keys(it).items())), None)
