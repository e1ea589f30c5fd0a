"""From deliveries to the journal: when a batch may be acked, and when it goes back."""

from collections.abc import Sequence
from typing import Any

import pytest
from pamqp import commands as spec

from eco_workers.broker.channel import Delivery
from eco_workers.broker.consumer import Outcome
from eco_workers.errors import CommitFailedError, JournalFatalError
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import State
from eco_workers.metrics import Metrics
from eco_workers.runtime import intake as module
from eco_workers.runtime.bound import Bound
from eco_workers.runtime.intake import Intake
from eco_workers.runtime.messages import Parser
from eco_workers.testing import MemoryJournal


class Valve:
    def __init__(self) -> None:
        self.events: list[str] = []

    async def pause(self) -> None:
        self.events.append("pause")

    def resume(self) -> None:
        self.events.append("resume")


def messages(*bodies: bytes, name: str = "act", first: int = 0) -> list[Delivery]:
    return [
        Delivery(number + 1, "q.batch", body, spec.Basic.Properties(message_id=f"t{number}", message_type=name), False)
        for number, body in enumerate(bodies, first)
    ]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0)
    monkeypatch.setattr(module, "REFUSED_PAUSE_S", 0)


def make(journal: MemoryJournal, valve: Valve | None = None, max_unfinished: int = 1000) -> Intake:
    bound = Bound(journal, valve or Valve(), max_unfinished, 1000)
    parser = Parser(frozenset({"act"}), 1 << 20)
    return Intake(journal, parser, Limits(), Metrics(), on_accepted=bound.accepted, on_full=bound.full)


async def test_a_batch_is_durable_once_its_tasks_are_rows() -> None:
    journal = MemoryJournal()
    assert await make(journal).take(messages(b"{}", b"{}")) is Outcome.DURABLE
    assert (await journal.statistics()).counts.due == 2


async def test_what_is_no_task_becomes_a_dead_letter_and_the_rest_goes_on() -> None:
    journal = MemoryJournal()
    batch = messages(b"{}", b"hello", b'{"broken": ', b'{"n": NaN}', b'{"z": "\\u0000"}', b"{}")
    assert await make(journal).take(batch) is Outcome.DURABLE
    assert (await journal.statistics()).counts.due == 2
    letters = await journal.outbox(10)
    assert {m.kind for m in letters} == {"reject"}
    assert sorted(m.headers["x-eco-message-id"] for m in letters) == ["t1", "t2", "t3", "t4"]
    assert all(m.headers["x-eco-reason"] for m in letters)


async def test_a_redelivered_batch_adds_nothing() -> None:
    journal = MemoryJournal()
    intake = make(journal)
    await intake.take(messages(b"{}", b"bad"))
    await intake.take(messages(b"{}", b"bad"))
    assert (await journal.statistics()).counts.due == 1
    assert len({m.message_id for m in await journal.outbox(10)}) == 1


async def test_a_full_journal_sends_the_batch_back() -> None:
    journal = MemoryJournal()
    journal.read_only = "reserve reached"
    valve = Valve()
    assert await make(journal, valve).take(messages(b"{}")) is Outcome.REFUSED
    assert valve.events == ["pause"]


async def test_a_group_that_was_rolled_back_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = MemoryJournal()
    real, calls = journal.accept, []

    async def accept(tasks: Sequence[Any], **options: Any) -> Any:
        calls.append(len(tasks))
        if len(calls) == 1:
            raise CommitFailedError("rolled back")
        return await real(tasks, **options)

    monkeypatch.setattr(journal, "accept", accept)
    assert await make(journal).take(messages(b"{}")) is Outcome.DURABLE
    assert calls == [1, 1]


async def test_a_journal_that_may_not_be_durable_is_never_answered_with_an_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = MemoryJournal()

    async def accept(*_: Any, **__: Any) -> Any:
        raise JournalFatalError("fsync failed")

    monkeypatch.setattr(journal, "accept", accept)
    with pytest.raises(JournalFatalError):
        await make(journal).take(messages(b"{}"))


async def test_the_consumer_is_paused_before_the_ack_of_the_batch_that_reaches_the_bound() -> None:
    """Paused after the ack, the broker would already have answered it with the next deliveries."""
    journal, valve = MemoryJournal(), Valve()
    intake = make(journal, valve, max_unfinished=3)
    await intake.take(messages(b"{}", b"{}", b"{}"))
    assert valve.events == []
    await intake.take(messages(b"{}", first=3))
    assert valve.events == ["pause"]


async def test_duplicates_do_not_close_the_bound() -> None:
    journal, valve = MemoryJournal(), Valve()
    intake = make(journal, valve, max_unfinished=3)
    for _ in range(5):
        await intake.take(messages(b"{}", b"{}"))
    assert valve.events == []
    row = journal.rows.load("t0")
    assert row is not None
    assert row.state == State.PENDING
