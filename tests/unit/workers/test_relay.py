"""The relay over the in-memory journal and a publisher that answers as told."""

import asyncio
from collections.abc import Sequence

import pytest

from eco_workers.broker.publisher import Message, Publisher, Receipt, Result
from eco_workers.errors import BrokerUnavailableError
from eco_workers.journal.model import Emit, NewTask
from eco_workers.metrics import Metrics
from eco_workers.runtime import relay as module
from eco_workers.runtime.relay import Relay
from eco_workers.testing import MemoryJournal


class Scripted(Publisher):
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.results: dict[str, Receipt] = {}
        self.away = False

    async def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        if self.away:
            raise BrokerUnavailableError("away")
        self.sent += [message.message_id for message in messages]
        return [self.results.get(message.routing_key, Receipt(Result.CONFIRMED)) for message in messages]


async def with_messages(*keys: str) -> MemoryJournal:
    journal = MemoryJournal()
    await journal.accept([NewTask(task_id="a", name="act", payload=b"{}", queue="q.batch")])
    await journal.claim(1, names=frozenset({"act"}))
    await journal.complete("a", b"null", emits=[Emit(key, b"{}") for key in keys])
    return journal


async def test_a_confirmed_message_is_marked_and_not_sent_again() -> None:
    journal, publisher = await with_messages("q.ai", "q.api"), Scripted()
    relay = Relay(journal, publisher, Metrics())
    assert await relay.pass_once() == 2
    assert await relay.pass_once() is None
    assert len(publisher.sent) == 2


async def test_a_message_of_unknown_fate_is_sent_again_under_the_same_id() -> None:
    journal, publisher = await with_messages("q.ai"), Scripted()
    publisher.results["q.ai"] = Receipt(Result.UNKNOWN, "no answer")
    relay = Relay(journal, publisher, Metrics())
    assert await relay.pass_once() == 0
    assert relay.statistics().last_error == "no answer"
    publisher.results.clear()
    assert await relay.pass_once() == 1
    assert len(publisher.sent) == 2
    assert len(set(publisher.sent)) == 1


async def test_a_message_that_reaches_no_queue_is_counted_and_the_others_go_on() -> None:
    journal, publisher = await with_messages("q.gone", "q.ai"), Scripted()
    publisher.results["q.gone"] = Receipt(Result.UNROUTABLE, "NO_ROUTE")
    relay = Relay(journal, publisher, Metrics())
    assert await relay.pass_once() == 1
    counts = (await journal.statistics()).counts
    assert counts.outbox_unsent + counts.outbox_parked == 1
    assert relay.statistics().unroutable == 1


async def test_a_flush_gives_up_at_its_bound_while_the_broker_is_away() -> None:
    journal, publisher = await with_messages("q.ai"), Scripted()
    publisher.away = True
    assert not await Relay(journal, publisher, Metrics()).flush(0.05)
    assert len(await journal.outbox(10)) == 1


async def test_a_full_queue_does_not_hold_up_messages_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """More messages wait for it than one batch holds; those behind them go elsewhere."""
    monkeypatch.setattr(module, "BATCH_MESSAGES", 2)
    journal, publisher = await with_messages("q.full", "q.full", "q.full", "q.ai", "q.api"), Scripted()
    publisher.results["q.full"] = Receipt(Result.UNKNOWN, "refused", refused=True)
    relay = Relay(journal, publisher, Metrics())
    assert await relay.pass_once() == 2
    assert await relay.pass_once() == 2
    left = await journal.outbox(10)
    assert {message.routing_key for message in left} == {"q.full"}
    assert len(left) == 3
    assert not await relay.flush(0.01)
    publisher.results.clear()
    async with asyncio.timeout(5):
        assert await relay.flush(5)
    assert await journal.outbox(10) == []
