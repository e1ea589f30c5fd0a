"""The pass over what the journal owes: batches are read, written and marked beside each other, each row once."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from eco_workers.errors import SyncUnavailableError
from eco_workers.journal.model import Report, State
from eco_workers.sync.rows import Origin, Row
from eco_workers.sync.writer import WRITES_AT_ONCE, Writer

ORIGIN = Origin("eco", "w", "w-0")


def report(number: int, ended_at: float) -> Report:
    return Report(f"task-{number:05d}", "n", "q", State.COMPLETED, 0, 3, 1, b"{}", b"{}", None, 1.0, 1.0, ended_at)


class Ledger:
    """Gives a row until it is marked, as a journal does."""

    def __init__(self, due: Sequence[Report]) -> None:
        self.due = {each.task_id: each for each in due}
        self.marked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def unsynced(self, limit: int, since: float = 0.0) -> Sequence[Row]:
        await asyncio.sleep(0)
        found = sorted((row for row in self.due.values() if row.ended_at >= since), key=lambda row: row.ended_at)
        return found[:limit]

    async def synced(self, versions: Mapping[str, int]) -> None:
        await self.gate.wait()
        for task_id in versions:
            del self.due[task_id]
            self.marked.append(task_id)

    async def sync_failed(self, task_id: str, error: str, *, max_attempts: int) -> None:
        raise AssertionError((task_id, error, max_attempts))


class Target:
    """Takes a moment for each batch; from the batch `fails_at` on it is away."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self.at_once = self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._fails_at = fails_at

    async def write(self, rows: Sequence[Row], origin: Origin) -> None:
        assert origin == ORIGIN
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            await self.gate.wait()
            if self._fails_at is not None and len(self.batches) >= self._fails_at:
                raise SyncUnavailableError("away")
            self.batches.append([row.task_id for row in rows])
        finally:
            self.at_once -= 1


@pytest.mark.parametrize("moments", [1, 7, 5000], ids=["all ended at once", "many at each moment", "one by one"])
async def test_every_row_is_sent_once_though_the_journal_gives_it_until_it_is_marked(moments: int) -> None:
    ledger, target = Ledger([report(n, 10.0 + n % moments) for n in range(5000)]), Target()
    sent = await Writer(ledger, target, ORIGIN).drain(batch_size=300, max_attempts=3)
    written = [task_id for batch in target.batches for task_id in batch]
    assert sent == len(written) == len(set(written)) == 5000
    assert sorted(ledger.marked) == sorted(written)
    assert max(map(len, target.batches)) == 300


async def test_the_next_batch_is_on_its_way_while_one_is_merged_and_no_more() -> None:
    ledger, target = Ledger([report(n, float(n)) for n in range(2000)]), Target()
    await Writer(ledger, target, ORIGIN).drain(batch_size=100, max_attempts=3)
    assert target.most_at_once == WRITES_AT_ONCE == 2


async def test_what_ended_while_the_clock_was_set_back_is_sent_in_the_same_pass() -> None:
    ledger, target = Ledger([report(n, 100.0 + n) for n in range(1000)]), Target()
    target.gate.clear()
    drain = asyncio.create_task(Writer(ledger, target, ORIGIN).drain(batch_size=100, max_attempts=3))
    while target.at_once < WRITES_AT_ONCE:  # noqa: ASYNC110  # another task's doing, seen from outside
        await asyncio.sleep(0)
    late = report(99_999, 50.0)
    ledger.due[late.task_id] = late
    target.gate.set()
    assert await drain == 1001
    assert ledger.due == {}


async def test_what_was_committed_is_marked_though_another_batch_fails() -> None:
    ledger, target = Ledger([report(n, float(n)) for n in range(1000)]), Target(fails_at=3)
    with pytest.raises(SyncUnavailableError):
        await Writer(ledger, target, ORIGIN).drain(batch_size=100, max_attempts=3)
    assert sorted(ledger.marked) == sorted(task_id for batch in target.batches for task_id in batch)
    assert len(ledger.marked) == 300


async def test_what_was_committed_is_marked_though_the_pass_is_called_off() -> None:
    ledger, target = Ledger([report(n, float(n)) for n in range(1000)]), Target()
    ledger.gate.clear()
    drain = asyncio.create_task(Writer(ledger, target, ORIGIN).drain(batch_size=100, max_attempts=3))
    while not target.batches:  # noqa: ASYNC110  # another task's doing, seen from outside
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    drain.cancel()
    await asyncio.sleep(0)
    ledger.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await drain
    assert ledger.marked
    assert set(ledger.marked) == {task_id for batch in target.batches for task_id in batch}
