"""For Python services that send tasks: a few lines over plain AMQP, no more than any other producer could write.

    async with Client("amqp://user:password@rabbitmq/") as client:
        task_id = await client.send("image.store", {"key": "uploads/1.jpg"}, queue="q.batch")

`send` returns once the broker has confirmed the message. Sending again with the same id is harmless.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from eco_workers import headers as names
from eco_workers.broker.publisher import Publisher, Receipt, Result
from eco_workers.errors import BrokerUnavailableError, InvalidTaskError


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
        return json.dumps(dict(self.payload), separators=(",", ":")).encode()

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

    async def send(self, name: str, payload: Mapping[str, Any], *, queue: str, task_id: str | None = None) -> str:
        """Send one task to a queue; its id. Raises what `send_many` raises."""
        message = NewMessage(name, payload, queue, task_id or str(uuid.uuid4()))
        await self.send_many([message])
        return message.task_id

    async def send_many(self, messages: Sequence[NewMessage]) -> None:
        """Send all and wait for the confirms.

        Raises InvalidTaskError when one reaches no queue, BrokerUnavailableError when not all are known to have
        arrived: send them again.
        """
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
