"""From a batch of deliveries to the journal: one transaction for the tasks, one for what is no task, then the ack.

What the journal refuses (no room, a group rolled back) goes back to the queue; a journal that may not be durable any
more ends the process, and nothing of the batch is acked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from eco_workers import logs
from eco_workers.broker.channel import Delivery
from eco_workers.broker.consumer import Outcome
from eco_workers.errors import CommitFailedError, InvalidTaskError, JournalBusyError, JournalFullError
from eco_workers.journal.limits import Limits, check_task
from eco_workers.journal.model import NewTask, Owner, Rejected, TaskJournal, Verdict
from eco_workers.metrics import Metrics
from eco_workers.runtime.messages import Parser, refusal

log = logs.get(__name__)
TRIES_MAX: Final = 4
PAUSE_S: Final = 0.05
REFUSED_PAUSE_S: Final = 1.0
"""Before a refused batch goes back to the queue: the broker would deliver it again at once."""


class Intake:
    """Writes deliveries into a journal."""

    def __init__(
        self,
        journal: TaskJournal,
        parser: Parser,
        limits: Limits,
        metrics: Metrics,
        *,
        on_accepted: Callable[[int], Awaitable[None]],
        on_full: Callable[[], Awaitable[None]],
    ) -> None:
        self._on_accepted = on_accepted
        self._on_full = on_full
        self._journal = journal
        self._parser = parser
        self._limits = limits
        self._metrics = metrics

    async def take(self, deliveries: Sequence[Delivery]) -> Outcome:
        """Make a batch durable; what became of it."""
        tasks: list[NewTask] = []
        rejected: list[Rejected] = []
        origin: list[Delivery] = []
        for delivery in deliveries:
            found = self._parser.parse(delivery)
            if isinstance(found, NewTask):
                tasks.append(found)
                origin.append(delivery)
            else:
                rejected.append(found)
        for attempt in range(1, TRIES_MAX + 1):
            try:
                await self._write(tasks, rejected)
            except InvalidTaskError:
                tasks, origin = self._sort_out(tasks, origin, rejected)
            except JournalFullError as error:
                log.warning("journal is full, deliveries go back", deliveries=len(deliveries), error=str(error))
                # Paused first: a batch that went back and forth would use up the queue's delivery limit.
                await self._on_full()
                break
            except (JournalBusyError, CommitFailedError) as error:
                log.warning("journal refused a batch", attempt=attempt, error=str(error))
                await asyncio.sleep(PAUSE_S * 2**attempt)
            else:
                await self._on_accepted(len(tasks))
                return Outcome.DURABLE
        self._metrics.deliveries.labels("refused").inc(len(deliveries))
        await asyncio.sleep(REFUSED_PAUSE_S)
        return Outcome.REFUSED

    async def _write(self, tasks: list[NewTask], rejected: list[Rejected]) -> None:
        if tasks:
            await self._accept(tasks, Owner.JOURNAL)
        if rejected:
            await self._reject(rejected)

    async def _accept(self, tasks: list[NewTask], owner: Owner) -> list[Verdict]:
        verdicts = await self._journal.accept(tasks, owner=owner)
        counts: dict[str, int] = {}
        for verdict in verdicts:
            counts[verdict.value] = counts.get(verdict.value, 0) + 1
        for outcome, count in counts.items():
            self._metrics.deliveries.labels(outcome).inc(count)
        return verdicts

    async def _reject(self, rejected: list[Rejected]) -> None:
        await self._journal.reject(rejected)
        self._metrics.deliveries.labels("rejected").inc(len(rejected))
        for message in rejected:
            log.info("delivery is no task", message_id=message.message_id, queue=message.queue, reason=message.reason)

    def _sort_out(
        self, tasks: list[NewTask], origin: list[Delivery], rejected: list[Rejected]
    ) -> tuple[list[NewTask], list[Delivery]]:
        """Move what the journal must not hold from the tasks to the rejected."""
        good: list[NewTask] = []
        kept: list[Delivery] = []
        for task, delivery in zip(tasks, origin, strict=True):
            try:
                check_task(task, self._limits)
            except InvalidTaskError as error:
                rejected.append(refusal(delivery, str(error), self._parser.body_bytes_max))
            else:
                good.append(task)
                kept.append(delivery)
        return good, kept
