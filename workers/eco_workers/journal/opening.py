"""From a path to an open journal: every refusal, the replay, the checks, the epoch, the recovery of what was left.

Order matters. The lock comes first. What could destroy evidence (SQLite's replay) comes only after the log was looked
at; what writes (migration, epoch, recovery) only after the file was found sound and ours.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

import apsw

from eco_workers.errors import (
    EcoWorkerError,
    JournalCorruptError,
    JournalError,
    JournalFatalError,
    JournalLostError,
    JournalRefusedError,
)
from eco_workers.journal.checks import check_everything, check_structure
from eco_workers.journal.failpoints import reached
from eco_workers.journal.faults import translate
from eco_workers.journal.files import FILES, Files
from eco_workers.journal.limits import Limits
from eco_workers.journal.lock import JournalLock
from eco_workers.journal.model import Identity
from eco_workers.journal.operations import Context
from eco_workers.journal.queries import QUERIES
from eco_workers.journal.schema import APPLICATION_ID, MIGRATIONS, Migration, migrate
from eco_workers.journal.session import SqliteSession
from eco_workers.journal.space import Space
from eco_workers.journal.sqlite_rows import SqliteRows
from eco_workers.journal.upkeep import Upkeep
from eco_workers.journal.walfile import WalSurvey, survey

PRAGMAS: Final[Mapping[str, str | int]] = {
    "journal_mode": "wal",
    "synchronous": "FULL",
    "wal_autocheckpoint": 0,
    "foreign_keys": "OFF",
    "trusted_schema": "OFF",
    "cache_spill": "OFF",
    "temp_store": "MEMORY",
    "mmap_size": 0,
}
AFFECTED_FROM: Final = (3, 7, 0)
AFFECTED_TO: Final = (3, 51, 2)
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "ncpfs", "gfs2", "ocfs2"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.nfs", "fuse.juicefs"}
)


def _count_no_memory() -> None:
    """Let SQLite allocate without counting it, which takes a lock each time: a tenth of what it does for a task.

    The counts are for `sqlite3_status` and a soft limit of its heap, which nobody asks for. It is a setting of the
    library as a whole and can be made only while no connection is open.
    """
    if not apsw.connections():
        apsw.shutdown()
        apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)
        apsw.initialize()


_count_no_memory()


@dataclass(frozen=True, slots=True)
class Plan:
    """How a journal is to be opened. The parts behind `clock` are there to be replaced by tests."""

    path: Path
    identity: Identity
    known_uuid: str | None = None
    """The journal that must be found here; None when none is known and a new one may be made."""
    known_epoch: int = 0
    """The highest epoch that was ever seen of it: a file with a lower one is an old copy."""
    known_epoch_of: str = ""
    """The journal that `known_epoch` was seen of, where another one may stand at the path; empty for whichever does."""
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.time
    vfs: str | None = None
    files: Files = FILES
    queries: Mapping[str, str] = field(default_factory=lambda: QUERIES)
    pragmas: Mapping[str, str | int] = field(default_factory=lambda: PRAGMAS)
    migrations: Sequence[Migration] = MIGRATIONS


def quarantine_mark(path: Path) -> Path:
    """The file that says that a journal is damaged and why."""
    return path.with_name(path.name + ".quarantined")


def suspect_mark(path: Path) -> Path:
    """The file that says that a sync failed: the next open checks everything before it accepts anything."""
    return path.with_name(path.name + ".suspect")


def check_library(version: str) -> None:
    """Refuse SQLite libraries that corrupt a log which two connections write and checkpoint."""
    found = tuple(int(part) for part in version.split(".")[:3])
    if AFFECTED_FROM <= found <= AFFECTED_TO:
        raise JournalRefusedError(
            f"open journal: SQLite {version} can corrupt a write-ahead log (fixed in 3.51.3); update apsw"
        )


def check_file_system(path: Path, mounts: str | None = None) -> None:
    """Refuse network file systems: their locks and their fsync do not keep what a journal promises."""
    if mounts is None:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    directory = path.parent.resolve()
    best, kind = Path("/"), ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        mount_point = Path(fields[4].replace("\\040", " "))
        if directory.is_relative_to(mount_point) and len(mount_point.parts) >= len(best.parts):
            best, kind = mount_point, right.split()[0]
    if kind in NETWORK_FILE_SYSTEMS:
        raise JournalRefusedError(
            f"open journal {path}: {best} is a {kind} file system; a journal needs a local one (block storage)"
        )


def quarantine(plan: Plan, reason: str) -> None:
    """Mark a journal as damaged. The file itself stays as it is until a recovery."""
    reached("quarantine.before-mark")
    note = {"reason": reason, "since": plan.clock(), "path": str(plan.path)}
    with contextlib.suppress(OSError):  # on a volume that takes no file the next open finds the damage again
        plan.files.create(quarantine_mark(plan.path), json.dumps(note).encode())
    reached("quarantine.after-mark")


def mark_broken(plan: Plan, error: EcoWorkerError) -> None:
    """Leave a mark for the next open: damage quarantines, a failed sync asks for a full check first."""
    if isinstance(error, JournalCorruptError):
        quarantine(plan, str(error))
    elif isinstance(error, JournalFatalError):
        plan.files.create(suspect_mark(plan.path), json.dumps({"reason": str(error), "since": plan.clock()}).encode())


def open_session(plan: Plan, lock: JournalLock) -> tuple[SqliteSession, str]:
    """Open, check, migrate, take over and recover; the session and the journal's UUID. The lock is held already."""
    reached("open.locked")
    _refuse_quarantined(plan)
    if not plan.path.exists():
        try:
            _create(plan)
        except (apsw.Error, OSError) as error:
            raise translate(error, f"make journal {plan.path}") from error
    connection: apsw.Connection | None = None
    try:
        check_header(plan.path)
        found = survey(plan.path.with_name(plan.path.name + "-wal"))
        connection = connect(plan)
        _check(connection, plan, found)
        reached("open.checked")
        session, uuid = _take_over(connection, plan, lock)
    except (apsw.Error, OSError, UnicodeDecodeError, JournalError) as error:
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                _close_untouched(connection)
        meant = translate(error, f"open journal {plan.path}")
        if isinstance(meant, JournalCorruptError):
            quarantine(plan, str(meant))
        raise meant from error
    return session, uuid


def connect(plan: Plan, *, flags: int = apsw.SQLITE_OPEN_READWRITE) -> apsw.Connection:
    """A connection with the journal's settings; nothing is read or replayed before they stand."""
    connection = apsw.Connection(str(plan.path), flags=flags, vfs=plan.vfs, statementcachesize=200)
    try:
        connection.set_busy_timeout(plan.limits.busy_wait_ms)
        # Without this, each new value bound to a range makes SQLite plan the statement again: eight times the cost of a
        # claim, for statistics that this schema does not need.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        connection.pragma("cache_size", -plan.limits.cache_kib)
        for name, value in plan.pragmas.items():
            connection.pragma(name, value)
        connection.pragma("journal_size_limit", plan.limits.wal_keep_bytes)
    except apsw.Error:
        _close_untouched(connection)  # what cannot be read is not to be checkpointed either
        raise
    return connection


def _refuse_quarantined(plan: Plan) -> None:
    mark = quarantine_mark(plan.path)
    if mark.exists():
        try:
            reason = str(json.loads(mark.read_bytes())["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            reason = "the mark cannot be read"
        raise JournalCorruptError(
            f"open journal {plan.path}: quarantined ({reason}); `eco-wal recover` moves it aside and salvages"
        )


def _create(plan: Plan) -> None:
    """Make a new journal beside its place and rename it there: at its place it is complete or absent."""
    if plan.known_uuid:
        raise JournalLostError(
            f"open journal {plan.path}: there is none, and {plan.known_uuid} is known to belong here;"
            " is it the right volume?"
        )
    log = plan.path.with_name(plan.path.name + "-wal")
    if survey(log).commits:
        raise JournalCorruptError(
            f"open journal {plan.path}: the database is gone and its write-ahead log is still there"
        )
    beside = plan.path.with_name(plan.path.name + ".new")
    build_file(plan, beside, uuid=str(uuid4()), epoch=0)
    for stale in ("-wal", "-shm", "-journal"):
        plan.files.unlink(plan.path.with_name(plan.path.name + stale))
    plan.files.rename(beside, plan.path)


def build_file(
    plan: Plan, beside: Path, *, uuid: str, epoch: int, fill: Callable[[SqliteRows], None] | None = None
) -> None:
    """Build a whole journal at another place: identity, epoch, and what `fill` puts in, in transactions of its own."""
    for leftover in ("", "-wal", "-shm", "-journal"):
        beside.with_name(beside.name + leftover).unlink(missing_ok=True)
    connection = apsw.Connection(str(beside), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs=plan.vfs)
    try:
        for name, value in plan.pragmas.items():
            connection.pragma(name, value)
        reached("open.before-migrate")
        migrate(connection, plan.migrations)
        rows = SqliteRows(connection, plan.queries)
        connection.execute("BEGIN IMMEDIATE")
        rows.create_ledger()
        rows.epoch = epoch
        rows.write_ledger()
        rows.put_meta("journal_uuid", uuid)
        write_identity(rows, plan.identity)
        rows.put_meta("created_at", repr(plan.clock()))
        connection.execute("COMMIT")
        if fill is not None:
            fill(rows)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        connection.close()


def write_identity(rows: SqliteRows, identity: Identity) -> None:
    """Write whose journal this is."""
    rows.put_meta("namespace", identity.namespace)
    rows.put_meta("worker", identity.worker)
    rows.put_meta("shard", identity.shard)


def check_header(path: Path) -> None:
    """Refuse what is no journal before SQLite has opened it: opening alone would turn it into a file with a log."""
    with path.open("rb") as stream:
        header = stream.read(100)
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise JournalCorruptError(f"open journal {path}: its first page is no SQLite header")
    application = int.from_bytes(header[68:72], "big")
    if application != APPLICATION_ID:
        raise JournalRefusedError(
            f"open journal {path}: not a journal but another SQLite file (application {application:#x})"
        )


def check_log(connection: apsw.Connection, found: WalSurvey) -> str:
    """Let SQLite replay the log and compare with what stood in it; the problem, empty when there is none."""
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    replayed, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    lost = found.lost(max(0, replayed))
    if lost or (found.commits and not found.header_fits):
        return (
            f"the write-ahead log is damaged at frame {max(0, replayed) + 1}, and at least {max(1, lost)} durable"
            " commits behind it cannot be replayed"
        )
    return ""


def _check(connection: apsw.Connection, plan: Plan, found: WalSurvey) -> None:
    """Replay the log and look at the file: lost commits, then the structure as far as the time allows."""
    problem = check_log(connection, found)
    if problem:
        raise JournalCorruptError(f"open journal {plan.path}: {problem}")
    mark = suspect_mark(plan.path)
    if mark.exists():
        problems = check_everything(connection, plan.queries)
    else:
        problems = check_structure(connection, plan.limits.check_at_open_ms)
    if problems:
        raise JournalCorruptError(f"open journal {plan.path}: {'; '.join(problems[:3])}")
    if mark.exists():
        plan.files.unlink(mark)
    replayed, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    if found.behind(max(0, replayed)):
        # What the power cut short still ends in a commit frame. Writing on over its first frames would leave that one
        # standing behind the next torn write, and two of them look like a lost commit: begin the log anew instead. Cut
        # off, not only moved: SQLite goes on under the same salts in a log of which it could replay nothing.
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _take_over(connection: apsw.Connection, plan: Plan, lock: JournalLock) -> tuple[SqliteSession, str]:
    reached("open.before-migrate")
    migrate(connection, plan.migrations)
    rows = SqliteRows(connection, plan.queries)
    uuid = _check_identity(rows, plan)
    context = Context(plan.clock, plan.limits)
    operations = Upkeep(rows, context)
    space = Space(plan.path, plan.limits, plan.files)
    connection.execute(plan.queries["begin"])
    rows.read_ledger()
    known = max(plan.known_epoch if plan.known_epoch_of in {"", uuid} else 0, noted_epoch(lock, uuid))
    if rows.epoch < known:
        connection.execute(plan.queries["rollback"])
        raise JournalRefusedError(
            f"open journal {plan.path}: its epoch is {rows.epoch}, and {known} was seen of {uuid} before: this is an"
            " old copy of the journal. Put the newer file back, or adopt this one by `eco-wal recover --adopt`"
        )
    rows.epoch += 1
    context.epoch = rows.epoch
    context.incarnation = f"{boot_id()}:{rows.epoch}"
    context.opened_at = plan.clock()
    operations.restart()
    rows.write_ledger()
    connection.execute(plan.queries["commit"])
    reached("open.epoch-raised")
    lock.write(uuid, rows.epoch)
    session = SqliteSession(connection, operations, space, plan.queries, lambda error: mark_broken(plan, error))
    session.look()
    reached("open.recovered")
    return session, uuid


def _check_identity(rows: SqliteRows, plan: Plan) -> str:
    uuid = rows.meta("journal_uuid")
    if plan.known_uuid and uuid != plan.known_uuid:
        raise JournalLostError(
            f"open journal {plan.path}: found {uuid or 'no identity'}, known is {plan.known_uuid};"
            " is it the right volume?"
        )
    found = Identity(rows.meta("namespace"), rows.meta("worker"), rows.meta("shard"))
    if found != plan.identity:
        raise JournalRefusedError(
            f"open journal {plan.path}: it belongs to {found.namespace}/{found.worker}/{found.shard}, not to"
            f" {plan.identity.namespace}/{plan.identity.worker}/{plan.identity.shard}"
        )
    return uuid


def noted_epoch(lock: JournalLock, uuid: str) -> int:
    """The epoch that the last holder of the lock wrote down; 0 when it held another journal or none."""
    noted = lock.read()
    epoch = noted.get("epoch", "")
    return int(epoch) if noted.get("uuid") == uuid and epoch.isdigit() else 0


def boot_id() -> str:
    """The boot of this machine; a random one where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(uuid4())


def _close_untouched(connection: apsw.Connection) -> None:
    """Close without the checkpoint that the last connection makes: a refused file stays as it is."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close()
