"""The broker's queues as a producer, and a collector of dead letters, see them."""

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiormq
import amqp

from eco_workers.broker.topology import TOPOLOGY, declare
from eco_workers.client import Client, NewMessage


@dataclass
class Queues:
    """The queues of one broker, each call over a connection of its own."""

    url: str

    def send(self, *messages: NewMessage) -> None:
        async def go() -> None:
            async with Client(self.url) as client:
                await client.send_many(messages)

        asyncio.run(go())

    def send_raw(self, queue: str, body: bytes, **properties: Any) -> None:
        # py-amqp, since aiormq gives each message an id of its own accord.
        parts = urlsplit(self.url)
        with amqp.Connection(f"{parts.hostname}:{parts.port or 5672}", parts.username, parts.password) as connection:
            properties["application_headers"] = properties.pop("headers", {})
            properties["type"] = properties.pop("message_type", None)
            given = {key: value for key, value in properties.items() if value is not None}
            connection.channel().basic_publish(amqp.Message(body, delivery_mode=2, **given), routing_key=queue)

    def take(self, queue: str) -> list[tuple[dict[str, Any], bytes, str]]:
        """All that is on a queue: headers, body, message id."""

        async def go() -> list[tuple[dict[str, Any], bytes, str]]:
            connection = await aiormq.connect(self.url)
            channel = await connection.channel()
            found = []
            while (message := await channel.basic_get(queue, no_ack=True)).delivery_tag is not None:
                properties = message.header.properties
                found.append((dict(properties.headers or {}), message.body, str(properties.message_id)))
            await connection.close()
            return found

        return asyncio.run(go())

    def ready(self, queue: str) -> int:
        async def go() -> int:
            connection = await aiormq.connect(self.url)
            channel = await connection.channel()
            found = (await channel.queue_declare(queue, passive=True)).message_count or 0
            await connection.close()
            return found

        return asyncio.run(go())

    def clean(self) -> None:
        async def go() -> None:
            connection = await aiormq.connect(self.url)
            channel = await connection.channel()
            await declare(channel, TOPOLOGY)
            for name in TOPOLOGY.names():
                await channel.queue_purge(name)
            await connection.close()

        asyncio.run(go())
