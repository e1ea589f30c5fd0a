"""Deliveries under `ackPolicy: Completed`: each is kept un-acked until its task is the journal's, and acked by itself.

The broker owns a task until it has ended or its first retry is scheduled, so a lost volume takes neither along: what is
un-acked comes back by itself. Whether a delivery may go is never remembered here but asked of the journal, which knows
also what ended without being run. Tags die with their channel; what was kept on it is forgotten, and its rows wait for
their redelivery.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from eco_workers import logs
from eco_workers.broker.channel import Delivery
from eco_workers.broker.consumer import Outcome
from eco_workers.errors import CommitFailedError, InvalidTaskError, JournalBusyError, JournalFullError, SettingsError
from eco_workers.journal.limits import check_task
from eco_workers.journal.model import Fate, NewTask, Owner, Rejected, TaskJournal, Verdict
from eco_workers.runtime.intake import PAUSE_S, REFUSED_PAUSE_S, TRIES_MAX, Intake
from eco_workers.runtime.messages import refusal
from eco_workers.tasks.registry import Registry

log = logs.get(__name__)
POLL_S: Final = 1.0
TIME_LIMIT_MAX_S: Final = 25 * 60.0
"""The broker takes a delivery back that is not acked within 30 minutes."""


class Settles(Protocol):
    """Acks deliveries by their tags, or gives them back."""

    async def settle(self, tags: Sequence[int], *, requeue: bool = False) -> None:
        """Ack, or give back; nothing when their channel is gone."""


class Holding:
    """The deliveries that are kept, by task."""

    def __init__(self, journal: TaskJournal) -> None:
        self._journal = journal
        self._settles: Settles | None = None
        self._tags: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return sum(len(tags) for tags in self._tags.values())

    def settle_by(self, settles: Settles) -> None:
        """Name who acks; before anything is kept."""
        self._settles = settles

    def keep(self, task_id: str, tag: int) -> None:
        """Keep a delivery whose row is durable."""
        self._tags.setdefault(task_id, []).append(tag)

    async def settle(self, tags: Sequence[int], *, requeue: bool = False) -> None:
        """Ack deliveries that need no keeping, or give them back."""
        assert self._settles is not None  # noqa: S101  # named before the consumer runs
        await self._settles.settle(tags, requeue=requeue)

    async def channel_lost(self) -> None:
        """Forget what was kept, and let its rows wait for their redelivery."""
        self._tags = {}
        await self._journal.channel_lost()

    async def give_back(self) -> int:
        """Return everything that is kept, its rows waiting for it to come back; how many."""
        kept, self._tags = self._tags, {}
        # First nothing runs unasked any more, then the broker may hand it to another shard.
        await self._journal.channel_lost()
        tags = [tag for each in kept.values() for tag in each]
        await self.settle(tags, requeue=True)
        return len(tags)

    async def run(self) -> None:
        """Settle whatever may go, for ever."""
        while True:
            await self._journal.wait_for_handover(POLL_S)
            await self.settle_ended()

    async def settle_ended(self) -> None:
        """Ack what the journal owns by now; return what it gave back."""
        session = self._tags
        # A later delivery of the same task, of a higher generation perhaps, is not what the answer is about.
        asked = {task_id: tuple(tags) for task_id, tags in session.items()}
        if not asked:
            return
        fates = await self._journal.fates(asked)
        if session is not self._tags:
            return  # the channel went meanwhile
        acks, returns = self._take(fates, Fate.ACK, asked), self._take(fates, Fate.RETURN, asked)
        await self.settle(acks)
        if session is self._tags:
            await self.settle(returns, requeue=True)

    def _take(self, fates: dict[str, Fate], fate: Fate, asked: dict[str, tuple[int, ...]]) -> list[int]:
        """Take the tags of one fate out of what is kept; one that somebody else has settled meanwhile is not there."""
        taken: list[int] = []
        for task_id, found in fates.items():
            kept = self._tags.get(task_id)
            if found is not fate or kept is None:
                continue
            taken += [tag for tag in kept if tag in asked[task_id]]
            left = [tag for tag in kept if tag not in asked[task_id]]
            if left:
                self._tags[task_id] = left
            else:
                del self._tags[task_id]
        return taken


@dataclass(slots=True)
class _Batch:
    """What of a batch is not durable yet."""

    rejected: list[tuple[Delivery, Rejected]] = field(default_factory=list)
    scheduled: list[tuple[Delivery, NewTask]] = field(default_factory=list)
    tasks: list[tuple[Delivery, NewTask]] = field(default_factory=list)

    def tags(self) -> list[int]:
        return [delivery.tag for part in (self.rejected, self.scheduled, self.tasks) for delivery, _ in part]


class HoldingIntake(Intake):
    """Writes deliveries that stay the broker's, and keeps them.

    A task whose start lies ahead is the journal's at once, as one that waits for a retry is: kept un-acked it would
    take up a place in the prefetch, and the broker would take it back after half an hour.
    """

    def __init__(self, *parts: Any, holding: Holding, clock: Callable[[], float] = time.time, **options: Any) -> None:
        super().__init__(*parts, **options)
        self._holding = holding
        self._clock = clock

    async def take(self, deliveries: Sequence[Delivery]) -> Outcome:
        """Make a batch durable: ack what needs no keeping, keep the rest, give back what found no room."""
        batch = self._sort(deliveries)
        for attempt in range(1, TRIES_MAX + 1):
            try:
                await self._write_batch(batch)
            except JournalFullError as error:
                log.warning("journal is full, deliveries go back", deliveries=len(batch.tags()), error=str(error))
                await self._on_full()
                break
            except (JournalBusyError, CommitFailedError) as error:
                log.warning("journal refused a batch", attempt=attempt, error=str(error))
                await asyncio.sleep(PAUSE_S * 2**attempt)
            else:
                await self._on_accepted(len(deliveries))
                return Outcome.KEPT
        tags = batch.tags()
        self._metrics.deliveries.labels("refused").inc(len(tags))
        await asyncio.sleep(REFUSED_PAUSE_S)
        await self._holding.settle(tags, requeue=True)
        return Outcome.KEPT

    def _sort(self, deliveries: Sequence[Delivery]) -> _Batch:
        batch = _Batch()
        now = self._clock()
        for delivery in deliveries:
            found = self._parser.parse(delivery)
            if isinstance(found, NewTask):
                try:
                    check_task(found, self._limits)
                except InvalidTaskError as error:
                    found = refusal(delivery, str(error), self._parser.body_bytes_max)
            if isinstance(found, Rejected):
                batch.rejected.append((delivery, found))
            elif found.not_before is not None and found.not_before > now:
                batch.scheduled.append((delivery, found))
            else:
                batch.tasks.append((delivery, found))
        return batch

    async def _write_batch(self, batch: _Batch) -> None:
        """Write part by part; a part leaves the batch with its commit, so that nothing is settled twice."""
        if batch.rejected:
            await self._reject([message for _, message in batch.rejected])
            done, batch.rejected = batch.rejected, []
            await self._holding.settle([delivery.tag for delivery, _ in done])
        if batch.scheduled:
            await self._accept([task for _, task in batch.scheduled], Owner.JOURNAL)
            ahead, batch.scheduled = batch.scheduled, []
            await self._holding.settle([delivery.tag for delivery, _ in ahead])
        if batch.tasks:
            verdicts = await self._accept([task for _, task in batch.tasks], Owner.BROKER)
            held, batch.tasks = batch.tasks, []
            for delivery, task in held:
                self._holding.keep(task.task_id, delivery.tag)
            if Verdict.DUPLICATE in verdicts or Verdict.RAISED in verdicts:
                # It may have ended long ago: nothing that happens from here on would wake whoever acks it.
                await self._holding.settle_ended()


def check_time_limits(registry: Registry) -> None:
    """Refuse a task that may run longer than the broker waits for an ack; raises SettingsError that names it."""
    for name, task in registry.tasks.items():
        if task.time_limit_s > TIME_LIMIT_MAX_S:
            raise SettingsError(
                f"ECO_ACK_POLICY: Completed, but task {name!r} has a time limit of {task.time_limit_s:.6g} s, want at"
                f" most {TIME_LIMIT_MAX_S:.0f} s: the broker takes a delivery back that is not acked in 30 minutes."
                " Example: ECO_ACK_POLICY=Journaled"
            )
