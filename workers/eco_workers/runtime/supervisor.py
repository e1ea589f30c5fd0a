"""Long-lived background tasks: each has a name, none dies unseen.

One that raises is begun again after a pause that doubles; one that dies too often, or raises an error that is fatal for
the whole process, ends the worker: the kubelet starts a new one and the journal knows what was unfinished.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from eco_workers import logs
from eco_workers.errors import JournalCorruptError, JournalFatalError, JournalRefusedError

log = logs.get(__name__)
DEATHS_MAX: Final = 5
DEATHS_WINDOW_S: Final = 60.0
PAUSE_FIRST_S: Final = 0.1
CANCEL_AGAIN_S: Final = 6.0
"""Longer than closing a connection may take."""
FATAL: Final = (JournalFatalError, JournalCorruptError, JournalRefusedError)
"""The last one: another process has taken the journal over while this one still ran."""


class Supervisor:
    """Runs background tasks and tells when one of them ends the worker."""

    def __init__(self, on_restart: Callable[[str], None] | None = None) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._on_restart = on_restart

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` under supervision until it returns or is stopped; one of that name that runs already goes on."""
        if (running := self._tasks.get(name)) is not None and not running.done():
            return
        self._tasks[name] = asyncio.create_task(self._run(name, work), name=name)

    async def failed(self) -> BaseException:
        """Wait for the error that ends the worker."""
        return await asyncio.shield(self._failed)

    def report(self, error: BaseException) -> None:
        """End the worker with an error that somebody else met."""
        if not self._failed.done():
            self._failed.set_result(error)

    async def join(self, name: str, timeout_s: float) -> bool:
        """Wait until a task has returned by itself; whether it did in time."""
        task = self._tasks.get(name)
        if task is None:
            return True
        done, _ = await asyncio.wait({task}, timeout=max(0.0, timeout_s))
        return bool(done)

    async def stop(self, name: str | None = None) -> None:
        """Cancel one task, or all, and wait for the end."""
        names = list(self._tasks) if name is None else [name]
        tasks = [self._tasks.pop(each) for each in names if each in self._tasks]
        await end(*tasks)

    async def _run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        loop = asyncio.get_running_loop()
        while True:
            try:
                await work()
            except FATAL as error:
                self.report(error)
                return
            except Exception as error:
                deaths.append(loop.time())
                if len(deaths) == DEATHS_MAX and deaths[-1] - deaths[0] < DEATHS_WINDOW_S:
                    self.report(error)
                    return
                pause_s = PAUSE_FIRST_S * 2 ** len(deaths) * random.uniform(0.5, 1)  # noqa: S311  # spreading load
                log.exception("background task died", name=name, pause_s=round(pause_s, 2))
                if self._on_restart is not None:
                    self._on_restart(name)
                await asyncio.sleep(pause_s)
            else:
                return


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they are done; what they raised stays in them.

    A library may swallow a cancellation that meets an answer it waits for (aiormq does): they are asked until it is
    heard, at a pace that leaves every clean-up its time.
    """
    while left := {task for task in tasks if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
