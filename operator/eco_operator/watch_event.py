"""An event of a watch, read only as far as it takes to tell whether it is news.

Most events are of what the operator itself has just written, and it knows the answer to that already.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from eco_operator import errors


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """Which version of which object; a bookmark has a version only."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815  # as the API server writes it


class _Object(msgspec.Struct, frozen=True, gc=False):
    metadata: Metadata = Metadata()


class _Head(msgspec.Struct, frozen=True, gc=False):
    type: str
    object: _Object


_HEADS: Final = msgspec.json.Decoder(_Head)
_EVENTS: Final = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event; its object is read when it is asked for."""

    type: str
    metadata: Metadata
    _path: str
    _line: bytes

    def body(self) -> dict[str, Any]:
        """The object, whole; raises `TransientError` when it is none."""
        found: dict[str, Any] = _read(_EVENTS, self._path, self._line)["object"]
        return found


def read(path: str, line: bytes) -> WatchEvent:
    """The event in one line of the watch of that path; raises `TransientError` when it is none."""
    head = _read(_HEADS, path, line)
    if head.type != "ERROR" and not head.object.metadata.resourceVersion:
        raise errors.TransientError("watch", path, message="an event of an object without a version")
    return WatchEvent(head.type, head.object.metadata, path, line)


def _read(decoder: "msgspec.json.Decoder[Any]", path: str, line: bytes) -> Any:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError:
        raise errors.TransientError("watch", path, message="an event that is no JSON") from None
