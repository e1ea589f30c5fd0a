"""Emptying the outbox: what is written there goes to the broker and is marked once the broker has confirmed it.

One batch at a time, oldest first. A message that reaches no queue counts an attempt and is parked in the end; one whose
fate is unknown is sent again under the same id. What the broker refuses because its queue is full waits, and all else
for that queue with it, while messages for other queues go on.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Final

from eco_workers import logs
from eco_workers.broker.backoff import Backoff
from eco_workers.broker.publisher import Publisher, Result
from eco_workers.errors import BrokerUnavailableError, JournalBusyError
from eco_workers.journal.model import OutboxMessage, TaskJournal
from eco_workers.metrics import Metrics

log = logs.get(__name__)
BATCH_MESSAGES: Final = 256
IDLE_WAIT_S: Final = 1.0
FULL_QUEUES_MAX: Final = 100
"""Queues that are known to be full; beyond it the one found first is offered its messages again."""


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """The state of the relay at one moment."""

    sent: int = 0
    unroutable: int = 0
    last_error: str = ""


class Relay:
    """Publishes the outbox of one journal."""

    def __init__(self, journal: TaskJournal, publisher: Publisher, metrics: Metrics) -> None:
        self._journal = journal
        self._publisher = publisher
        self._metrics = metrics
        self._state = RelayStatistics()
        self._backoff = Backoff()
        self._full: dict[str, tuple[Backoff, float]] = {}
        """By routing key: when, by the loop's clock, a queue that was full is offered messages again."""

    def statistics(self) -> RelayStatistics:
        """The state of this moment."""
        return self._state

    @property
    def waits_for_room(self) -> bool:
        """Whether messages are held back because the broker takes none for their queue for now."""
        return bool(self._full)

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            try:
                moved = await self.pass_once()
            except (BrokerUnavailableError, JournalBusyError) as error:
                self._state = replace(self._state, last_error=str(error)[:500])
                await asyncio.sleep(self._backoff.next_s())
                continue
            if moved is None:
                await self._journal.wait_for_outbox(IDLE_WAIT_S)
            elif moved:
                self._backoff.reset()
            else:
                # Messages are due but none could be placed: do not ask the broker in a tight loop.
                await asyncio.sleep(self._backoff.next_s())

    async def flush(self, timeout_s: float) -> bool:
        """Publish until nothing is due, within a bound; whether the outbox is empty then."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(max(0.01, deadline - time.monotonic())):
                    moved = await self.pass_once()
            except (BrokerUnavailableError, JournalBusyError, TimeoutError):
                moved = 0
            if moved is None and not self._full:
                return True
            if not moved:
                await asyncio.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
        return False

    async def pass_once(self) -> int | None:
        """Publish one batch: how many were confirmed or wait for their queue now; None when nothing was due."""
        now = asyncio.get_running_loop().time()
        messages = await self._journal.outbox(
            BATCH_MESSAGES, without=[key for key, (_, until) in self._full.items() if until > now]
        )
        if not messages:
            self._full = {key: (pause, until) for key, (pause, until) in self._full.items() if until > now}
            return None
        receipts = await self._publisher.publish(messages)
        confirmed = [m.row_id for m, r in zip(messages, receipts, strict=True) if r.result is Result.CONFIRMED]
        if confirmed:
            await self._journal.sent(confirmed)
            self._metrics.outbox.labels("confirmed").inc(len(confirmed))
        refused = [m for m, r in zip(messages, receipts, strict=True) if r.refused]
        self._note_full({m.routing_key for m in messages}, {m.routing_key for m in refused}, now)
        unroutable = [(m, r.error) for m, r in zip(messages, receipts, strict=True) if r.result is Result.UNROUTABLE]
        for message, error in unroutable:
            await self._park(message, error)
        unknown = [receipt.error for receipt in receipts if receipt.result is Result.UNKNOWN and receipt.error]
        self._metrics.outbox.labels("unknown").inc(len(unknown))
        error = unroutable[0][1] if unroutable else unknown[0] if unknown else ""
        self._state = RelayStatistics(
            self._state.sent + len(confirmed), self._state.unroutable + len(unroutable), error
        )
        return len(confirmed) + len(refused)

    def _note_full(self, offered: set[str], refused: set[str], now: float) -> None:
        for key in offered - refused:
            self._full.pop(key, None)
        for key in refused:
            pause, _ = self._full.pop(key, (Backoff(), 0.0))
            if len(self._full) >= FULL_QUEUES_MAX:
                self._full.pop(next(iter(self._full)))
            self._full[key] = (pause, now + pause.next_s())

    async def _park(self, message: OutboxMessage, error: str) -> None:
        log.warning("message reaches no queue", message_id=message.message_id, kind=message.kind, error=error)
        self._metrics.outbox.labels("unroutable").inc()
        await self._journal.park_outbox(message.row_id, error)
