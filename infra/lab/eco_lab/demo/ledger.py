"""The ledger: what went in against what came out, and whether anything is missing or there twice.

Pure: `settle` takes what was found in queue, database and bucket and returns counts and problems. A task counts as lost
when it has no end (neither a completed row nor a dead letter), and also when its end is hollow: a completed row whose
objects or follow-up message are not there.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eco_lab.demo.broker import Message
from eco_lab.demo.pictures import Flaw, Picture

TASK_ID_HEADER: Final = "x-eco-task-id"
REASON_HEADER: Final = "x-eco-reason"
ORIGIN_FIELD: Final = "image_task_id"
UPLOADS: Final = "uploads/"
MADE: Final = "images/"
"""Below it the storage role puts what it makes."""
JOURNALS: Final = "eco-wal/"
"""Below it a journal whose ackPolicy is Replicated has its segments."""
SHOWN_MAX: Final = 5
"""Examples listed for one kind of problem; the count is always given in full."""

REASONS: Final[Mapping[Flaw, re.Pattern[str]]] = {
    Flaw.TRUNCATED: re.compile(r"truncat|cannot be read|damaged|broken|incomplete", re.IGNORECASE),
    Flaw.NOT_A_PICTURE: re.compile(
        r"not a picture|no picture|cannot identify|not an image|unknown format", re.IGNORECASE
    ),
    Flaw.EMPTY: re.compile(r"empty|zero bytes|0 bytes", re.IGNORECASE),
    Flaw.BOMB: re.compile(r"pixel|bomb", re.IGNORECASE),
    Flaw.TOO_LARGE: re.compile(r"too large|bytes", re.IGNORECASE),
}
"""What the reason of a dead letter must say for each way in which a file is broken."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `task_results`."""

    task_id: str
    state: str
    result: Mapping[str, Any] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was found when the work had come to rest."""

    published: Mapping[str, Picture]
    """Confirmed by the broker, by task id."""
    rows: Sequence[Row]
    dead_letters: Sequence[Message]
    follow_ups: Sequence[Message]
    objects: frozenset[str]
    """Keys in the bucket, the uploads left out."""
    defects: Sequence[str] = ()
    """What is wrong with the content of objects, one sentence each."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The outcome of a run."""

    published: int
    completed: int
    failed_as_they_should: int
    objects: int
    rows: int
    follow_ups: int
    """Distinct message ids."""
    follow_ups_raw: int
    """Messages as they lie in the queue, repeats included."""
    dead_letters_raw: int
    lost: tuple[str, ...]
    """Task ids."""
    duplicates: tuple[str, ...]
    """Keyed effects that are there more than once: rows of one task, objects that no row names."""
    reasons: Mapping[str, int]
    """Dead letters by the way in which their file is broken."""
    problems: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is lost, doubled or otherwise wrong."""
        return not (self.lost or self.duplicates or self.problems)


def object_keys(result: Any) -> frozenset[str]:
    """Keys of the objects that a result names: every string in it that lies below the workers' prefix."""
    if isinstance(result, str):
        return frozenset({result} if result.startswith(MADE) else ())
    if isinstance(result, Mapping):
        return frozenset().union(*map(object_keys, result.values()))
    if isinstance(result, Sequence):
        return frozenset().union(*map(object_keys, result))
    return frozenset()


def is_upload(key: str) -> bool:
    """Whether a key is that of an uploaded file and not of something the workers made."""
    return key.startswith(UPLOADS)


def is_of_a_journal(key: str) -> bool:
    """Whether a key is that of a segment of a journal, which ackPolicy Replicated keeps in the bucket."""
    return key.startswith(JOURNALS)


def settle(evidence: Evidence) -> Ledger:
    """Hold what was found against what was published."""
    rows = [row for row in evidence.rows if row.task_id in evidence.published]
    completed = {row.task_id: row for row in rows if row.state == "completed"}
    dead = {task_id(message): message for message in evidence.dead_letters}
    followed = Counter(origin(message) for message in _distinct(evidence.follow_ups))
    named = {task: object_keys(row.result) for task, row in completed.items()}
    lost = tuple(
        task
        for task, picture in evidence.published.items()
        if (
            task not in dead
            if picture.flaw is not None
            else task not in completed or not named[task] <= evidence.objects or not named[task] or not followed[task]
        )
    )
    twice = [task for task, count in Counter(row.task_id for row in rows).items() if count > 1]
    orphans = sorted(evidence.objects - frozenset().union(*named.values()))
    reasons = Counter(
        picture.flaw.value for task, picture in evidence.published.items() if picture.flaw and task in dead
    )
    return Ledger(
        published=len(evidence.published),
        completed=len(completed),
        failed_as_they_should=sum(reasons.values()),
        objects=len(evidence.objects),
        rows=len(rows),
        follow_ups=sum(1 for _ in _distinct(evidence.follow_ups)),
        follow_ups_raw=len(evidence.follow_ups),
        dead_letters_raw=len(evidence.dead_letters),
        lost=lost,
        duplicates=(*(f"row of {task}" for task in twice), *(f"object {key}" for key in orphans)),
        reasons=reasons,
        problems=tuple(_problems(evidence, completed, dead, followed)),
    )


def task_id(message: Message) -> str:
    """The task that a dead letter was."""
    return str(message.headers.get(TASK_ID_HEADER, ""))


def origin(message: Message) -> str:
    """The task that a follow-up comes from. It is a task of its own with an id of its own, so its body says it."""
    try:
        return str(json.loads(message.body)[ORIGIN_FIELD])
    except (ValueError, KeyError, TypeError):
        return ""


def _distinct(messages: Sequence[Message]) -> list[Message]:
    return list({message.message_id: message for message in messages}.values())


def _problems(
    evidence: Evidence, completed: Mapping[str, Row], dead: Mapping[str, Message], followed: Mapping[str, int]
) -> list[str]:
    published = evidence.published
    found = {
        "sound picture in the dead-letter queue": [
            f"{task} ({_reason(dead[task])})" for task in dead if task in published and published[task].flaw is None
        ],
        "broken picture completed": [task for task in completed if published[task].flaw is not None],
        "dead letter whose reason does not name the flaw": [
            f"{published[task].name}: {_reason(message)!r}"
            for task, message in dead.items()
            if task in published and (flaw := published[task].flaw) and not REASONS[flaw].search(_reason(message))
        ],
        "dead letter of no published task": [task or "(no id)" for task in dead if task not in published],
        "follow-up of a task that did not complete": [task or "(no id)" for task in followed if task not in completed],
        "several follow-ups of one task under different ids": [task for task, n in followed.items() if n > 1],
        "row of no published task": [row.task_id for row in evidence.rows if row.task_id not in published],
        "object with a defect": list(evidence.defects),
    }
    return [_listed(kind, cases) for kind, cases in found.items() if cases]


def _reason(message: Message) -> str:
    return str(message.headers.get(REASON_HEADER, ""))


def _listed(kind: str, cases: Sequence[str]) -> str:
    more = f" and {len(cases) - SHOWN_MAX} more" if len(cases) > SHOWN_MAX else ""
    return f"{kind}: {len(cases)} ({', '.join(cases[:SHOWN_MAX])}{more})"


def table(ledger: Ledger) -> str:
    """The ledger for people."""
    reasons = ", ".join(f"{count} {flaw}" for flaw, count in sorted(ledger.reasons.items()))
    lines = [
        ("tasks published, confirmed by the broker", str(ledger.published), ""),
        ("  completed, with a row in PostgreSQL", str(ledger.completed), ""),
        ("  failed as they should, in q.dlq", str(ledger.failed_as_they_should), reasons),
        ("rows in PostgreSQL", str(ledger.rows), ""),
        ("objects in the bucket (keyed by content)", str(ledger.objects), "beside the uploads"),
        ("follow-up messages in q.ai, distinct ids", str(ledger.follow_ups), f"{ledger.follow_ups_raw} with repeats"),
        ("lost", str(len(ledger.lost)), ", ".join(ledger.lost[:SHOWN_MAX])),
        ("duplicates (objects + rows)", str(len(ledger.duplicates)), ", ".join(ledger.duplicates[:SHOWN_MAX])),
    ]
    width = max(len(line[0]) for line in lines)
    text = [f"{name:<{width}}  {value:>6}  {note}".rstrip() for name, value, note in lines]
    return "\n".join([*text, *(f"PROBLEM: {problem}" for problem in ledger.problems)])
