"""The dead-letter queue, looked through once from its head. No letter is ever lost by looking.

Letters are fetched un-acked, and those that stay are given back together at the end: nothing comes round a second
time, their order stays, and a look that is killed gives back all it held. A letter leaves the queue by its ack alone,
which is sent behind the confirm of whatever takes its place.

A quorum queue counts how often a message was given back, in whatever way: RabbitMQ 4 drops it after 20 times unless a
policy says otherwise (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling), and a dead-letter queue has
nowhere to pass it on to. So a letter that has come back a few times is written anew, which begins its count again, and
only then acked. Killed between the two, the queue holds it twice: better than not at all.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiormq
from aiormq.channel import Channel
from aiormq.connection import Connection
from pamqp import commands as spec

from eco_workers import logs
from eco_workers.broker import channel as wire
from eco_workers.broker.topology import DEAD_LETTER_QUEUE
from eco_workers.errors import BrokerUnavailableError, DeadLetterError

log = logs.get(__name__)
RENEW_AFTER_RETURNS: Final = 5
"""Well below 20, so that many looks may die before they come to write a letter anew."""
ANSWER_TIMEOUT_S: Final = 30.0
COUNTS: Final = ("x-delivery-count", "x-acquired-count")
"""Headers that the queue itself puts on a message."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One message of the dead-letter queue, held until it is removed or the look ends."""

    tag: int
    body: bytes
    properties: spec.Basic.Properties

    @property
    def headers(self) -> dict[str, Any]:
        """Application headers, without those of the queue."""
        return {key: value for key, value in (self.properties.headers or {}).items() if key not in COUNTS}

    @property
    def returns(self) -> int:
        """How often it was given back so far."""
        count = (self.properties.headers or {}).get(COUNTS[0], 0)
        return count if isinstance(count, int) else 0


class DeadLetters:
    """One look through the queue; a context manager that gives back what it still holds."""

    def __init__(self, url: str, *, name: str = "eco-worker dlq", queue: str = DEAD_LETTER_QUEUE) -> None:
        self._url = url
        self._name = name
        self._queue = queue
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._publishing: Channel | None = None
        self._last_tag = 0
        self._renewing = False
        self.waiting = 0
        """Letters that were on the queue when the look began: it ends behind them."""

    async def __aenter__(self) -> Self:
        self._connection = connection = await wire.connect(self._url, self._name)
        try:
            async with asyncio.timeout(wire.CHANNEL_TIMEOUT_S):
                channel = await connection.channel(publisher_confirms=False)
                self._channel = channel if isinstance(channel, Channel) else None
                self._publishing = await wire.open_publishing_channel(connection)
                found = await self._fetching.queue_declare(self._queue, passive=True)
                self.waiting = found.message_count or 0
        except aiormq.exceptions.ChannelNotFoundEntity as error:
            await wire.close(connection)
            raise DeadLetterError(f"look into {self._queue}: the broker has no such queue") from error
        except wire.CONNECTION_ERRORS as error:
            await wire.close(connection)
            raise BrokerUnavailableError(f"look into {self._queue}: {wire.describe(error)}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._last_tag and self._channel is not None and not self._channel.is_closed:
                async with asyncio.timeout(wire.CLOSE_TIMEOUT_S):
                    await self._channel.basic_nack(self._last_tag, multiple=True, requeue=True)
                    await self._channel.close()
        except wire.CONNECTION_ERRORS as failure:
            log.warning("letters are given back by the broker itself", error=wire.describe(failure))
        finally:
            await wire.close(self._connection)

    async def letters(self) -> AsyncIterator[Letter]:
        """Each letter once, the oldest first. Raises BrokerUnavailableError: what was held is on the queue again."""
        for _ in range(self.waiting):
            letter = await self._next()
            if letter is None:
                return
            yield letter

    async def keep(self, letter: Letter) -> None:
        """Leave a letter on the queue; one that has come back often is written anew at the tail, see above."""
        if letter.returns < RENEW_AFTER_RETURNS and not self._renewing:
            return
        # From the first one on all that follow are, so that they keep their order behind it.
        self._renewing = True
        properties = copy.copy(letter.properties)
        properties.headers = letter.headers
        await self._publish(letter.body, self._queue, properties)
        await self.remove(letter)

    async def remove(self, letter: Letter) -> None:
        """Take a letter off the queue for good."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._fetching.basic_ack(letter.tag)
        except wire.CONNECTION_ERRORS as error:
            raise BrokerUnavailableError(f"remove a letter from {self._queue}: {wire.describe(error)}") from error

    async def replace(
        self, letter: Letter, *, routing_key: str, message_id: str, headers: Mapping[str, Any], name: str
    ) -> None:
        """Put a message in a letter's place: published, confirmed, and only then is the letter removed.

        Raises DeadLetterError when the broker does not take it: the letter stays.
        """
        properties = spec.Basic.Properties(
            content_type=letter.properties.content_type or "application/json",
            content_encoding=letter.properties.content_encoding or "utf-8",
            delivery_mode=2,
            message_id=message_id,
            message_type=name,
            headers=dict(headers),
        )
        await self._publish(letter.body, routing_key, properties)
        await self.remove(letter)

    @property
    def _fetching(self) -> Channel:
        if self._channel is None:
            raise BrokerUnavailableError("the look has not begun")
        return self._channel

    async def _next(self) -> Letter | None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                found = await self._fetching.basic_get(self._queue, no_ack=False)
        except wire.CONNECTION_ERRORS as error:
            raise BrokerUnavailableError(f"read {self._queue}: {wire.describe(error)}") from error
        if found.delivery_tag is None:
            return None
        self._last_tag = found.delivery_tag
        return Letter(found.delivery_tag, bytes(found.body), found.header.properties)

    async def _publish(self, body: bytes, routing_key: str, properties: spec.Basic.Properties) -> None:
        if self._publishing is None:
            raise BrokerUnavailableError("the look has not begun")
        what = f"publish to {routing_key!r}"
        try:
            answer = await self._publishing.basic_publish(
                body, routing_key=routing_key, properties=properties, mandatory=True, timeout=ANSWER_TIMEOUT_S
            )
        except aiormq.exceptions.PublishError as error:
            raise DeadLetterError(f"{what}: there is no such queue") from error
        except aiormq.exceptions.DeliveryError as error:
            raise DeadLetterError(f"{what}: the broker refused it, is the queue full?") from error
        except wire.CONNECTION_ERRORS as error:
            raise BrokerUnavailableError(f"{what}: {wire.describe(error)}") from error
        except ValueError as error:
            raise DeadLetterError(f"{what}: AMQP cannot carry it: {error}") from error
        if not isinstance(answer, spec.Basic.Ack):
            raise BrokerUnavailableError(f"{what}: unexpected answer {answer!r}"[:300])
