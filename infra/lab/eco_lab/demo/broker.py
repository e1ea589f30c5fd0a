"""Messages in and out of RabbitMQ, as a producer and as an auditor: publish with confirms, read without consuming."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

PUBLISH_AT_ONCE: Final = 100
READ_TIMEOUT_S: Final = 10.0
READ_MAX: Final = 100_000
CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """One task as a producer sends it."""

    task_id: str
    name: str
    payload: dict[str, Any]
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it lies in a queue."""

    message_id: str
    headers: dict[str, Any]
    body: bytes

    @classmethod
    def of(cls, message: AbstractIncomingMessage) -> "Message":
        """Copy what the ledger reads."""
        return cls(message.message_id or "", dict(message.headers), message.body)


async def publish(url: str, queue: str, tasks: Sequence[Task]) -> int:
    """Publish tasks, persistent and mandatory; how many the broker confirmed. An unroutable one raises."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        gate = asyncio.Semaphore(PUBLISH_AT_ONCE)

        async def one(task: Task) -> None:
            message = aio_pika.Message(
                json.dumps(task.payload).encode(),
                message_id=task.task_id,
                type=task.name,
                headers=dict(task.headers),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            async with gate:
                await channel.default_exchange.publish(message, routing_key=queue, mandatory=True)

        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(one(task))
    return len(tasks)


async def read(url: str, queue: str) -> list[Message]:
    """All messages of a queue, left there: they are taken un-acked and given back when the channel closes."""
    found: list[Message] = []
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        source = await channel.get_queue(queue, ensure=False)
        while len(found) < READ_MAX:
            message = await source.get(no_ack=False, fail=False, timeout=READ_TIMEOUT_S)
            if message is None:
                break
            found.append(Message.of(message))
    return found


async def depth(url: str, queue: str) -> int:
    """Messages ready in a queue."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


async def answers(url: str) -> bool:
    """Whether the broker lets somebody in."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await aio_pika.connect(url)
            await connection.close()
    except (TimeoutError, OSError, aio_pika.exceptions.AMQPError):
        return False
    return True
