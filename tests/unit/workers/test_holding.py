"""Deliveries under `Completed`: kept until the journal owns their task, each acked by itself."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pamqp import commands as spec

from eco_workers.broker.channel import Delivery
from eco_workers.broker.consumer import Outcome
from eco_workers.errors import SettingsError
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import Emit, State
from eco_workers.metrics import Metrics
from eco_workers.runtime import holding as module
from eco_workers.runtime.holding import Holding, HoldingIntake, check_time_limits
from eco_workers.runtime.messages import Parser
from eco_workers.tasks.registry import Registry, task
from eco_workers.testing import MemoryJournal
from tests.support.journals import Clock

NAMES = frozenset({"act"})


class Channel:
    """What the broker is told."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.returned: list[int] = []
        self.settled = asyncio.Event()

    async def settle(self, tags: Sequence[int], *, requeue: bool = False) -> None:
        (self.returned if requeue else self.acked).extend(tags)
        if tags:
            self.settled.set()


class World:
    """A journal, what is kept, and the channel."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.journal = MemoryJournal(clock=self.clock)
        self.channel = Channel()
        self.full: list[bool] = []
        self.restart(self.journal)

    def restart(self, journal: MemoryJournal) -> None:
        self.journal = journal
        self.holding = Holding(journal)
        self.holding.settle_by(self.channel)
        self.intake = HoldingIntake(
            journal, Parser(NAMES, 1 << 20), Limits(), Metrics(), holding=self.holding, clock=self.clock,
            on_accepted=self._nothing, on_full=self._note_full,
        )  # fmt: skip

    async def take(self, *deliveries: Delivery) -> None:
        assert await self.intake.take(deliveries) is Outcome.KEPT
        await self.holding.settle_ended()

    async def run_one(self) -> Any:
        [running] = await self.journal.claim(1, names=NAMES)
        return running

    async def state(self, task_id: str = "t1") -> State:
        row = self.journal.rows.load(task_id)
        assert row is not None
        return State(row.state)

    async def _nothing(self, _: int) -> None: ...

    async def _note_full(self) -> None:
        self.full.append(True)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "PAUSE_S", 0)
    monkeypatch.setattr(module, "REFUSED_PAUSE_S", 0)
    return World()


def delivery(tag: int, task_id: str = "t1", *, body: bytes = b"{}", **headers: Any) -> Delivery:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    properties = spec.Basic.Properties(message_id=task_id, message_type="act", headers=named)
    return Delivery(tag, "q.batch", body, properties, redelivered="x_delivery_count" in headers)


async def test_an_ack_waits_for_the_end_of_its_task(world: World) -> None:
    await world.take(delivery(1), delivery(2, "t2"))
    for _ in range(2):
        await world.run_one()
    await world.holding.settle_ended()
    assert world.channel.acked == []
    await world.journal.complete("t2", b"{}", emits=[Emit("q.ai", b"{}")])
    await world.holding.settle_ended()
    assert world.channel.acked == [2], "each by itself, whatever the order"
    await world.journal.fail("t1", "no")
    await world.holding.settle_ended()
    assert world.channel.acked == [2, 1]
    assert len(world.holding) == 0


async def test_the_end_of_a_task_wakes_who_acks(world: World) -> None:
    await world.take(delivery(1))
    await world.run_one()
    runs = asyncio.create_task(world.holding.run())
    await asyncio.sleep(0)
    await world.journal.complete("t1", b"{}")
    try:
        async with asyncio.timeout(module.POLL_S / 2):
            await world.channel.settled.wait()
    finally:
        runs.cancel()


async def test_the_first_scheduled_retry_ends_the_brokers_part(world: World) -> None:
    await world.take(delivery(1))
    await world.run_one()
    await world.journal.retry("t1", "again", not_before=world.clock() + 60)
    await world.holding.settle_ended()
    assert world.channel.acked == [1]
    await world.take(delivery(2))
    assert world.channel.acked == [1, 2], "the same delivery again is a duplicate of what the journal owns"


async def test_a_task_that_expired_unrun_is_acked(world: World) -> None:
    """Ended by the journal itself in a claim: nobody else says so."""
    await world.take(delivery(1, x_eco_expires_at=world.clock() + 5))
    world.clock.pass_(10)
    assert await world.journal.claim(1, names=NAMES) == []
    await world.holding.settle_ended()
    assert (world.channel.acked, await world.state()) == ([1], State.TIMEOUT)


async def test_duplicates_of_what_has_ended_go_at_once_and_of_what_runs_with_it(world: World) -> None:
    await world.take(delivery(1))
    await world.take(delivery(2))
    await world.run_one()
    await world.take(delivery(3))
    assert world.channel.acked == []
    await world.journal.complete("t1", b"{}")
    await world.holding.settle_ended()
    assert world.channel.acked == [1, 2, 3]
    await world.take(delivery(4), delivery(5, x_eco_generation=7))
    assert world.channel.acked == [1, 2, 3, 4, 5]


async def test_what_is_no_task_and_what_starts_later_needs_no_keeping(world: World) -> None:
    await world.take(delivery(1, body=b"[]"), delivery(2, x_eco_not_before=world.clock() + 60), delivery(3, "t3"))
    assert world.channel.acked == [1, 2]
    assert {message.kind for message in await world.journal.outbox(5)} == {"reject"}


async def test_a_lost_channel_lets_its_rows_wait_and_a_redelivery_goes_on(world: World) -> None:
    await world.take(delivery(1), delivery(2, "t2"))
    running = await world.run_one()
    await world.journal.step("t1", "fetch", b'"x"')
    await world.holding.channel_lost()
    assert await world.journal.claim(5, names=NAMES) == [], "nothing runs unasked"
    await world.journal.complete("t1", b"{}")  # what runs goes on
    await world.holding.settle_ended()
    assert world.channel.acked == [], "its tag died with its channel"
    await world.take(delivery(1), delivery(2, "t2"))
    assert world.channel.acked == [1]
    assert (await world.run_one()).task_id == "t2"
    assert running.task_id == "t1"


async def test_a_redelivery_after_a_crash_reuses_finished_steps(world: World) -> None:
    await world.take(delivery(1))
    await world.run_one()
    await world.journal.step("t1", "fetch", b'"x"')
    world.restart(world.journal.restarted())
    assert await world.journal.claim(1, names=NAMES) == []
    await world.take(delivery(1, x_delivery_count=1))
    again = await world.run_one()
    assert (again.steps, again.attempt) == ({"fetch": b'"x"'}, 2)


async def test_the_brokers_count_enters_the_budget_only_of_what_was_begun_here(world: World) -> None:
    await world.take(delivery(1, x_delivery_count=3))
    assert (await world.run_one()).attempt == 1, "begun elsewhere, or never"
    world.restart(world.journal.restarted())
    await world.take(delivery(1, x_delivery_count=3))
    assert (await world.run_one()).attempt == 4


async def test_what_does_not_come_back_is_closed_without_a_message(world: World) -> None:
    await world.take(delivery(1))
    await world.holding.channel_lost()
    world.clock.pass_(901)
    assert await world.journal.close_unacked() == 1
    assert (await world.state(), await world.journal.outbox(5)) == (State.REPUBLISHED, [])
    await world.take(delivery(1))
    assert await world.state() == State.PENDING


async def test_a_drain_returns_the_very_delivery(world: World) -> None:
    await world.take(delivery(1), delivery(2, "t2"))
    await world.run_one()
    assert await world.journal.republish(None) == 1
    await world.holding.settle_ended()
    assert (world.channel.acked, world.channel.returned) == ([], [2])
    assert await world.journal.outbox(5) == []
    await world.journal.complete("t1", b"{}")
    await world.holding.settle_ended()
    assert world.channel.acked == [1]


async def test_a_fence_gives_everything_back_and_runs_nothing_more(world: World) -> None:
    await world.take(delivery(1), delivery(2, "t2"))
    await world.run_one()
    await world.journal.release(["t1"])
    assert await world.holding.give_back() == 2
    assert sorted(world.channel.returned) == [1, 2]
    assert await world.journal.claim(5, names=NAMES) == []


async def test_a_full_journal_gives_the_batch_back_and_keeps_what_it_had(world: World) -> None:
    await world.take(delivery(1))
    world.journal.read_only = "reserve reached"
    await world.take(delivery(2, "t2"), delivery(3, "t3"))
    assert (world.channel.returned, world.full, len(world.holding)) == ([2, 3], [True], 1)


async def test_an_answer_about_an_earlier_delivery_says_nothing_of_a_later_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay arrives while the journal is asked about the delivery that failed: only that one is acked."""
    await world.take(delivery(1))
    await world.run_one()
    await world.journal.fail("t1", "no")
    real = world.journal.fates

    async def fates(task_ids: Any) -> Any:
        found = await real(task_ids)
        monkeypatch.setattr(world.journal, "fates", real)
        assert await world.intake.take([delivery(2, x_eco_generation=1)]) is Outcome.KEPT
        return found

    monkeypatch.setattr(world.journal, "fates", fates)
    await world.holding.settle_ended()
    assert (world.channel.acked, len(world.holding)) == ([1], 1)


async def test_an_answer_from_before_a_lost_channel_settles_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.take(delivery(1))
    await world.run_one()
    await world.journal.complete("t1", b"{}")
    real = world.journal.fates

    async def fates(task_ids: Any) -> Any:
        found = await real(task_ids)
        await world.holding.channel_lost()
        world.holding.keep("t1", 1)  # a tag of the next channel, by chance the same number
        return found

    monkeypatch.setattr(world.journal, "fates", fates)
    await world.holding.settle_ended()
    assert world.channel.acked == []


async def test_two_who_ask_at_once_ack_once(world: World) -> None:
    """A tag that is acked twice costs the channel, and with it every other delivery that is kept."""
    await world.take(delivery(1))
    await world.run_one()
    await world.journal.complete("t1", b"{}")
    await asyncio.gather(world.holding.settle_ended(), world.holding.settle_ended())
    assert world.channel.acked == [1]


def test_a_time_limit_beyond_the_brokers_patience_is_refused_by_name() -> None:
    @task("slow.one", queue="q.batch", time_limit_s=1501)
    async def slow(_context: Any, _payload: dict[str, Any]) -> None: ...

    registry = Registry()
    registry.add(slow.__eco_task__)  # type: ignore[attr-defined]  # set by the decorator
    with pytest.raises(SettingsError, match=r"'slow\.one' has a time limit of 1501 s"):
        check_time_limits(registry)
