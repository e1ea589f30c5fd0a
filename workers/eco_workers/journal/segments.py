"""Segments: what group commits changed, as one object that can be kept elsewhere and applied in order.

A segment is four lines, the last of them compressed bytes:

    ECOSEG1
    {"uuid", "epoch", "sequence", "kind", "part", "parts", "ids", "previous", "bytes"}
    sha256 of head and body
    body

The body of `changes` is a SQLite changeset: old and new values of every row that a group commit touched, whatever the
table; of several in a row, what they came to.
`snapshot` parts, in order, are a copy of the whole file; each epoch begins with one. `seal` has no body: nothing may
follow it in its epoch; an epoch that begins with one was taken by a restore.
`previous` is the digest of the segment before, so a chain cannot be spliced, and a missing link shows.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import apsw

from eco_workers.errors import JournalCorruptError
from eco_workers.journal.model import Identity

MAGIC: Final = b"ECOSEG1\n"
IDS_MAX: Final = 1_000
"""Task ids named in a segment's head, for people who look for one; the body holds all."""


class Kind(StrEnum):
    """What a segment is."""

    SNAPSHOT = "snapshot"
    CHANGES = "changes"
    SEAL = "seal"


@dataclass(frozen=True, slots=True)
class Segment:
    """One link of an epoch's chain."""

    journal_uuid: str
    epoch: int
    sequence: int
    """From 1 in each epoch, without a gap."""
    kind: Kind
    body: bytes = b""
    part: int = 1
    parts: int = 1
    ids: tuple[str, ...] = ()
    previous: str = ""


def encode(segment: Segment) -> bytes:
    """A segment as bytes."""
    body = zlib.compress(segment.body, 1)
    head = {
        "uuid": segment.journal_uuid,
        "epoch": segment.epoch,
        "sequence": segment.sequence,
        "kind": segment.kind.value,
        "part": segment.part,
        "parts": segment.parts,
        "ids": segment.ids,
        "previous": segment.previous,
        "bytes": len(segment.body),
    }
    # The digest covers the head too: a segment under another number or epoch is another segment.
    line = json.dumps(head, separators=(",", ":")).encode()
    return MAGIC + line + b"\n" + hashlib.sha256(line + body).hexdigest().encode() + b"\n" + body


def decode(data: bytes) -> Segment:
    """A segment from its bytes; raises JournalCorruptError when they are not what was written."""
    try:
        magic, rest = data[: len(MAGIC)], data[len(MAGIC) :]
        line, digest, body = rest.split(b"\n", 2)
        if magic != MAGIC or hashlib.sha256(line + body).hexdigest().encode() != digest:
            raise JournalCorruptError("segment: its digest does not fit its bytes")
        head = json.loads(line)
        return Segment(
            head["uuid"],
            head["epoch"],
            head["sequence"],
            Kind(head["kind"]),
            zlib.decompress(body),
            head["part"],
            head["parts"],
            tuple(head["ids"]),
            head["previous"],
        )
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise JournalCorruptError(f"segment: not readable: {error}") from error


def digest(data: bytes) -> str:
    """What the next segment names as the one before it."""
    return hashlib.sha256(data).hexdigest()


def joined(changesets: Sequence[bytes]) -> bytes:
    """What several group commits in a row came to, as one changeset."""
    if len(changesets) == 1:
        return changesets[0]
    builder = apsw.ChangesetBuilder()  # type: ignore[no-untyped-call]  # its stub names no return type
    try:
        for changeset in changesets:
            builder.add(changeset)
        return builder.output()
    finally:
        builder.close()


def task_ids(changeset: bytes) -> tuple[str, ...]:
    """Ids of tasks that a changeset adds."""
    found: list[str] = []
    for change in apsw.Changeset.iter(changeset):
        if change.name == "task_wal" and change.op == "INSERT" and change.new is not None:
            found.append(str(change.new[1]))
            if len(found) == IDS_MAX:
                break
    return tuple(found)


def location(prefix: str, identity: Identity) -> str:
    """Where the segments of one shard stand."""
    return f"{prefix.strip('/')}/{identity.namespace}/{identity.worker}/{identity.shard}".lstrip("/")


def key(place: str, epoch: int, sequence: int) -> str:
    """The key of a segment; keys sort as the numbers do."""
    return f"{place}/{epoch:010d}/{sequence:012d}"


def numbers(segment_key: str) -> tuple[int, int]:
    """Epoch and sequence of a key."""
    epoch, sequence = segment_key.rsplit("/", 2)[-2:]
    return int(epoch), int(sequence)
