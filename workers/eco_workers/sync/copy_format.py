"""Reports as PostgreSQL's binary COPY takes them, straight from the journal's values.

JSON stays the bytes that it is, and times become microseconds without a `datetime` between: with the client's own
encoding of records a row cost three times as much. Form: `COPY`, "Binary Format", in PostgreSQL's manual. A test reads
every column back.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from math import floor
from operator import attrgetter
from typing import Final

from eco_workers.sync.rows import Origin, Row

COLUMNS: Final = (
    "generation",
    "version",
    "attempts",
    "created_at",
    "ended_at",
    "started_at",
    "task_id",
    "name",
    "queue",
    "state",
    "payload",
    "result",
    "error",
    "namespace",
    "worker",
    "shard",
)
"""In the order in which they are written: what every row has in the same size comes first, so one call packs it."""
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = struct.pack(">h", -1)
_LENGTH: Final = struct.Struct(">i")
_NULL: Final = _LENGTH.pack(-1)
_FIXED: Final = struct.Struct(">hiqiqiiiqiq")
_TIME: Final = struct.Struct(">iq")
_JSONB: Final = struct.Struct(">iB")
_JSONB_VERSION: Final = 1
_EPOCH_S: Final = 946_684_800
"""2000-01-01 in unix seconds: where PostgreSQL's time begins."""


def encode(rows: Sequence[Row], origin: Origin) -> bytearray:
    """A batch in the order of its task ids. Raises ValueError, OverflowError or struct.error for a value that fits not.

    All batches have the same order, so two writers of the same ids never wait for each other in a circle.
    """
    sender = _text(origin.namespace) + _text(origin.worker) + _text(origin.shard)
    parts = [_HEADER]
    for row in sorted(rows, key=attrgetter("task_id")):
        parts += _fields(row)
        parts.append(sender)
    parts.append(_TRAILER)
    return bytearray().join(parts)  # the client would take bytes for the name of a file


def _fields(row: Row) -> tuple[bytes, ...]:
    started_at = row.started_at
    return (
        _FIXED.pack(
            len(COLUMNS), 8, row.generation, 8, row.version, 4, row.attempts,
            8, _microseconds(row.created_at), 8, _microseconds(row.ended_at),
        ),
        _NULL if started_at is None else _TIME.pack(8, _microseconds(started_at)),
        _text(row.task_id),
        _word(row.name),
        _word(row.queue),
        _word(row.state),
        _document(row.payload),
        _document(row.result),
        _NULL if row.error is None else _text(row.error),
    )  # fmt: skip


def _text(value: str) -> bytes:
    data = value.encode()
    return _LENGTH.pack(len(data)) + data


@lru_cache(maxsize=256)
def _word(value: str) -> bytes:
    """A text that many rows have in common."""
    return _text(value)


def _document(data: bytes | None) -> bytes:
    return _NULL if data is None else _JSONB.pack(len(data) + 1, _JSONB_VERSION) + data


def _microseconds(seconds: float) -> int:
    """Since PostgreSQL's epoch, rounded as `datetime` rounds."""
    whole = floor(seconds)
    return (whole - _EPOCH_S) * 1_000_000 + round((seconds - whole) * 1e6)
