"""Looks at a write-ahead log before SQLite replays it, and compares afterwards.

SQLite replays frames up to the first whose checksum does not fit, and calls what follows never written. That is right
for a torn last transaction and wrong for a damaged older one: commits that were acknowledged would vanish without a
word. The two can be told apart. With `synchronous=FULL` each commit is on disk before the next begins, so behind a torn
write there is at most one commit frame of the same log; two or more mean that a durable commit is damaged.

A flip in the last transaction looks exactly like a torn write and cannot be told from one.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">4I")
_FRAME_HEADER_BYTES: Final = 24
_MAGIC: Final = 0x377F0682  # the lowest bit tells the byte order of the checksums
_MASK: Final = 0xFFFFFFFF
_PAGE_SIZE: Final = 4096


@dataclass(frozen=True, slots=True)
class WalSurvey:
    """What stands in a log, by its headers alone."""

    header_fits: bool = True
    commits: tuple[int, ...] = ()
    """Numbers, from 1, of the commit frames that carry this log's salts."""
    near_misses: tuple[int, ...] = ()
    """Commit frames whose salts are one flipped bit away."""

    def lost(self, replayed_frames: int) -> int:
        """Durable commits that a replay of so many frames left out; 0 when what it left out is one torn transaction."""
        behind = self.behind(replayed_frames)
        return behind - 1 if behind >= 2 else 0

    def behind(self, replayed_frames: int) -> int:
        """Commit frames behind what a replay took: 0, or 1 where the power cut the last transaction short."""
        return sum(number > replayed_frames for number in self.commits + self.near_misses)


def survey(path: Path) -> WalSurvey:
    """Read the headers of a log that no connection of this process has open; an absent one has nothing in it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return WalSurvey()
    try:
        return _survey(descriptor)
    finally:
        os.close(descriptor)


def _survey(descriptor: int) -> WalSurvey:
    header = os.pread(descriptor, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return WalSurvey()
    magic, _version, page_size, _sequence, salt1, salt2, sum1, sum2 = _HEADER.unpack(header)
    order = ">" if magic & 1 else "<"
    fits = magic & ~1 == _MAGIC and _checksum(order, header[:24]) == (sum1, sum2)
    if page_size not in {1 << power for power in range(9, 17)}:
        page_size = _PAGE_SIZE
    commits, near_misses = [], []
    number, offset = 1, _HEADER.size
    while len(frame := os.pread(descriptor, _FRAME.size, offset)) == _FRAME.size:
        _page, size_after, frame_salt1, frame_salt2 = _FRAME.unpack(frame)
        if size_after:
            distance = (frame_salt1 ^ salt1).bit_count() + (frame_salt2 ^ salt2).bit_count()
            if distance == 0:
                commits.append(number)
            elif distance == 1:
                near_misses.append(number)
        number += 1
        offset += _FRAME_HEADER_BYTES + page_size
    return WalSurvey(fits, tuple(commits), tuple(near_misses))


def _checksum(order: str, data: bytes) -> tuple[int, int]:
    """The checksum of SQLite's log: two running sums over pairs of 32-bit words."""
    first = second = 0
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        first = (first + words[place] + second) & _MASK
        second = (second + words[place + 1] + first) & _MASK
    return first, second
