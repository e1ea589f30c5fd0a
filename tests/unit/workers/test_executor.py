"""The executor over the in-memory journal: which outcome is written for which end of a task."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel

from eco_workers.errors import CommitFailedError, EcoWorkerError, JournalBusyError, JournalFatalError, TaskFailedError
from eco_workers.journal.model import Completion, NewTask, State
from eco_workers.metrics import Metrics
from eco_workers.runtime import executor as module
from eco_workers.runtime import outcomes
from eco_workers.runtime.deadlines import Deadlines
from eco_workers.runtime.executor import Executor
from eco_workers.runtime.supervisor import Supervisor
from eco_workers.settings import load
from eco_workers.tasks.context import Context
from eco_workers.tasks.registry import Registry, RetryPolicy, Task, task
from eco_workers.tasks.resources import Resources
from eco_workers.testing import MemoryJournal


class Payload(BaseModel):
    what: str = "return"


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a test jumps, the loop's does not: look at the journal often."""
    monkeypatch.setattr(module, "IDLE_WAIT_S", 0.01)


RAISED: dict[str, BaseException] = {
    "refuse": TaskFailedError("never"),
    "break": ConnectionError("away"),
    "time out inside": TimeoutError("a client's own deadline"),
    "cancel itself": asyncio.CancelledError(),
}


async def swallow(gate: asyncio.Event) -> None:
    while not gate.is_set():
        with suppress(asyncio.CancelledError):
            await gate.wait()


@dataclass
class Bench:
    journal: MemoryJournal
    executor: Executor
    supervisor: Supervisor
    metrics: Metrics
    seen: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    most_running: int = 0

    async def accept(self, *ids: str, what: str = "return", **fields: Any) -> None:
        body = Payload(what=what).model_dump_json().encode()
        await self.journal.accept(
            [NewTask(task_id=i, name="act", payload=body, queue="q.batch", **fields) for i in ids]
        )

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():  # noqa: ASYNC110  # what is waited for is another task's doing, seen from outside
                await asyncio.sleep(0)

    def state(self, task_id: str) -> State:
        row = self.journal.rows.load(task_id)
        assert row is not None
        return row.state


@asynccontextmanager
async def bench(*, concurrency: int = 2, time_limit_s: float = 30, attempts_max: int = 3) -> AsyncIterator[Bench]:
    clock = Clock()
    settings = load({"RABBITMQ_URL": "amqp://unused/"})
    metrics = Metrics()
    supervisor = Supervisor()
    registry = Registry()
    journal = MemoryJournal(clock=clock)

    async def act(context: Context, payload: Payload) -> Any:
        made.seen.append(context.task_id)
        made.running += 1
        made.most_running = max(made.most_running, made.running)
        try:
            match payload.what:
                case what if what in RAISED:
                    raise RAISED[what]
                case "deaf":
                    await swallow(made.gate)
                case "wait":
                    await made.gate.wait()
                case "unwritable":
                    return object()
                case "emit":
                    context.emit("next", {"a": 1}, routing_key="q.ai")
                case "emit nonsense":
                    context.emit("next", {}, routing_key="x" * 300)
                case "emit and break":
                    context.emit("next", {"a": 1}, routing_key="q.ai")
                    raise ConnectionError("away")
        finally:
            made.running -= 1
        return {"ok": True}

    policy = RetryPolicy(attempts_max=attempts_max, first_s=60, cap_s=600)
    task("act", queue="q.batch", time_limit_s=time_limit_s, retry=policy)(act)
    found = act.__eco_task__  # type: ignore[attr-defined]  # set by the decorator
    assert isinstance(found, Task)
    registry.add(found)
    executor = Executor(
        journal, registry, Resources(settings), metrics, supervisor,
        concurrency=concurrency, process_started_at=0.0, clock=clock,
    )  # fmt: skip
    made = Bench(journal, executor, supervisor, metrics, clock=clock)
    supervisor.start("executor", executor.run)
    try:
        yield made
    finally:
        await supervisor.stop()
        await executor.finish(0)


async def test_a_task_that_returns_is_completed_with_its_result() -> None:
    async with bench() as it:
        await it.accept("a")
        await it.until(lambda: it.state("a") == State.COMPLETED)
        row = it.journal.rows.load("a")
        assert row is not None
        assert row.result == b'{"ok":true}'
        assert row.attempts == 1


async def test_no_more_run_at_once_than_the_concurrency() -> None:
    async with bench(concurrency=2) as it:
        await it.accept("a", "b", "c", "d", what="wait")
        await it.until(lambda: it.running == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert it.most_running == 2
        it.gate.set()
        await it.until(lambda: all(it.state(i) == State.COMPLETED for i in "abcd"))
        assert it.most_running == 2


async def test_a_task_that_says_it_cannot_succeed_fails_at_once_with_its_dead_letter() -> None:
    async with bench() as it:
        await it.accept("a", what="refuse")
        await it.until(lambda: it.state("a") == State.FAILED)
        letters = await it.journal.outbox(10)
        assert [(m.kind, m.routing_key) for m in letters] == [("dead-letter", "q.dlq")]
        assert "never" in letters[0].headers["x-eco-reason"]


async def test_a_task_that_raises_is_tried_again_later_by_its_policy() -> None:
    async with bench() as it:
        await it.accept("a", what="break")
        await it.until(lambda: it.seen == ["a"] and it.state("a") == State.PENDING)
        row = it.journal.rows.load("a")
        assert row is not None
        assert row.not_before is not None
        assert 60 * 0.8 <= row.not_before - it.clock.now <= 60 * 1.2
        it.clock.now += 100
        await it.until(lambda: it.seen == ["a", "a"])


async def test_a_task_whose_attempts_are_used_up_fails() -> None:
    async with bench(attempts_max=2) as it:
        await it.accept("a", what="break")
        await it.until(lambda: it.state("a") == State.PENDING and bool(it.seen))
        it.clock.now += 1000
        await it.until(lambda: it.state("a") == State.FAILED)
        assert it.seen == ["a", "a"]


async def test_a_task_that_runs_out_of_time_ends_as_timeout() -> None:
    async with bench(time_limit_s=0.01) as it:
        await it.accept("a", what="wait")
        await it.until(lambda: it.state("a") == State.TIMEOUT)
        assert [m.kind for m in await it.journal.outbox(10)] == ["dead-letter"]


async def test_a_timeout_raised_inside_a_task_is_an_error_to_try_again_not_its_time_limit() -> None:
    async with bench() as it:
        await it.accept("a", what="time out inside")
        await it.until(lambda: bool(it.seen) and it.state("a") == State.PENDING)


async def test_a_payload_that_the_model_refuses_fails_and_names_the_field() -> None:
    async with bench() as it:
        await it.journal.accept([NewTask(task_id="a", name="act", payload=b'{"what": 7}', queue="q.batch")])
        await it.until(lambda: it.state("a") == State.FAILED)
        assert it.seen == []
        assert "what" in (await it.journal.outbox(1))[0].headers["x-eco-reason"]


async def test_a_result_that_is_no_json_fails_the_task() -> None:
    async with bench() as it:
        await it.accept("a", what="unwritable")
        await it.until(lambda: it.state("a") == State.FAILED)


async def test_what_a_task_emits_leaves_with_its_result_and_never_without() -> None:
    async with bench() as it:
        await it.accept("a", what="emit and break")
        await it.until(lambda: bool(it.seen) and it.state("a") == State.PENDING)
        assert await it.journal.outbox(10) == []
        await it.accept("b", what="emit")
        await it.until(lambda: it.state("b") == State.COMPLETED)
        sent = await it.journal.outbox(10)
        assert [(m.routing_key, m.headers["x-eco-task-name"]) for m in sent] == [("q.ai", "next")]


async def test_a_task_that_expired_is_never_started() -> None:
    async with bench() as it:
        await it.accept("a", expires_at=it.clock.now - 1)
        await it.until(lambda: it.state("a") == State.TIMEOUT)
        assert it.seen == []


async def test_a_stop_gives_the_attempt_back() -> None:
    """The process stops: no task failed, the next process starts it as if for the first time."""
    async with bench() as it:
        await it.accept("a", what="wait")
        await it.until(lambda: it.running == 1)
        it.executor.pause()
        assert await it.executor.finish(0) == 1
        row = it.journal.rows.load("a")
        assert row is not None
        assert (row.state, row.attempts) == (State.PENDING, 0)


async def test_a_stop_waits_for_what_ends_in_time() -> None:
    async with bench() as it:
        await it.accept("a", what="wait")
        await it.until(lambda: it.running == 1)
        it.executor.pause()
        it.gate.set()
        assert await it.executor.finish(5) == 0
        assert it.state("a") == State.COMPLETED


async def test_nothing_is_claimed_while_paused() -> None:
    async with bench() as it:
        it.executor.pause()
        await it.accept("first")
        await it.until(lambda: it.state("first") in {State.PENDING, State.COMPLETED})
        for _ in range(50):
            await asyncio.sleep(0)
        await it.accept("a")
        for _ in range(50):
            await asyncio.sleep(0)
        assert it.state("a") == State.PENDING
        it.executor.resume()
        await it.until(lambda: it.state("a") == State.COMPLETED)


async def test_a_recovered_task_is_timed_from_the_start_of_the_process() -> None:
    async with bench() as it:
        await it.accept("a", what="wait")
        await it.until(lambda: it.running == 1)
        after = it.journal.restarted()
        claimed = await after.claim(1, names=frozenset({"act"}))
        assert claimed[0].recovered
        it.executor._begin(claimed[0])
        assert it.executor.statistics().first_resumed_after_s == it.clock.now


async def test_a_journal_that_may_not_be_durable_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as it:

        async def broken(*_: Any, **__: Any) -> None:
            raise JournalFatalError("fsync failed")

        monkeypatch.setattr(it.journal, "complete_all", broken)
        await it.accept("a")
        async with asyncio.timeout(5):
            assert isinstance(await it.supervisor.failed(), JournalFatalError)


async def test_tasks_that_end_together_are_written_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(concurrency=3) as it:
        batches: list[int] = []
        real = it.journal.complete_all

        async def counted(completions: Sequence[Completion]) -> list[EcoWorkerError | None]:
            batches.append(len(completions))
            return await real(completions)

        monkeypatch.setattr(it.journal, "complete_all", counted)
        await it.accept("a", "b", "c", what="wait")
        await it.until(lambda: it.running == 3)
        it.gate.set()
        await it.until(lambda: all(it.state(i) == State.COMPLETED for i in "abc"))
        assert batches == [3]
        await it.until(lambda: it.executor.statistics().finished == 3)


async def test_a_result_is_written_again_while_the_journal_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "JOURNAL_PAUSE_S", 0.001)
    async with bench() as it:
        real, refusals = it.journal.complete_all, iter([JournalBusyError("full"), CommitFailedError("rolled back")])

        async def busy(completions: Sequence[Completion]) -> list[EcoWorkerError | None]:
            for error in refusals:
                raise error
            return await real(completions)

        monkeypatch.setattr(it.journal, "complete_all", busy)
        await it.accept("a", "b")
        await it.until(lambda: it.state("a") == it.state("b") == State.COMPLETED)
        assert it.seen == ["a", "b"]


async def test_a_stop_waits_for_results_on_their_way_and_counts_their_tasks_as_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench() as it:
        entered, proceed = asyncio.Event(), asyncio.Event()
        real = it.journal.complete_all

        async def slow(completions: Sequence[Completion]) -> list[EcoWorkerError | None]:
            entered.set()
            await proceed.wait()
            return await real(completions)

        monkeypatch.setattr(it.journal, "complete_all", slow)
        await it.accept("a")
        async with asyncio.timeout(5):
            await entered.wait()
        assert it.executor.statistics().running == 1
        it.executor.pause()
        finishing = asyncio.create_task(it.executor.finish(0))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not finishing.done()
        proceed.set()
        assert await finishing == 0
        assert it.state("a") == State.COMPLETED


async def test_a_result_that_comes_too_late_changes_nothing() -> None:
    """The row was given back by somebody else while its task ran; the task beside it ends as it should."""
    async with bench() as it:
        await it.accept("a", "b", what="wait")
        await it.until(lambda: it.running == 2)
        it.executor.pause()
        await it.journal.release(["a"])
        it.gate.set()
        await it.until(lambda: it.state("b") == State.COMPLETED)
        assert it.state("a") == State.PENDING
        assert await it.executor.finish(5) == 0
        assert it.executor.statistics().finished == 1


async def test_a_claim_under_way_at_a_stop_gives_its_attempts_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop comes while the journal claims: what it claims is begun and given back, not left running for nobody."""
    async with bench() as it:
        await it.until(lambda: True)
        entered, proceed = asyncio.Event(), asyncio.Event()
        real = it.journal.claim

        async def slow(*args: Any, **options: Any) -> Any:
            found = await real(*args, **options)
            if found:
                entered.set()
                await proceed.wait()
            return found

        monkeypatch.setattr(it.journal, "claim", slow)
        await it.accept("a", what="wait")
        async with asyncio.timeout(5):
            await entered.wait()
        it.executor.pause()
        finishing = asyncio.create_task(it.executor.finish(0))
        await asyncio.sleep(0)
        proceed.set()
        assert await finishing == 1
        row = it.journal.rows.load("a")
        assert row is not None
        assert (row.state, row.attempts) == (State.PENDING, 0)


async def test_a_message_that_no_broker_would_take_fails_the_task_at_once() -> None:
    async with bench() as it:
        await it.accept("a", what="emit nonsense")
        await it.until(lambda: it.state("a") == State.FAILED)
        assert it.seen == ["a"]


async def test_a_stop_goes_before_a_time_limit() -> None:
    """Both come at once: the attempt is given back, the task has not failed."""
    async with bench(time_limit_s=30) as it:
        await it.accept("a", what="wait")
        await it.until(lambda: it.running == 1)
        for deadline in it.executor._deadlines._open:
            deadline.at = 0
        it.executor._deadlines._fire()
        it.executor.pause()
        for running in it.executor._running.values():
            running.cancel()
        await it.until(lambda: not it.executor._running)
        assert it.state("a") == State.PENDING


async def test_a_task_that_is_cancelled_from_inside_uses_up_an_attempt() -> None:
    """Nobody stopped it: given back without a count it would run again at once, for ever."""
    async with bench(attempts_max=2) as it:
        await it.accept("a", what="cancel itself")
        await it.until(lambda: it.seen == ["a"] and it.state("a") == State.PENDING)
        row = it.journal.rows.load("a")
        assert row is not None
        assert row.attempts == 1
        it.clock.now += 1000
        await it.until(lambda: it.state("a") == State.FAILED)
        assert it.seen == ["a", "a"]


async def test_a_task_that_swallows_its_cancellation_does_not_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCEL_WAIT_S", 0.01)
    async with bench() as it:
        await it.accept("a", what="deaf")
        await it.until(lambda: it.running == 1)
        it.executor.pause()
        async with asyncio.timeout(5):
            assert await it.executor.finish(0) == 1
        it.gate.set()
        await it.until(lambda: not it.running)


async def test_short_and_long_limits_share_the_timer() -> None:
    deadlines = Deadlines()
    order: list[str] = []

    async def work(name: str, limit_s: float) -> None:
        deadline = deadlines.enter(limit_s)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert deadline.expired
            order.append(name)
        finally:
            deadlines.leave(deadline)

    tasks = [asyncio.create_task(work(name, limit)) for name, limit in (("c", 0.03), ("a", 0.01), ("b", 0.02))]
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]
    assert not deadlines._open
