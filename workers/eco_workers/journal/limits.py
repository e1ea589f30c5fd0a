"""Bounds of the journal, each with its unit, and the checks that refuse what lies outside them."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pydantic_core import from_json

from eco_workers.errors import InvalidTaskError
from eco_workers.journal.model import Emit, NewTask, Rejected

TASK_ID: Final = re.compile(r"[A-Za-z0-9._:@/+=-]{1,255}")
NAME_BYTES_MAX: Final = 255
"""AMQP's bound of a short string: queues, routing keys, exchanges."""
NAMES_KEPT_MAX: Final = 1024
GENERATION_MAX: Final = 1_000_000
ATTEMPTS_CARRIED_MAX: Final = 1_000_000
TIME_MAX_S: Final = 253_402_300_800.0
"""The end of the year 9999: what lies behind it was given in milliseconds."""
ERROR_CHARACTERS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """What a journal may hold, wait for and do at once."""

    payload_bytes_max: int = 1_048_576
    headers_bytes_max: int = 16_384
    result_bytes_max: int = 1_048_576
    steps_per_task_max: int = 1_000
    emits_per_call_max: int = 1_000

    attempts_max: int = 5
    """Budget of a task whose name brings none of its own."""
    outbox_attempts_max: int = 10
    outbox_retry_s: float = 5.0
    """Pause before a message that could not be routed is offered again; doubled each time, at most an hour."""
    scheduled_ahead_s_max: float = 31 * 86_400.0
    """How far ahead a start may be scheduled; after a clock that jumped back nothing waits longer than this."""
    unacked_wait_s: float = 900.0
    """How long an un-acked row waits for its redelivery before it is closed without a message."""
    expire_after_s: float | None = None
    """At start, pending rows older than this end as timeout; off by default. Never those that wait for a retry."""
    cache_keep_s: float = 7 * 86_400.0

    queue_operations_max: int = 4_096
    """Operations handed over and not yet committed; beyond it callers wait."""
    queue_wait_s: float = 30.0
    """How long a caller waits for room in the queue before it is told that the journal is busy."""
    group_operations_max: int = 512
    lock_wait_s: float = 30.0
    busy_wait_ms: int = 5_000
    check_at_open_ms: int = 150
    """Time for the structural check at start; what it does not reach is checked row by row when read."""

    checkpoint_wal_pages: int = 1_024
    """The log is moved into the database each time it has grown by so much. Measured with 64 writers: from 4,096 pages
    to 1,024 the throughput stays and p99 falls by a quarter; below 512 the syncs cost more than they spare."""
    checkpoint_idle_s: float = 2.0
    wal_bytes_max: int = 256 * 1_048_576
    """Above it, with a long reader in the way of checkpoints, no new work is accepted."""
    wal_keep_bytes: int = 32 * 1_048_576
    """The write-ahead log is cut back to this size after a checkpoint."""
    cache_kib: int = 8_192

    reserve_bytes: int = 64 * 1_048_576
    """Accepting stops when less than this is free on the volume (or `reserve_ratio` of it, the smaller one)."""
    reserve_ratio: float = 0.05
    ballast_bytes: int = 8 * 1_048_576
    """A file that is freed when the volume is full all the same, so that running work can end."""
    volume_poll_s: float = 1.0


def check_task(task: NewTask, limits: Limits) -> None:
    """Refuse a delivery that the journal must not hold; names the field and the bound."""
    check_task_id(task.task_id)
    _check_name("name", task.name)
    _check_name("queue", task.queue)
    _check_size("payload", task.payload, limits.payload_bytes_max)
    check_json("payload", task.payload)
    _check_whole("generation", task.generation, GENERATION_MAX)
    _check_whole("attempts", task.attempts, ATTEMPTS_CARRIED_MAX)
    if task.deliveries:
        _check_whole("deliveries", task.deliveries, ATTEMPTS_CARRIED_MAX)
    if task.not_before is not None:
        _check_time("not_before", task.not_before)
    if task.expires_at is not None:
        _check_time("expires_at", task.expires_at)
    if task.headers:
        _check_headers(task.headers, limits)


def check_task_id(task_id: str) -> None:
    """Refuse an id of the wrong form."""
    if not isinstance(task_id, str) or TASK_ID.fullmatch(task_id) is None:
        raise InvalidTaskError(f"task_id: {_shown(task_id)} is not 1 to 255 characters of A-Z a-z 0-9 . _ : @ / + = -")


def check_result(field: str, result: bytes, limits: Limits) -> None:
    """Refuse a result that is too large or no JSON."""
    _check_size(field, result, limits.result_bytes_max)
    check_json(field, result)


def check_emit(emit: Emit, limits: Limits) -> None:
    """Refuse a message that no broker would take."""
    _check_name("routing_key", emit.routing_key)
    if emit.exchange:
        _check_name("exchange", emit.exchange)
    _check_size("body", emit.body, limits.payload_bytes_max)
    if emit.headers:
        _check_headers(emit.headers, limits)


def check_rejected(message: Rejected, limits: Limits) -> None:
    """Refuse only what cannot be kept: the body may be anything, but not larger than the bound."""
    _check_size("body", message.body, limits.payload_bytes_max)


def check_time(field: str, value: float) -> float:
    """Return a time as float; refuse what is negative, infinite or behind the year 9999."""
    _check_time(field, value)
    return float(value)


def check_json(field: str, document: bytes) -> None:
    """Refuse what is not one JSON document that any database can hold: UTF-8, finite, no NUL, no lone surrogate."""
    try:
        value = from_json(document, allow_inf_nan=False)
        if b"\\u" in document:
            _check_escapes(field, json.dumps(value, ensure_ascii=False))
    except InvalidTaskError:
        raise
    except ValueError as error:
        raise InvalidTaskError(f"{field}: not a JSON document in UTF-8: {error}") from None


def clean_error(error: str) -> str:
    """An error text that can be stored: what cannot be encoded is replaced, and the text is cut at the bound.

    Never refused: a failure must be recorded however odd its text is.
    """
    text = error[:ERROR_CHARACTERS_MAX].replace("\0", "\\0")
    return text.encode("utf-8", "backslashreplace").decode()


def _check_escapes(field: str, text: str) -> None:
    if "\\u0000" in text:  # json.dumps writes NUL as this escape whatever ensure_ascii says
        raise InvalidTaskError(f"{field}: contains NUL, which PostgreSQL cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidTaskError(f"{field}: contains a lone surrogate, which is no character") from None


def _check_size(field: str, value: bytes, bytes_max: int) -> None:
    if not isinstance(value, bytes):
        raise InvalidTaskError(f"{field}: {type(value).__name__} instead of bytes")
    if len(value) > bytes_max:
        raise InvalidTaskError(f"{field}: {len(value)} bytes are more than the bound of {bytes_max}")


def _check_name(field: str, value: str) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidTaskError(f"{field}: empty or no text")
    _check_name_text(field, value)


@lru_cache(maxsize=NAMES_KEPT_MAX)
def _check_name_text(field: str, value: str) -> None:
    # Names of tasks and queues are few and come with each task: those that passed are remembered.
    _check_text(field, value)
    if len(value.encode()) > NAME_BYTES_MAX:
        raise InvalidTaskError(f"{field}: longer than {NAME_BYTES_MAX} bytes")


def _check_text(field: str, value: str) -> None:
    if "\0" in value:
        raise InvalidTaskError(f"{field}: contains NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidTaskError(f"{field}: contains a lone surrogate, which is no character") from None


def _check_whole(field: str, value: int, maximum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise InvalidTaskError(f"{field}: {_shown(value)} is not a whole number from 0 to {maximum}")


def _check_time(field: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidTaskError(f"{field}: {_shown(value)} is not a finite number of unix seconds")
    if not 0 <= value <= TIME_MAX_S:
        raise InvalidTaskError(f"{field}: {_shown(value)} is not between 0 and {TIME_MAX_S:.0f} unix seconds")


def _check_headers(headers: Mapping[str, str], limits: Limits) -> None:
    size = 0
    for key, value in headers.items():
        _check_name("headers", key)
        if not isinstance(value, str):
            raise InvalidTaskError(f"headers: the value of {_shown(key)} is no text")
        _check_text("headers", value)
        size += len(key) + len(value)
    if size > limits.headers_bytes_max:
        raise InvalidTaskError(f"headers: {size} characters are more than the bound of {limits.headers_bytes_max}")


def _shown(value: object) -> str:
    return ascii(value)[:80]
