"""Putting messages on a queue with confirms, as an outside producer does, in the two forms that a worker reads."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiormq
from aiormq.abc import AbstractChannel
from pamqp import commands as spec

CONFIRMS_IN_FLIGHT_MAX: Final = 500
TICK_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it goes on the wire."""

    task_id: str
    body: bytes
    properties: spec.Basic.Properties = field(repr=False)


def plain(name: str, payload: dict[str, Any], task_id: str | None = None, **headers: Any) -> Message:
    """A task in plain AMQP: id and name are properties, the body is the payload."""
    identity = task_id or str(uuid.uuid4())
    return Message(
        identity,
        json.dumps(payload).encode(),
        spec.Basic.Properties(
            content_type="application/json", delivery_mode=2, message_id=identity, message_type=name, headers=headers
        ),
    )


def celery(name: str, payload: dict[str, Any], task_id: str | None = None) -> Message:
    """The same task as an unmodified Celery client sends it: message protocol 2 in JSON."""
    identity = task_id or str(uuid.uuid4())
    headers: dict[str, Any] = {
        "lang": "py", "task": name, "id": identity, "shadow": None, "eta": None, "expires": None, "group": None,
        "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": identity, "parent_id": None,
        "argsrepr": "()", "kwargsrepr": repr(payload), "origin": "bench@localhost", "ignore_result": True,
        "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
    }  # fmt: skip
    body = [[], payload, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    return Message(
        identity,
        json.dumps(body).encode(),
        spec.Basic.Properties(
            content_type="application/json", content_encoding="utf-8", delivery_mode=2, correlation_id=identity,
            reply_to=str(uuid.uuid4()), priority=0, headers=headers,
        ),
    )  # fmt: skip


async def publish(channel: AbstractChannel, queue: str, messages: Iterable[Message]) -> None:
    """Send all and wait for every confirm; the channel must be one with publisher confirms."""
    gate = asyncio.Semaphore(CONFIRMS_IN_FLIGHT_MAX)

    async def send(message: Message) -> None:
        async with gate:
            await channel.basic_publish(message.body, routing_key=queue, properties=message.properties, mandatory=True)

    await asyncio.gather(*(send(message) for message in messages))


async def publish_steadily(
    channel: AbstractChannel, queue: str, make: Callable[[int], Message], *, rate_per_s: float, count: int
) -> float:
    """Send `count` messages at a steady rate; the rate that was kept. Messages are made as they are due."""
    began = time.monotonic()
    sent = 0
    pending: set[asyncio.Task[Any]] = set()
    while sent < count:
        due = min(count, int((time.monotonic() - began) * rate_per_s) + 1)
        for number in range(sent, due):
            message = make(number)
            task = asyncio.ensure_future(
                channel.basic_publish(message.body, routing_key=queue, properties=message.properties)
            )
            pending.add(task)
            task.add_done_callback(pending.discard)
        sent = due
        await asyncio.sleep(TICK_S)
    kept = count / (time.monotonic() - began)
    await asyncio.gather(*pending)
    return kept


async def purge(channel: AbstractChannel, queues: Sequence[str]) -> None:
    """Empty queues and see that they stay so."""
    for queue in queues:
        await channel.queue_purge(queue)


async def ready_messages(channel: AbstractChannel, queue: str) -> int:
    """Messages that wait to be delivered; those delivered and not yet acked are not among them."""
    answer = await channel.queue_declare(queue, passive=True)
    return answer.message_count or 0


async def open_channel(url: str) -> tuple[aiormq.abc.AbstractConnection, AbstractChannel]:
    """A connection and a channel with publisher confirms."""
    connection = await aiormq.connect(url)
    return connection, await connection.channel(publisher_confirms=True)
