"""The journal must not swallow the queue: how many unfinished rows it takes before the consumer is paused.

Due and running rows are bounded by `max_unfinished`, waiting ones by `max_waiting`. The exact counts come from the
journal, but asking after each batch would double its work, so rows accepted since the last answer are added to it and
the journal is asked again only when that sum, which can only be too high, reaches the bound.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final, Protocol

from eco_workers import logs
from eco_workers.journal.model import Statistics, TaskJournal

log = logs.get(__name__)
POLL_S: Final = 0.05
"""How often the journal is asked while the consumer is paused."""
OPEN_POLL_S: Final = 1.0
"""And while it is not: what comes in is counted without asking."""
RESUME_SHARE: Final = 0.75
"""Consuming begins again at this share of the bound, so that it does not flutter around it."""


class Valve(Protocol):
    """What can be paused and resumed."""

    async def pause(self) -> None:
        """Stop taking deliveries; returns when nothing more will come."""

    def resume(self) -> None:
        """Take deliveries again."""


@dataclass(slots=True)
class Bound:
    """Pauses a consumer above the bound and resumes it below."""

    journal: TaskJournal
    valve: Valve
    max_unfinished: int
    max_waiting: int
    held: bool = False
    """Somebody wants no deliveries whatever the counts are: a drain, a fence."""
    closed: bool = False
    """The consumer is paused."""
    _estimate_unfinished: int = 0
    _estimate_waiting: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def accepted(self, rows: int) -> None:
        """Note that rows were written; pauses the consumer before it returns when the bound is reached."""
        self._estimate_unfinished += rows
        self._estimate_waiting += rows
        if self.closed or (
            self._estimate_unfinished <= self.max_unfinished and self._estimate_waiting <= self.max_waiting
        ):
            return
        found = await self._ask()
        if self._is_over(found):
            await self._close(found)

    async def full(self) -> None:
        """Note that the journal has no room; the consumer is paused when this returns."""
        if not self.closed:
            await self._close(await self._ask())

    async def run(self) -> None:
        """Open and close by what the journal says, for ever."""
        while True:
            found = await self._ask()
            if not self.closed and (self.held or self._is_over(found)):
                await self._close(found)
            elif self.closed and not self.held and self._is_well_under(found):
                self.closed = False
                log.info("consumer resumed", unfinished=found.counts.due + found.counts.running)
                self.valve.resume()
            await self._until_news(POLL_S if self.closed else OPEN_POLL_S)

    async def _until_news(self, timeout_s: float) -> None:
        """Rest, but not over a pause that has just begun: what works off a journal is quick to be under the bound."""
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()

    async def hold(self) -> None:
        """Take no deliveries until `let_go`."""
        self.held = True
        self.closed = True
        await self.valve.pause()

    def let_go(self) -> None:
        """Take deliveries again as soon as the counts allow."""
        self.held = False
        self._news.set()

    async def _ask(self) -> Statistics:
        found = await self.journal.statistics()
        self._estimate_unfinished = found.counts.due + found.counts.running
        self._estimate_waiting = found.counts.waiting
        return found

    async def _close(self, found: Statistics) -> None:
        self.closed = True
        self._news.set()
        log.info(
            "consumer paused",
            unfinished=found.counts.due + found.counts.running,
            waiting=found.counts.waiting,
            read_only=found.read_only,
            held_back=found.held_back,
            held=self.held,
        )
        await self.valve.pause()

    def _is_over(self, found: Statistics) -> bool:
        unfinished = found.counts.due + found.counts.running
        held_back = found.read_only or bool(found.held_back)
        return held_back or unfinished > self.max_unfinished or found.counts.waiting > self.max_waiting

    def _is_well_under(self, found: Statistics) -> bool:
        unfinished = found.counts.due + found.counts.running
        return (
            not (found.read_only or found.held_back)
            and unfinished <= self.max_unfinished * RESUME_SHARE
            and found.counts.waiting <= self.max_waiting * RESUME_SHARE
        )
