"""Connections, and deliveries taken off the wire without a task, a queue or an object too many for each.

aiormq starts an asyncio task per delivery and reads each of its frames with three awaits. So the connection that
consumes has a transport of its own (`frames`): deliveries go from the bytes straight to an inbox. It also pushes back:
while the bytes that wait to be worked on exceed their bound, nothing is read, and TCP stops the broker.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiormq
from aiormq.channel import Channel
from aiormq.connection import Connection, TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp import commands as spec
from yarl import URL

from eco_workers.broker.frames import Cutter, FilteredReader
from eco_workers.errors import BrokerUnavailableError

CONNECT_TIMEOUT_S = 10.0
CHANNEL_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
HEARTBEAT_S = 20
DELIVERY_CHANNEL = 1
FRAMES_BUFFERED_MAX = 256
"""Of up to 128 KiB each: what lies between the socket and the inbox is bounded too."""
# What the broker and the way to it may do to us; everything else is a defect and must surface.
CONNECTION_ERRORS = (aiormq.exceptions.AMQPError, OSError, TimeoutError, RuntimeError, EOFError)


@dataclass(slots=True)
class Delivery:
    """One message as it came off the wire."""

    tag: int
    queue: str
    body: bytes
    properties: spec.Basic.Properties
    redelivered: bool
    size_bytes: int = -1
    """What was sent; more than the body holds when that was over its bound."""

    def __post_init__(self) -> None:
        if self.size_bytes < 0:
            self.size_bytes = len(self.body)

    @property
    def headers(self) -> dict[str, Any]:
        """Application headers; empty when there are none."""
        return self.properties.headers or {}


class Inbox:
    """Deliveries that wait to be worked on, bounded in bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._deliveries: list[Delivery] = []
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._deliveries)

    def add(self, delivery: Delivery) -> None:
        """Add one. Whoever reads from the wire waits for `room` before reading on."""
        self._deliveries.append(delivery)
        self._arrived.set()
        self._bytes += len(delivery.body)
        if self._bytes > self._bytes_max:
            self._room.clear()

    async def room(self) -> None:
        """Return while the inbox is within its bound."""
        if not self._room.is_set():
            await self._room.wait()

    async def take(self) -> list[Delivery]:
        """All that waits, at least one."""
        await self._arrived.wait()
        taken = self._deliveries
        self._deliveries = []
        self._bytes = 0
        self._arrived.clear()
        self._room.set()
        return taken


class DeliveryTransport(TransportFactory):
    """Makes the transport of a connection that consumes: deliveries of channel 1 go to an inbox.

    A body over its bound is no task, and is not kept whole.
    """

    def __init__(self, inbox: Inbox, body_bytes_max: int) -> None:
        self.queues: dict[str, str] = {}
        """Queue of each consumer tag."""
        self.cutter = Cutter(self._emit, body_bytes_max)
        self._inbox = inbox

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect as aiormq would, and put the cutter before its reader."""
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **options)
        filtered: Any = FilteredReader(reader, self.cutter, self._inbox.room)
        return filtered, writer

    def _emit(  # what a delivery is made of
        self,
        tag: int,
        consumer_tag: str,
        routing_key: str,
        redelivered: bool,
        properties: spec.Basic.Properties,
        body: bytes,
        size_bytes: int,
    ) -> None:
        queue = self.queues.get(consumer_tag, routing_key)
        self._inbox.add(Delivery(tag, queue, body, properties, redelivered, size_bytes))


class DeliveryChannel(Channel):
    """The channel on which deliveries are acked; what it delivers goes past it."""

    def __init__(self, connection: Connection, transport: DeliveryTransport) -> None:
        super().__init__(connection, DELIVERY_CHANNEL, publisher_confirms=False, frame_buffer=FRAMES_BUFFERED_MAX)
        self.queues = transport.queues
        """Queue of each consumer tag."""


async def connect(url: str, name: str, transport: DeliveryTransport | None = None) -> Connection:
    """Open a connection that the broker lists under `name`; raises BrokerUnavailableError."""
    target = URL(url)
    # A person's own value in the URL wins.
    target = target.with_query({"name": name, "heartbeat": str(HEARTBEAT_S)} | dict(target.query))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = Connection(target, transport_factory=transport)
            await connection.connect()
    except CONNECTION_ERRORS as error:
        raise BrokerUnavailableError(
            f"connect to the broker at {target.host}:{target.port}: {describe(error)}"
        ) from error
    return connection


async def open_delivery_channel(connection: Connection, transport: DeliveryTransport) -> DeliveryChannel:
    """Open the channel on which deliveries arrive; the connection is ours alone, so its number is free."""
    channel = DeliveryChannel(connection, transport)
    connection.channels[DELIVERY_CHANNEL] = channel
    transport.cutter.channel = DELIVERY_CHANNEL
    await channel.open(timeout=CHANNEL_TIMEOUT_S)
    return channel


async def open_publishing_channel(connection: Connection) -> Channel:
    """Open a channel with confirms that raises for a message which reaches no queue."""
    channel = await connection.channel(publisher_confirms=True, timeout=CHANNEL_TIMEOUT_S, on_return_raises=True)
    if not isinstance(channel, Channel):
        raise TypeError(f"want a channel of aiormq, got {channel!r}")
    return channel


async def close(connection: Connection | None) -> None:
    """Close and swallow what goes wrong with it: there is nobody left to tell."""
    if connection is None:
        return
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close()
    except CONNECTION_ERRORS:
        return


async def is_blocked(connection: Connection) -> bool:
    """Whether the broker has said that it takes no more messages for now (memory or disk alarm)."""
    try:
        async with asyncio.timeout(0.01):
            await connection.ready()
    except TimeoutError:
        return True
    return False


def on_closed(resource: Connection | Channel, callback: Callable[[], None]) -> None:
    """Call back once when a connection or channel is gone, for whatever reason."""
    resource.closing.add_done_callback(lambda _: callback())


def describe(error: BaseException) -> str:
    """One line about an error that may have an empty text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
