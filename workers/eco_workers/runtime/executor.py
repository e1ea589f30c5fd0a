"""Running what is due: claim in batches, run each task under its time limit, write the outcome.

The attempt is counted in the claim's transaction, before the body runs, so a task that kills its process uses up its
budget. A task that fails is tried again by its policy, one that says it cannot succeed fails at once, one that runs
out of time ends as timeout; a stop of the process is no failure and gives the attempt back.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from eco_workers import logs
from eco_workers.errors import (
    EcoWorkerError,
    IllegalStateError,
    InvalidTaskError,
    JournalBusyError,
    TaskFailedError,
)
from eco_workers.journal.model import Completion, Running, TaskJournal
from eco_workers.metrics import Metrics
from eco_workers.runtime.deadlines import Deadlines
from eco_workers.runtime.outcomes import JOURNAL_PAUSE_S, Completions, Ended, patiently
from eco_workers.runtime.supervisor import FATAL, Supervisor
from eco_workers.tasks.context import Context, encode
from eco_workers.tasks.registry import Registry, Task
from eco_workers.tasks.resources import Resources

log = logs.get(__name__)
IDLE_WAIT_S: Final = 1.0
ERROR_CHARACTERS_MAX: Final = 2000
TOO_LATE: Final = "outcome came too late"
"""The row was ended or given back by somebody else meanwhile, a drain for one: its word stands."""
CANCEL_WAIT_S: Final = 5.0
WRITE_WAIT_S: Final = 5.0


class SelfCancelledError(EcoWorkerError):
    """A task's body ended as cancelled though nobody had cancelled it: something it awaited was."""


@dataclass(frozen=True, slots=True)
class ExecutorStatistics:
    """The state of the executor at one moment."""

    running: int
    finished: int
    failed_attempts: int
    first_resumed_after_s: float | None
    """From the start of the process to the first task that an earlier process had left unfinished."""


class Executor:
    """Runs the tasks of one journal, a bounded number at a time."""

    def __init__(  # each is a part that the executor joins; a bag of parts would only hide them
        self,
        journal: TaskJournal,
        registry: Registry,
        resources: Resources,
        metrics: Metrics,
        supervisor: Supervisor,
        *,
        concurrency: int,
        process_started_at: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._resources = resources
        self._metrics = metrics
        self._supervisor = supervisor
        self._concurrency = concurrency
        self._process_started_at = process_started_at
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._slot_free = asyncio.Event()
        self._allowed = asyncio.Event()
        self._allowed.set()
        self._claimed = asyncio.Event()
        """Not set while a claim is under way: its tasks are running in the journal and not yet here."""
        self._claimed.set()
        self._deadlines = Deadlines()
        self._completions = Completions(
            journal, on_written=self._completed, on_refused=self._refused, on_error=supervisor.report
        )
        self._finished = 0
        self._failed_attempts = 0
        self._first_resumed_after_s: float | None = None
        metrics.running.set_function(lambda: len(self._running))

    def statistics(self) -> ExecutorStatistics:
        """The state of this moment."""
        return ExecutorStatistics(
            len(self._running) + len(self._completions),
            self._finished,
            self._failed_attempts,
            self._first_resumed_after_s,
        )

    async def run(self) -> None:
        """Claim and start tasks for ever, except while paused."""
        budgets = {name: task.retry.attempts_max for name, task in self._registry.tasks.items()}
        while True:
            await self._allowed.wait()
            free = self._concurrency - len(self._running)
            if free <= 0:
                self._slot_free.clear()
                await self._slot_free.wait()
                # What has ended goes to the journal before the next claim, and with it into one group.
                await asyncio.sleep(0)
                continue
            self._claimed.clear()
            try:
                claimed = await self._journal.claim(free, names=budgets)
                for running in claimed:
                    self._begin(running)
            except JournalBusyError:
                claimed = []
                await asyncio.sleep(JOURNAL_PAUSE_S)
            finally:
                self._claimed.set()
            if not claimed:
                await self._journal.wait_for_work(IDLE_WAIT_S)

    def pause(self) -> None:
        """Claim nothing more; a claim that is under way still starts its tasks."""
        self._allowed.clear()

    def resume(self) -> None:
        """Claim again."""
        self._allowed.set()

    async def finish(self, timeout_s: float) -> int:
        """Let what runs end within a bound, then cancel it and give the attempts back; how many. Pause it before."""
        await self._claimed.wait()
        if self._running:
            await asyncio.wait(set(self._running.values()), timeout=max(0.0, timeout_s))
        left = dict(self._running)
        for task in left.values():
            task.cancel()
        if left:
            # A body that swallows its cancellation must not keep the process: the next one finds its row.
            _, deaf = await asyncio.wait(left.values(), timeout=CANCEL_WAIT_S)
            if deaf:
                log.warning("tasks do not end when cancelled", tasks=len(deaf))
        await self._completions.written(WRITE_WAIT_S)
        return len(left)

    def _begin(self, running: Running) -> None:
        if running.recovered and self._first_resumed_after_s is None:
            self._first_resumed_after_s = round(self._clock() - self._process_started_at, 3)
            log.info("first recovered task", task_id=running.task_id, after_s=self._first_resumed_after_s)
        self._running[running.task_id] = self._loop.create_task(self._guarded(running))

    async def _guarded(self, running: Running) -> None:
        # Put there before this begins. To ask asyncio costs more: it asks the kernel for the process each time.
        me = self._running[running.task_id]
        try:
            await self._execute(running, me)
        except FATAL as error:
            self._supervisor.report(error)
        except Exception as error:
            # Only the journal can get here; the row stays as it is and the next process finds it.
            log.exception("outcome could not be written", task_id=running.task_id)
            self._supervisor.report(error)
        finally:
            # Given back and claimed anew, the same task may stand there under another attempt already.
            if self._running.get(running.task_id) is me:
                del self._running[running.task_id]
            self._slot_free.set()

    async def _execute(self, running: Running, me: "asyncio.Task[None]") -> None:
        task = self._registry[running.name]
        context = Context(running, self._journal, self._resources)
        started = time.perf_counter()
        kind = ""
        try:
            result, why = await self._run_limited(running, me, task, context)
            if result is None:
                kind = "timeout"
                log.warning("task ran out of time", task_id=running.task_id, task=task.name, why=why)
                await self._write(lambda: self._journal.time_out(running.task_id, why))
            else:
                self._completions.add(Ended(running, Completion(running.task_id, result, context.take_emits())))
        except asyncio.CancelledError:
            kind = "released"
            await asyncio.shield(self._write(lambda: self._journal.release([running.task_id])))
            raise
        except IllegalStateError as error:
            log.warning("task is no longer ours", task_id=running.task_id, error=str(error))
        except FATAL:
            raise
        except Exception as error:  # noqa: BLE001  # a task may raise anything: its policy decides
            kind = await self._fail(running, task, error)
        finally:
            self._metrics.observe_duration(running.queue, running.name, time.perf_counter() - started)
            if kind:
                self._count_failure(running, kind)

    def _completed(self, batch: Sequence[Ended]) -> None:
        self._finished += len(batch)
        for name, count in Counter(ended.running.name for ended in batch).items():
            self._metrics.count_completed(name, count)

    async def _refused(self, running: Running, error: EcoWorkerError) -> None:
        if isinstance(error, IllegalStateError):
            log.warning(TOO_LATE, task_id=running.task_id, error=str(error))
        else:
            self._count_failure(running, await self._fail(running, self._registry[running.name], error))

    def _count_failure(self, running: Running, kind: str) -> None:
        self._failed_attempts += 1
        self._metrics.failures.labels(running.queue, running.name, kind).inc()
        if kind in {"failed", "timeout"}:
            self._metrics.tasks.labels(kind, running.name).inc()

    async def _run_limited(
        self, running: Running, me: "asyncio.Task[None]", task: Task, context: Context
    ) -> tuple[bytes | None, str]:
        """The result of the body, or None and which limit it did not keep."""
        limit_s, why = task.time_limit_s, ""
        if running.expires_at is not None and (left_s := running.expires_at - self._clock()) < limit_s:
            limit_s, why = left_s, "expired while it ran"
        if limit_s <= 0:
            return None, "expired before it was started"
        deadline = self._deadlines.enter(limit_s, me)
        try:
            logs.bind(task_id=running.task_id, attempt=running.attempt)
            return encode(await task.function(context, task.parse(running.payload))), ""
        except asyncio.CancelledError as error:
            if not deadline.task.cancelling():
                # No stop: given back without a count, it would run again at once, for ever.
                raise SelfCancelledError("the task was cancelled from inside") from error
            # Somebody else may have cancelled it as well: a stop goes before a time limit.
            if not deadline.expired or deadline.task.uncancel() > 0:
                raise
            return None, why or f"time limit of {task.time_limit_s:.6g} s"
        finally:
            self._deadlines.leave(deadline)

    async def _fail(self, running: Running, task: Task, error: Exception) -> str:
        text = describe(error)
        if isinstance(error, TaskFailedError | InvalidTaskError):
            log.info("task failed for good", task_id=running.task_id, task=task.name, error=text)
            await self._write(lambda: self._journal.fail(running.task_id, text))
            return "failed"
        if running.attempt >= task.retry.attempts_max:
            log.warning("task failed, attempts used up", task_id=running.task_id, task=task.name, error=text)
            reason = f"{text} (attempt {running.attempt} of {task.retry.attempts_max})"
            await self._write(lambda: self._journal.fail(running.task_id, reason))
            return "failed"
        pause_s = task.retry.pause_s(running.attempt)
        log.warning(
            "task will be tried again",
            task_id=running.task_id,
            task=task.name,
            attempt=running.attempt,
            pause_s=round(pause_s, 1),
            error=text,
        )
        not_before = self._clock() + pause_s
        await self._write(lambda: self._journal.retry(running.task_id, text, not_before=not_before))
        return "retry"

    async def _write(self, write: Callable[[], Awaitable[None]]) -> None:
        try:
            await patiently(write)
        except IllegalStateError as error:
            log.warning(TOO_LATE, error=str(error))


def describe(error: BaseException) -> str:
    """One line about an error, the cause inside a group of one unwrapped."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:ERROR_CHARACTERS_MAX]
