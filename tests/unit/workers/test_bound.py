import asyncio
from dataclasses import replace

import pytest

from eco_workers.journal.model import NewTask, Statistics
from eco_workers.runtime import bound as module
from eco_workers.runtime.bound import Bound
from eco_workers.testing import MemoryJournal


class Valve:
    def __init__(self) -> None:
        self.is_open = True

    async def pause(self) -> None:
        self.is_open = False

    def resume(self) -> None:
        self.is_open = True


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0)


async def accept(journal: MemoryJournal, *ids: str, not_before: float | None = None) -> None:
    await journal.accept([NewTask(i, "act", b"{}", "q.batch", not_before=not_before) for i in ids])


async def settle(valve: Valve, *, is_open: bool) -> None:
    async with asyncio.timeout(5):
        while valve.is_open is not is_open:  # noqa: ASYNC110  # another task's doing, seen from outside
            await asyncio.sleep(0)


async def test_it_closes_above_the_bound_and_opens_well_below() -> None:
    journal, valve = MemoryJournal(), Valve()
    bound = Bound(journal, valve, max_unfinished=4, max_waiting=100)
    running = asyncio.create_task(bound.run())
    await accept(journal, *"abcde")
    await settle(valve, is_open=False)
    claimed = await journal.claim(5, names=frozenset({"act"}))
    for row in claimed[:2]:
        await journal.complete(row.task_id, b"null")
    await settle(valve, is_open=True)
    running.cancel()


async def test_waiting_rows_have_a_bound_of_their_own() -> None:
    journal, valve = MemoryJournal(clock=lambda: 1000.0), Valve()
    bound = Bound(journal, valve, max_unfinished=100, max_waiting=2)
    await accept(journal, *"abc", not_before=2000.0)
    running = asyncio.create_task(bound.run())
    await settle(valve, is_open=False)
    running.cancel()


async def test_a_full_volume_closes_it() -> None:
    journal, valve = MemoryJournal(), Valve()
    bound = Bound(journal, valve, max_unfinished=100, max_waiting=100)
    running = asyncio.create_task(bound.run())
    journal.read_only = "reserve reached"
    await settle(valve, is_open=False)
    journal.read_only = ""
    await settle(valve, is_open=True)
    running.cancel()


async def test_what_cannot_be_acked_closes_it_as_a_full_volume_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left open it would be refused batch after batch, until the queue's delivery limit drops them."""
    journal, valve = MemoryJournal(), Valve()
    real, reason = journal.statistics, ["the bucket is away"]

    async def statistics() -> Statistics:
        return replace(await real(), held_back=reason[0])

    monkeypatch.setattr(journal, "statistics", statistics)
    running = asyncio.create_task(Bound(journal, valve, max_unfinished=100, max_waiting=100).run())
    await settle(valve, is_open=False)
    reason[0] = ""
    await settle(valve, is_open=True)
    running.cancel()


async def test_while_held_it_stays_closed_however_little_there_is() -> None:
    journal, valve = MemoryJournal(), Valve()
    bound = Bound(journal, valve, max_unfinished=100, max_waiting=100)
    running = asyncio.create_task(bound.run())
    await bound.hold()
    for _ in range(50):
        await asyncio.sleep(0)
    assert not valve.is_open
    bound.let_go()
    await settle(valve, is_open=True)
    running.cancel()


async def test_a_pause_that_begins_while_it_rests_ends_as_soon_as_the_work_is_done() -> None:
    """Not at the end of that rest: a worker that is quick would stand idle for most of a second, again and again."""
    journal, valve = MemoryJournal(), Valve()
    bound = Bound(journal, valve, max_unfinished=4, max_waiting=100)
    running = asyncio.create_task(bound.run())
    await asyncio.sleep(module.OPEN_POLL_S / 20)  # it has asked once by then, and rests
    await accept(journal, *"abcde")
    await bound.accepted(5)
    assert not valve.is_open
    for row in await journal.claim(5, names=frozenset({"act"})):
        await journal.complete(row.task_id, b"null")
    begun = asyncio.get_running_loop().time()
    await settle(valve, is_open=True)
    assert asyncio.get_running_loop().time() - begun < module.OPEN_POLL_S / 2
    running.cancel()
