"""The messages that the journal itself writes into its outbox, and their deterministic ids.

A message id is a UUID made of what the message is about, so the same message has the same id however often it is built
or sent, and whoever receives it twice can tell.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Final
from uuid import UUID, uuid5

from eco_workers import headers as header
from eco_workers.journal.limits import clean_error
from eco_workers.journal.model import Emit, OutboxMessage, Rejected, State
from eco_workers.journal.records import OutboxRow, TaskRow

NAMESPACE: Final = UUID("5f0c1f0e-6a0b-5f38-9a5e-0d7c3f6a2b11")
EMIT: Final = "emit"
DEAD_LETTER: Final = "dead-letter"
REPUBLISH: Final = "republish"
REJECT: Final = "reject"


def emitted(row: TaskRow, emit: Emit, position: int, now: float) -> OutboxRow:
    """A message of a task, by its position among all that the task emits."""
    message_id = str(uuid5(NAMESPACE, f"{row.task_id}\n{position}"))
    return _outbox_row(
        message_id, row.task_id, EMIT, emit.body, emit.routing_key, dict(emit.headers), now, emit.exchange
    )


def dead_letter(row: TaskRow, state: State, error: str, now: float) -> OutboxRow:
    """The message to the dead-letter queue that every failed or timed-out task writes: its payload and why."""
    headers = _origin(row) | {
        header.REASON: f"{state.value}: {error}"[:1024],
        header.ATTEMPTS: str(row.attempts),
        header.GENERATION: str(row.generation),
        header.FAILED_AT: f"{now:.3f}",
    }
    message_id = _task_message_id(row.task_id, row.generation, DEAD_LETTER)
    return _outbox_row(message_id, row.task_id, DEAD_LETTER, row.payload, header.DEAD_LETTER_QUEUE, headers, now)


def republished(row: TaskRow, generation: int, now: float) -> OutboxRow:
    """The message that gives a task back to its queue, with what it has used up so far."""
    headers = _origin(row) | {header.ATTEMPTS: str(row.attempts), header.GENERATION: str(generation)}
    if row.not_before is not None:
        headers[header.NOT_BEFORE] = repr(row.not_before)
    if row.expires_at is not None:
        headers[header.EXPIRES_AT] = repr(row.expires_at)
    message_id = _task_message_id(row.task_id, row.generation, REPUBLISH)
    return _outbox_row(message_id, row.task_id, REPUBLISH, row.payload, row.queue, headers, now)


def rejected(message: Rejected, now: float) -> OutboxRow:
    """What a delivery that is no valid task becomes. Its id covers the body: ids of strangers may repeat."""
    digest = hashlib.sha256(message.body).hexdigest()
    original_id = clean_error(message.message_id)[:255]
    headers = {clean_error(key)[:255]: clean_error(value) for key, value in message.headers.items()} | {
        header.REASON: clean_error(message.reason)[:1024],
        header.QUEUE: clean_error(message.queue)[:255],
        header.MESSAGE_ID: original_id,
        header.FAILED_AT: f"{now:.3f}",
    }
    message_id = str(uuid5(NAMESPACE, f"{REJECT}\n{original_id}\n{digest}"))
    return _outbox_row(message_id, "", REJECT, message.body, header.DEAD_LETTER_QUEUE, headers, now)


def outgoing(row: OutboxRow) -> OutboxMessage:
    """An outbox row as the relay sees it."""
    assert row.id is not None  # noqa: S101  # rows that were read have their id
    return OutboxMessage(
        row.id,
        row.message_id,
        row.task_id,
        row.kind,
        row.exchange,
        row.routing_key,
        row.body,
        {} if row.headers == "{}" else json.loads(row.headers),
        row.attempts,
    )


def readable(document: bytes) -> object:
    """A payload for people: the JSON value where it is one, else base64."""
    try:
        return json.loads(document)
    except ValueError:
        return {"base64": base64.b64encode(document).decode()}


def _origin(row: TaskRow) -> dict[str, str]:
    own = {header.TASK_ID: row.task_id, header.TASK_NAME: row.task_name, header.QUEUE: row.queue}
    kept: dict[str, str] = json.loads(row.headers) if row.headers != "{}" else {}
    return kept | own


def _task_message_id(task_id: str, generation: int, kind: str) -> str:
    return str(uuid5(NAMESPACE, f"{task_id}\n{generation}\n{kind}"))


def _outbox_row(
    message_id: str,
    task_id: str,
    kind: str,
    body: bytes,
    routing_key: str,
    headers: Mapping[str, str],
    now: float,
    exchange: str = "",
) -> OutboxRow:
    return OutboxRow(
        id=None,
        checksum=0,
        body=body,
        message_id=message_id,
        task_id=task_id,
        kind=kind,
        exchange=exchange,
        routing_key=routing_key,
        headers=json.dumps(dict(headers), ensure_ascii=False, separators=(",", ":")) if headers else "{}",
        status="unsent",
        attempts=0,
        next_at=0.0,
        created_at=now,
        sent_at=None,
        error=None,
    ).sealed()
