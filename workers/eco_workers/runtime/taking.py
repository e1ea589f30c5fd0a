"""How a shard takes deliveries: what the ack policy decides, in one place.

`Journaled` and `Replicated` ack in commit order, several at once, when the journal says that they are durable: what
that means is the journal's part. Under `Completed` each is kept and acked by itself, and no more are taken than can
run, for the broker's patience runs from the delivery.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from eco_workers.broker.consumer import Consumer, ConsumerLimits
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import TaskJournal
from eco_workers.metrics import Metrics
from eco_workers.runtime.holding import Holding, HoldingIntake
from eco_workers.runtime.intake import Intake
from eco_workers.runtime.messages import Parser
from eco_workers.settings import Settings


@dataclass(frozen=True, slots=True)
class Taking:
    """The way in."""

    consumer: Consumer
    holding: Holding | None
    """What is kept un-acked; None where nothing is."""


def taking(  # each is a part that is joined here
    settings: Settings,
    journal: TaskJournal,
    names: frozenset[str],
    limits: Limits,
    metrics: Metrics,
    *,
    on_accepted: Callable[[int], Awaitable[None]],
    on_full: Callable[[], Awaitable[None]],
) -> Taking:
    """The consumer of a shard, with what stands between it and the journal."""
    parser = Parser(names, settings.message_bytes_max)
    if settings.ack_policy == "Completed":
        holding = Holding(journal)
        intake: Intake = HoldingIntake(
            journal, parser, limits, metrics, holding=holding, on_accepted=on_accepted, on_full=on_full
        )
        consumer = _consumer(settings, intake, settings.concurrency, shared=True, on_channel_lost=holding.channel_lost)
        holding.settle_by(consumer)
        return Taking(consumer, holding)
    intake = Intake(journal, parser, limits, metrics, on_accepted=on_accepted, on_full=on_full)
    prefetch = settings.prefetch_messages
    return Taking(
        _consumer(settings, intake, prefetch, shared=False, on_channel_lost=journal.channel_lost), holding=None
    )


def _consumer(
    settings: Settings,
    intake: Intake,
    prefetch_messages: int,
    *,
    shared: bool,
    on_channel_lost: Callable[[], Awaitable[None]],
) -> Consumer:
    return Consumer(
        settings.amqp_url,
        settings.queues,
        intake.take,
        name=f"{settings.namespace}/{settings.shard}",
        limits=ConsumerLimits(
            # What is prefetched is out of the reach of other shards: a low bound must really leave it to them.
            prefetch_messages=min(prefetch_messages, settings.max_unfinished),
            prefetch_shared=shared,
            body_bytes_max=settings.message_bytes_max,
        ),
        on_channel_lost=on_channel_lost,
    )
