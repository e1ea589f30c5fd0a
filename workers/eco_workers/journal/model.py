"""The words of the journal: what goes in, what comes out, and the protocol that each implementation keeps.

Times are unix seconds (float) of the journal's clock, payloads are UTF-8 JSON documents as bytes. All types are frozen:
a row that was read is a fact about the moment of reading. What is made of each task is a tuple, which costs a third of
a frozen dataclass.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from eco_crds.wal import WalAges, WalCounts, WalVolume
from eco_workers.errors import EcoWorkerError


class State(StrEnum):
    """States of a task. The changes between them that exist are enforced by the database itself."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    REPUBLISHED = "republished"


class Owner(StrEnum):
    """Who would bring the task back if this process vanished."""

    BROKER = "broker"
    """Not acked yet: an unfinished delivery comes back by itself."""
    JOURNAL = "journal"
    """Acked, or about to be: only this journal holds it."""


class Verdict(StrEnum):
    """What `accept` did with one delivery. After any of them the delivery may be acked (or kept un-acked by policy)."""

    STORED = "stored"
    """A new row, pending."""
    RAISED = "raised"
    """A higher generation of a pending or running task: the number was raised, no second run."""
    REOPENED = "reopened"
    """A higher generation of a republished, failed or timed-out task: pending again."""
    REDELIVERED = "redelivered"
    """The delivery that an un-acked row was waiting for: due again, its finished steps are kept."""
    DUPLICATE = "duplicate"
    """Already known: nothing runs."""


class Fate(StrEnum):
    """What is to become of a delivery that was kept un-acked."""

    KEEP = "keep"
    """The broker owns its task: acked now, a lost volume would take the task along."""
    ACK = "ack"
    """The journal owns it: it has ended, or waits for a scheduled start."""
    RETURN = "return"
    """It was given back to the broker without a message, for this very delivery is what the broker has of it."""


_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class NewTask(NamedTuple):
    """One valid delivery, about to be written."""

    task_id: str
    """1 to 255 characters of `[A-Za-z0-9._:@/+=-]`."""
    name: str
    payload: bytes
    queue: str
    generation: int = 0
    attempts: int = 0
    """Attempts already used elsewhere, carried by a republished message."""
    deliveries: int = 0
    """How often the broker says that it was delivered before; counts as attempts where the task was begun here."""
    not_before: float | None = None
    expires_at: float | None = None
    headers: Mapping[str, str] = _NO_HEADERS
    """Headers that travel along, `traceparent` for one."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A delivery that is no valid task: kept as one outbox row to the dead-letter queue, no task row."""

    message_id: str
    body: bytes
    queue: str
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Running(NamedTuple):
    """A task that was claimed: its attempt is counted and the claim is durable before the caller sees it."""

    task_id: str
    name: str
    payload: bytes
    queue: str
    generation: int
    attempt: int
    """From 1."""
    expires_at: float | None
    headers: Mapping[str, str]
    steps: Mapping[str, bytes]
    """Results of the steps that an earlier attempt finished, by step name."""
    recovered: bool
    """Whether an earlier process of this journal had begun it."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A pending or running task, as people and recovery look at it."""

    task_id: str
    name: str
    payload: bytes
    state: State
    attempts: int
    created_at: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Emit:
    """A message that a task emits: written with its result, published afterwards."""

    routing_key: str
    body: bytes
    exchange: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer of a model provider, kept so that the same question costs nothing the next time."""

    key: str
    """Made of content: what was asked, of which model, with which prompt."""
    model: str
    response: bytes


class Completion(NamedTuple):
    """The end of a running task: its result, the messages it emits with it, the answers worth keeping."""

    task_id: str
    result: bytes
    emits: Sequence[Emit] = ()
    cache: Sequence[CachedAnswer] = ()


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """An outbox row on its way to the broker. `message_id` is the same however often it is sent."""

    row_id: int
    message_id: str
    task_id: str
    kind: str
    """`emit`, `dead-letter`, `republish` or `reject`."""
    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, str]
    attempts: int


class Report(NamedTuple):
    """A terminal row that is due to be synced. A tuple, for thousands are read at once."""

    task_id: str
    name: str
    queue: str
    state: str
    """The value of a terminal `State`, to whose members it compares equal."""
    generation: int
    version: int
    """Raised by every change of the row; what was synced is this version."""
    attempts: int
    payload: bytes
    result: bytes | None
    error: str | None
    created_at: float
    started_at: float | None
    ended_at: float


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose journal this is; written into the file when it is made and compared at every open."""

    namespace: str
    worker: str
    shard: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """The state of a journal at one moment; metrics, `/wal` and tests read it."""

    journal_uuid: str
    incarnation: str
    epoch: int
    counts: WalCounts
    ages: WalAges
    volume: WalVolume
    draining: bool
    read_only: bool
    last_error: str
    sync_target: str
    recovered: int
    commits: int
    operations: int
    queue_depth: int
    held_back: str = ""
    """Why nothing new is accepted though there is room: what an ack needs is away. What is here goes on."""


class TaskJournal(Protocol):
    """What the runtime may ask of a journal. Every method returns after the commit that made it durable.

    A sequence given to one call is one transaction: all or nothing. Errors are those of `eco_workers.errors`.
    """

    async def accept(self, tasks: Sequence[NewTask], *, owner: Owner = Owner.JOURNAL) -> list[Verdict]:
        """Write deliveries, idempotent on task and generation; one verdict each, in order."""

    async def reject(self, messages: Sequence[Rejected]) -> None:
        """Keep deliveries that are no valid task as outbox rows to the dead-letter queue."""

    async def claim(self, limit: int, *, names: Mapping[str, int] | frozenset[str]) -> list[Running]:
        """Start up to `limit` due tasks whose name is in `names`, oldest first.

        A mapping gives each name its budget of attempts, a plain set takes the journal's default. A task that has used
        up its budget ends as failed here, one whose `expires_at` has passed as timeout; both leave their dead letter.
        """

    async def start(self, task_id: str) -> Running:
        """Start this very task, due or not; the attempt is counted as with `claim`."""

    async def unfinished(self, limit: int = 1000) -> list[Unfinished]:
        """Running and pending tasks."""

    async def step(
        self,
        task_id: str,
        name: str,
        result: bytes,
        *,
        emits: Sequence[Emit] = (),
        cache: Sequence[CachedAnswer] = (),
    ) -> None:
        """Checkpoint a finished step of a running task, with what it emits and the answers worth keeping."""

    async def cached(self, key: str) -> bytes | None:
        """A kept answer that is not too old."""

    async def heartbeat(self, task_id: str) -> None:
        """Note that a running task makes progress."""

    async def complete(
        self, task_id: str, result: bytes, *, emits: Sequence[Emit] = (), cache: Sequence[CachedAnswer] = ()
    ) -> None:
        """End a running task: result and emitted messages in one transaction."""

    async def complete_all(self, completions: Sequence[Completion]) -> list[EcoWorkerError | None]:
        """End running tasks as `complete` does, all in one transaction; for each why it was refused, in order.

        One that was refused stays as it is and takes no other with it: the task does not run, or its result or a
        message of it is none that may be kept.
        """

    async def fail(self, task_id: str, error: str) -> None:
        """End a pending or running task for good; its dead letter is an outbox row of the same transaction."""

    async def time_out(self, task_id: str, error: str) -> None:
        """End a task whose time limit or `expires` has passed; dead letter as with `fail`."""

    async def retry(self, task_id: str, error: str, *, not_before: float) -> None:
        """Put a running task back to pending, to run not before the given time. The journal owns it from here on."""

    async def release(self, task_ids: Sequence[str]) -> None:
        """Put running tasks back to pending, due at once, the attempt given back: the process stops, no task failed."""

    async def republish(self, task_ids: Sequence[str] | None = None) -> int:
        """Give pending tasks (all of them for None) back to the broker through the outbox; how many."""

    async def acked(self, task_ids: Sequence[str]) -> None:
        """Hand ownership of un-acked rows from broker to journal; to be called before the ack is sent."""

    async def fates(self, task_ids: Collection[str]) -> dict[str, Fate]:
        """What is to become of the un-acked deliveries of these tasks."""

    async def channel_lost(self) -> None:
        """Un-acked rows that are not running will be redelivered: they wait for it and are not run unasked."""

    async def close_unacked(self, *, after_s: float = 900.0) -> int:
        """Close, without a message, rows whose redelivery has not come for so long: it went elsewhere; how many."""

    async def outbox(self, limit: int, *, without: Collection[str] = ()) -> list[OutboxMessage]:
        """Unsent messages, oldest first; none with a routing key of `without`.

        Fewer than `limit` where they are large, and none only when none is due.
        """

    async def sent(self, row_ids: Sequence[int]) -> None:
        """Mark messages that the broker confirmed; a republished task becomes terminal with it."""

    async def park_outbox(self, row_id: int, error: str) -> None:
        """Count an attempt of a message that could not be routed; parked after the last one, never dropped."""

    async def unsynced(self, limit: int, since: float = 0.0) -> list[Report]:
        """Terminal rows that ended at `since` or later and owe their report, oldest end first; no republished ones.

        Fewer than `limit` where they are large, and none only when none is due.
        """

    async def synced(self, versions: Mapping[str, int]) -> None:
        """Mark rows whose COMMIT has returned; a row that changed since (another version) stays due."""

    async def sync_failed(self, task_id: str, error: str, *, max_attempts: int) -> None:
        """Count an attempt that the database refused for this very row; parked after the last one, never dropped."""

    async def retry_parked(self) -> int:
        """Make every parked message and report due again with a fresh count; how many."""

    async def set_draining(self, draining: bool) -> None:
        """Keep in the journal whether the shard drains, so that a restart in mid-drain goes on draining."""

    async def set_sync_target(self, target: str) -> None:
        """Keep the sync target; the empty string forgets it."""

    async def prune(self, *, keep_s: float, limit: int = 1000) -> int:
        """Delete ended rows older than `keep_s` that owe nothing (synced or without a target, all sent); how many.

        Fewer than `limit` where they are large, and none only when none is left.
        """

    async def checkpoint(self) -> int:
        """Move the write-ahead log into the database file; pages moved."""

    async def statistics(self) -> Statistics:
        """Counts, ages and sizes, from one read."""

    async def backup(self, target: Path) -> None:
        """Copy the journal, online, into a new file."""

    async def verify(self) -> list[str]:
        """Check structure and every row's checksum; the problems found, none when sound."""

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return when a row may have become due, at the latest after `timeout_s`."""

    async def wait_for_outbox(self, timeout_s: float) -> None:
        """Return when a message may have become due to be sent, at the latest after `timeout_s`."""

    async def wait_for_handover(self, timeout_s: float) -> None:
        """Return when the fate of an un-acked delivery may have changed, at the latest after `timeout_s`."""

    @property
    def journal_uuid(self) -> str:
        """Identity of the journal file."""

    @property
    def incarnation(self) -> str:
        """`<boot id>:<epoch>` of this process."""

    async def close(self) -> None:
        """Finish what was begun, checkpoint, give up the lock."""
