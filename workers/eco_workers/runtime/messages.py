"""From a message on the wire to a task, or to the reason why it is none. Pure.

Two forms are understood. The plain one: an id (`x-eco-task-id` or `task_id` header, or the message id), a task name
(`x-eco-task-name` or `task` header, or the message type) and a JSON object as body. And Celery's message protocol 2 in
JSON (https://docs.celeryq.dev/en/stable/internals/protocol.html): what it can say and we cannot do, a chord for one, is
refused with the reason rather than half done.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic_core import from_json, to_json

from eco_workers import headers as names
from eco_workers.broker.channel import Delivery
from eco_workers.journal.model import NewTask, Rejected

TASK_ID: Final = re.compile(r"[A-Za-z0-9._:@/+=-]{1,255}")
TASK_NAME_CHARACTERS_MAX: Final = 255
COUNT_MAX: Final = 1_000_000
TIME_MAX_S: Final = 253_402_300_799.0  # the end of the year 9999
CARRIED: Final = (names.TRACEPARENT, "tracestate", "baggage")
DELIVERY_COUNT: Final = "x-delivery-count"
"""Set by quorum queues on what they deliver again."""
HEADER_CHARACTERS_MAX: Final = 1024
HEADERS_KEPT_MAX: Final = 32
ID_HEADERS: Final = (names.TASK_ID, "task_id", "id")
"""Where an id is looked for, before the message's own."""
OF_A_LETTER: Final = frozenset({names.REASON, names.QUEUE, names.MESSAGE_ID, names.FAILED_AT, names.BODY_BYTES})
"""Headers that a dead letter gets of its own."""


class RefusedError(ValueError):
    """A message that is no valid task; the text is the reason shown in the dead-letter queue."""


@dataclass(frozen=True, slots=True)
class Parser:
    """Reads deliveries against the names that this image knows and a bound on their size."""

    names: frozenset[str]
    body_bytes_max: int

    def parse(self, delivery: Delivery) -> NewTask | Rejected:
        """The task in a delivery, or the refusal that keeps it for a person."""
        try:
            return self._task(delivery)
        except RefusedError as error:
            return refusal(delivery, str(error), self.body_bytes_max)

    def _task(self, delivery: Delivery) -> NewTask:
        headers = delivery.headers
        body = delivery.body
        if delivery.size_bytes > self.body_bytes_max:
            raise RefusedError(f"body: {delivery.size_bytes} bytes, want at most {self.body_bytes_max}")
        encoding = delivery.properties.content_encoding or "utf-8"
        if encoding.lower() not in {"utf-8", "utf8", "us-ascii", "binary"}:
            raise RefusedError(f"content encoding: {encoding[:60]!r}, want utf-8")
        celery = isinstance(headers.get("task"), str) and isinstance(headers.get("id"), str)
        task_id = self._task_id(delivery, headers)
        name = self._name(delivery, headers)
        not_before = expires_at = None
        if names.NOT_BEFORE in headers or names.EXPIRES_AT in headers:
            not_before = number(headers, names.NOT_BEFORE, TIME_MAX_S)
            expires_at = number(headers, names.EXPIRES_AT, TIME_MAX_S)
        if celery and body[:1] == b"[":
            body = to_json(celery_payload(_parse(body)))
            if any(_limits(headers.get("timelimit"))):
                raise RefusedError("header timelimit: a time limit is the task's own here, not a message's")
            not_before = moment(headers, "eta")
            expires_at = moment(headers, "expires")
        elif body[:1] != b"{" and not isinstance(document := _parse(body), dict):
            # Whether a body that begins as an object is one JSON document, the journal checks as it writes it.
            raise RefusedError(f"body: a JSON {type(document).__name__}, want an object")
        return NewTask(
            task_id=task_id,
            name=name,
            payload=body,
            queue=delivery.queue,
            generation=count(headers, names.GENERATION),
            attempts=count(headers, names.ATTEMPTS),
            not_before=not_before,
            expires_at=expires_at,
            deliveries=count(headers, DELIVERY_COUNT) if delivery.redelivered else 0,
            headers={key: text for key in CARRIED if key in headers and (text := _text(headers[key])) is not None},
        )

    @staticmethod
    def _task_id(delivery: Delivery, headers: Mapping[str, Any]) -> str:
        given = delivery.properties.message_id
        for key in ID_HEADERS:
            if key in headers and headers[key] is not None and headers[key] != "":
                given = headers[key]
                break
        if given is None or given == "":
            raise RefusedError("task id: missing; set the message id or the header task_id")
        if isinstance(given, str) and TASK_ID.fullmatch(given):
            return given
        raise RefusedError(f"task id: {str(given)[:80]!r}, want 1 to 255 characters of A-Z a-z 0-9 . _ : @ / + = -")

    def _name(self, delivery: Delivery, headers: Mapping[str, Any]) -> str:
        name = headers.get(names.TASK_NAME) or headers.get("task") or delivery.properties.message_type
        if not name:
            raise RefusedError("task name: missing; set the message type or the header task")
        if not isinstance(name, str) or name not in self.names:
            raise RefusedError(f"task name: {str(name)[:TASK_NAME_CHARACTERS_MAX]!r} is not known to this image")
        return name


def refusal(delivery: Delivery, reason: str, body_bytes_max: int) -> Rejected:
    """A delivery that is no valid task, as it is kept for a person: what came, bounded, and why it was refused."""
    headers = delivery.headers
    ids = (*(headers.get(key) for key in ID_HEADERS), delivery.properties.message_id)
    identity = next((text for value in ids if (text := _text(value))), None)
    kept: dict[str, str] = {}
    # Those that a replay needs come first.
    ranked = sorted(headers.items(), key=lambda item: not str(item[0]).startswith("x-eco-"))
    for key, value in ranked[:HEADERS_KEPT_MAX]:
        text = _text(value)
        if text is not None and isinstance(key, str) and key not in OF_A_LETTER:
            kept[key[:128]] = text
    if delivery.properties.message_type:
        kept.setdefault("type", str(delivery.properties.message_type)[:TASK_NAME_CHARACTERS_MAX])
    if delivery.size_bytes > min(len(delivery.body), body_bytes_max):
        kept[names.BODY_BYTES] = str(delivery.size_bytes)
    return Rejected(
        # Without an id of its own it gets one made of its content: a redelivery is then the same message.
        message_id=(identity or hashlib.sha256(repr(kept).encode() + delivery.body).hexdigest())[:255],
        body=delivery.body[:body_bytes_max],
        queue=delivery.queue,
        reason=reason[:1000],
        headers=kept,
    )


def number(headers: Mapping[str, Any], name: str, maximum: float) -> float | None:
    """A header that holds a number from 0 to `maximum`, also as text; None when absent."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise RefusedError(f"header {name}: {str(value)[:60]!r}, want a number") from None
    if not math.isfinite(found) or not 0 <= found <= maximum:
        raise RefusedError(f"header {name}: {found}, want 0 to {maximum:.0f}")
    return found


def count(headers: Mapping[str, Any], name: str) -> int:
    """A header that holds a count; 0 when absent."""
    return int(number(headers, name, COUNT_MAX) or 0) if name in headers else 0


def moment(headers: Mapping[str, Any], name: str) -> float | None:
    """A header that holds an ISO 8601 time, as Celery writes `eta` and `expires`; without a zone it is UTC."""
    value = headers.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        found = value
    else:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            raise RefusedError(f"header {name}: {str(value)[:60]!r}, want an ISO 8601 time") from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return found.timestamp()


def celery_payload(document: list[Any]) -> dict[str, Any]:
    """The payload in a Celery body `[args, kwargs, embed]`: the keyword arguments, or one object given by place."""
    if len(document) != 3:
        raise RefusedError(f"celery body: {len(document)} parts, want [args, kwargs, embed]")
    args, kwargs, embed = document
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(embed, dict | None):
        raise RefusedError("celery body: want [list, object, object]")
    for word, value in (embed or {}).items():
        if value:
            raise RefusedError(
                f"celery body: {str(word)[:60]!r} is not supported here; send the next task from the task"
            )
    if not args:
        return kwargs
    if len(args) == 1 and isinstance(args[0], dict) and not kwargs:
        return args[0]
    raise RefusedError("celery body: positional arguments are not supported; use keyword arguments")


def _limits(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _parse(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RefusedError(f"body: not JSON: {str(error)[:200]}") from None


def _text(value: object) -> str | None:
    """A header's value as bounded text; None for what has no text worth keeping."""
    if isinstance(value, bytes | bytearray):
        value = bytes(value).decode("utf-8", "replace")
    if isinstance(value, str | int | float):
        return str(value)[:HEADER_CHARACTERS_MAX]
    return None
