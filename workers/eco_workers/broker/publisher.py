"""Publishing with confirms: persistent, mandatory, bounded in flight, in order for each task.

A message is done when the broker has confirmed it. One that reaches no queue comes back (`mandatory`) and is the
message's own fault; everything else is the broker's, and the message is sent again, under the same id.
"""

import asyncio
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import aiormq
from aiormq.channel import Channel
from aiormq.connection import Connection
from pamqp import commands as spec

from eco_workers.broker import channel as wire
from eco_workers.broker.topology import TOPOLOGY, Topology, declare
from eco_workers.errors import BrokerUnavailableError
from eco_workers.headers import TASK_NAME

CONFIRM_TIMEOUT_S = 30.0
IN_FLIGHT_MESSAGES_MAX = 128


class Message(Protocol):
    """What the publisher wants to know of a message."""

    @property
    def message_id(self) -> str:
        """The same however often it is sent."""

    @property
    def task_id(self) -> str:
        """Messages of one task are sent in the order given."""

    @property
    def exchange(self) -> str:
        """The empty string is the default exchange."""

    @property
    def routing_key(self) -> str:
        """Queue name, on the default exchange."""

    @property
    def body(self) -> bytes:
        """JSON."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Application headers."""


class Result(enum.Enum):
    """What became of one message."""

    CONFIRMED = "confirmed"
    UNROUTABLE = "unroutable"
    """It reaches no queue, or the broker refuses this very message."""
    UNKNOWN = "unknown"
    """No answer, or a refusal that has nothing to do with the message (a full queue): send it again later."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one message, and why."""

    result: Result
    error: str = ""
    refused: bool = False
    """The broker takes no messages for this destination for now: one behind it that goes elsewhere need not wait."""


class Publisher:
    """One connection and one channel to publish on, opened when first needed and again when lost."""

    def __init__(self, url: str, *, name: str) -> None:
        self._url = url
        self._name = name
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._in_flight = asyncio.Semaphore(IN_FLIGHT_MESSAGES_MAX)
        self._opening = asyncio.Lock()

    @property
    def is_connected(self) -> bool:
        """Whether a channel is open."""
        return self._channel is not None and not self._channel.is_closed

    async def is_blocked(self) -> bool:
        """Whether the broker takes no messages for now."""
        return self._connection is not None and await wire.is_blocked(self._connection)

    async def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        """Send all; one receipt each, in order. Raises BrokerUnavailableError when there is no connection to be had.

        A message whose predecessor of the same task was not confirmed is not sent.
        """
        receipts = [Receipt(Result.UNKNOWN)] * len(messages)
        chains: dict[str, list[int]] = {}
        for index, message in enumerate(messages):
            chains.setdefault(message.task_id, []).append(index)
        await self._open()

        async def send_chain(indexes: list[int]) -> None:
            for index in indexes:
                receipts[index] = receipt = await self._send(messages[index])
                if receipt.result is not Result.CONFIRMED:
                    return

        async with asyncio.TaskGroup() as group:
            for indexes in chains.values():
                group.create_task(send_chain(indexes))
        if len(messages) > 1 and any(r.result is Result.UNKNOWN for r in receipts) and not self.is_connected:
            # One message may have cost the channel and with it the fate of all others: find out which.
            await self._one_by_one(messages, receipts)
        return receipts

    async def open(self) -> None:
        """Connect now instead of at the first message; raises BrokerUnavailableError."""
        await self._open()

    async def declare(self, topology: Topology = TOPOLOGY) -> None:
        """Make the queues and exchanges that are missing, for whoever publishes where no consumer has done so.

        Raises BrokerUnavailableError, or TopologyError when one is there with other arguments.
        """
        channel = await self._open()
        try:
            async with asyncio.timeout(wire.CHANNEL_TIMEOUT_S):
                await declare(channel, topology)
        except wire.CONNECTION_ERRORS as error:
            raise BrokerUnavailableError(f"declare the queues: {wire.describe(error)}") from error

    async def close(self) -> None:
        """Close channel and connection."""
        connection, self._connection, self._channel = self._connection, None, None
        await wire.close(connection)

    async def _open(self) -> Channel:
        async with self._opening:
            if self._channel is not None and not self._channel.is_closed:
                return self._channel
            if self._connection is None or self._connection.is_closed:
                self._connection = await wire.connect(self._url, f"{self._name} publish")
            try:
                async with asyncio.timeout(wire.CHANNEL_TIMEOUT_S):
                    self._channel = await wire.open_publishing_channel(self._connection)
            except wire.CONNECTION_ERRORS as error:
                await self.close()
                raise BrokerUnavailableError(f"open a channel to publish: {wire.describe(error)}") from error
            return self._channel

    async def _send(self, message: Message) -> Receipt:
        channel = self._channel
        if channel is None or channel.is_closed:
            return Receipt(Result.UNKNOWN, "the channel is closed")
        async with self._in_flight:
            try:
                confirmation = await channel.basic_publish(
                    message.body,
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    properties=properties_of(message),
                    mandatory=True,
                    timeout=CONFIRM_TIMEOUT_S,
                    wait=False,
                )
            except aiormq.exceptions.PublishError as error:
                return Receipt(Result.UNROUTABLE, f"returned: {error}"[:300])
            except aiormq.exceptions.DeliveryError:
                return Receipt(Result.UNKNOWN, "the broker refused it (nack)", refused=True)
            except (aiormq.exceptions.ChannelNotFoundEntity, aiormq.exceptions.ChannelPreconditionFailed) as error:
                return Receipt(Result.UNKNOWN, f"channel closed: {wire.describe(error)}"[:300])
            except wire.CONNECTION_ERRORS as error:
                return Receipt(Result.UNKNOWN, wire.describe(error)[:300])
            except ValueError as error:
                # A routing key or a header that AMQP cannot carry.
                return Receipt(Result.UNROUTABLE, wire.describe(error)[:300])
        if isinstance(confirmation, spec.Basic.Ack):
            return Receipt(Result.CONFIRMED)
        return Receipt(Result.UNKNOWN, f"unexpected answer {confirmation!r}"[:300])

    async def _one_by_one(self, messages: Sequence[Message], receipts: list[Receipt]) -> None:
        held: set[str] = set()
        for index, message in enumerate(messages):
            if receipts[index].result is Result.CONFIRMED or message.task_id in held:
                continue
            await self._open()
            receipts[index] = await self._send(message)
            if receipts[index].result is Result.UNKNOWN and "channel closed" in receipts[index].error:
                receipts[index] = Receipt(Result.UNROUTABLE, receipts[index].error)
            if receipts[index].result is not Result.CONFIRMED:
                held.add(message.task_id)


def properties_of(message: Message) -> spec.Basic.Properties:
    """AMQP properties: persistent, JSON, the task's name as the type so that a person sees it in the management UI."""
    return spec.Basic.Properties(
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
        message_id=message.message_id,
        message_type=message.headers.get(TASK_NAME, ""),
        headers=dict(message.headers),
    )
