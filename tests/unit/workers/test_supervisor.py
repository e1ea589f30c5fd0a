import asyncio

import pytest

from eco_workers.errors import JournalCorruptError, JournalFatalError, JournalRefusedError
from eco_workers.runtime import supervisor as module
from eco_workers.runtime.supervisor import Supervisor


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_FIRST_S", 0)


async def test_a_task_that_dies_is_begun_again_and_counted() -> None:
    restarts: list[str] = []
    supervisor = Supervisor(restarts.append)
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("oops")

    supervisor.start("w", work)
    assert await supervisor.join("w", 5)
    assert (runs, restarts) == (3, ["w", "w"])


async def test_a_task_that_keeps_dying_ends_the_worker() -> None:
    supervisor = Supervisor()

    async def work() -> None:
        raise ValueError("oops")

    supervisor.start("w", work)
    async with asyncio.timeout(5):
        assert isinstance(await supervisor.failed(), ValueError)


@pytest.mark.parametrize("error", [JournalFatalError("x"), JournalCorruptError("x")])
async def test_an_error_of_the_journal_ends_the_worker_at_once(error: Exception) -> None:
    supervisor = Supervisor()
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        raise error

    supervisor.start("w", work)
    async with asyncio.timeout(5):
        assert await supervisor.failed() is error
    assert runs == 1


async def test_stop_cancels_and_waits() -> None:
    supervisor = Supervisor()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    supervisor.start("w", work)
    await asyncio.sleep(0)
    await supervisor.stop()
    assert ended.is_set()


async def test_stop_is_heard_even_when_a_library_swallows_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a SIGTERM would hang until the kubelet kills."""
    monkeypatch.setattr(module, "CANCEL_AGAIN_S", 0.01)
    supervisor = Supervisor()
    swallowed = 0

    async def work() -> None:
        nonlocal swallowed
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed += 1
        await asyncio.Event().wait()

    supervisor.start("w", work)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await supervisor.stop()
    assert swallowed == 1


async def test_a_task_that_runs_already_is_not_begun_a_second_time() -> None:
    """A second of the same name would be out of the reach of `stop`."""
    supervisor = Supervisor()
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)
        await asyncio.Event().wait()

    supervisor.start("drain", work)
    supervisor.start("drain", work)
    for _ in range(5):
        await asyncio.sleep(0)
    assert begun == [1]
    await supervisor.stop("drain")
    supervisor.start("drain", work)
    for _ in range(5):
        await asyncio.sleep(0)
    assert begun == [1, 1]
    await supervisor.stop()


async def test_a_journal_that_was_taken_over_ends_the_worker_at_the_first_word() -> None:
    supervisor = Supervisor()

    async def work() -> None:
        raise JournalRefusedError("another process has taken it over")

    supervisor.start("executor", work)
    async with asyncio.timeout(5):
        assert isinstance(await supervisor.failed(), JournalRefusedError)
    await supervisor.stop()
