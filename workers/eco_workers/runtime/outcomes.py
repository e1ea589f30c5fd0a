"""What came of tasks, on its way into the journal: completions in batches, everything else one by one.

A task is over for its coroutine when its body has returned. What is left, a row to be written and waited for, would
cost more than all the rest of a short task, so it is done by one call for as many as end in the same turn of the loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from eco_workers import logs
from eco_workers.errors import EcoWorkerError, IllegalStateError, JournalError
from eco_workers.journal.model import Completion, Running, TaskJournal
from eco_workers.runtime.supervisor import FATAL

log = logs.get(__name__)
T = TypeVar("T")
JOURNAL_TRIES_MAX: Final = 5
JOURNAL_PAUSE_S: Final = 0.05


class Ended(NamedTuple):
    """A task whose body has returned, and what is to be written of it."""

    running: Running
    completion: Completion


class Completions:
    """Writes completions in batches, bounded by what the executor runs at once."""

    def __init__(
        self,
        journal: TaskJournal,
        *,
        on_written: Callable[[Sequence[Ended]], None],
        on_refused: Callable[[Running, EcoWorkerError], Awaitable[None]],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._journal = journal
        self._on_written = on_written
        self._on_refused = on_refused
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._gathered: list[Ended] = []
        self._writing: dict[asyncio.Task[None], int] = {}

    def __len__(self) -> int:
        return len(self._gathered) + sum(self._writing.values())

    def add(self, ended: Ended) -> None:
        """Write this one together with all others that end in this turn of the loop."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(ended)

    async def written(self, timeout_s: float) -> None:
        """Return when all that was added is in the journal, at the latest after the time."""
        self._flush()
        if self._writing:
            await asyncio.wait(set(self._writing), timeout=timeout_s)

    def _flush(self) -> None:
        batch, self._gathered = self._gathered, []
        if batch:
            task = self._loop.create_task(self._write(batch))
            self._writing[task] = len(batch)
            task.add_done_callback(self._writing.pop)

    async def _write(self, batch: Sequence[Ended]) -> None:
        try:
            completions = [ended.completion for ended in batch]
            refusals = await patiently(lambda: self._journal.complete_all(completions))
            if any(refusals):
                for ended, refused in zip(batch, refusals, strict=True):
                    if refused is not None:
                        await self._on_refused(ended.running, refused)
                batch = [ended for ended, refused in zip(batch, refusals, strict=True) if refused is None]
        except FATAL as error:
            self._on_error(error)
        except Exception as error:
            # Only the journal can get here; the rows stay as they are and the next process finds them.
            log.exception("completions could not be written", tasks=len(batch))
            self._on_error(error)
        else:
            self._on_written(batch)


async def patiently(write: Callable[[], Awaitable[T]]) -> T:
    """Write an outcome, trying again while the journal is busy or rolled the group back."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return await write()
        except (IllegalStateError, *FATAL):
            raise
        except JournalError as error:
            if attempt >= JOURNAL_TRIES_MAX:
                raise
            log.warning("journal refused an outcome", error=str(error), attempt=attempt)
            await asyncio.sleep(JOURNAL_PAUSE_S * 2**attempt)
