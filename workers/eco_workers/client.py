"""For Python services that send tasks: a few lines over plain AMQP, no more than any other producer could write.

    async with Client("amqp://user:password@rabbitmq/") as client:
        task_id = await client.send("image.store", {"key": "uploads/1.jpg"}, queue="q.batch")
        await client.send("report.make", {"day": "2026-11-27"}, queue="q.batch", delay_s=60, expires_in_s=3600)

`send` returns once the broker has confirmed the message. Sending again with the same id is harmless: a task of that id
runs once on each journal that takes it. The connection is opened with the first message and again when it was lost.

A producer without this module sends a persistent message with a JSON object as its body to the queue (by the default
exchange) or with a routing key to the exchange `eco.tasks`, with the task's id as message id and its name as message
type, or both as the headers `task_id` and `task`.

An unmodified Celery client works as well, in JSON. The queues are not its to declare: it names them with
`Queue("q.batch", no_declare=True)` in `task_queues`, or sends with `exchange="eco.tasks", routing_key="q.batch"`.
Arguments go by keyword; `eta`, `countdown` and `expires` are honoured; chords, chains, callbacks and the limits of a
single message are refused, with the reason in `q.dlq`.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from eco_workers import headers as names
from eco_workers.broker.publisher import Publisher, Receipt, Result
from eco_workers.errors import BrokerUnavailableError, InvalidTaskError
from eco_workers.journal.limits import check_task_id


@dataclass(frozen=True, slots=True)
class NewMessage:
    """One task on its way to the broker."""

    name: str
    payload: Mapping[str, Any]
    routing_key: str
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    not_before: float | None = None
    """Unix seconds."""
    expires_at: float | None = None
    """Unix seconds: not begun by then, the task ends as timeout."""
    exchange: str = ""

    @property
    def message_id(self) -> str:
        """The task's own id: a producer that sends twice sends one task."""
        return self.task_id

    @property
    def body(self) -> bytes:
        """The payload as JSON."""
        return json.dumps(dict(self.payload), separators=(",", ":"), allow_nan=False).encode()

    @property
    def headers(self) -> Mapping[str, str]:
        """What the worker reads."""
        found = {names.TASK_ID: self.task_id, names.TASK_NAME: self.name}
        if self.not_before is not None:
            found[names.NOT_BEFORE] = repr(self.not_before)
        if self.expires_at is not None:
            found[names.EXPIRES_AT] = repr(self.expires_at)
        return found


class Client:
    """Sends tasks over one connection."""

    def __init__(self, url: str, *, name: str = "eco client") -> None:
        self._publisher = Publisher(url, name=name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send(
        self,
        name: str,
        payload: Mapping[str, Any],
        *,
        queue: str,
        task_id: str | None = None,
        delay_s: float | None = None,
        expires_in_s: float | None = None,
    ) -> str:
        """Send one task to a queue; its id. Raises what `send_many` raises.

        `delay_s` is the earliest start from now, `expires_in_s` the latest: not begun by then, it ends as timeout.
        """
        now = time.time()
        message = NewMessage(
            name,
            payload,
            queue,
            task_id or str(uuid.uuid4()),
            not_before=None if delay_s is None else now + delay_s,
            expires_at=None if expires_in_s is None else now + expires_in_s,
        )
        await self.send_many([message])
        return message.task_id

    async def send_many(self, messages: Sequence[NewMessage]) -> None:
        """Send all and wait for the confirms.

        Raises InvalidTaskError when one is no task (then none is sent) or reaches no queue, BrokerUnavailableError when
        not all are known to have arrived: send them again.
        """
        for message in messages:
            check_task_id(message.task_id)
            try:
                _ = message.body
            except (TypeError, ValueError) as error:
                raise InvalidTaskError(f"send {message.name}: payload: cannot be written as JSON: {error}") from None
        receipts: list[Receipt] = await self._publisher.publish(messages)
        for message, receipt in zip(messages, receipts, strict=True):
            if receipt.result is Result.UNROUTABLE:
                raise InvalidTaskError(f"send {message.name} to {message.routing_key!r}: {receipt.error}")
        lost = [r.error for r in receipts if r.result is Result.UNKNOWN]
        if lost:
            raise BrokerUnavailableError(f"{len(lost)} of {len(receipts)} messages are not confirmed: {lost[0]}")

    async def close(self) -> None:
        """Close the connection."""
        await self._publisher.close()
