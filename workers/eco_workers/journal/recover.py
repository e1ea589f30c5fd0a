"""Recovery of a journal that cannot be opened: build anew beside it, move it aside, put the new one in its place.

Only this moves a damaged journal, and nothing ever deletes one. The steps are ordered so that a crash between any two
leaves either the old file, or its parts under a name that the next run finds, or the new one whole:

1. read a copy of the damaged file; the damaged file is not written;
2. build the new journal under another name: identity and UUID kept, epoch above every known one, a restored base if
   there is one, and of the salvaged rows those whose id the base lacks, flagged;
3. rename the old file and its log aside; 4. rename the new one into place; 5. remove the quarantine mark.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar
from uuid import uuid4

import apsw

from eco_workers.errors import JournalError, JournalLostError
from eco_workers.journal import messages
from eco_workers.journal.checks import check_everything
from eco_workers.journal.failpoints import reached
from eco_workers.journal.lock import JournalLock
from eco_workers.journal.model import Rejected
from eco_workers.journal.opening import (
    Plan,
    build_file,
    check_header,
    check_log,
    connect,
    noted_epoch,
    quarantine_mark,
    suspect_mark,
    write_identity,
)
from eco_workers.journal.records import OutboxRow, TaskRow
from eco_workers.journal.salvage import Progress, Salvaged, copied, salvage_all
from eco_workers.journal.sqlite_rows import SqliteRows
from eco_workers.journal.walfile import survey

T = TypeVar("T")
FindBase = Callable[[], Path | None]
"""Brings a copy to start from; None when there is none to be had."""
SLICE_ROWS: Final = 2_000
EPOCH_STEP: Final = 1


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What a recovery did, or with `dry_run` would do."""

    action: str
    """`none` (the journal is sound), `unmarked`, `adopted`, `rebuilt`, `restored` (on a base) or `anew` (empty)."""
    journal_uuid: str
    epoch: int
    dry_run: bool
    problems: list[str] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    """Rows taken over, by state."""
    outbox: int = 0
    dead_lettered: int = 0
    """Rows that could be read but not trusted: sent to the dead-letter queue for people to look at."""
    unreadable: list[str] = field(default_factory=list)
    aside: str = ""
    """Where the old file is kept."""


def recover(
    plan: Plan,
    *,
    dry_run: bool = False,
    adopt: bool = False,
    anew: bool = False,
    base: Path | FindBase | None = None,
    held: JournalLock | None = None,
    progress: Progress | None = None,
) -> RecoveryReport:
    """Make a journal usable again; does nothing to a sound one, and finishes what an interrupted run began.

    `adopt` takes over a sound journal of another identity or of an older epoch. `base` is a restored copy (a backup, or
    what the segments gave) to which salvaged rows are only added; as a function it is asked only once the journal has
    turned out not to be sound, while a copy that is named replaces a sound one too. `anew` begins an empty journal
    where nothing is left. `held` is the journal's lock, taken and given up by the caller.

    Raises JournalError while the journal has another owner, JournalLostError when there is nothing to recover from.
    """
    if held is not None:
        return _recover(plan, held, dry_run=dry_run, adopt=adopt, anew=anew, base=base, progress=progress)
    lock = JournalLock(plan.path)
    if not lock.try_acquire():
        holder = lock.read()
        raise JournalError(f"recover {plan.path}: process {holder.get('pid', '?')} has it open; stop it first")
    try:
        return _recover(plan, lock, dry_run=dry_run, adopt=adopt, anew=anew, base=base, progress=progress)
    finally:
        lock.release()


def aside_names(path: Path) -> list[Path]:
    """Files that earlier recoveries moved aside, the newest last."""
    found = [each for each in path.parent.glob(f"{path.name}.aside-*") if each.name.rsplit("-", 1)[-1].isdigit()]
    return sorted(found, key=lambda each: int(each.name.rsplit("-", 1)[-1]))


def _recover(
    plan: Plan,
    lock: JournalLock,
    *,
    dry_run: bool,
    adopt: bool,
    anew: bool,
    base: Path | FindBase | None,
    progress: Progress | None,
) -> RecoveryReport:
    source: Path | None = plan.path
    if plan.path.exists():
        problems = _problems(plan)
        if not problems and not isinstance(base, Path):
            return _keep(plan, lock, dry_run=dry_run, adopt=adopt)
    else:
        problems = ["there is no journal at its place"]
        source = _interrupted(plan, dry_run=dry_run)
    if base is not None and not isinstance(base, Path):
        base = base()
    if source is None and base is None and not anew:
        raise JournalLostError(f"recover {plan.path}: there is no journal, none moved aside, and no base to restore")
    found = Salvaged()
    if source is not None:
        with copied(source, plan.path.with_name(plan.path.name + ".salvage")) as copy:
            found = salvage_all(copy, progress)
    report = _rebuild(plan, lock, found, problems, base=base, dry_run=dry_run, progress=progress)
    return replace(report, action="restored" if base else "anew" if source is None else report.action)


def _problems(plan: Plan) -> list[str]:
    """What is wrong with the file, without changing it."""
    with copied(plan.path, plan.path.with_name(plan.path.name + ".check")) as copy:
        found = survey(copy.with_name(copy.name + "-wal"))
        try:
            check_header(copy)
            connection = apsw.Connection(str(copy))
        except (apsw.Error, JournalError) as error:
            return [str(error)]
        try:
            problem = check_log(connection, found)
            problems = [problem] if problem else check_everything(connection, plan.queries)
        except apsw.Error as error:
            problems = [str(error)]
        finally:
            connection.close()
    return problems


def _keep(plan: Plan, lock: JournalLock, *, dry_run: bool, adopt: bool) -> RecoveryReport:
    """A sound file stays; its marks go, and with `adopt` it becomes ours."""
    marked = [mark for mark in (quarantine_mark(plan.path), suspect_mark(plan.path)) if mark.exists()]
    connection = connect(plan)
    try:
        rows = SqliteRows(connection, plan.queries)
        rows.read_ledger()
        uuid = rows.meta("journal_uuid")
        if adopt and not dry_run:
            connection.execute("BEGIN IMMEDIATE")
            rows.epoch = max(rows.epoch, plan.known_epoch, noted_epoch(lock, uuid)) + EPOCH_STEP
            rows.write_ledger()
            write_identity(rows, plan.identity)
            connection.execute("COMMIT")
        epoch = rows.epoch
    finally:
        connection.close()
    if not dry_run:
        for mark in marked:
            reached("recover.before-unmark")
            plan.files.unlink(mark)
    action = "adopted" if adopt else "unmarked" if marked else "none"
    return RecoveryReport(action, uuid, epoch, dry_run)


def _interrupted(plan: Plan, *, dry_run: bool) -> Path | None:
    """The file that an interrupted recovery had moved aside; its log may still stand at the old place."""
    moved = aside_names(plan.path)
    if not moved:
        return None
    newest = moved[-1]
    log = plan.path.with_name(plan.path.name + "-wal")
    kept = newest.with_name(newest.name + "-wal")
    if log.exists() and not kept.exists() and not dry_run:
        plan.files.rename(log, kept)
    return newest


def _rebuild(
    plan: Plan,
    lock: JournalLock,
    found: Salvaged,
    problems: list[str],
    *,
    base: Path | None,
    dry_run: bool,
    progress: Progress | None,
) -> RecoveryReport:
    # A copy that was kept elsewhere goes before what stands here: on a new volume that may be another journal.
    uuid = (
        plan.known_uuid
        or (base and _uuid_of(plan, base))
        or found.meta.get("journal_uuid")
        or lock.read().get("uuid")
        or str(uuid4())
    )
    epoch = max(found.epoch, plan.known_epoch, noted_epoch(lock, uuid)) + EPOCH_STEP
    counted: Counter[str] = Counter()
    kept_messages = 0
    distrusted = [*_distrusted(plan, found)]

    def fill(rows: SqliteRows) -> None:
        nonlocal kept_messages
        for key in ("draining", "sync_target"):
            if found.meta.get(key) and not rows.meta(key):
                _in_slices(rows, [key], lambda keys: rows.put_meta(keys[0], found.meta[keys[0]]))
        flagged = [row._replace(id=None, salvaged=1).sealed() for row in found.tasks]
        added: set[str] = set()
        _in_slices(rows, flagged, lambda part: added.update(rows.insert(part)), progress)
        counted.update(str(row.state) for row in flagged if row.task_id in added)
        _in_slices(rows, [row._replace(id=None) for row in found.outbox], rows.add_outbox)
        _in_slices(rows, [row for row in found.steps if row.task_id in added], _each(rows.put_step))
        _in_slices(rows, found.answers, _each(rows.put_cached))
        _in_slices(rows, distrusted, rows.add_outbox)
        kept_messages = len(found.outbox)

    beside = plan.path.with_name(plan.path.name + ".recovering")
    aside = ""
    if base is None:
        build_file(plan, beside, uuid=uuid, epoch=epoch, fill=fill)
    else:
        _build_on(plan, beside, base, uuid, epoch, fill)
    if dry_run:
        for part in ("", "-wal", "-shm"):
            beside.with_name(beside.name + part).unlink(missing_ok=True)
    else:
        aside = _exchange(plan, beside)
        lock.write(uuid, epoch)
    return RecoveryReport(
        "rebuilt",
        uuid,
        epoch,
        dry_run,
        problems,
        dict(counted),
        kept_messages,
        len(distrusted),
        found.unreadable,
        aside,
    )


def _uuid_of(plan: Plan, base: Path) -> str:
    connection = connect(replace(plan, path=base))
    try:
        return SqliteRows(connection, plan.queries).meta("journal_uuid")
    finally:
        connection.close()


def _build_on(plan: Plan, beside: Path, base: Path, uuid: str, epoch: int, fill: Callable[[SqliteRows], None]) -> None:
    """Start from a restored copy instead of an empty journal."""
    shutil.copyfile(base, beside)
    connection = connect(replace(plan, path=beside))
    try:
        rows = SqliteRows(connection, plan.queries)
        rows.read_ledger()
        connection.execute("BEGIN IMMEDIATE")
        rows.epoch = max(rows.epoch, epoch) + EPOCH_STEP
        rows.write_ledger()
        rows.put_meta("journal_uuid", uuid)
        write_identity(rows, plan.identity)
        connection.execute("COMMIT")
        fill(rows)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        connection.close()


def _exchange(plan: Plan, beside: Path) -> str:
    """Move the old journal aside and the new one into its place."""
    aside = ""
    if plan.path.exists():
        number = len(aside_names(plan.path)) + 1
        target = plan.path.with_name(f"{plan.path.name}.aside-{number}")
        reached("recover.before-aside")
        plan.files.rename(plan.path, target)
        log = plan.path.with_name(plan.path.name + "-wal")
        if log.exists():
            plan.files.rename(log, target.with_name(target.name + "-wal"))
        reached("recover.after-aside")
        aside = str(target)
    else:
        moved = aside_names(plan.path)
        aside = str(moved[-1]) if moved else ""
        log = plan.path.with_name(plan.path.name + "-wal")
        if log.exists():
            # A log without its database is kept for people: left where it is, SQLite would lay it over the new one.
            plan.files.rename(log, plan.path.with_name(f"{plan.path.name}.aside-{len(moved) + 1}-wal"))
    plan.files.unlink(plan.path.with_name(plan.path.name + "-shm"))
    reached("recover.before-adopt")
    plan.files.rename(beside, plan.path)
    reached("recover.after-adopt")
    for mark in (quarantine_mark(plan.path), suspect_mark(plan.path)):
        if mark.exists():
            reached("recover.before-unmark")
            plan.files.unlink(mark)
    return aside


def _in_slices(
    rows: SqliteRows, values: Sequence[T], write: Callable[[Sequence[T]], object], progress: Progress | None = None
) -> None:
    """Write in transactions of bounded size; the file is put in its place only when all of them are done."""
    for start in range(0, len(values), SLICE_ROWS):
        if progress is not None:
            progress("rebuilt rows", start, len(values))
        rows.connection.execute("BEGIN IMMEDIATE")
        write(values[start : start + SLICE_ROWS])
        rows.write_ledger()
        rows.connection.execute("COMMIT")


def _each(write: Callable[[T], None]) -> Callable[[Sequence[T]], None]:
    def write_all(values: Sequence[T]) -> None:
        for value in values:
            write(value)

    return write_all


def _distrusted(plan: Plan, found: Salvaged) -> Iterable[OutboxRow]:
    """Rows whose values do not fit their checksum become messages to the dead-letter queue: seen, never run."""
    limit = plan.limits.payload_bytes_max
    for row in found.damaged_tasks:
        yield _for_people(row, str(row.task_id), row.payload, str(row.queue), plan.clock(), limit)
    for message in found.damaged_outbox:
        yield _for_people(message, str(message.message_id), message.body, "", plan.clock(), limit)


def _for_people(row: TaskRow | OutboxRow, name: str, body: object, queue: str, now: float, bytes_max: int) -> OutboxRow:
    raw = body if isinstance(body, bytes) else json.dumps(str(body)).encode()
    reason = f"salvaged from a damaged journal: the checksum of {type(row).__name__} {row.id} does not fit its values"
    return messages.rejected(Rejected(name, raw[:bytes_max], queue, reason), now)
