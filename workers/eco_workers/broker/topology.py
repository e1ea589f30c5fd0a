"""What exists on the broker, declared once: five queues, their exchanges, their bindings, their limits.

Queue arguments cannot be changed after a queue was made, so a queue carries only what never changes: its type and where
its dead letters go. Limits are policies, which an administrator may change while messages flow; `definitions()` gives
them in the form that RabbitMQ imports (`rabbitmqctl import_definitions`).

Dead-lettering at least once needs `overflow: reject-publish` beside it, otherwise RabbitMQ falls back to at most once
(https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering). `x-max-priority` is never set:
RabbitMQ 3.10 refuses it on a quorum queue. The classes' weights are scheduling weights of their consumers.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import aiormq
from aiormq.abc import AbstractChannel

from eco_workers.errors import TopologyError

TASK_EXCHANGE: Final = "eco.tasks"
DEAD_LETTER_EXCHANGE: Final = "eco.dlx"
DEAD_LETTER_QUEUE: Final = "q.dlq"
DEAD_LETTER_DELIVERIES_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue: the routing keys that lead to it and the limits that its policy sets."""

    name: str
    weight: int
    """Share of attention among the classes; a consumer's business, never a queue argument."""
    routing_keys: tuple[str, ...] = ()
    length_messages_max: int = 1_000_000
    message_ttl_s: int | None = None
    delivery_limit: int = 100

    @property
    def arguments(self) -> dict[str, Any]:
        """What the queue is declared with; it must never change."""
        arguments: dict[str, Any] = {"x-queue-type": "quorum"}
        if self.name != DEAD_LETTER_QUEUE:
            arguments["x-dead-letter-exchange"] = DEAD_LETTER_EXCHANGE
        return arguments

    @property
    def policy(self) -> dict[str, Any]:
        """What an administrator may change while messages flow."""
        policy: dict[str, Any] = {"max-length": self.length_messages_max, "overflow": "reject-publish"}
        if self.name == DEAD_LETTER_QUEUE:
            # It has nowhere to pass its messages on to: without a limit of its own RabbitMQ 4 would drop a dead letter
            # that was looked at twenty times. "No limit" (-1) is refused by 3.10.
            policy["delivery-limit"] = DEAD_LETTER_DELIVERIES_MAX
        else:
            policy |= {"dead-letter-strategy": "at-least-once", "delivery-limit": self.delivery_limit}
        if self.message_ttl_s is not None:
            policy["message-ttl"] = self.message_ttl_s * 1000
        return policy


@dataclass(frozen=True, slots=True)
class Topology:
    """Queues and exchanges as a whole."""

    queues: tuple[Queue, ...]
    exchanges: dict[str, str] = field(default_factory=lambda: {TASK_EXCHANGE: "direct", DEAD_LETTER_EXCHANGE: "fanout"})

    def bindings(self) -> list[tuple[str, str, str]]:
        """(exchange, queue, routing key), each once."""
        return [
            *((TASK_EXCHANGE, queue.name, key) for queue in self.queues for key in (queue.name, *queue.routing_keys)),
            (DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, ""),
        ]

    def names(self) -> frozenset[str]:
        """Names of all queues."""
        return frozenset(queue.name for queue in self.queues)

    def route(self, routing_key: str) -> str | None:
        """The queue that a stage's routing key leads to; None for a key that is bound nowhere."""
        for queue in self.queues:
            if routing_key == queue.name or routing_key in queue.routing_keys:
                return queue.name
        return None


_DAY_S: Final = 86_400
TOPOLOGY: Final = Topology(
    queues=(
        Queue("q.ai", 10, ("ai.preprocess", "ai.vision", "ai.rag", "ai.llm"), message_ttl_s=7 * _DAY_S),
        Queue("q.batch", 1, ("analytics.daily", "report.generate"), message_ttl_s=7 * _DAY_S),
        Queue("q.api", 5, ("map.search", "oauth.verify"), message_ttl_s=_DAY_S),
        Queue("q.sched", 3, message_ttl_s=_DAY_S),
        Queue(DEAD_LETTER_QUEUE, 0),
    ),
)


def definitions(vhost: str = "/", topology: Topology = TOPOLOGY) -> dict[str, Any]:
    """The topology in the form of a RabbitMQ definitions file."""
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {
                "name": name,
                "vhost": vhost,
                "type": kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name, kind in topology.exchanges.items()
        ],
        "queues": [
            {"name": q.name, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": q.arguments}
            for q in topology.queues
        ],
        "bindings": [
            {
                "source": exchange,
                "vhost": vhost,
                "destination": queue,
                "destination_type": "queue",
                "routing_key": key,
                "arguments": {},
            }
            for exchange, queue, key in topology.bindings()
        ],
        "policies": [
            {
                "vhost": vhost,
                "name": f"eco-{q.name}",
                "pattern": f"^{q.name.replace('.', chr(92) + '.')}$",
                "apply-to": "queues",
                "definition": q.policy,
                "priority": 0,
            }
            for q in topology.queues
        ],
    }


async def declare(channel: AbstractChannel, topology: Topology = TOPOLOGY) -> None:
    """Make what is missing. Harmless when all is there; raises TopologyError when something is there but different."""
    what = ""
    try:
        for name, kind in topology.exchanges.items():
            what = f"exchange {name}"
            await channel.exchange_declare(name, exchange_type=kind, durable=True)
        for queue in topology.queues:
            what = f"queue {queue.name}"
            await channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
        for exchange, queue_name, key in topology.bindings():
            what = f"binding {exchange} -> {queue_name}"
            await channel.queue_bind(queue_name, exchange, key)
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        raise TopologyError(f"declare {what}: the broker holds it with other arguments: {error}") from error
