"""What a person does with dead letters: look, send again, drop. The letters come from three kinds of writers.

A worker, of a task that failed or timed out: id, name, queue, generation and the reason are in its headers. A worker,
of a delivery that was no task: what came, as far as it fits. The broker itself, of what waited or came back too often:
the message as it was, its history in `x-death`.

A letter that is sent again carries a higher generation, so that also the journal that ended its task runs it once more,
a fresh count of attempts, and an id made of task and generation: sent twice, it runs once.
"""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final
from uuid import uuid5

from eco_workers import headers as names
from eco_workers.broker.dead_letters import DeadLetters, Letter
from eco_workers.errors import DeadLetterError
from eco_workers.journal.messages import NAMESPACE, readable
from eco_workers.runtime.messages import COUNT_MAX, OF_A_LETTER, RefusedError, number

REPLAY: Final = "replay"
SHOWN_MAX: Final = 10_000
"""Letters that are told one by one; a queue may hold a million."""
HISTORY: Final = "x-death"
USED_UP: Final = frozenset({names.ATTEMPTS, names.NOT_BEFORE, names.EXPIRES_AT, "expires", "type", HISTORY})
"""What belongs to the run that failed: a replay has its whole budget and no end that has passed already."""
BROKERS_OWN: Final = ("x-first-death-", "x-last-death-")


@dataclass(frozen=True, slots=True)
class Entry:
    """A letter as a person reads it."""

    task_id: str
    message_id: str
    name: str
    queue: str
    """Where it came from, and where a replay puts it."""
    reason: str
    failed_at: float | None
    """Unix seconds."""
    generation: int
    attempts: int
    size_bytes: int
    problem: str = ""
    """Why it cannot be replayed; empty when it can."""

    def age_s(self, now: float) -> float | None:
        """Seconds since it failed."""
        return None if self.failed_at is None else max(0.0, now - self.failed_at)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant; every condition that is set must hold."""

    ids: frozenset[str] = frozenset()
    """Ids of tasks or messages."""
    name: str = ""
    """Pattern of a shell: `image.*`."""
    reason: str = ""
    """Part of the reason, in any case."""
    queue: str = ""
    older_than_s: float | None = None
    younger_than_s: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it means every letter."""
        return self == Filter()

    def matches(self, entry: Entry, now: float) -> bool:
        """Whether this letter is meant; one without a time is neither older nor younger than anything."""
        age_s = entry.age_s(now)
        return (
            (not self.ids or bool(self.ids & {entry.task_id, entry.message_id}))
            and (not self.name or fnmatchcase(entry.name, self.name))
            and self.reason.casefold() in entry.reason.casefold()
            and (not self.queue or entry.queue == self.queue)
            and (self.older_than_s is None or (age_s is not None and age_s > self.older_than_s))
            and (self.younger_than_s is None or (age_s is not None and age_s < self.younger_than_s))
        )


@dataclass(slots=True)
class Outcome:
    """What was found and done."""

    scanned: int = 0
    count: int = 0
    """Letters that match."""
    matched: list[Entry] = field(default_factory=list)
    """The first of them, `SHOWN_MAX` at most."""
    done: int = 0
    """Letters that have left the queue."""
    kept_count: int = 0
    """Letters that were meant and stay."""
    kept: list[tuple[Entry, str]] = field(default_factory=list)
    """The first of them, with the reason."""

    def match(self, entry: Entry, limit: int) -> bool:
        """Note a letter that matches; whether these are enough."""
        self.count += 1
        if len(self.matched) < SHOWN_MAX:
            self.matched.append(entry)
        return self.count >= limit

    def keep(self, entry: Entry, why: str) -> None:
        """Note a letter that was meant and stays."""
        self.kept_count += 1
        if len(self.kept) < SHOWN_MAX:
            self.kept.append((entry, why))


async def find(url: str, wanted: Filter, *, limit: int) -> Outcome:
    """Letters that match, the oldest first; all of them stay."""
    outcome = Outcome()
    async with DeadLetters(url) as look:
        async for letter, entry, meant in _each(look, wanted, outcome):
            await look.keep(letter)
            if meant and outcome.match(entry, limit):
                break
    return outcome


async def show(url: str, identity: str) -> list[dict[str, Any]]:
    """Every letter of one task or message, whole: headers and body."""
    found: list[dict[str, Any]] = []
    async with DeadLetters(url) as look:
        async for letter, entry, meant in _each(look, Filter(ids=frozenset({identity})), Outcome()):
            await look.keep(letter)
            if meant:
                body = {"headers": {k: _shown(v) for k, v in letter.headers.items()}, "body": readable(letter.body)}
                found.append(described(entry) | body)
    return found


async def replay(url: str, wanted: Filter, *, limit: int, dry_run: bool) -> Outcome:
    """Send letters that match back to their queues; each leaves once the broker has confirmed what takes its place."""
    outcome = Outcome()
    async with DeadLetters(url) as look:
        async for letter, entry, meant in _each(look, wanted, outcome):
            if not meant or dry_run or entry.problem:
                await look.keep(letter)
            else:
                await _send_again(look, letter, entry, outcome)
            if meant and entry.problem:
                outcome.keep(entry, entry.problem)
            if meant and outcome.match(entry, limit):
                break
    return outcome


async def drop(url: str, wanted: Filter, *, limit: int, dry_run: bool) -> Outcome:
    """Remove letters that match, for good."""
    outcome = Outcome()
    async with DeadLetters(url) as look:
        async for letter, entry, meant in _each(look, wanted, outcome):
            if meant and not dry_run:
                await look.remove(letter)
                outcome.done += 1
            else:
                await look.keep(letter)
            if meant and outcome.match(entry, limit):
                break
    return outcome


def read(letter: Letter) -> Entry:
    """The letter's facts, whoever wrote it. Headers hold whatever a stranger put there."""
    headers = letter.headers
    death = _death(headers)
    problem = ""
    try:
        generation = int(number(headers, names.GENERATION, COUNT_MAX - 1) or 0)
        attempts = int(number(headers, names.ATTEMPTS, COUNT_MAX) or 0)
    except RefusedError as error:
        generation, attempts, problem = 0, 0, str(error)
    queue = _text(headers.get(names.QUEUE)) or _text(death.get("queue"))
    if names.BODY_BYTES in headers:
        problem = f"only the beginning of its {_text(headers[names.BODY_BYTES])} bytes was kept"
    elif queue in {"", names.DEAD_LETTER_QUEUE}:
        problem = "it does not say which queue it came from"
    message_id = _text(letter.properties.message_id)
    own_id = _first(headers, names.TASK_ID, "task_id", "id", names.MESSAGE_ID)
    reason = _text(headers.get(names.REASON))
    return Entry(
        task_id=own_id or message_id,
        message_id=message_id,
        name=_first(headers, names.TASK_NAME, "task", "type") or _text(letter.properties.message_type),
        queue=queue,
        reason=reason or (f"{_text(death.get('reason'))} by the broker" if death else ""),
        failed_at=_failed_at(headers, death),
        generation=generation,
        attempts=attempts,
        size_bytes=len(letter.body),
        problem=problem,
    )


def replay_headers(letter: Letter, entry: Entry) -> dict[str, Any]:
    """Headers of the message that takes a letter's place."""
    dropped = OF_A_LETTER | USED_UP
    kept = {
        key: value
        for key, value in letter.headers.items()
        if key not in dropped and not key.startswith(BROKERS_OWN) and value is not None
    }
    own = {names.TASK_ID: entry.task_id, names.TASK_NAME: entry.name}
    return kept | {key: value for key, value in own.items() if value} | {names.GENERATION: str(entry.generation + 1)}


def replay_id(entry: Entry) -> str:
    """Id of the message that takes a letter's place: the same however often it is sent."""
    return str(uuid5(NAMESPACE, f"{entry.task_id}\n{entry.generation}\n{REPLAY}"))


def described(entry: Entry) -> dict[str, Any]:
    """A letter as JSON."""
    return {name: getattr(entry, name) for name in Entry.__slots__}


async def _each(look: DeadLetters, wanted: Filter, outcome: Outcome) -> AsyncIterator[tuple[Letter, Entry, bool]]:
    now = time.time()
    async for letter in look.letters():
        outcome.scanned += 1
        entry = read(letter)
        yield letter, entry, wanted.matches(entry, now)


async def _send_again(look: DeadLetters, letter: Letter, entry: Entry, outcome: Outcome) -> None:
    try:
        await look.replace(
            letter,
            routing_key=entry.queue,
            message_id=replay_id(entry),
            headers=replay_headers(letter, entry),
            name=entry.name,
        )
        outcome.done += 1
    except DeadLetterError as error:
        outcome.keep(entry, str(error))
        await look.keep(letter)


def _death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The latest entry of the broker's own history; empty when there is none."""
    history = headers.get(HISTORY)
    latest = history[0] if isinstance(history, list) and history else None
    return latest if isinstance(latest, dict) else {}


def _failed_at(headers: Mapping[str, Any], death: Mapping[str, Any]) -> float | None:
    try:
        found = number(headers, names.FAILED_AT, float(1 << 40))
    except RefusedError:
        found = None
    at = death.get("time")
    return at.timestamp() if found is None and isinstance(at, datetime) else found


def _first(headers: Mapping[str, Any], *keys: str) -> str:
    return next((text for key in keys if (text := _text(headers.get(key)))), "")


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _shown(value: object) -> object:
    """A header's value for JSON."""
    if isinstance(value, dict):
        return {str(key): _shown(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if isinstance(value, datetime) else _text(value) or str(value)
