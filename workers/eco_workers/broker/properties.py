"""The properties in a content header, read in one pass over the bytes.

    header     := class (2) · weight (2) · body size (8) · flags (2) · the properties whose flag is set, in their order
    table      := size (4) · (short string · type (1) · value)…
    array      := size (4) · (type (1) · value)…

The client's decoder goes through three functions and a copy of the rest for each field of a table; a Celery message has
twenty of them, and reading those was a third of what the loop did for it. What is common is read here. Whatever is not,
or does not fit its frame, is left to the client's decoder, whose word on it counts (AMQP 0-9-1, sections 4.2.5 and
4.2.6; RabbitMQ's errata name the types).
"""

import struct
from typing import Any, Final

from pamqp import commands as spec
from pamqp.header import ContentHeader

FLAGS_AT: Final = 12
UNCOMMON: Final = 0x0040 | 0x0007
"""Flags of the timestamp, of the cluster's id and of further flags."""
TEXTS: Final = ((0x8000, 0), (0x4000, 1))
"""The flag of each and its place among the properties: content type and encoding, before the headers."""
HEADERS: Final = (0x2000, 2)
OCTETS: Final = ((0x1000, 3), (0x0800, 4))
"""Delivery mode and priority."""
LATER_TEXTS: Final = (*((0x0400 >> n, 5 + n) for n in range(4)), *((0x0020 >> n, 10 + n) for n in range(3)))
"""From the correlation id to the message id, and from the type to the application's id."""
TEXT, VOID, TRUTH, ARRAY, TABLE = b"SVtAF"
_SIZE: Final = struct.Struct(">I")
_NUMBERS: Final = {
    ord(kind): struct.Struct(form) for kind, form in (("b", ">b"), ("s", ">h"), ("I", ">i"), ("l", ">q"))
}


def properties(header: bytes) -> spec.Basic.Properties:
    """The properties in a content header; none where they cannot be read.

    A producer's nonsense (text that is no UTF-8, a table that ends too early) must not cost the connection: the message
    would come again with the next one, for ever. Without id and name it is no valid task, and is kept as such.
    """
    try:
        return spec.Basic.Properties(*_common(header))
    except (ValueError, struct.error, IndexError, RecursionError):
        return _uncommon(header)


def _uncommon(header: bytes) -> spec.Basic.Properties:
    content = ContentHeader()
    try:
        content.unmarshal(header)
    except (ValueError, struct.error, OverflowError, TypeError, IndexError, KeyError, RecursionError):
        return spec.Basic.Properties()
    return content.properties


def _common(header: bytes) -> list[Any]:
    """Values in the order of the flags. Raises what `properties` catches for all that is not as it usually is."""
    flags = header[FLAGS_AT] << 8 | header[FLAGS_AT + 1]
    if flags & UNCOMMON:
        raise ValueError(f"flags {flags:#x} are not common")
    found: list[Any] = [None] * 13
    position = FLAGS_AT + 2
    for flag, place in TEXTS:
        if flags & flag:
            found[place], position = _short(header, position)
    if flags & HEADERS[0]:
        end = position + 4 + _SIZE.unpack_from(header, position)[0]
        found[HEADERS[1]] = _table(header, position + 4, end)
        position = end
    for flag, place in OCTETS:
        if flags & flag:
            found[place] = header[position]
            position += 1
    for flag, place in LATER_TEXTS:
        if flags & flag:
            found[place], position = _short(header, position)
    if position > len(header):
        raise ValueError("the header ends too early")
    return found


def _short(data: bytes, position: int) -> tuple[str, int]:
    end = position + 1 + data[position]
    return data[position + 1 : end].decode(), end


def _table(data: bytes, position: int, end: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while position < end:
        name_end = position + 1 + data[position]
        name = data[position + 1 : name_end].decode()
        kind = data[name_end]
        # The two that nearly all of a Celery message's are, without a call for each.
        if kind == TEXT:
            position = name_end + 5 + _SIZE.unpack_from(data, name_end + 1)[0]
            found[name] = data[name_end + 5 : position].decode()
        elif kind == VOID:
            found[name], position = None, name_end + 1
        else:
            found[name], position = _value(data, name_end)
    if position != end or end > len(data):
        raise ValueError("a table ends in the middle of a value")
    return found


def _array(data: bytes, position: int, end: int) -> list[Any]:
    found = []
    while position < end:
        value, position = _value(data, position)
        found.append(value)
    if position != end or end > len(data):
        raise ValueError("an array ends in the middle of a value")
    return found


def _value(data: bytes, position: int) -> tuple[Any, int]:
    """A value of a table or array, from its type on, and where it ends."""
    kind = data[position]
    position += 1
    if kind == TEXT:
        end = position + 4 + _SIZE.unpack_from(data, position)[0]
        return data[position + 4 : end].decode(), end
    if kind == VOID:
        return None, position
    number = _NUMBERS.get(kind)
    if number is not None:
        return number.unpack_from(data, position)[0], position + number.size
    if kind == TRUTH:
        return data[position] != 0, position + 1
    if kind in {ARRAY, TABLE}:
        end = position + 4 + _SIZE.unpack_from(data, position)[0]
        read = _array if kind == ARRAY else _table
        return read(data, position + 4, end), end
    raise ValueError(f"a value of type {kind:#x} is not common")
