"""Consumer and publisher against a real RabbitMQ, through a proxy that misbehaves where a network would."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiormq
import pytest
from aiormq.abc import AbstractChannel
from pamqp import commands as spec

from eco_workers.broker import consumer as consumer_module
from eco_workers.broker.channel import Delivery
from eco_workers.broker.consumer import Consumer, ConsumerLimits, Outcome
from eco_workers.broker.publisher import Publisher, Receipt, Result
from eco_workers.broker.topology import TOPOLOGY, Queue, Topology, declare
from eco_workers.client import Client, NewMessage
from eco_workers.errors import BrokerUnavailableError, InvalidTaskError, TopologyError
from tests.support.proxy import Mode, Proxy

pytestmark = pytest.mark.broker
WITHIN_S = 20.0


@dataclass
class Harness:
    """A queue of the test's own on the broker, and a consumer that writes down what it gets."""

    url: str
    channel: AbstractChannel
    queue: str
    batches: list[list[str]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    lost: int = 0

    @property
    def topology(self) -> Topology:
        return Topology(queues=(Queue(self.queue, 1), Queue("q.dlq", 0)))

    @property
    def seen(self) -> list[str]:
        return [message for batch in self.batches for message in batch]

    def consumer(self, url: str = "", *, prefetch: int = 100, quiet_after_s: float = 30.0) -> Consumer:
        async def handler(batch: Sequence[Delivery]) -> Outcome:
            self.batches.append([str(delivery.properties.message_id) for delivery in batch])
            await self.gate.wait()
            return self.outcomes.pop(0) if self.outcomes else Outcome.DURABLE

        async def on_lost() -> None:
            self.lost += 1

        self.gate.set()
        limits = ConsumerLimits(prefetch_messages=prefetch, body_bytes_max=1000, quiet_after_s=quiet_after_s)
        return Consumer(
            url or self.url, [self.queue], handler,
            name="test", limits=limits, topology=self.topology, on_channel_lost=on_lost,
        )  # fmt: skip

    async def publish(self, *ids: str) -> None:
        for each in ids:
            properties = spec.Basic.Properties(message_id=each, delivery_mode=2)
            await self.channel.basic_publish(b"{}", routing_key=self.queue, properties=properties)

    async def ready(self) -> int:
        return (await self.channel.queue_declare(self.queue, passive=True)).message_count or 0


async def until(true: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(WITHIN_S):
            while not true():  # noqa: ASYNC110  # seen from outside
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {WITHIN_S:g} s: {what}") from None


@pytest.fixture
async def harness(amqp_url: str) -> AsyncIterator[Harness]:
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    made = Harness(amqp_url, channel, f"test.{uuid.uuid4().hex[:12]}")
    await declare(channel, made.topology)
    yield made
    await channel.queue_delete(made.queue)
    await connection.close()


@pytest.fixture
def proxy(amqp_url: str) -> Iterator[Proxy]:
    parts = urlsplit(amqp_url)
    with Proxy(parts.port or 5672, parts.hostname or "127.0.0.1") as made:
        yield made


def through(proxy: Proxy, amqp_url: str, password: str | None = None) -> str:
    parts = urlsplit(amqp_url)
    return parts._replace(netloc=f"{parts.username}:{password or parts.password}@127.0.0.1:{proxy.port}").geturl()


@asynccontextmanager
async def running(consumer: Consumer) -> AsyncIterator[Consumer]:
    task = asyncio.create_task(consumer.run())
    try:
        await until(lambda: consumer.statistics().consuming or task.done(), "consuming")
        yield consumer
    finally:
        consumer.stop()
        async with asyncio.timeout(WITHIN_S):
            await task


async def test_the_topology_can_be_declared_twice(harness: Harness) -> None:
    await declare(harness.channel, TOPOLOGY)
    await declare(harness.channel, TOPOLOGY)


async def test_a_queue_that_exists_otherwise_is_named(harness: Harness, amqp_url: str) -> None:
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    name = f"{harness.queue}.classic"
    await harness.channel.queue_declare(name, durable=True, arguments={"x-queue-type": "classic"})
    try:
        with pytest.raises(TopologyError, match=f"queue {name}"):
            await declare(channel, Topology(queues=(Queue(name, 1), Queue("q.dlq", 0))))
    finally:
        await harness.channel.queue_delete(name)
        await connection.close()


async def test_what_was_handled_is_acked_and_gone(harness: Harness) -> None:
    await harness.publish("a", "b", "c")
    async with running(harness.consumer()) as consumer:
        await until(lambda: len(harness.seen) == 3, "three messages")
        assert consumer.statistics().deliveries == 3
    assert await harness.ready() == 0


async def test_of_a_huge_message_only_the_beginning_is_kept(harness: Harness) -> None:
    """Megabytes cost no megabytes here: they are no task anyway."""
    found: list[Delivery] = []

    async def handler(batch: Sequence[Delivery]) -> Outcome:
        found.extend(batch)
        return Outcome.DURABLE

    consumer = harness.consumer()
    consumer._handler = handler
    sizes = (0, 1, 1000, 4_000_000)
    for size in sizes:
        properties = spec.Basic.Properties(message_id=str(size), delivery_mode=2)
        await harness.channel.basic_publish(b"x" * size, routing_key=harness.queue, properties=properties)
    async with running(consumer):
        await until(lambda: len(found) == len(sizes), "all")
    assert [delivery.size_bytes for delivery in found] == list(sizes)
    assert [len(delivery.body) for delivery in found[:3]] == list(sizes[:3])
    assert len(found[3].body) < 200_000


async def test_no_ack_is_sent_before_the_handler_returns(harness: Harness) -> None:
    """The connection dies while the batch is with the handler: all of it is delivered again."""
    consumer = harness.consumer()
    harness.gate.clear()
    await harness.publish("a", "b")
    task = asyncio.create_task(consumer.run())
    await until(lambda: bool(harness.seen), "a batch with the handler")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert harness.lost == 1
    harness.batches.clear()
    harness.gate.set()
    async with running(harness.consumer()):
        await until(lambda: sorted(set(harness.seen)) == ["a", "b"], "both again")


async def test_what_arrives_meanwhile_is_the_next_batch(harness: Harness) -> None:
    """However many messages come while a batch is with the handler, they are one batch, with one ack."""
    consumer = harness.consumer(prefetch=50)
    harness.gate.clear()
    async with running(consumer):
        await harness.publish("first")
        await until(lambda: len(harness.batches) == 1, "the first batch")
        await harness.publish(*(f"m{i}" for i in range(30)))
        await until(lambda: consumer.statistics().unacked == 30, "thirty that wait")
        harness.gate.set()
        await until(lambda: len(harness.seen) == 31, "all")
        assert [len(batch) for batch in harness.batches] == [1, 30]


async def test_a_refused_batch_comes_back(harness: Harness) -> None:
    harness.outcomes = [Outcome.REFUSED]
    await harness.publish("a")
    async with running(harness.consumer()) as consumer:
        await until(lambda: harness.seen == ["a", "a"], "the same message twice")
        assert consumer.statistics().refused == 1
    assert await harness.ready() == 0


async def test_a_cut_connection_is_made_again_and_nothing_is_lost(
    harness: Harness, proxy: Proxy, amqp_url: str
) -> None:
    async with running(harness.consumer(through(proxy, amqp_url))) as consumer:
        for number in range(3):
            await harness.publish(f"m{number}")
            await until(lambda number=number: f"m{number}" in harness.seen, f"m{number}")
            assert proxy.cut() >= 1
            await until(lambda number=number: consumer.statistics().connections >= number + 2, "a new connection")
    assert harness.lost >= 3
    assert await harness.ready() == 0


async def test_acks_that_never_arrive_mean_a_second_delivery(harness: Harness, proxy: Proxy, amqp_url: str) -> None:
    """At least once: the handler sees the message again, the broker never heard of the first time."""
    async with running(harness.consumer(through(proxy, amqp_url))):
        proxy.set(Mode.DEAF)
        await harness.publish("a")
        await until(lambda: harness.seen == ["a"], "the first time")
        proxy.cut()
        proxy.set(Mode.PASS)
        await until(lambda: harness.seen == ["a", "a"], "the second time")


async def test_a_deleted_queue_is_declared_again(harness: Harness) -> None:
    async with running(harness.consumer()) as consumer:
        await harness.channel.queue_delete(harness.queue)
        await until(lambda: consumer.statistics().connections == 2 and consumer.statistics().consuming, "a new start")
        await harness.publish("a")
        await until(lambda: harness.seen == ["a"], "the message on the new queue")


async def test_a_paused_consumer_takes_nothing_and_resumes(harness: Harness) -> None:
    async with running(harness.consumer()) as consumer:
        await consumer.pause()
        await harness.publish("a", "b")
        assert not consumer.statistics().consuming
        assert await harness.ready() == 2
        assert harness.seen == []
        consumer.resume()
        await until(lambda: len(harness.seen) == 2, "both")


async def test_what_comes_after_a_pause_is_bounded_by_the_prefetch(harness: Harness) -> None:
    """Paused before its ack, a batch is not answered with further deliveries."""
    await harness.publish(*(f"m{i}" for i in range(40)))
    consumer = harness.consumer(prefetch=10)
    plain = consumer._handler

    async def pausing(batch: Sequence[Delivery]) -> Outcome:
        outcome = await plain(batch)
        await consumer.pause()
        return outcome

    consumer._handler = pausing
    async with running(consumer):
        await until(lambda: consumer.statistics().paused and not consumer.statistics().unacked, "the pause")
        taken = len(harness.seen)
        assert taken <= 2 * 10
        assert await harness.ready() == 40 - taken


async def test_a_silent_consumer_is_given_up(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are ready, the connection is alive, and nothing is delivered: only asking finds that out."""
    monkeypatch.setattr(consumer_module, "WATCH_PERIOD_S", 0.05)
    async with running(harness.consumer(quiet_after_s=0.2)) as consumer:
        channel = consumer._channel
        assert channel is not None
        # The broker forgets its consumer and we are not told.
        await channel.basic_cancel(next(iter(channel.queues)), nowait=True)
        await harness.publish("held by nobody")
        await until(lambda: harness.seen == ["held by nobody"], "the message, by a new connection")
        assert consumer.statistics().connections == 2


async def test_an_idle_consumer_is_left_alone(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message for a long while is no reason to connect again: asked again and again, the queue is empty."""
    monkeypatch.setattr(consumer_module, "WATCH_PERIOD_S", 0.01)
    asked = 0
    real = consumer_module.count_ready

    async def count(*args: Any) -> int:
        nonlocal asked
        asked += 1
        return await real(*args)

    monkeypatch.setattr(consumer_module, "count_ready", count)
    async with running(harness.consumer(quiet_after_s=0.02)) as consumer:
        await until(lambda: asked >= 5, "five questions")
        assert consumer.statistics().connections == 1


async def test_stop_hands_over_and_acks_what_was_delivered(harness: Harness) -> None:
    consumer = harness.consumer()
    harness.gate.clear()
    task = asyncio.create_task(consumer.run())
    await until(lambda: consumer.statistics().consuming, "consuming")
    await harness.publish("a")
    await until(lambda: len(harness.batches) == 1, "a batch with the handler")
    await harness.publish("b", "c")
    await until(lambda: consumer.statistics().unacked == 2, "two that wait")
    consumer.stop()
    harness.gate.set()
    async with asyncio.timeout(WITHIN_S):
        await task
    assert harness.seen == ["a", "b", "c"]
    assert await harness.ready() == 0


async def test_an_error_of_the_handler_ends_the_run_and_acks_nothing(harness: Harness) -> None:
    class BoomError(Exception):
        pass

    async def handler(_batch: Sequence[Delivery]) -> Outcome:
        raise BoomError

    await harness.publish("a")
    consumer = harness.consumer()
    consumer._handler = handler
    with pytest.raises(BoomError):
        await consumer.run()
    harness.batches.clear()
    async with running(harness.consumer()):
        await until(lambda: harness.seen == ["a"], "the message again")


@dataclass(frozen=True)
class Outgoing:
    message_id: str
    routing_key: str
    task_id: str = "t"
    exchange: str = ""
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


async def published(url: str, messages: Sequence[Outgoing]) -> list[Receipt]:
    publisher = Publisher(url, name="test")
    try:
        return await publisher.publish(messages)
    finally:
        await publisher.close()


async def test_a_confirmed_message_is_on_the_queue_persistent_and_typed(harness: Harness) -> None:
    message = Outgoing("m1", harness.queue, headers={"x-eco-task-name": "act"})
    assert [receipt.result for receipt in await published(harness.url, [message])] == [Result.CONFIRMED]
    found = await harness.channel.basic_get(harness.queue, no_ack=True)
    properties = found.header.properties
    assert (properties.message_id, properties.message_type, properties.delivery_mode) == ("m1", "act", 2)


async def test_a_message_without_a_queue_is_its_own_fault_and_the_others_arrive(harness: Harness) -> None:
    messages = [
        Outgoing("bad", "no.such.queue", "t1"),
        Outgoing("good", harness.queue, "t2"),
        Outgoing("behind the bad one", harness.queue, "t1"),
    ]
    receipts = await published(harness.url, messages)
    assert [receipt.result for receipt in receipts] == [Result.UNROUTABLE, Result.CONFIRMED, Result.UNKNOWN]
    assert "NO_ROUTE" in receipts[0].error
    assert await harness.ready() == 1


async def test_a_message_that_costs_the_channel_does_not_cost_the_others(harness: Harness) -> None:
    """An unknown exchange closes the channel: every other message of the batch is still placed."""
    messages = [Outgoing("bad", harness.queue, "t0", exchange="no.such.exchange")]
    messages += [Outgoing(f"m{i}", harness.queue, f"t{i}") for i in range(1, 6)]
    receipts = await published(harness.url, messages)
    assert receipts[0].result is Result.UNROUTABLE
    assert {receipt.result for receipt in receipts[1:]} == {Result.CONFIRMED}


async def test_messages_of_one_task_arrive_in_order(harness: Harness) -> None:
    messages = [Outgoing(f"{task}-{i}", harness.queue, task) for i in range(20) for task in ("x", "y")]
    await published(harness.url, messages)
    found: dict[str, list[int]] = {"x": [], "y": []}
    for _ in messages:
        got = await harness.channel.basic_get(harness.queue, no_ack=True)
        task, _, number = str(got.header.properties.message_id).partition("-")
        found[task].append(int(number))
    assert found == {"x": list(range(20)), "y": list(range(20))}


async def test_a_broker_that_cannot_be_reached_is_said_so_without_the_password(proxy: Proxy, amqp_url: str) -> None:
    proxy.set(Mode.REFUSE)
    with pytest.raises(BrokerUnavailableError) as caught:
        await published(through(proxy, amqp_url, password="hunter2"), [Outgoing("m", "q.batch")])
    assert "hunter2" not in str(caught.value)


async def test_the_publisher_connects_again_after_a_cut(harness: Harness, proxy: Proxy, amqp_url: str) -> None:
    publisher = Publisher(through(proxy, amqp_url), name="test")
    try:
        await publisher.publish([Outgoing("a", harness.queue)])
        proxy.cut()
        await until(lambda: not publisher.is_connected, "the loss to be noticed")
        receipts = await publisher.publish([Outgoing("b", harness.queue)])
        assert receipts[0].result is Result.CONFIRMED
    finally:
        await publisher.close()


async def test_the_client_says_what_became_of_a_task(harness: Harness) -> None:
    async with Client(harness.url) as client:
        assert await client.send("act", {"a": 1}, queue=harness.queue, task_id="mine") == "mine"
        with pytest.raises(InvalidTaskError, match=r"no\.such\.queue"):
            await client.send("act", {}, queue="no.such.queue")
        await client.send_many([NewMessage("act", {}, harness.queue, f"m{i}") for i in range(10)])
    assert await harness.ready() == 11
