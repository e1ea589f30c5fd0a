"""The calls of a journal that both journals share: check what comes in, run one operation, return what it gave.

How an operation is run, on a thread with a file or at once on dictionaries, is what the two add.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from eco_workers.errors import EcoWorkerError, InvalidTaskError
from eco_workers.journal import limits as bounds
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import (
    CachedAnswer,
    Completion,
    Emit,
    Fate,
    NewTask,
    OutboxMessage,
    Owner,
    Rejected,
    Report,
    Running,
    Unfinished,
    Verdict,
)
from eco_workers.journal.operations import Context, names_of
from eco_workers.journal.upkeep import Upkeep
from eco_workers.journal.waking import Waking

T = TypeVar("T")
REPUBLISH_AT_ONCE: Final = 100
RETRY_AT_ONCE: Final = 1_000
CLOSE_AT_ONCE: Final = 1_000


class JournalCalls(ABC):
    """The part of `model.TaskJournal` that is operations on rows."""

    def __init__(self, context: Context, journal_uuid: str, *, draining: bool, sync_target: str) -> None:
        self.limits: Limits = context.limits
        self._context = context
        self._uuid = journal_uuid
        self._waking = Waking(context)
        self._draining = draining
        self._sync_target = sync_target

    @property
    def journal_uuid(self) -> str:
        """Identity of the journal."""
        return self._uuid

    @property
    def incarnation(self) -> str:
        """`<boot id>:<epoch>` of this process."""
        return self._context.incarnation

    @property
    def epoch(self) -> int:
        """Raised by each open."""
        return self._context.epoch

    @property
    def recovered(self) -> int:
        """Unfinished rows found at this start."""
        return self._context.recovered

    @property
    def draining(self) -> bool:
        """Whether the shard drains, as kept in the journal."""
        return self._draining

    @property
    def sync_target(self) -> str:
        """Where reports go, as kept in the journal; empty when nowhere."""
        return self._sync_target

    @abstractmethod
    async def _run(self, operation: Callable[[Upkeep], T]) -> T:
        """Run an operation; returns after the commit that made it durable."""

    @abstractmethod
    async def _finish(self, operation: Callable[[Upkeep], T], *, single: bool = False) -> T:
        """Run an operation of work that is under way, or one that only reads: a full volume must not stop it.

        `single` says that it writes one row by one statement, so that nothing can be left half done.
        """

    @abstractmethod
    def _check_room(self) -> None:
        """Raise JournalFullError when new work is not accepted."""

    # -- from the broker ------------------------------------------------------------------------------------------

    async def accept(self, tasks: Sequence[NewTask], *, owner: Owner = Owner.JOURNAL) -> list[Verdict]:
        """Write deliveries; see the protocol. Raises JournalFullError below the reserve, before anything is written."""
        for task in tasks:
            bounds.check_task(task, self.limits)
        self._check_room()
        return await self._run(lambda ops: ops.accept(tasks, owner)) if tasks else []

    async def reject(self, messages: Sequence[Rejected]) -> None:
        """Keep deliveries that are no valid task."""
        for message in messages:
            bounds.check_rejected(message, self.limits)
        self._check_room()
        await self._run(lambda ops: ops.reject(messages))

    async def acked(self, task_ids: Sequence[str]) -> None:
        """Hand rows over from broker to journal, before the ack is sent."""
        await self._finish(lambda ops: ops.acked(task_ids))

    async def fates(self, task_ids: Collection[str]) -> dict[str, Fate]:
        """What is to become of un-acked deliveries."""
        return await self._finish(lambda ops: ops.fates(task_ids))

    async def channel_lost(self) -> None:
        """Let un-acked rows await their redelivery."""
        await self._finish(lambda ops: ops.channel_lost())

    async def close_unacked(self, *, after_s: float | None = None) -> int:
        """Close rows whose redelivery went elsewhere."""
        wait_s = self.limits.unacked_wait_s if after_s is None else after_s
        return await self._finish(lambda ops: ops.close_unacked(wait_s, 1000))

    # -- running --------------------------------------------------------------------------------------------------

    async def claim(self, limit: int, *, names: Mapping[str, int] | frozenset[str]) -> list[Running]:
        """Start due tasks."""
        self._waking.work.clear()
        budgets = names_of(names, self.limits)
        return await self._finish(lambda ops: ops.claim(limit, budgets))

    async def start(self, task_id: str) -> Running:
        """Start this very task, due or not."""
        return await self._finish(lambda ops: ops.start(task_id))

    async def unfinished(self, limit: int = 1000) -> list[Unfinished]:
        """Running and pending tasks."""
        return await self._finish(lambda ops: ops.unfinished(limit))

    async def step(
        self,
        task_id: str,
        name: str,
        result: bytes,
        *,
        emits: Sequence[Emit] = (),
        cache: Sequence[CachedAnswer] = (),
    ) -> None:
        """Checkpoint a finished step."""
        bounds.check_result("result", result, self.limits)
        self._check_emits(emits)
        await self._finish(lambda ops: ops.step(task_id, name, result, emits, cache))

    async def cached(self, key: str) -> bytes | None:
        """A kept answer that is not too old."""
        return await self._finish(lambda ops: ops.cached(key))

    async def heartbeat(self, task_id: str) -> None:
        """Note that a running task makes progress."""
        await self._finish(lambda ops: ops.heartbeat(task_id))

    async def complete(
        self, task_id: str, result: bytes, *, emits: Sequence[Emit] = (), cache: Sequence[CachedAnswer] = ()
    ) -> None:
        """End a running task with its result."""
        (refused,) = await self.complete_all([Completion(task_id, result, emits, cache)])
        if refused is not None:
            raise refused

    async def complete_all(self, completions: Sequence[Completion]) -> list[EcoWorkerError | None]:
        """End running tasks with their results, in one transaction; for each why it was refused."""
        checked = [self._refusal(completion) for completion in completions]
        sound = [completion for completion, refused in zip(completions, checked, strict=True) if refused is None]
        if not sound:
            return checked
        single = len(sound) == 1 and not sound[0].emits and not sound[0].cache
        written = iter(await self._finish(lambda ops: ops.complete(sound), single=single))
        return [next(written) if refused is None else refused for refused in checked]

    async def fail(self, task_id: str, error: str) -> None:
        """End a task for good."""
        await self._finish(lambda ops: ops.fail(task_id, error))

    async def time_out(self, task_id: str, error: str) -> None:
        """End a task whose time is over."""
        await self._finish(lambda ops: ops.time_out(task_id, error))

    async def retry(self, task_id: str, error: str, *, not_before: float) -> None:
        """Schedule another attempt."""
        start = bounds.check_time("not_before", not_before)
        await self._finish(lambda ops: ops.retry(task_id, error, start))

    async def release(self, task_ids: Sequence[str]) -> None:
        """Put running tasks back."""
        await self._finish(lambda ops: ops.release(task_ids))

    async def republish(self, task_ids: Sequence[str] | None = None) -> int:
        """Give pending tasks back to the broker; all of them, in transactions of bounded size, for None."""
        if task_ids is not None:
            return await self._finish(lambda ops: ops.republish(task_ids, len(task_ids)))
        total = 0
        while count := await self._finish(lambda ops: ops.republish(None, REPUBLISH_AT_ONCE)):
            total += count
        return total

    # -- outbox ---------------------------------------------------------------------------------------------------

    async def outbox(self, limit: int, *, without: Collection[str] = ()) -> list[OutboxMessage]:
        """Unsent messages, oldest first."""
        self._waking.outbox.clear()
        return await self._finish(lambda ops: ops.outbox(limit, without))

    async def sent(self, row_ids: Sequence[int]) -> None:
        """Mark messages that the broker confirmed."""
        await self._finish(lambda ops: ops.sent(row_ids))

    async def park_outbox(self, row_id: int, error: str) -> None:
        """Count an attempt of a message that could not be routed."""
        await self._finish(lambda ops: ops.park_outbox(row_id, error))

    # -- sync -----------------------------------------------------------------------------------------------------

    async def unsynced(self, limit: int, since: float = 0.0) -> list[Report]:
        """Rows that owe their report."""
        return await self._finish(lambda ops: ops.unsynced(limit, since))

    async def synced(self, versions: Mapping[str, int]) -> None:
        """Mark reported rows."""
        await self._finish(lambda ops: ops.synced(versions))

    async def sync_failed(self, task_id: str, error: str, *, max_attempts: int) -> None:
        """Count an attempt that the database refused for this row."""
        await self._finish(lambda ops: ops.sync_failed(task_id, error, max_attempts))

    async def retry_parked(self) -> int:
        """Make parked messages and reports due again."""
        return await self._finish(lambda ops: ops.retry_parked(1000))

    async def set_sync_target(self, target: str) -> None:
        """Keep the sync target."""
        await self._finish(lambda ops: ops.set_sync_target(target))
        self._sync_target = target

    # -- the journal itself ---------------------------------------------------------------------------------------

    async def set_draining(self, draining: bool) -> None:
        """Keep whether the shard drains."""
        await self._finish(lambda ops: ops.set_draining(draining))
        self._draining = draining

    async def prune(self, *, keep_s: float, limit: int = 1000) -> int:
        """Delete ended rows that owe nothing."""
        return await self._finish(lambda ops: ops.prune(keep_s, limit))

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return when a row may have become due."""
        await self._waking.wait_for_work(timeout_s)

    async def wait_for_handover(self, timeout_s: float) -> None:
        """Return when the fate of an un-acked delivery may have changed."""
        await self._waking.wait_for_handover(timeout_s)

    async def wait_for_outbox(self, timeout_s: float) -> None:
        """Return when a message may have become due."""
        await self._waking.wait_for_outbox(timeout_s)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _refusal(self, completion: Completion) -> EcoWorkerError | None:
        try:
            bounds.check_result("result", completion.result, self.limits)
            self._check_emits(completion.emits)
        except InvalidTaskError as error:
            return error
        return None

    def _check_emits(self, emits: Sequence[Emit]) -> None:
        for emit in emits:
            bounds.check_emit(emit, self.limits)
