"""Taking deliveries: a batch at a time, acked as a whole once its handler says that it is durable, or kept by it.

One batch is with the handler at any moment; what arrives meanwhile is the next one. So the size of a batch follows the
time that a commit takes, and the highest tag of a batch is always the highest whose predecessors are all durable: one
`basic.ack` with `multiple` per commit, in commit order. A handler that keeps its deliveries settles each by itself,
later, in any order; what it keeps is bounded by the prefetch.

A connection that is lost, a consumer that the broker cancels (its queue was deleted) and a consumer that has gone
quiet while messages are ready all end the same way: close, pause with jitter, connect, declare, consume. Delivery tags
die with their channel: what a lost channel delivered and nobody took yet is dropped here, the broker sends it again.
"""

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from aiormq.connection import Connection

from eco_workers import logs
from eco_workers.broker import channel as wire
from eco_workers.broker.backoff import Backoff
from eco_workers.broker.channel import Delivery, DeliveryChannel, Inbox
from eco_workers.broker.topology import TOPOLOGY, Topology, declare
from eco_workers.errors import BrokerUnavailableError, TopologyError

log = logs.get(__name__)

WATCH_PERIOD_S = 1.0
PAUSE_TIMEOUT_S = 5.0
CANCEL_AGAIN_S = 0.1
LOOK_AGAIN_S = 0.02


class Outcome(enum.Enum):
    """What a handler did with a batch."""

    DURABLE = "durable"
    """All of it may be acked."""
    REFUSED = "refused"
    """No room, or nothing was committed: back to the queue, for another shard or a later moment."""
    KEPT = "kept"
    """The handler settles each of them by itself."""


Handler = Callable[[Sequence[Delivery]], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class ConsumerLimits:
    """How much a consumer takes at once."""

    prefetch_messages: int = 256
    """Per queue, or with `prefetch_shared` of all queues together: each gets its share."""
    prefetch_shared: bool = False
    inbox_bytes_max: int = 16 * 1024 * 1024
    """What may wait to be handled; above it the broker is not read from."""
    body_bytes_max: int = 1024 * 1024
    """What is kept of one body."""
    quiet_after_s: float = 30.0
    """Without a delivery for this long, the queues are asked whether messages are ready."""


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """The state of a consumer at one moment."""

    connected: bool = False
    consuming: bool = False
    paused: bool = False
    blocked: bool = False
    """The broker has raised a memory or disk alarm."""
    deliveries: int = 0
    batches: int = 0
    refused: int = 0
    connections: int = 0
    unacked: int = 0
    """Delivered, and not yet with the handler."""
    kept: int = 0
    """With the handler, or kept by it to be settled one by one."""
    last_error: str = ""


class Consumer:
    """Consumes some queues for as long as `run` runs."""

    def __init__(
        self,
        url: str,
        queues: Sequence[str],
        handler: Handler,
        *,
        name: str,
        limits: ConsumerLimits,
        on_channel_lost: Callable[[], Awaitable[None]] | None = None,
        topology: Topology = TOPOLOGY,
    ) -> None:
        self._url = url
        self._queues = tuple(queues)
        self._handler = handler
        self._name = name
        self._limits = limits
        self._on_channel_lost = on_channel_lost
        self._topology = topology
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._in_hand = 0
        self._kept = 0
        self._prefetch = _shares(limits, len(self._queues))
        self._state = ConsumerStatistics()
        self._inbox: Inbox | None = None
        self._channel: DeliveryChannel | None = None
        self._last_delivery = 0.0

    def statistics(self) -> ConsumerStatistics:
        """The state of this moment."""
        waiting = len(self._inbox) if self._inbox is not None else 0
        return replace(self._state, paused=not self._wanted.is_set(), unacked=waiting, kept=self._kept)

    async def pause(self) -> None:
        """Cancel the consumers and wait, within a bound, until they are; what is delivered is still handed over.

        A handler may call this before it returns: its batch is acked after the cancel, so the broker does not answer
        the ack with further deliveries, and what comes after the pause is bounded by the prefetch.
        """
        self._wanted.clear()
        self._changed.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_TIMEOUT_S):
                await self._idle.wait()

    async def handed_over(self) -> None:
        """Return when the handler has seen all that was delivered, or after a while; for a consumer that is paused."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_TIMEOUT_S):
                while self._in_hand or (self._inbox is not None and len(self._inbox)):  # noqa: ASYNC110  # two parts' states
                    await asyncio.sleep(LOOK_AGAIN_S)

    def resume(self) -> None:
        """Consume again. Takes effect soon."""
        self._wanted.set()
        self._changed.set()

    def stop(self) -> None:
        """End `run`: cancel the consumers, hand over what is delivered, ack it, close."""
        self._stopping.set()
        self._changed.set()

    async def settle(self, tags: Sequence[int], *, requeue: bool = False) -> None:
        """Ack deliveries that the handler kept, or give them back; nothing when their channel is gone, for they are."""
        channel = self._channel
        if channel is None or not tags:
            return
        with contextlib.suppress(*wire.CONNECTION_ERRORS):
            for tag in tags:
                if requeue:
                    await channel.basic_nack(tag, requeue=True, wait=False)
                else:
                    await channel.basic_ack(tag, wait=False)
            if channel is self._channel:
                self._kept -= len(tags)

    async def run(self) -> None:
        """Consume until `stop`; connects again, with growing pauses, for as long as it takes.

        Errors of the handler pass through: whether they are fatal is not ours to say.
        """
        backoff = Backoff()
        if self._state.connections:
            # Begun again after a death, and whoever holds what went with that channel may not have heard of it.
            await self._tell_lost()
        while not self._stopping.is_set():
            try:
                await self._session(backoff)
            except (*wire.CONNECTION_ERRORS, BrokerUnavailableError, TopologyError) as error:
                self._note(connected=False, consuming=False, last_error=wire.describe(error))
                pause_s = backoff.next_s()
                log.warning("broker lost", error=wire.describe(error), pause_s=round(pause_s, 2))
                await self._sleep(pause_s)
            finally:
                self._note(connected=False, consuming=False)

    async def _session(self, backoff: Backoff) -> None:
        inbox = self._inbox = Inbox(self._limits.inbox_bytes_max)
        transport = wire.DeliveryTransport(inbox, self._limits.body_bytes_max)
        connection = await wire.connect(self._url, f"{self._name} consume", transport)
        try:
            async with asyncio.timeout(wire.CHANNEL_TIMEOUT_S * 3):
                # A failed declaration closes its channel, so it gets one of its own.
                setup = await connection.channel(publisher_confirms=False)
                await declare(setup, self._topology)
                await setup.close()
                channel = self._channel = await wire.open_delivery_channel(connection, transport)
            self._note(connected=True, connections=self._state.connections + 1, last_error="")
            log.info("broker connected", queues=self._queues)
            await self._serve(connection, channel, inbox, backoff)
        finally:
            self._inbox = self._channel = None
            self._in_hand = self._kept = 0
            self._idle.set()
            await wire.close(connection)
            await self._tell_lost()

    async def _tell_lost(self) -> None:
        if self._on_channel_lost is not None:
            await self._on_channel_lost()

    async def _serve(self, connection: Connection, channel: DeliveryChannel, inbox: Inbox, backoff: Backoff) -> None:
        """Run the pump beside the watch; the first to end decides."""
        pump = asyncio.create_task(self._pump(channel, inbox), name="consumer-pump")
        watch = asyncio.create_task(self._watch(connection, channel, inbox, backoff), name="consumer-watch")
        try:
            done, _ = await asyncio.wait({pump, watch}, return_when=asyncio.FIRST_COMPLETED)
            if watch in done and watch.exception() is None:
                await self._finish(channel, inbox, pump)
            for task in done:
                task.result()
        finally:
            # A cancellation that meets the answer to a request of the client is swallowed there: ask until it is heard.
            while left := {task for task in (pump, watch) if not task.done()}:
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
            await asyncio.gather(pump, watch, return_exceptions=True)

    async def _pump(self, channel: DeliveryChannel, inbox: Inbox) -> None:
        while True:
            batch = await inbox.take()
            self._last_delivery = asyncio.get_running_loop().time()
            self._state = replace(
                self._state,
                deliveries=self._state.deliveries + len(batch),
                batches=self._state.batches + 1,
            )
            self._in_hand = len(batch)
            self._kept += len(batch)  # until the handler has spoken, for it may settle some before
            outcome = await self._handler(batch)
            if channel.is_closed:
                raise BrokerUnavailableError("the channel was lost before its batch could be acked")
            if outcome is not Outcome.KEPT:
                self._kept -= len(batch)
            if outcome is Outcome.DURABLE:
                await channel.basic_ack(batch[-1].tag, multiple=True, wait=False)
            elif outcome is Outcome.REFUSED:
                self._note(refused=self._state.refused + len(batch))
                await channel.basic_nack(batch[-1].tag, multiple=True, requeue=True, wait=False)
            self._in_hand = 0

    async def _watch(self, connection: Connection, channel: DeliveryChannel, inbox: Inbox, backoff: Backoff) -> None:
        """Keep the consumers as they should be; returns at `stop`, raises when the connection must be given up."""
        lost = asyncio.Event()
        wire.on_closed(connection, self._wake(lost))
        wire.on_closed(channel, self._wake(lost))
        channel.on_consumer_cancel_callbacks.add(lambda _: self._wake(lost)())
        quiet = _QuietWatch(self._queues, self._limits.quiet_after_s)
        while True:
            if lost.is_set():
                raise BrokerUnavailableError("the broker closed the channel or cancelled a consumer")
            if self._stopping.is_set():
                await self._cancel_consumers(channel)
                return
            if self._wanted.is_set() and not channel.queues:
                await self._start_consumers(channel)
                backoff.reset()
            elif not self._wanted.is_set() and channel.queues:
                await self._cancel_consumers(channel)
            self._note(consuming=bool(channel.queues), blocked=await wire.is_blocked(connection))
            # With a queue's share in the handler's hands nothing more may come, however much is ready.
            idle = not len(inbox) and not self._in_hand and self._kept < min(self._prefetch) and bool(channel.queues)
            if await quiet.is_stuck(connection, since=self._last_delivery, idle=idle):
                raise BrokerUnavailableError("messages are ready but none is delivered")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_PERIOD_S):
                    await self._changed.wait()

    def _wake(self, lost: asyncio.Event) -> Callable[[], None]:
        def callback() -> None:
            lost.set()
            self._changed.set()

        return callback

    async def _start_consumers(self, channel: DeliveryChannel) -> None:
        self._last_delivery = asyncio.get_running_loop().time()
        self._idle.clear()
        for queue, prefetch in zip(self._queues, self._prefetch, strict=True):
            tag = f"{self._name}/{queue}"
            channel.queues[tag] = queue
            # Holds for the consumers that begin behind it; a bound on the whole channel is none for quorum queues.
            await channel.basic_qos(prefetch_count=prefetch, timeout=wire.CHANNEL_TIMEOUT_S)
            await channel.basic_consume(queue, _never, consumer_tag=tag, timeout=wire.CHANNEL_TIMEOUT_S)

    async def _cancel_consumers(self, channel: DeliveryChannel) -> None:
        for tag in tuple(channel.queues):
            await channel.basic_cancel(tag, timeout=wire.CHANNEL_TIMEOUT_S)
        # After the last cancel-ok nothing more arrives: its deliveries came before it on the same channel.
        channel.queues.clear()
        self._idle.set()
        self._note(consuming=False)

    async def _finish(self, channel: DeliveryChannel, inbox: Inbox, pump: asyncio.Task[None]) -> None:
        """Let the pump empty the inbox, then close the channel: its close-ok says that every ack has arrived."""
        while (len(inbox) or self._in_hand) and not pump.done():
            await asyncio.wait({pump}, timeout=LOOK_AGAIN_S)
        if not pump.done():
            await channel.close(timeout=wire.CHANNEL_TIMEOUT_S)

    def _note(self, **changes: object) -> None:
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]  # names and types are checked by its tests

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


class _QuietWatch:
    """Asks the queues, after some time without a delivery, whether there is anything to deliver."""

    def __init__(self, queues: Sequence[str], quiet_after_s: float) -> None:
        self._queues = queues
        self._quiet_after_s = quiet_after_s
        self._asked_at = 0.0
        self._suspicions = 0

    async def is_stuck(self, connection: Connection, *, since: float, idle: bool) -> bool:
        """Whether messages were ready at two questions running, a period apart, with no delivery between them."""
        now = asyncio.get_running_loop().time()
        quiet_since = max(since, self._asked_at)
        if since > self._asked_at or not idle:
            self._suspicions = 0
        if not idle or now - quiet_since < self._quiet_after_s:
            return False
        self._asked_at = now
        ready = await count_ready(connection, self._queues)
        self._suspicions = self._suspicions + 1 if ready else 0
        return self._suspicions >= 2


def _shares(limits: ConsumerLimits, queues: int) -> tuple[int, ...]:
    """Prefetch of each queue."""
    if not limits.prefetch_shared:
        return (limits.prefetch_messages,) * queues
    least, more = divmod(limits.prefetch_messages, queues)
    return tuple(max(1, least + (number < more)) for number in range(queues))


async def count_ready(connection: Connection, queues: Sequence[str]) -> int:
    """Messages that could be delivered now, on a channel of its own: a question that fails closes its channel."""
    async with asyncio.timeout(wire.CHANNEL_TIMEOUT_S):
        channel = await connection.channel(publisher_confirms=False)
        ready = 0
        for queue in queues:
            answer = await channel.queue_declare(queue, passive=True)
            ready += answer.message_count or 0
        await channel.close()
    return ready


async def _never(_message: object) -> None:
    """Stand where aiormq wants a callback; `DeliveryChannel` never calls it."""
