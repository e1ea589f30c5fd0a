"""Deliveries cut out of the byte stream of an AMQP connection; all other frames go on to the client untouched.

A delivery is three frames or more: the method `basic.deliver`, a content header with the properties, and the body in as
many frames as it takes. The client would read each of them with three awaits, build an object, put it on a queue and
wake a task: as much work as everything else that a no-op task costs here. This reads a chunk at a time and parses what
is in it at once.

    frame   := type (1 byte) · channel (2) · size (4) · payload (size) · 0xCE
    deliver := 0x003C003C · consumer tag (short string) · delivery tag (8) · redelivered (1) · exchange · routing key
    header  := class (2) · weight (2) · body size (8) · property flags · properties

A short string is a length byte and so many bytes of UTF-8. Numbers are big-endian (AMQP 0-9-1, section 4.2). Frames of
other channels, heartbeats for one, may stand between those of a delivery.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from pamqp import commands as spec

from eco_workers.broker.properties import properties

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
FRAME_END: Final = 0xCE
FRAME_OVERHEAD_BYTES: Final = 8
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
DELIVER: Final = 0x003C_003C
PROTOCOL_HEADER: Final = b"AMQP"
_FRAME: Final = struct.Struct(">BHI")
_METHOD: Final = struct.Struct(">I")
_CONTENT: Final = struct.Struct(">HHQ")
_TAG: Final = struct.Struct(">QB")

READ_BYTES: Final = 256 * 1024
SIGN_OF_LIFE_S: Final = 1.0
Emit = Callable[[int, str, str, bool, spec.Basic.Properties, bytes, int], None]
"""Takes delivery tag, consumer tag, routing key, redelivered, properties, body, and the body's size as announced."""


class Cutter:
    """Parses one connection's stream. Only deliveries of `channel` are taken out; 0 takes none.

    Of a body, frames are kept until `body_bytes_max` is reached; the rest is dropped as it comes.
    """

    def __init__(self, emit: Emit, body_bytes_max: int) -> None:
        self.channel = 0
        self._emit = emit
        self._body_bytes_max = body_bytes_max
        self._pending = b""
        self._raw = False
        self._begun = False
        self._method: bytes | None = None
        self._header = b""
        self._body: list[bytes] = []
        self._kept_bytes = 0
        self._left_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """Parse what came; returns the frames that are none of ours, whole."""
        if self._raw:
            return chunk
        data = self._pending + chunk if self._pending else chunk
        if not self._begun:
            if len(data) < len(PROTOCOL_HEADER):
                self._pending = data
                return b""
            self._begun = True
            # The broker refuses our protocol version: no frames follow.
            self._raw = data.startswith(PROTOCOL_HEADER)
            if self._raw:
                return data
        passed: list[bytes] = []
        position, length = 0, len(data)
        while length - position >= FRAME_OVERHEAD_BYTES:
            kind, channel, size = _FRAME.unpack_from(data, position)
            end = position + 7 + size
            if end >= length:
                break
            if data[end] != FRAME_END:
                # Not ours to judge: the client fails on it and closes the connection.
                self._raw = True
                break
            if channel != self.channel or not channel or not self._take(kind, data, position + 7, end):
                passed.append(data[position : end + 1])
            position = end + 1
        if self._raw:
            passed.append(data[position:])
            self._pending = b""
        else:
            self._pending = data[position:]
        return b"".join(passed)

    def _take(self, kind: int, data: bytes, start: int, end: int) -> bool:
        """Take a frame of our channel if it belongs to a delivery."""
        if kind == METHOD:
            if end - start < 4 or _METHOD.unpack_from(data, start)[0] != DELIVER:
                return False
            self._method = data[start + 4 : end]
            return True
        if self._method is None:
            return False
        if kind == HEADER:
            self._header = data[start:end]
            self._kept_bytes = 0
            self._left_bytes = _CONTENT.unpack_from(data, start)[2]
        elif kind == BODY:
            if self._kept_bytes < self._body_bytes_max:
                self._body.append(data[start:end])
                self._kept_bytes += end - start
            self._left_bytes -= end - start
        else:
            return False
        if self._left_bytes <= 0:
            self._finish(self._method)
        return True

    def _finish(self, method: bytes) -> None:
        body, self._body, self._method = self._body, [], None
        consumer_tag, position = _short(method, 0)
        tag, redelivered = _TAG.unpack_from(method, position)
        _, position = _short(method, position + _TAG.size)
        routing_key, _ = _short(method, position)
        self._emit(
            tag,
            consumer_tag,
            routing_key,
            bool(redelivered & 1),
            properties(self._header),
            body[0] if len(body) == 1 else b"".join(body),
            _CONTENT.unpack_from(self._header)[2],
        )


def _short(data: bytes, position: int) -> tuple[str, int]:
    end = position + 1 + data[position]
    return data[position + 1 : end].decode("utf-8", "replace"), end


class FilteredReader:
    """Stands where the client expects its stream reader, and hands it only what the cutter passes on."""

    def __init__(self, source: asyncio.StreamReader, cutter: Cutter, room: Callable[[], Awaitable[object]]) -> None:
        self._source = source
        self._cutter = cutter
        self._room = room
        self._passed = bytearray()
        self._passed_at = 0.0

    def at_eof(self) -> bool:
        """Whether nothing more will come."""
        return not self._passed and self._source.at_eof()

    async def readexactly(self, count: int) -> bytes:
        """The next bytes that are the client's. Raises IncompleteReadError when the connection ends before."""
        passed = self._passed
        while len(passed) < count:
            await self._fill(count)
        taken = bytes(passed[:count])
        del passed[:count]
        return taken

    async def read(self, count: int = -1) -> bytes:
        """What is left; the client asks for it only to show it in an error."""
        taken = bytes(self._passed)
        self._passed.clear()
        return taken + await self._source.read(count)

    async def _fill(self, wanted: int) -> None:
        # Too much waits to be worked on: nobody reads, and TCP stops the broker.
        await self._room()
        chunk = await self._source.read(READ_BYTES)
        if not chunk:
            raise asyncio.IncompleteReadError(bytes(self._passed), wanted)
        self._passed += self._cutter.feed(chunk)
        now = asyncio.get_running_loop().time()
        if self._passed:
            self._passed_at = now
        elif now - self._passed_at >= SIGN_OF_LIFE_S:
            # The broker sends heartbeats only when it has nothing else to send, and the client takes a connection
            # without frames for dead: deliveries, which it does not see, are as good a sign of life.
            self._passed += HEARTBEAT
            self._passed_at = now
