import asyncio
import os
import signal
import sys
import types
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from pydantic import BaseModel

from eco_workers.errors import InvalidTaskError, SettingsError, TaskFailedError
from eco_workers.journal.model import NewTask, Running
from eco_workers.settings import load
from eco_workers.tasks.context import EMITS_MAX, Context, encode
from eco_workers.tasks.processes import Processes
from eco_workers.tasks.registry import RetryPolicy, collect, task
from eco_workers.tasks.resources import Resources
from eco_workers.testing import MemoryJournal


class Order(BaseModel):
    count: int


def module_with(name: str, **functions: Any) -> str:
    made = types.ModuleType(name)
    vars(made).update(functions)
    sys.modules[name] = made
    return name


def test_the_storage_role_knows_its_task() -> None:
    assert collect(["eco_workers.tasks.images"]).names() == {"image.store"}


def test_a_module_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(SettingsError, match=r"ECO_TASK_MODULES: module 'no\.such'"):
        collect(["no.such"])


def test_a_name_defined_twice_is_refused() -> None:
    async def one(_context: Context, _payload: dict[str, Any]) -> None: ...

    async def two(_context: Context, _payload: dict[str, Any]) -> None: ...

    first = module_with("_first", one=task("same", queue="q.api")(one))
    second = module_with("_second", two=task("same", queue="q.api")(two))
    with pytest.raises(InvalidTaskError, match="defined twice"):
        collect([first, second])


def test_only_an_async_function_of_two_arguments_is_a_task() -> None:
    with pytest.raises(InvalidTaskError, match="no async function"):
        task("x", queue="q.api")(lambda _context, _payload: None)  # type: ignore[arg-type, return-value]  # the point

    async def three(_context: Context, _payload: dict[str, Any], _more: int) -> None: ...

    with pytest.raises(InvalidTaskError, match="takes 3 arguments"):
        task("x", queue="q.api")(three)  # type: ignore[arg-type]  # the point


def test_a_payload_is_checked_against_the_annotation() -> None:
    async def order(_context: Context, _payload: Order) -> None: ...

    made = collect([module_with("_orders", order=task("order", queue="q.api")(order))])["order"]
    assert made.parse(b'{"count": 3}') == Order(count=3)
    with pytest.raises(TaskFailedError, match="payload of order: count: "):
        made.parse(b'{"count": "many"}')


def test_pauses_double_have_a_cap_and_are_spread() -> None:
    policy = RetryPolicy(first_s=60, cap_s=600, jitter=0.2)
    assert all(48 <= policy.pause_s(1) <= 72 for _ in range(100))
    assert all(96 <= policy.pause_s(2) <= 144 for _ in range(100))
    assert all(480 <= policy.pause_s(50) <= 720 for _ in range(100))
    assert len({policy.pause_s(1) for _ in range(10)}) > 1


async def context_of(journal: MemoryJournal) -> Context:
    await journal.accept([NewTask("t", "act", b"{}", "q.api", headers={"traceparent": "00-abc"})])
    claimed: list[Running] = await journal.claim(1, names=frozenset({"act"}))
    return Context(claimed[0], journal, Resources(load({"RABBITMQ_URL": "amqp://unused/"})))


async def test_a_step_runs_once_whatever_happens_after_it() -> None:
    journal = MemoryJournal()
    context = await context_of(journal)
    runs = 0

    async def work() -> dict[str, int]:
        nonlocal runs
        runs += 1
        return {"run": runs}

    assert await context.step("one", work) == {"run": 1}
    after = journal.restarted()
    again = await after.claim(1, names=frozenset({"act"}))
    later = Context(again[0], after, context.resources)
    assert await later.step("one", work) == {"run": 1}
    assert runs == 1


async def test_the_trace_of_a_task_goes_on_in_what_it_emits() -> None:
    context = await context_of(MemoryJournal())
    context.emit("next", {"a": 1}, routing_key="q.ai")
    (emit,) = context.take_emits()
    assert emit.headers == {"x-eco-task-name": "next", "traceparent": "00-abc"}
    assert context.take_emits() == []


async def test_emits_are_bounded() -> None:
    context = await context_of(MemoryJournal())
    for _ in range(EMITS_MAX):
        context.emit("next", {}, routing_key="q.ai")
    with pytest.raises(TaskFailedError, match="more than"):
        context.emit("next", {}, routing_key="q.ai")


@pytest.mark.parametrize("result", [object(), {"x" * 10: "y" * (1 << 20)}])
def test_a_result_must_be_json_of_bounded_size(result: object) -> None:
    with pytest.raises(TaskFailedError, match="result: "):
        encode(result)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    signal.pause()


async def test_work_in_a_process_outlives_a_killed_process() -> None:
    """The out-of-memory killer takes the process that works; the next job gets a new one."""
    processes = Processes(1)
    try:
        assert await processes.run(abs, -1) == 1
        os.kill(processes.process_ids()[0], signal.SIGKILL)
        assert await processes.run(abs, -2) == 2
        assert processes.replaced >= 1
    finally:
        await processes.close()


async def test_a_job_that_kills_its_process_each_time_is_given_up() -> None:
    processes = Processes(1)
    try:
        with pytest.raises(BrokenProcessPool):
            await processes.run(die)
    finally:
        await processes.close()


async def test_a_job_that_is_called_off_frees_its_process() -> None:
    """A time limit cannot interrupt C code: its process is killed and the next job does not wait behind it."""
    processes = Processes(1)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await processes.run(hang)
        async with asyncio.timeout(30):
            assert await processes.run(abs, -3) == 3
    finally:
        await processes.close()
