"""The writer thread: whole operations cross to it, one transaction commits many of them, then their futures resolve.

    callers ── operation ──▶ queue (bounded) ──▶ BEGIN IMMEDIATE
                                                   SAVEPOINT · operation · RELEASE     (each operation of the group;
                                                   or one statement                    what writes by one needs no more)
                                                 COMMIT  (one fsync for all)
    callers ◀── results, one callback of the loop for the whole group

An operation that fails is rolled back to its savepoint and takes nothing else with it. Some errors (disk full, I/O) let
SQLite roll back the whole transaction from inside a savepoint: after each error the connection is asked whether the
transaction still stands, and if not, every future of the group fails. Nothing of a lost group is run again here.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from eco_workers.errors import (
    CommitFailedError,
    EcoWorkerError,
    JournalBusyError,
    JournalCorruptError,
    JournalError,
    JournalFatalError,
    JournalFullError,
)
from eco_workers.journal.failpoints import reached
from eco_workers.journal.faults import translate

T = TypeVar("T")
log = logging.getLogger(__name__)


class Session(Protocol):
    """What the writer drives: one connection and the operations on it. Only the writer's thread calls it."""

    def begin(self) -> None:
        """Open the transaction of a group and check that the journal is still ours."""

    def run(self, operation: Callable[[Any], Any]) -> Any:
        """Run one operation in a savepoint; on an error the savepoint is undone and the error raised."""

    def run_single(self, operation: Callable[[Any], Any]) -> Any:
        """Run one operation that writes by one statement only, which is undone by itself when it fails."""

    def commit(self) -> None:
        """Make the group durable."""

    def abandon(self) -> None:
        """Undo the group, if SQLite has not done it already."""

    def in_transaction(self) -> bool:
        """Whether the group's transaction still stands."""

    def after_commit(self) -> None:
        """Look after the log and the volume between two groups."""

    def idle(self) -> None:
        """Use a pause."""

    def on_full(self) -> None:
        """Make room: the volume is full."""

    def on_broken(self, error: EcoWorkerError) -> None:
        """Leave a mark for the next open: the journal is damaged, or may not be durable."""

    def close(self, *, untouched: bool) -> None:
        """Checkpoint and close; `untouched` closes without writing anything more."""


@dataclass(slots=True)
class Task:
    """An operation on its way."""

    operation: Callable[[Any], Any]
    future: "asyncio.Future[Any]"
    outside: bool = False
    """To be run between two groups, in no transaction: a checkpoint cannot run inside one."""
    single: bool = False
    """Writes by one statement only: needs no savepoint."""
    error: BaseException | None = None
    value: Any = None


@dataclass(slots=True)
class WriterStatistics:
    """What the writer has done so far."""

    commits: int = 0
    operations: int = 0
    queue_depth: int = 0
    last_error: str = ""


_STOP: Final = None


class Writer:
    """Hands operations to the thread and their results back to the loop."""

    def __init__(
        self,
        session: Session,
        *,
        queue_operations_max: int,
        queue_wait_s: float,
        group_operations_max: int,
        idle_s: float,
    ) -> None:
        self.statistics = WriterStatistics()
        self.broken: EcoWorkerError | None = None
        """Set once for good: the journal is damaged, not durable, or taken over."""
        self._session = session
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._queue_operations_max = queue_operations_max
        self._queue_wait_s = queue_wait_s
        self._group_operations_max = group_operations_max
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._depth = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closing = False
        self._ended = self._loop.create_future()
        self._listener: Callable[[], None] = _nothing
        self._thread = threading.Thread(target=self._work, name="journal-writer", daemon=True)

    def start(self, listener: Callable[[], None]) -> None:
        """Start the thread. `listener` is called on the loop after each group."""
        self._listener = listener
        self._thread.start()

    async def run(self, operation: Callable[[Any], T]) -> T:
        """Run an operation in a group commit; returns after the commit.

        A caller that is cancelled lets go of its future, no more: the operation is carried out or fails with its group.
        """
        return await self._submit(operation)

    async def run_single(self, operation: Callable[[Any], T]) -> T:
        """Run an operation as `run` does, one that writes by one statement only."""
        return await self._submit(operation, single=True)

    async def between(self, action: Callable[[], T]) -> T:
        """Run an action on the thread between two groups."""
        return await self._submit(lambda _session: action(), outside=True)

    async def _submit(self, operation: Callable[[Any], T], *, outside: bool = False, single: bool = False) -> T:
        if self._depth >= self._queue_operations_max or self._waiting:
            await self._room()
        if self.broken is not None:
            raise type(self.broken)(str(self.broken))
        if self._closing:
            raise JournalError("the journal is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._depth += 1
        self._queue.put(Task(operation, future, outside, single))
        return await future

    async def close(self) -> None:
        """Finish what is queued, then checkpoint and close."""
        if not self._closing:
            self._closing = True
            self._queue.put(_STOP)
        await asyncio.shield(self._ended)
        await asyncio.to_thread(self._thread.join)

    async def _room(self) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._queue_wait_s):
                await turn
        except TimeoutError:
            raise JournalBusyError(
                f"the journal's queue held {self._queue_operations_max} operations for {self._queue_wait_s:g} s"
            ) from None
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    # -- on the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        closing = False
        while not closing:
            group: list[Task] = []
            try:
                first = self._queue.get(timeout=self._idle_s)
            except Empty:
                self._guard(self._session.idle, "idle checkpoint")
                continue
            if first is _STOP:
                closing = True
            else:
                group.append(first)
                closing = self._fill(group)
            if group:
                inside = [task for task in group if not task.outside]
                if inside:
                    self._commit(inside)
                for task in group:
                    if task.outside:
                        self._run_outside(task)
                reached("group.before-resolve")
                self._tell(self._resolve, group)
                self._guard(self._session.after_commit, "checkpoint")
        untouched = self.broken is not None
        self._guard(lambda: self._session.close(untouched=untouched), "close", even_broken=True)
        self._tell(self._end)

    def _fill(self, group: list[Task]) -> bool:
        """Take what else is there; True when the journal is to close after this group."""
        while len(group) < self._group_operations_max:
            try:
                task = self._queue.get_nowait()
            except Empty:
                return False
            if task is _STOP:
                return True
            group.append(task)
        return False

    def _commit(self, group: list[Task]) -> None:
        if self.broken is not None:
            self._fail(group, self.broken)
            return
        session = self._session
        doing = "begin"
        try:
            reached("group.before-begin")
            session.begin()
            reached("group.after-begin")
            doing = "operation"
            for task in group:
                self._run(task)
            doing = "commit"
            reached("group.before-commit")
            session.commit()
            reached("group.after-commit")
        except Exception as error:  # noqa: BLE001  # whatever it is, the futures must learn of it
            self._lost(group, translate(error, doing))
        else:
            self.statistics.commits += 1
            self.statistics.operations += len(group)

    def _run(self, task: Task) -> None:
        """Run one operation. Raises when the whole group is lost with it."""
        try:
            reached("operation.before")
            run = self._session.run_single if task.single else self._session.run
            task.value = run(task.operation)
            reached("operation.after")
        except Exception as error:
            meant = translate(error, "operation")
            fatal = isinstance(meant, JournalFatalError | JournalCorruptError | JournalFullError)
            if fatal or not self._session.in_transaction():
                task.error = meant
                raise
            task.error = meant

    def _run_outside(self, task: Task) -> None:
        if self.broken is not None:
            task.error = self.broken
            return
        try:
            task.value = task.operation(self._session)
        except Exception as error:  # noqa: BLE001  # whatever it is, the future must learn of it
            task.error = self._note(translate(error, "checkpoint"))

    def _note(self, error: EcoWorkerError) -> EcoWorkerError:
        """Keep the error for the statistics; one that ends the journal is kept for good and marked on the volume."""
        self.statistics.last_error = str(error)
        passing = isinstance(error, JournalFullError | CommitFailedError)
        if not passing and self.broken is None:
            self.broken = error
            try:
                self._session.on_broken(error)
            except Exception as failure:  # noqa: BLE001  # the mark is a help; the error itself must get through
                log.warning("the mark could not be left: %s", failure)
        return error

    def _lost(self, group: list[Task], error: EcoWorkerError) -> None:
        try:
            self._session.abandon()
        except Exception as failure:  # noqa: BLE001  # a connection that cannot even roll back is not to be used again
            error = JournalFatalError(f"{error}; and the rollback failed: {failure}")
        self._note(error)
        if isinstance(error, JournalFullError):
            self._guard(self._session.on_full, "freeing the ballast")
        log.error("journal group of %d operations lost: %s", len(group), error)
        self._fail(group, error)

    def _fail(self, group: list[Task], error: EcoWorkerError) -> None:
        # Operations that had failed on their own account keep their own error, the others learn what undid the group.
        for task in group:
            task.error = task.error or error

    def _guard(self, action: Callable[[], None], doing: str, *, even_broken: bool = False) -> None:
        if self.broken is not None and not even_broken:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001  # the thread must live on to tell the futures
            meant = self._note(translate(error, doing))
            log.error("journal %s failed: %s", doing, meant)  # noqa: TRY400  # the message carries the cause

    def _tell(self, callback: Callable[..., None], *values: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *values)
        except RuntimeError:
            log.warning("the event loop has gone before the journal was closed")

    # -- on the loop ----------------------------------------------------------------------------------------------

    def _resolve(self, group: list[Task]) -> None:
        self._depth -= len(group)
        self.statistics.queue_depth = self._depth
        for task in group:
            if task.future.done():
                continue
            if task.error is None:
                task.future.set_result(task.value)
            else:
                # Each waiter gets an exception of its own: one shared by many would gather all their tracebacks.
                task.future.set_exception(type(task.error)(*task.error.args))
        free = self._queue_operations_max - self._depth
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            free -= 1
            if not turn.done():
                turn.set_result(None)
        self._listener()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def _nothing() -> None:
    """Listen to nothing."""
