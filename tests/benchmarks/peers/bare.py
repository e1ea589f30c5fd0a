"""Consumers with nothing around them: what the client library alone can do with the same messages.

`python -m tests.benchmarks.peers.bare (aio-pika | aiormq) URL QUEUE PREFETCH`
"""

import asyncio
import json
import sys
from typing import Final

import aio_pika
import aiormq
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from tests.benchmarks.peers.marks import mark

ACK_EVERY_MESSAGES: Final = 64
ACK_AFTER_S: Final = 0.005


def run_task(body: bytes) -> None:
    """Do what every contender does with a message: read its JSON, run the no-op."""
    document = json.loads(body)
    payload = document[1] if isinstance(document, list) else document
    mark(payload["sent"])


async def with_aio_pika(url: str, queue_name: str, prefetch_messages: int) -> None:
    """aio-pika, an ack a message."""
    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=prefetch_messages)
    queue = await channel.get_queue(queue_name, ensure=False)

    async def on_message(message: AbstractIncomingMessage) -> None:
        run_task(message.body)
        await message.ack()

    await queue.consume(on_message)
    await asyncio.Event().wait()


async def with_aiormq(url: str, queue_name: str, prefetch_messages: int) -> None:
    """aiormq, many messages an ack: every 64, or after five milliseconds."""
    connection = await aiormq.connect(url)
    channel = await connection.channel(publisher_confirms=False)
    await channel.basic_qos(prefetch_count=prefetch_messages)
    highest = 0
    waiting = 0

    async def ack() -> None:
        nonlocal waiting
        waiting = 0
        await channel.basic_ack(highest, multiple=True, wait=False)

    async def on_message(message: aiormq.abc.DeliveredMessage) -> None:
        nonlocal highest, waiting
        run_task(message.body)
        highest = max(highest, getattr(message.delivery, "delivery_tag", 0))
        waiting += 1
        if waiting >= ACK_EVERY_MESSAGES:
            await ack()

    await channel.basic_consume(queue_name, on_message)
    while True:
        await asyncio.sleep(ACK_AFTER_S)
        if waiting:
            await ack()


def main() -> None:
    """Run one of them until it is killed."""
    which, url, queue_name, prefetch = sys.argv[1:]
    contender = {"aio-pika": with_aio_pika, "aiormq": with_aiormq}[which]
    uvloop.run(contender(url, queue_name, int(prefetch)))


if __name__ == "__main__":
    main()
