"""Deliberate faults in the journal that runs, each with the attack that must catch it.

A sabotage replaces one piece of the journal for the length of a test. An attack returns what is wrong: nothing for the
sound journal, something under each sabotage it is named for. A fault that no attack sees means that the attack, and
what it claims to prove, is worth nothing.
"""

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw
import pytest

from eco_workers.errors import CommitFailedError, JournalError, JournalLockedError, JournalRefusedError
from eco_workers.journal import faults, opening, rules, sqlite_rows, writer
from eco_workers.journal.lock import JournalLock
from eco_workers.journal.model import Identity, NewTask, Owner, State, Verdict
from eco_workers.journal.operations import Operations
from eco_workers.journal.queries import QUERIES
from eco_workers.journal.records import OutboxRow, TaskRow
from eco_workers.journal.rules import Accepted, Republished, Standing
from eco_workers.journal.session import SqliteSession
from eco_workers.journal.space import Space
from eco_workers.journal.sqlite import SqliteJournal
from eco_workers.journal.sqlite_rows import SqliteRows
from eco_workers.journal.walfile import WalSurvey
from eco_workers.journal.writer import Task, Writer
from tests.crash.flips import flip
from tests.support.cuts import JOURNAL, Cutter, record, recording
from tests.support.powercut import write_image
from tests.support.workload import IDENTITY, SMALL, Ledger, books, complaints, live, read_shapes

SEED: Final = 11
NAME: Final = "resize"
NAMES: Final = {NAME: 99}
EARLY_S: Final = 0.001

Attack = Callable[[Path], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One fault, and the attack that must see it."""

    attack: Attack
    inflict: Callable[[pytest.MonkeyPatch], None]


# -- attacks ----------------------------------------------------------------------------------------------------------


async def power_cuts(directory: Path, *, synchronous: str = "FULL") -> list[str]:
    """Power cuts at work and at the start after it."""
    recorder = await record(
        directory / "work", lambda journal, ledger: live(journal, ledger, seed=SEED, tasks=4), synchronous=synchronous
    )
    tally = await Cutter(directory / "cut", random.Random(SEED), share=0.12).run(recorder, "work")
    return tally.complaints


async def lives(directory: Path) -> list[str]:
    """Tasks from delivery to end without any crash, each row held to the ledger; then a start."""
    marks: list[tuple[int, tuple[Any, ...]]] = []
    ledger = Ledger(lambda mark: marks.append((len(marks), mark)))
    write_image({}, directory)
    journal = await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL)
    try:
        await live(journal, ledger, seed=SEED, tasks=25)
    except (AssertionError, JournalError) as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        await journal.close()
    shapes, rejects, wrong = read_shapes(directory / JOURNAL)
    return wrong + complaints(books(marks)(len(marks)), shapes, rejects)


async def bit_flips(directory: Path) -> list[str]:
    """Single flipped bits in database and log."""
    return (await flip(directory, random.Random(SEED), count=250, tasks=6)).wrong


async def log_flips(directory: Path) -> list[str]:
    """Single flipped bits in the older part of the log, where every commit is durable."""
    return (await flip(directory, random.Random(SEED), count=40, tasks=6, older_log_only=True)).wrong


async def two_owners(directory: Path) -> list[str]:
    """A second process takes the journal over while the first still runs: the first must not write any more."""
    write_image({}, directory)
    first = await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL)
    first._lock.release()  # the lock that does not reach across machines
    second = await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL)
    try:
        await first.accept([_task(1)])
    except JournalRefusedError:
        return []
    finally:
        await second.close()
        await first.close()
    return ["an owner of an older epoch has written"]


async def second_opener(directory: Path) -> list[str]:
    """A second opener is refused while the first lives."""
    write_image({}, directory)
    limits = type(SMALL)(lock_wait_s=0.0, ballast_bytes=8_192)
    async with await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=limits):
        try:
            second = await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=limits)
        except JournalLockedError:
            return []
        await second.close()
    return ["two processes have opened one journal"]


async def foreign_journal(directory: Path) -> list[str]:
    """The journal of another shard is refused."""
    write_image({}, directory)
    await (await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL)).close()
    other = Identity("shop", "storage", "storage-1")
    try:
        journal = await SqliteJournal.open(directory / JOURNAL, identity=other, limits=SMALL)
    except JournalRefusedError:
        return []
    await journal.close()
    return ["the journal of another shard was opened"]


async def scheduled_retry(directory: Path) -> list[str]:
    """A retry waits for its time, also across a restart."""
    write_image({}, directory)
    journal = await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL)
    await journal.accept([_task(1)])
    await journal.claim(1, names=NAMES)
    await journal.retry("task-1", "busy", not_before=time.time() + 3_600)
    early = await journal.claim(1, names=NAMES)
    await journal.close()
    journal = await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL)
    early += await journal.claim(1, names=NAMES)
    waiting = (await journal.statistics()).counts.waiting
    await journal.close()
    return [f"{running.task_id} ran before its time" for running in early] + ([] if waiting == 1 else ["no schedule"])


async def closed_unacked(directory: Path) -> list[str]:
    """A task that was closed un-acked and comes back after all runs."""
    write_image({}, directory)
    async with await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL) as journal:
        await journal.accept([_task(1)], owner=Owner.BROKER)
        await journal.channel_lost()
        await journal.close_unacked(after_s=-1.0)
        verdicts = await journal.accept([_task(1)], owner=Owner.BROKER)
        claimed = await journal.claim(1, names=NAMES)
    return [] if claimed else [f"the redelivery was judged {verdicts[0]} and does not run"]


async def completed_again(directory: Path) -> list[str]:
    """A completed task is never run again, whatever is delivered."""
    write_image({}, directory)
    async with await SqliteJournal.open(directory / JOURNAL, identity=IDENTITY, limits=SMALL) as journal:
        await journal.accept([_task(1)])
        await journal.claim(1, names=NAMES)
        await journal.complete("task-1", b"{}")
        try:
            await journal.accept([_task(1, generation=5)])
        except JournalError as error:
            return [f"{error}"]
        return [f"{running.task_id} ran again" for running in await journal.claim(1, names=NAMES)]


async def full_disk(directory: Path) -> list[str]:
    """A disk that has no byte left but those of the ballast: running work still ends."""
    async with recording(directory) as tape:
        journal = await SqliteJournal.open(tape.plan.path, identity=IDENTITY, plan=tape.plan)
        await journal.accept([_task(1)])
        await journal.claim(1, names=NAMES)
        ballast = journal._session.space.ballast
        tape.recorder.fault = lambda operation, _name: "full" if operation == "write" and ballast.exists() else None
        try:
            await journal.complete("task-1", b"{}")
        except JournalError as error:
            return [f"a running task cannot end: {error}"]
        finally:
            tape.recorder.fault = lambda _operation, _name: None
            await journal.close()
    return []


async def failed_sync(directory: Path) -> list[str]:
    """After a sync that failed nothing is acknowledged any more."""
    async with recording(directory) as tape:
        journal = await SqliteJournal.open(tape.plan.path, identity=IDENTITY, plan=tape.plan)
        tape.recorder.fault = lambda operation, _name: "error" if operation == "sync" else None
        with suppress(JournalError):
            await journal.accept([_task(1)])
        tape.recorder.fault = lambda _operation, _name: None
        try:
            await journal.accept([_task(2)])
        except JournalError:
            return []
        finally:
            await journal.close()
    return ["acknowledged after a failed sync"]


def _task(number: int, generation: int = 0) -> NewTask:
    return NewTask(f"task-{number}", NAME, b"{}", "q.batch", generation=generation)


# -- faults -----------------------------------------------------------------------------------------------------------


def _ack_before_commit(patch: pytest.MonkeyPatch) -> None:
    def commit(self: Writer, group: list[Task]) -> None:
        self._session.begin()
        for task in group:
            self._run(task)
        self._tell(self._resolve, group)
        time.sleep(EARLY_S)  # the acknowledgement is out; the commit takes its time
        self._session.commit()

    patch.setattr(Writer, "_commit", commit)


def _without_full_sync(synchronous: str, patch: pytest.MonkeyPatch) -> None:
    connect = opening.connect

    def careless(*arguments: Any, **options: Any) -> apsw.Connection:
        connection = connect(*arguments, **options)
        connection.pragma("synchronous", synchronous)
        return connection

    patch.setattr(opening, "connect", careless)


def _no_epoch_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteRows, "epoch_in_file", lambda self: self.epoch)


def _outbox_outside(patch: pytest.MonkeyPatch) -> None:
    add, commit = SqliteRows.add_outbox, SqliteSession.commit
    later: list[OutboxRow] = []

    def commit_then_add(self: SqliteSession) -> None:
        commit(self)
        if later:
            self.begin()
            add(self.rows, later)
            later.clear()
            commit(self)

    patch.setattr(SqliteRows, "add_outbox", lambda _self, rows: later.extend(rows))
    patch.setattr(SqliteSession, "commit", commit_then_add)


def _schedule_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Operations, "_bounded", lambda _self, _not_before, _now: None)


def _republish_unsent(patch: pytest.MonkeyPatch) -> None:
    sound = rules.republish
    patch.setattr(rules, "republish", lambda row: Republished(sound(row).standing._replace(messaged=True), None))


def _prune_unsynced(patch: pytest.MonkeyPatch) -> None:
    queries = dict(QUERIES) | {"prunable_synced": QUERIES["prunable_synced"].replace("sync_status = 'synced' AND", "")}
    _with_queries(queries, patch)


def _prune_unpublished(patch: pytest.MonkeyPatch) -> None:
    sql = QUERIES["prunable_synced"].replace("status IN ('unsent', 'parked')", "status = 'never'")
    _with_queries(dict(QUERIES) | {"prunable_synced": sql}, patch)


def _with_queries(queries: Mapping[str, str], patch: pytest.MonkeyPatch) -> None:
    made = SqliteRows.__init__

    def init(self: SqliteRows, connection: apsw.Connection, _queries: Mapping[str, str] = QUERIES) -> None:
        made(self, connection, queries)

    patch.setattr(SqliteRows, "__init__", init)


def _judged(change: Callable[[Standing, int], Accepted | None], patch: pytest.MonkeyPatch) -> None:
    sound = rules.accept

    def accept(row: Standing | None, generation: int, owner: Owner) -> Accepted:
        return (row and change(row, generation)) or sound(row, generation, owner)

    patch.setattr(rules, "accept", accept)


def _replay_swallowed(row: Standing, _generation: int) -> Accepted | None:
    return Accepted(Verdict.DUPLICATE, row) if row.state in {State.FAILED, State.TIMEOUT} else None


def _closed_swallowed(row: Standing, _generation: int) -> Accepted | None:
    return Accepted(Verdict.DUPLICATE, row) if row.state == State.REPUBLISHED and not row.messaged else None


def _completed_reopened(row: Standing, generation: int) -> Accepted | None:
    if row.state != State.COMPLETED:
        return None
    return Accepted(Verdict.REOPENED, Standing(State.PENDING, Owner.JOURNAL, generation))


def _no_checksums(patch: pytest.MonkeyPatch) -> None:
    for name in ("checked_task", "checked_outbox", "checked_step"):
        patch.setattr(sqlite_rows, name, lambda row: row)


def _log_not_surveyed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(opening, "survey", lambda _path: WalSurvey())


def _ballast_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Space, "free_ballast", lambda _self: False)


def _attempt_uncounted(patch: pytest.MonkeyPatch) -> None:
    store = SqliteRows.store_started

    def careless(self: SqliteRows, started: Sequence[tuple[TaskRow, TaskRow]]) -> None:
        store(self, [(before, after._replace(attempts=before.attempts).sealed()) for before, after in started])

    patch.setattr(SqliteRows, "store_started", careless)


def _no_dead_letter(patch: pytest.MonkeyPatch) -> None:
    add = SqliteRows.add_outbox

    def careless(self: SqliteRows, rows: Sequence[OutboxRow]) -> None:
        add(self, [row for row in rows if row.kind != "dead-letter"])

    patch.setattr(SqliteRows, "add_outbox", careless)


def _step_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteRows, "put_step", lambda _self, _row: None)


def _left_running(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Operations, "restart", lambda _self: 0)


def _identity_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(opening, "_check_identity", lambda rows, _plan: rows.meta("journal_uuid"))


def _lock_not_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JournalLock, "try_acquire", lambda _self: True)


def _failed_sync_forgiven(patch: pytest.MonkeyPatch) -> None:
    sound = faults.translate

    def forgiving(error: BaseException, doing: str) -> Any:
        if isinstance(error, apsw.IOError):
            return CommitFailedError(str(error))
        return sound(error, doing)

    patch.setattr(writer, "translate", forgiving)


SABOTAGES: Final[Mapping[str, Sabotage]] = {
    "ack before commit": Sabotage(power_cuts, _ack_before_commit),
    "synchronous=NORMAL": Sabotage(power_cuts, partial(_without_full_sync, "NORMAL")),
    "synchronous=OFF": Sabotage(power_cuts, partial(_without_full_sync, "OFF")),
    "outbox outside the transaction": Sabotage(power_cuts, _outbox_outside),
    "interrupted runs are not taken up": Sabotage(power_cuts, _left_running),
    "no epoch check": Sabotage(two_owners, _no_epoch_check),
    "lock not taken": Sabotage(second_opener, _lock_not_taken),
    "identity not looked at": Sabotage(foreign_journal, _identity_unchecked),
    "retry schedule lost": Sabotage(scheduled_retry, _schedule_lost),
    "republish without its message": Sabotage(lives, _republish_unsent),
    "prune of an unsynced row": Sabotage(lives, _prune_unsynced),
    "prune of an unpublished message": Sabotage(lives, _prune_unpublished),
    "replay of a failed task swallowed": Sabotage(lives, partial(_judged, _replay_swallowed)),
    "attempt not counted before the run": Sabotage(lives, _attempt_uncounted),
    "no dead letter": Sabotage(lives, _no_dead_letter),
    "finished step forgotten": Sabotage(lives, _step_forgotten),
    "redelivery of a task closed un-acked swallowed": Sabotage(closed_unacked, partial(_judged, _closed_swallowed)),
    "completed task reopened": Sabotage(completed_again, partial(_judged, _completed_reopened)),
    "checksum not looked at": Sabotage(bit_flips, _no_checksums),
    "log not surveyed before its replay": Sabotage(log_flips, _log_not_surveyed),
    "ballast forgotten": Sabotage(full_disk, _ballast_forgotten),
    "failed sync forgiven": Sabotage(failed_sync, _failed_sync_forgiven),
}
ATTACKS: Final[tuple[Attack, ...]] = tuple(dict.fromkeys(sabotage.attack for sabotage in SABOTAGES.values()))


async def caught(sabotage: Sabotage, directory: Path) -> list[str]:
    """What the attack sees under the sabotage; an attack that cannot even run has seen it too."""
    with pytest.MonkeyPatch.context() as patch:
        sabotage.inflict(patch)
        try:
            return await sabotage.attack(directory)
        except (JournalError, apsw.Error) as error:
            return [f"{type(error).__name__}: {error}"]
