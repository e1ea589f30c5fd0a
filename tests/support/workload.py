"""Work for a journal with a ledger beside it: what was begun, what was acknowledged, and what may therefore be found.

Each task lives a life of its own, one operation after the other; many lives run at once, so operations share commits.
Because one life is serial, every operation has a known outcome, and the ledger holds the task's row after each as a
`Shape`. After a crash the row must have the shape of the last acknowledged operation or of the one that was under way:
anything else is a lost promise, half a transaction, or a state that does not exist.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import apsw

from eco_workers.journal import SqliteJournal
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import Emit, Identity, NewTask, Owner, Rejected

IDENTITY: Final = Identity("shop", "storage", "storage-0")
SMALL: Final = Limits(
    ballast_bytes=8_192,
    reserve_bytes=4_096,
    checkpoint_wal_pages=64,
    wal_keep_bytes=65_536,
    volume_poll_s=3_600.0,
    checkpoint_idle_s=3_600.0,
    lock_wait_s=2.0,
    check_at_open_ms=60_000,
)
"""Bounds that make a small journal do often what a large one does rarely, and nothing by the clock."""
TARGET: Final = "reports"
OUTBOX_MAX: Final = 1_000
ROUTE: Final = "q.next"


@dataclass(frozen=True, slots=True)
class Shape:
    """What can be seen of one task in a journal."""

    state: str
    owner: str
    generation: int
    attempts: int
    steps: frozenset[str] = frozenset()
    outbox: frozenset[tuple[str, str]] = frozenset()
    """Kind and status of each message, made distinct by its position or generation in the kind."""
    result: bytes | None = None
    sync: str = "pending"
    payload: int = 0
    """CRC-32 of the payload: a ledger need not hold it twice."""


ABSENT: Final = None


def after_restart(shape: Shape | None) -> Shape | None:
    """What the next start makes of a row: an interrupted run is pending again."""
    if shape is not None and shape.state == "running":
        return replace(shape, state="pending")
    return shape


@dataclass(slots=True)
class Entry:
    """One task in the ledger."""

    shapes: list[Shape | None] = field(default_factory=lambda: [ABSENT])
    acknowledged: int = 0
    may_be_pruned: bool = False

    def copy(self) -> "Entry":
        return Entry(list(self.shapes), self.acknowledged, self.may_be_pruned)

    def allows(self, found: Shape | None, restart: bool = False) -> bool:
        """Whether a row may look like this after a cut now; `restart` also allows what starts make of it."""
        if found is None and self.may_be_pruned:
            return True
        allowed = self.shapes[self.acknowledged :]
        return found in allowed or (restart and found in [after_restart(shape) for shape in allowed])


@dataclass(slots=True)
class Ledger:
    """What happened outside the journal. Marks go to `mark`, in the order in which they happened."""

    mark: Callable[[Any], None]

    def begun(self, task_id: str, shape: Shape | None) -> None:
        self.mark(("begun", task_id, shape))

    def acknowledged(self, task_id: str) -> None:
        self.mark(("acked", task_id))

    def settled(self, task_id: str) -> None:
        """The task owes nothing any more: a prune may take it."""
        self.mark(("settled", task_id))

    def opened(self, journal_uuid: str, epoch: int) -> None:
        self.mark(("opened", journal_uuid, epoch))


@dataclass(slots=True)
class Book:
    """The ledger as far as it was written at one moment."""

    tasks: dict[str, Entry] = field(default_factory=dict)
    rejects: set[str] = field(default_factory=set)
    journal_uuid: str | None = None
    epoch: int = 0

    def take(self, mark: tuple[Any, ...]) -> None:
        """Read the next mark."""
        match mark:
            case ("begun", task_id, shape):
                self.tasks.setdefault(task_id, Entry()).shapes.append(shape)
            case ("acked", task_id):
                entry = self.tasks[task_id]
                entry.acknowledged = len(entry.shapes) - 1
            case ("settled", task_id):
                self.tasks[task_id].may_be_pruned = True
            case ("rejected", message_id):
                self.rejects.add(message_id)
            case ("opened", journal_uuid, epoch):
                self.journal_uuid, self.epoch = journal_uuid, epoch
            case ("recovered",):
                # The start has returned: what it made of the rows is what must be found from now on.
                for entry in self.tasks.values():
                    entry.acknowledged = len(entry.shapes) - 1


class Life:
    """One task from its delivery to its end, by a script drawn from a seed."""

    def __init__(self, journal: SqliteJournal, ledger: Ledger, task_id: str, rng: random.Random) -> None:
        self.journal, self.ledger, self.task_id, self.rng = journal, ledger, task_id, rng
        self.payload = b'{"n":"%s"}' % (b"x" * rng.choice((1, 40, 700, 6_000)))
        self.payload_sum = crc32(self.payload)
        self.shape: Shape | None = None
        self.positions = 0

    async def run(self) -> None:
        """Live it."""
        rng = self.rng
        await self.accept(0)
        if rng.random() < 0.15:
            await self.accept(0)
        if rng.random() < 0.15:
            await self.republish()
            await self.accept(1)
        await self.claim()
        for number in range(rng.randint(0, 2)):
            await self.step(f"step-{number}", emits=rng.randint(0, 2))
        if rng.random() < 0.35:
            await self.retry()
            await self.claim()
            await self.step("again", emits=1)
        if rng.random() < 0.15:
            await self.release()
            await self.claim()
        await rng.choice((self.complete, self.complete, self.complete, self.fail, self.time_out))()
        if self.state in {"failed", "timeout"} and rng.random() < 0.5:
            await self.send()
            await self.accept(self.shape.generation + 1 if self.shape else 0)
            await self.claim()
            await self.complete()
        if rng.random() < 0.3:
            await self.send()
            return
        debts = [self.send, self.sync]
        rng.shuffle(debts)
        if any(status == "unsent" for _, status in self._now().outbox):
            await debts.pop()()
        # From here on a prune of another life may take it, as soon as the last mark is in.
        self.ledger.settled(self.task_id)
        for debt in debts:
            await debt()

    @property
    def state(self) -> str:
        return self.shape.state if self.shape else ""

    async def _do(self, operation: Coroutine[Any, Any, Any], shape: Shape) -> Any:
        self.ledger.begun(self.task_id, shape)
        value = await operation
        self.ledger.acknowledged(self.task_id)
        self.shape = shape
        return value

    def _now(self) -> Shape:
        assert self.shape is not None
        return self.shape

    async def accept(self, generation: int) -> None:
        task = NewTask(self.task_id, self.task_id, self.payload, "q.batch", generation=generation)
        if self.shape is None:
            shape = Shape("pending", "journal", generation, 0, payload=self.payload_sum)
        elif generation > self.shape.generation and self.state in {"republished", "failed", "timeout"}:
            shape = replace(self.shape, state="pending", generation=generation, attempts=0, result=None, sync="pending")
        else:
            shape = self.shape
        await self._do(self.journal.accept([task], owner=Owner.JOURNAL), shape)

    async def claim(self) -> None:
        now = self._now()
        shape = replace(now, state="running", attempts=now.attempts + 1)
        claimed = await self._do(self.journal.claim(1, names={self.task_id: 99}), shape)
        assert [running.task_id for running in claimed] == [self.task_id]
        assert set(claimed[0].steps) == now.steps
        assert claimed[0].payload == self.payload

    def _emits(self, count: int) -> tuple[list[Emit], frozenset[tuple[str, str]]]:
        places = range(self.positions, self.positions + count)
        self.positions += count
        kinds = {(f"emit {place}", "unsent") for place in places}
        return [Emit(ROUTE, b'{"place":%d}' % place) for place in places], self._now().outbox | kinds

    async def step(self, name: str, emits: int) -> None:
        messages, outbox = self._emits(emits)
        now = self._now()
        shape = replace(now, steps=now.steps | {name}, outbox=outbox)
        await self._do(self.journal.step(self.task_id, name, b'"done"', emits=messages), shape)

    async def complete(self) -> None:
        messages, outbox = self._emits(self.rng.randint(0, 2))
        shape = replace(self._now(), state="completed", result=b'{"ok":true}', outbox=outbox)
        await self._do(self.journal.complete(self.task_id, b'{"ok":true}', emits=messages), shape)

    def _ended_badly(self, state: str) -> Shape:
        now = self._now()
        return replace(now, state=state, outbox=now.outbox | {(f"dead-letter {now.generation}", "unsent")})

    async def fail(self) -> None:
        await self._do(self.journal.fail(self.task_id, "no such picture"), self._ended_badly("failed"))

    async def time_out(self) -> None:
        await self._do(self.journal.time_out(self.task_id, "too slow"), self._ended_badly("timeout"))

    async def retry(self) -> None:
        shape = replace(self._now(), state="pending")
        await self._do(self.journal.retry(self.task_id, "busy", not_before=0.0), shape)

    async def release(self) -> None:
        now = self._now()
        await self._do(self.journal.release([self.task_id]), replace(now, state="pending", attempts=now.attempts - 1))

    async def republish(self) -> None:
        now = self._now()
        outbox = now.outbox | {(f"republish {now.generation + 1}", "unsent")}
        await self._do(self.journal.republish([self.task_id]), replace(now, state="republished", outbox=outbox))

    async def send(self) -> None:
        """Mark all messages of this task as confirmed, in one call."""
        messages = [message for message in await self.journal.outbox(OUTBOX_MAX) if message.task_id == self.task_id]
        if messages:
            shape = replace(self._now(), outbox=frozenset((kind, "sent") for kind, _ in self._now().outbox))
            await self._do(self.journal.sent([message.row_id for message in messages]), shape)

    async def sync(self) -> None:
        """Mark the report as committed elsewhere, if this task owes one."""
        reports = [report for report in await self.journal.unsynced(OUTBOX_MAX) if report.task_id == self.task_id]
        if reports:
            versions = {self.task_id: reports[0].version}
            await self._do(self.journal.synced(versions), replace(self._now(), sync="synced"))


async def live(
    journal: SqliteJournal, ledger: Ledger, *, seed: int, tasks: int, at_once: int = 8, prefix: str = "task"
) -> None:
    """Lead many lives, some at a time, with checkpoints and prunes in between."""
    ledger.opened(journal.journal_uuid, journal.epoch)
    if journal.sync_target != TARGET:
        await journal.set_sync_target(TARGET)
    slots = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        async with slots:
            await Life(journal, ledger, f"{prefix}-{seed}-{number}", rng).run()
            if rng.random() < 0.25:
                await journal.prune(keep_s=-1.0)
            if rng.random() < 0.1:
                await journal.checkpoint()
            if rng.random() < 0.1:
                message_id = f"bad-{prefix}-{seed}-{number}"
                await journal.reject([Rejected(message_id, b"\xff\x00", "q.batch", "no JSON")])
                ledger.mark(("rejected", message_id))

    await asyncio.gather(*(one(number) for number in range(tasks)))


def read_shapes(database: Path) -> tuple[dict[str, Shape], set[str], list[str]]:
    """Every task of a file as the stock SQLite sees it, the rejected messages, and what is structurally wrong.

    The log is replayed but not moved, so the journal that is opened afterwards finds what was there.
    """
    try:
        with closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            return _read_all(connection)
    except (apsw.Error, ValueError, TypeError) as error:  # a page of another time gives text that is no text
        return {}, set(), [f"unreadable: {type(error).__name__}: {error}"]


def _read_all(connection: apsw.Connection) -> tuple[dict[str, Shape], set[str], list[str]]:
    if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'task_wal'").get:
        return {}, set(), []
    problems = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(5)") if line != "ok"]
    steps: dict[str, set[str]] = {}
    for task_id, name in connection.execute("SELECT task_id, name FROM steps"):
        steps.setdefault(task_id, set()).add(name)
    outbox, rejects = _read_outbox(connection)
    shapes = {
        row[0]: Shape(
            state=row[1],
            owner=row[2],
            generation=row[3],
            attempts=row[4],
            steps=frozenset(steps.pop(row[0], ())),
            outbox=frozenset(outbox.pop(row[0], ())),
            result=row[5],
            sync=row[6],
            payload=crc32(row[7]),
        )
        for row in connection.execute(
            "SELECT task_id, state, owner, generation, attempts, result, sync_status, payload FROM task_wal"
        )
    }
    problems += [f"steps without their task {task_id}" for task_id in steps]
    problems += [f"messages without their task {task_id}" for task_id in outbox]
    return shapes, rejects, problems


def _read_outbox(connection: apsw.Connection) -> tuple[dict[str, set[tuple[str, str]]], set[str]]:
    outbox: dict[str, set[tuple[str, str]]] = {}
    rejects: set[str] = set()
    sql = (
        "SELECT task_id, kind, status, CASE kind WHEN 'emit' THEN CAST(body AS TEXT) END,"
        " json_extract(headers, '$.\"x-eco-generation\"'), json_extract(headers, '$.\"x-eco-message-id\"') FROM outbox"
    )
    for task_id, kind, status, body, generation, message_id in connection.execute(sql):
        if kind == "reject":
            rejects.add(message_id)
            continue
        detail = body.removeprefix('{"place":').removesuffix("}") if kind == "emit" else generation
        outbox.setdefault(task_id, set()).add((f"{kind} {detail}", status))
    return outbox, rejects


def complaints(book: Book, shapes: Mapping[str, Shape], rejects: set[str], *, restart: bool = False) -> list[str]:
    """What the ledger holds against the rows that were found."""
    wrong = [
        f"{task_id}: found {shapes.get(task_id)}, acknowledged {entry.shapes[entry.acknowledged]}"
        for task_id, entry in book.tasks.items()
        if not entry.allows(shapes.get(task_id), restart)
    ]
    wrong += [f"{task_id}: never begun" for task_id in shapes if task_id not in book.tasks]
    wrong += [f"reject {message_id}: gone" for message_id in book.rejects - rejects]
    return wrong


def books(marks: Sequence[tuple[int, tuple[Any, ...]]], start: Book | None = None) -> Callable[[int], Book]:
    """A reader of the ledger that is moved forward to a place of the log; places must not go back."""
    book, at = start or Book(), 0

    def upto(place: int) -> Book:
        nonlocal at
        while at < len(marks) and marks[at][0] <= place:
            book.take(marks[at][1])
            at += 1
        return book

    return upto
