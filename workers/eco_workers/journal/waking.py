"""Wakes those who wait for work, for messages or to ack, after the commit that made them due."""

import asyncio

from eco_workers.journal.operations import Context


class Waking:
    """Events, set from what operations noted in the context. One wake-up too many is harmless, one less not."""

    def __init__(self, context: Context) -> None:
        self.work = asyncio.Event()
        self.outbox = asyncio.Event()
        self.handover = asyncio.Event()
        self._context = context
        # What was left by an earlier process is due before anybody has committed anything.
        self.work.set()
        self.outbox.set()

    def tell(self) -> None:
        """Set what became due with the last group."""
        if self._context.work:
            self._context.work = False
            self.work.set()
        if self._context.outgoing:
            self._context.outgoing = False
            self.outbox.set()
        if self._context.handover:
            self._context.handover = False
            self.handover.set()

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return when a row may have become due, at the latest when the next scheduled one does."""
        timeout_s = min(timeout_s, max(0.0, self._context.next_due - self._context.clock()))
        await _wait(self.work, timeout_s)

    async def wait_for_outbox(self, timeout_s: float) -> None:
        """Return when a message may have become due."""
        await _wait(self.outbox, timeout_s)

    async def wait_for_handover(self, timeout_s: float) -> None:
        """Return when the fate of an un-acked delivery may have changed; the next wait is for the next change."""
        await _wait(self.handover, timeout_s)
        self.handover.clear()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    if event.is_set():
        return
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
