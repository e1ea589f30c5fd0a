"""A TCP proxy that misbehaves on command: cuts, hangs, delays, refuses, loses what one side says, answers by itself.

It runs in a thread with an event loop of its own, so that a test that blocks does not stop the bytes. A command takes
effect on the connections that are open as well as on new ones.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Any, Final, Self, TypeVar

CHUNK_BYTES: Final = 65536
CALL_TIMEOUT_S: Final = 10.0
HELD_CHUNKS_MAX: Final = 64
T = TypeVar("T")


class Mode(Enum):
    """How the proxy treats bytes."""

    PASS = auto()
    """As a good network does."""
    REFUSE = auto()
    """New connections are closed at once; open ones are left alone."""
    HANG = auto()
    """Nothing moves in either direction, nobody is told: a half-open connection."""
    DEAF = auto()
    """What the client says goes nowhere, what the server says arrives: acks are lost, the connection looks fine."""
    ANSWER = auto()
    """A request that begins with `trigger` gets `answer` and the connection is closed; others pass."""


@dataclass(slots=True)
class Counts:
    """What went through."""

    connections: int = 0
    cut: int = 0
    to_server_bytes: int = 0
    to_client_bytes: int = 0
    answered: int = 0


@dataclass(slots=True, eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter


class Proxy:
    """Listens on a loopback port and passes bytes to another."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self._target_port = target_port
        self._target_host = target_host
        self._mode = Mode.PASS
        self._delay_s = 0.0
        self._trigger = b""
        self._answer = b""
        self._on_client_bytes: Callable[[bytes], bool] | None = None
        self._links: set[_Link] = set()
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.counts = Counts()
        self.port: int = self._call(self._listen())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def set(self, mode: Mode, *, delay_s: float = 0.0, trigger: bytes = b"", answer: bytes = b"") -> None:
        """Treat bytes in another way from now on; `delay_s` holds each chunk for so long, in either direction."""

        async def change() -> None:
            self._mode, self._delay_s = mode, delay_s
            self._trigger, self._answer = trigger, answer
            self._changed.set()
            self._changed = asyncio.Event()

        self._call(change())

    def cut(self) -> int:
        """Reset every open connection; how many there were."""

        async def cut() -> int:
            return self._cut_all()

        return self._call(cut())

    def cut_when(self, matches: Callable[[bytes], bool]) -> None:
        """Reset every connection once, just before the first bytes from a client that match would be passed on."""

        async def arm() -> None:
            self._on_client_bytes = matches

        self._call(arm())

    @property
    def is_armed(self) -> bool:
        """Whether `cut_when` still waits for its moment."""
        return self._on_client_bytes is not None

    def close(self) -> None:
        """End listening, reset what is open, end the thread."""

        async def end() -> None:
            self._listener.close()
            self._cut_all()
            mine = asyncio.current_task()
            others = [task for task in asyncio.all_tasks() if task is not mine]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(CALL_TIMEOUT_S)

    async def _listen(self) -> int:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._listener.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts.connections += 1
        if self._mode is Mode.REFUSE:
            _reset(writer)
            return
        try:
            from_server, to_server = await asyncio.open_connection(self._target_host, self._target_port)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, to_server)
        self._links.add(link)
        try:
            # Either direction ends both, as a broken path does.
            both = [
                asyncio.ensure_future(self._pump(link, reader, to_server, from_client=True)),
                asyncio.ensure_future(self._pump(link, from_server, writer, from_client=False)),
            ]
            done, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
        finally:
            self._links.discard(link)
            for side in (writer, to_server):
                with contextlib.suppress(OSError, RuntimeError):
                    side.close()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            if not chunk:
                return
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            while self._mode is Mode.HANG:
                await self._changed.wait()
            if from_client and not await self._passes(link, chunk):
                continue
            if from_client:
                self.counts.to_server_bytes += len(chunk)
            else:
                self.counts.to_client_bytes += len(chunk)
            writer.write(chunk)
            await writer.drain()

    async def _passes(self, link: _Link, chunk: bytes) -> bool:
        """Whether bytes of a client may go on to the server."""
        if self._on_client_bytes is not None and self._on_client_bytes(chunk):
            self._on_client_bytes = None
            self._cut_all()
            return False
        if self._mode is Mode.DEAF:
            return False
        if self._mode is Mode.ANSWER and chunk.startswith(self._trigger):
            self.counts.answered += 1
            link.client.write(self._answer)
            with contextlib.suppress(OSError):
                await link.client.drain()
            link.client.close()
            return False
        return True

    def _cut_all(self) -> int:
        links, self._links = self._links, set()
        for link in links:
            _reset(link.client)
            _reset(link.server)
        self.counts.cut += len(links)
        return len(links)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, so that neither side takes it for an orderly end."""
    found = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
