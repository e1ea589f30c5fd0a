"""The writer thread alone, over a session that only notes what it is told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import apsw
import pytest

from eco_workers.errors import (
    CommitFailedError,
    IllegalStateError,
    JournalBusyError,
    JournalCorruptError,
    JournalError,
    JournalFatalError,
    JournalFullError,
)
from eco_workers.journal.writer import Writer


class Session:
    """Notes what happens; fails where a test says so."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.commit_fails: Exception | None = None
        self.transaction = False
        self.gate = threading.Event()
        self.gate.set()
        self.marked: Exception | None = None

    def begin(self) -> None:
        self.gate.wait(10)
        self.transaction = True
        self.events.append("begin")

    def run(self, operation: Callable[[Any], Any]) -> Any:
        return operation(self)

    def run_single(self, operation: Callable[[Any], Any]) -> Any:
        self.events.append("single")
        return operation(self)

    def commit(self) -> None:
        if self.commit_fails is not None:
            raise self.commit_fails
        self.transaction = False
        self.events.append("commit")

    def abandon(self) -> None:
        self.transaction = False
        self.events.append("abandon")

    def in_transaction(self) -> bool:
        return self.transaction

    def after_commit(self) -> None: ...

    def idle(self) -> None: ...

    def on_full(self) -> None:
        self.events.append("full")

    def on_broken(self, error: Exception) -> None:
        self.marked = error

    def close(self, *, untouched: bool) -> None:
        self.events.append("close untouched" if untouched else "close")


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
async def writer(session: Session) -> AsyncIterator[Writer]:
    made = Writer(session, queue_operations_max=8, queue_wait_s=0.05, group_operations_max=64, idle_s=5)
    made.start(lambda: None)
    yield made
    session.gate.set()
    await made.close()


def _same(value: int, _session: Any) -> int:
    return value


def fail(error: Exception) -> Callable[[Any], None]:
    def operation(_session: Any) -> None:
        raise error

    return operation


async def test_operations_that_wait_together_commit_together(session: Session, writer: Writer) -> None:
    session.gate.clear()
    first = asyncio.create_task(writer.run(lambda _: "first"))
    await asyncio.sleep(0)
    rest = [asyncio.create_task(writer.run(partial(_same, number))) for number in range(5)]
    await asyncio.sleep(0)
    session.gate.set()
    assert await asyncio.gather(first, *rest) == ["first", 0, 1, 2, 3, 4]
    assert session.events.count("commit") <= 2


async def test_no_future_resolves_before_its_commit_returned(session: Session, writer: Writer) -> None:
    await writer.run(lambda _: session.events.append("operation"))
    assert session.events == ["begin", "operation", "commit"]


async def test_one_that_fails_takes_nothing_else_with_it(session: Session, writer: Writer) -> None:
    session.gate.clear()
    bad = asyncio.create_task(writer.run(fail(IllegalStateError("no"))))
    good = asyncio.create_task(writer.run(lambda _: 1))
    await asyncio.sleep(0)
    session.gate.set()
    assert await good == 1
    with pytest.raises(IllegalStateError):
        await bad
    assert "commit" in session.events


async def test_one_that_writes_a_single_row_stands_in_the_same_group_and_fails_alone(
    session: Session, writer: Writer
) -> None:
    session.gate.clear()
    first = asyncio.create_task(writer.run(lambda _: 0))
    await asyncio.sleep(0)
    bad = asyncio.create_task(writer.run_single(fail(IllegalStateError("no"))))
    good = asyncio.create_task(writer.run_single(lambda _: 1))
    await asyncio.sleep(0)
    session.gate.set()
    assert await asyncio.gather(first, good) == [0, 1]
    with pytest.raises(IllegalStateError):
        await bad
    assert session.events.count("single") == 2
    assert session.events.count("commit") <= 2


async def test_a_commit_that_fails_fails_every_future_of_its_group(session: Session, writer: Writer) -> None:
    session.commit_fails = apsw.BusyError("busy")
    results = await asyncio.gather(*(writer.run(lambda _: 1) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [CommitFailedError] * 3
    session.commit_fails = None
    assert await writer.run(lambda _: 2) == 2


async def test_a_transaction_that_vanished_under_an_operation_takes_its_whole_group(
    session: Session, writer: Writer
) -> None:
    def vanish(_session: Any) -> None:
        session.transaction = False
        raise apsw.NoMemError("out of memory")

    session.gate.clear()
    tasks = [asyncio.create_task(writer.run(operation)) for operation in (lambda _: 1, vanish, lambda _: 2)]
    await asyncio.sleep(0)
    session.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    # The three may have come in one group or in two; whoever shared the group with the fault learnt of it.
    assert isinstance(results[1], CommitFailedError)
    assert session.events.count("commit") == sum(not isinstance(result, Exception) for result in results[::2]) or (
        isinstance(results[0], CommitFailedError)
    )


@pytest.mark.parametrize("error", [apsw.IOError("fsync"), apsw.CorruptError("page")])
async def test_a_fault_of_the_disk_ends_the_journal_for_good_and_leaves_a_mark(
    session: Session, writer: Writer, error: Exception
) -> None:
    session.commit_fails = error
    meant = JournalFatalError if isinstance(error, apsw.IOError) else JournalCorruptError
    with pytest.raises(meant):
        await writer.run(lambda _: 1)
    session.commit_fails = None
    with pytest.raises(meant):
        await writer.run(lambda _: 1)
    assert session.events.count("begin") == 1
    assert isinstance(session.marked, meant)
    await writer.close()
    assert session.events[-1] == "close untouched"


async def test_a_full_disk_passes(session: Session, writer: Writer) -> None:
    session.commit_fails = apsw.FullError("full")
    with pytest.raises(JournalFullError):
        await writer.run(lambda _: 1)
    assert session.events[-1] == "full"
    session.commit_fails = None
    assert await writer.run(lambda _: 1) == 1


async def test_a_cancelled_caller_does_not_stop_its_operation(session: Session, writer: Writer) -> None:
    session.gate.clear()
    caller = asyncio.create_task(writer.run(lambda _: session.events.append("done")))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    session.gate.set()
    await writer.run(lambda _: None)
    assert "done" in session.events


async def test_a_full_queue_pushes_back_and_in_the_end_says_so(session: Session, writer: Writer) -> None:
    session.gate.clear()
    waiting = [asyncio.create_task(writer.run(lambda _: 1)) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(JournalBusyError, match="8 operations"):
        await writer.run(lambda _: 2)
    late = asyncio.create_task(writer.run(lambda _: 3))
    await asyncio.sleep(0)
    session.gate.set()
    assert await asyncio.gather(*waiting, late) == [1] * 8 + [3]


async def test_closing_finishes_what_was_begun_and_refuses_what_comes_later(session: Session, writer: Writer) -> None:
    running = asyncio.create_task(writer.run(lambda _: 1))
    await asyncio.sleep(0)
    await writer.close()
    assert await running == 1
    with pytest.raises(JournalError, match="closed"):
        await writer.run(lambda _: 2)
    assert session.events[-1] == "close"
