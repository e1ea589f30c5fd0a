"""The journal by the names that the first deployment's documents use: `WALManager` and `WALRecovery`.

Thin on purpose: every method is one or two calls of the journal, and everything the journal promises holds here too.
New code calls the journal itself.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from eco_workers.errors import JournalError
from eco_workers.journal.model import NewTask, Running, State, TaskJournal, Unfinished, Verdict

STATE_ALIASES: Final = {"processing": State.RUNNING}
"""States of the documents that are called otherwise here."""
BROKER_POLL_S: Final = 5.0
BROKER_WAIT_S: Final = 300.0
UNFINISHED_MAX: Final = 100_000


def state_named(name: str) -> State:
    """The state of that name or alias; raises ValueError for any other."""
    return STATE_ALIASES.get(name) or State(name)


class WALManager:
    """Life cycle of tasks in the journal, under the names of the documents."""

    def __init__(self, journal: TaskJournal, *, queue: str) -> None:
        self._journal = journal
        self._queue = queue

    async def write(self, task_id: str, task_name: str, payload: bytes) -> Verdict:
        """Accept a task: pending and durable when this returns."""
        [verdict] = await self._journal.accept([NewTask(task_id, task_name, payload, self._queue)])
        return verdict

    async def start(self, task_id: str) -> Running:
        """Start a task: running, its attempt counted."""
        return await self._journal.start(task_id)

    async def complete(self, task_id: str, result: bytes = b"null") -> None:
        """End a task with its result."""
        await self._journal.complete(task_id, result)

    async def fail(self, task_id: str, error: str) -> None:
        """End a task with its error; its dead letter is written with it."""
        await self._journal.fail(task_id, error)

    async def log_task_start(self, task_id: str, task_name: str, payload: bytes) -> Running:
        """Accept a task if it is new, and start it."""
        await self.write(task_id, task_name, payload)
        return await self.start(task_id)

    async def log_task_complete(self, task_id: str, result: bytes = b"null") -> None:
        """`complete` by its long name."""
        await self.complete(task_id, result)

    async def log_task_failure(self, task_id: str, error: str) -> None:
        """`fail` by its long name."""
        await self.fail(task_id, error)

    async def recover_pending_tasks(self, limit: int = UNFINISHED_MAX) -> list[Unfinished]:
        """Tasks that are not finished. They run again by themselves; this only tells which."""
        return await self._journal.unfinished(limit)

    async def checkpoint(self) -> int:
        """Move the log into the database file; pages moved."""
        return await self._journal.checkpoint()

    async def cleanup(self, *, keep_s: float) -> int:
        """Delete what ended longer ago and owes nothing; how many."""
        total = 0
        while count := await self._journal.prune(keep_s=keep_s):
            total += count
        return total


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery at start found and did."""

    unfinished: int
    expired: int
    republished: int
    pages_moved: int


class WALRecovery:
    """What happens to the work that an earlier process left behind."""

    def __init__(self, manager: WALManager, journal: TaskJournal, *, clock: Callable[[], float]) -> None:
        self._manager = manager
        self._journal = journal
        self._clock = clock

    async def recover_on_startup(
        self,
        broker_ready: Callable[[], Awaitable[bool]],
        *,
        expire_after_s: float | None = None,
        republish: bool = False,
        wait_s: float = BROKER_WAIT_S,
        poll_s: float = BROKER_POLL_S,
    ) -> Recovered:
        """Checkpoint, end what is older than `expire_after_s`, and give the rest back to the broker if asked to.

        Without `republish` the tasks stay and run here, which is what a worker wants. With it the broker is waited for
        up to `wait_s`, asked every `poll_s` with jitter; raises JournalError when it does not come, nothing changed.
        Each task is republished once: its message stands in the outbox from the transaction that changed its row.
        """
        pages = await self._journal.checkpoint()
        if republish:
            await self._wait_for(broker_ready, wait_s, poll_s)
        unfinished = await self._manager.recover_pending_tasks()
        expired = 0
        if expire_after_s is not None:
            for task in unfinished:
                if task.state == State.PENDING and task.created_at < self._clock() - expire_after_s:
                    await self._journal.time_out(
                        task.task_id, f"older than {expire_after_s:g} s when the worker started"
                    )
                    expired += 1
        count = await self._journal.republish() if republish else 0
        return Recovered(len(unfinished), expired, count, pages)

    async def _wait_for(self, ready: Callable[[], Awaitable[bool]], wait_s: float, poll_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    if await ready():
                        return
                    await asyncio.sleep(poll_s * random.uniform(0.8, 1.2))  # noqa: S311  # jitter, no secret
        except TimeoutError:
            raise JournalError(
                f"recover: the broker was not reachable within {wait_s:g} s; nothing was changed"
            ) from None
