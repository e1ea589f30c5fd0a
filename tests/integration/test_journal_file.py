"""The journal and its file: who may open it, what damage is told apart, what a recovery brings back."""

import asyncio
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from eco_workers.errors import (
    IllegalStateError,
    JournalCorruptError,
    JournalError,
    JournalFatalError,
    JournalFullError,
    JournalLockedError,
    JournalLostError,
    JournalRefusedError,
)
from eco_workers.journal import Completion, Emit, Identity, Limits, SqliteJournal, Verdict, sqlite_rows
from eco_workers.journal.opening import (
    PRAGMAS,
    Plan,
    check_file_system,
    check_library,
    mark_broken,
    quarantine_mark,
    suspect_mark,
)
from eco_workers.journal.recover import aside_names, recover
from eco_workers.journal.salvage import copied, salvage_all
from eco_workers.journal.schema import MIGRATIONS, Migration
from tests.support.journals import IDENTITY, NAMES, Journals, task


@pytest.fixture
async def journals(tmp_path: Path) -> AsyncIterator[Journals]:
    some = Journals("sqlite", tmp_path)
    yield some
    await some.close()


async def crashed(journals: Journals, count: int = 40) -> Path:
    """A journal as a killed process leaves it: commits in the log, none of them moved into the database."""
    journal: Any = await journals.open()
    for number in range(count):
        await journal.accept([task(f"t{number}", payload=b'"%s"' % (b"x" * 300))])
    left = journals.directory / "left"
    left.mkdir()
    for part in ("", "-wal", ".lock"):
        shutil.copyfile(f"{journals.path}{part}", left / f"journal.db{part}")
    await journal.close()
    return left / "journal.db"


def plan(path: Path, **options: Any) -> Plan:
    return Plan(path, IDENTITY, limits=options.pop("limits", Limits(lock_wait_s=0.2)), **options)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1 << bit]))


def commit_frames(log: Path) -> list[int]:
    """Offsets of the commit frames of a log."""
    data = log.read_bytes()
    return [at for at in range(32, len(data), 4120) if struct.unpack(">I", data[at + 4 : at + 8])[0]]


# -- how it is opened -----------------------------------------------------------------------------------------------


async def test_a_journal_is_durable_in_wal_mode_and_checkpoints_itself(journals: Journals) -> None:
    await journals.open()
    other = apsw.Connection(str(journals.path), flags=apsw.SQLITE_OPEN_READONLY)
    assert other.pragma("journal_mode") == "wal"
    other.close()
    assert PRAGMAS["synchronous"] == "FULL"
    assert PRAGMAS["wal_autocheckpoint"] == 0


async def test_the_end_of_a_task_is_one_statement_and_fails_alone(journals: Journals) -> None:
    """Without a savepoint nothing but the statement itself is undone, so there must be no other."""
    journal = await journals.open()
    await journal.accept([task(name) for name in ("a", "b", "c")])
    await journal.claim(3, names=NAMES)
    statements: list[str] = []
    connection = journal._session.rows.connection
    await journal._writer.between(
        lambda: setattr(connection, "exec_trace", lambda _cursor, sql, _values: bool(statements.append(sql)) or True)
    )
    # While the writer is at the first, the others wait for one group: of a task that ends twice the second is refused.
    results = await asyncio.gather(
        *(journal.complete(name, b"1") for name in ("a", "b", "b", "c")), return_exceptions=True
    )
    await journal._writer.between(lambda: setattr(connection, "exec_trace", None))
    assert [type(each) for each in results] == [type(None), type(None), IllegalStateError, type(None)]
    assert not [each for each in statements if "SAVEPOINT" in each]
    written = [each for each in statements if each.startswith(("UPDATE", "INSERT", "DELETE"))]
    written = [each for each in written if " ledger " not in each]
    assert len(written) == 3
    assert (await journal.statistics()).counts.completed == 3
    assert await journal.verify() == []


@pytest.mark.parametrize("count", [3, sqlite_rows.ROWS_AT_ONCE, 3 * sqlite_rows.ROWS_AT_ONCE + 1])
async def test_completions_that_the_file_refuses_are_undone_as_one(journals: Journals, count: int) -> None:
    """A row that somebody else changed underneath: what the same call had written before it is undone with it."""
    names = [f"task-{number:03}" for number in range(count)]
    odd = names.pop(count // 2)
    journal = await journals.open()
    await journal.accept([task(name) for name in (*names, odd)])
    await journal.claim(count, names=NAMES)
    execute = journal._session.rows.connection.execute
    await journal._writer.between(
        lambda: execute("UPDATE task_wal SET state = 'completed', ended_at = 1 WHERE task_id = ?", (odd,))
    )
    with pytest.raises(JournalError, match="never changes again"):
        await journal.complete_all([Completion(name, b"1", [Emit("q.ai", b"{}")]) for name in (*names, odd)])
    assert await journal.complete_all([Completion(name, b"1") for name in names]) == [None] * len(names)
    counts = (await journal.statistics()).counts
    assert (counts.completed, counts.outbox_unsent) == (len(names), 0)


async def test_a_second_opener_waits_and_then_names_the_holder(journals: Journals) -> None:
    await journals.open()
    with pytest.raises(JournalLockedError, match=rf"process {os.getpid()} on host"):
        await SqliteJournal.open(journals.path, identity=IDENTITY, limits=Limits(lock_wait_s=0.1))


async def test_a_second_opener_gets_the_journal_when_its_holder_is_killed(journals: Journals) -> None:
    code = (
        "import asyncio, sys, pathlib\n"
        "from eco_workers.journal import SqliteJournal, Identity\n"
        "async def main():\n"
        "    journal = await SqliteJournal.open(pathlib.Path(sys.argv[1]),"
        " identity=Identity('eco', 'storage', 'storage-0'))\n"
        "    print('open', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(journals.path), stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"open\n"
    waiting = asyncio.create_task(journals.open(Limits(lock_wait_s=30)))
    holder.kill()
    await holder.wait()
    journal: Any = await waiting
    assert journal.epoch == 2


async def test_a_process_that_was_taken_over_writes_nothing_more(journals: Journals) -> None:
    old: Any = await journals.open()
    await old.accept([task("before")])
    journals.path.with_name("journal.db.lock").unlink()  # as on another machine, where the lock does not reach
    new: Any = await journals.open()
    with pytest.raises(JournalRefusedError, match="its epoch is 2, this process opened it as 1"):
        await old.accept([task("after")])
    assert await new.accept([task("before"), task("after")]) == [Verdict.DUPLICATE, Verdict.STORED]


async def test_a_process_that_was_taken_over_lets_go_of_the_file_at_its_next_checkpoint(journals: Journals) -> None:
    old: Any = await journals.open()
    await old.accept([task("before")])
    await old.checkpoint()
    journals.path.with_name("journal.db.lock").unlink()
    new: Any = await journals.open()
    await new.accept([task("between")])
    await new.checkpoint()  # its own is over
    with pytest.raises(JournalRefusedError, match="another process has taken it over"):
        await old.checkpoint()
    assert await new.accept([task("after")]) == [Verdict.STORED]


async def test_an_old_copy_of_a_journal_is_refused_and_can_be_adopted(journals: Journals) -> None:
    journal: Any = await journals.open()
    await journal.backup(journals.directory / "copy.db")
    again = await journals.restart(await journals.restart(journal))
    await again.close()
    shutil.copyfile(journals.directory / "copy.db", journals.path)
    with pytest.raises(JournalRefusedError, match="old copy"):
        await journals.open()
    await asyncio.to_thread(recover, plan(journals.path), adopt=True)
    adopted: Any = await journals.open()
    assert adopted.epoch > again.epoch


async def test_an_epoch_below_the_known_one_is_refused(journals: Journals) -> None:
    await (await journals.open()).close()  # type: ignore[attr-defined]  # the sqlite one has it
    with pytest.raises(JournalRefusedError, match="its epoch is 1, and 9 was seen"):
        await journals.open(known_epoch=9)


async def test_a_foreign_journal_is_refused(journals: Journals) -> None:
    await (await journals.open()).close()  # type: ignore[attr-defined]  # the sqlite one has it
    with pytest.raises(JournalRefusedError, match="belongs to eco/storage/storage-0, not to eco/ai/ai-3"):
        await SqliteJournal.open(journals.path, identity=Identity("eco", "ai", "ai-3"))


async def test_a_missing_journal_is_lost_where_one_is_known(journals: Journals) -> None:
    with pytest.raises(JournalLostError, match="there is none"):
        await journals.open(known_uuid="0b9d")
    assert not journals.path.exists()


async def test_another_journal_than_the_known_one_is_lost(journals: Journals) -> None:
    await (await journals.open()).close()  # type: ignore[attr-defined]  # the sqlite one has it
    with pytest.raises(JournalLostError, match="known is 0b9d"):
        await journals.open(known_uuid="0b9d")


async def test_any_other_database_is_refused(journals: Journals) -> None:
    connection = apsw.Connection(str(journals.path))
    connection.execute("CREATE TABLE shopping (item)")
    connection.close()
    with pytest.raises(JournalRefusedError, match="not a journal"):
        await journals.open()


def test_network_file_systems_are_refused() -> None:
    mounts = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "40 22 0:50 / /var/lib/ecoeco/wal rw - nfs4 server:/export rw\n"
        "41 22 0:51 / /var/lib/ecoeco/wal-local rw - xfs /dev/sdb rw\n"
    )
    with pytest.raises(JournalRefusedError, match="/var/lib/ecoeco/wal is a nfs4"):
        check_file_system(Path("/var/lib/ecoeco/wal/storage_worker.db"), mounts)
    check_file_system(Path("/var/lib/ecoeco/wal-local/storage_worker.db"), mounts)


@pytest.mark.parametrize(("version", "refused"), [("3.46.1", True), ("3.51.2", True), ("3.51.3", False)])
def test_sqlite_libraries_with_the_log_reset_fault_are_refused(version: str, refused: bool) -> None:
    if refused:
        with pytest.raises(JournalRefusedError, match=version):
            check_library(version)
    else:
        check_library(version)


# -- schema releases ------------------------------------------------------------------------------------------------

NEXT = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "ALTER TABLE task_wal ADD COLUMN colour TEXT DEFAULT 'green'"))
AFTER_NEXT = (*NEXT, Migration(len(NEXT) + 1, "ALTER TABLE task_wal ADD COLUMN weight REAL"))


async def test_a_journal_is_carried_forward_and_one_release_back_still_reads_it(journals: Journals) -> None:
    journal: Any = await journals.open()
    await journal.accept([task("first")])
    await journal.close()
    newer: Any = await journals.open(migrations=NEXT)
    await newer.accept([task("second")])
    await newer.close()
    older: Any = await journals.open()
    assert await older.accept([task("first"), task("second"), task("third")]) == [
        Verdict.DUPLICATE,
        Verdict.DUPLICATE,
        Verdict.STORED,
    ]
    assert await older.verify() == []


async def test_a_schema_two_releases_ahead_is_refused(journals: Journals) -> None:
    await (await journals.open(migrations=AFTER_NEXT)).close()  # type: ignore[attr-defined]  # the sqlite one has it
    with pytest.raises(JournalRefusedError, match=r"release 3, this program knows release 1"):
        await journals.open()


# -- damage ---------------------------------------------------------------------------------------------------------


async def test_a_flipped_bit_in_a_payload_quarantines_instead_of_running_it(journals: Journals) -> None:
    journal: Any = await journals.open()
    await journal.accept([task("t1", payload=b'"findme-findme-findme"')])
    await journal.close()
    data = journals.path.read_bytes()
    flip(journals.path, data.index(b"findme-findme"), bit=1)
    damaged = journals.path.read_bytes()
    opened: Any = await journals.open()
    with pytest.raises(JournalCorruptError, match="checksum"):
        await opened.claim(1, names=NAMES)
    assert opened.mode == "quarantined"
    with pytest.raises(JournalCorruptError):
        await opened.accept([task("t2")])
    await opened.close()
    assert quarantine_mark(journals.path).exists()
    assert b"findme" in damaged
    with pytest.raises(JournalCorruptError, match="quarantined"):
        await journals.open()


@pytest.mark.parametrize("offset", [0, 30, 100, 4096, 5 * 4096 + 3])
async def test_a_damaged_page_is_found_at_open_and_the_file_left_as_it_is(journals: Journals, offset: int) -> None:
    journal: Any = await journals.open()
    await journal.accept([task(f"t{number}", payload=b'"%s"' % (b"x" * 500)) for number in range(50)])
    await journal.close()
    with journals.path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xa5" * 16)
    damaged = journals.path.read_bytes()
    with pytest.raises((JournalCorruptError, JournalRefusedError)):
        await journals.open()
    assert journals.path.read_bytes() == damaged


async def test_a_damaged_durable_commit_in_the_log_is_corrupt_and_not_short(journals: Journals) -> None:
    path = await crashed(journals)
    log = path.with_name("journal.db-wal")
    flip(log, commit_frames(log)[-5] + 1000)
    before = log.read_bytes(), path.read_bytes()
    with pytest.raises(JournalCorruptError, match="durable commits"):
        await SqliteJournal.open(path, identity=IDENTITY)
    assert (log.read_bytes(), path.read_bytes()) == before


async def test_a_torn_last_commit_is_short_and_nothing_else_is_lost(journals: Journals) -> None:
    path = await crashed(journals)
    log = path.with_name("journal.db-wal")
    flip(log, commit_frames(log)[-1] + 1000)
    async with await SqliteJournal.open(path, identity=IDENTITY, clock=journals.clock) as journal:
        assert (await journal.statistics()).counts.due == 39


async def test_a_log_without_its_database_is_corrupt_and_kept(journals: Journals) -> None:
    path = await crashed(journals)
    path.unlink()
    with pytest.raises(JournalCorruptError, match="the database is gone"):
        await SqliteJournal.open(path, identity=IDENTITY)
    assert path.with_name("journal.db-wal").stat().st_size > 4096


# -- recovery -------------------------------------------------------------------------------------------------------


async def test_a_recovery_brings_back_every_row_that_can_be_read(journals: Journals) -> None:
    path = await crashed(journals)
    log = path.with_name("journal.db-wal")
    flip(log, commit_frames(log)[-5] + 1000)
    before = path.read_bytes()
    with pytest.raises(JournalCorruptError):
        await SqliteJournal.open(path, identity=IDENTITY)

    rehearsed = await asyncio.to_thread(recover, plan(path), dry_run=True)
    assert (rehearsed.action, rehearsed.tasks) == ("rebuilt", {"pending": 40})
    assert path.read_bytes() == before
    assert aside_names(path) == []

    report = await asyncio.to_thread(recover, plan(path))
    assert report.tasks == {"pending": 40}
    assert await asyncio.to_thread(Path(report.aside).read_bytes) == before
    async with await SqliteJournal.open(path, identity=IDENTITY, known_uuid=report.journal_uuid) as journal:
        assert len(await journal.claim(100, names=NAMES)) == 40
        assert await journal.verify() == []
        assert journal.epoch > 1

    assert (await asyncio.to_thread(recover, plan(path))).action == "none"


async def test_a_row_that_cannot_be_trusted_goes_to_people(journals: Journals) -> None:
    journal: Any = await journals.open()
    await journal.accept([task("good"), task("bad", payload=b'"findme-findme-findme"')])
    await journal.close()
    flip(journals.path, journals.path.read_bytes().index(b"findme-findme"), bit=1)
    report = await asyncio.to_thread(recover, plan(journals.path))
    assert (report.tasks, report.dead_lettered) == ({"pending": 1}, 1)
    again: Any = await journals.open()
    assert [each.task_id for each in await again.claim(9, names=NAMES)] == ["good"]
    [message] = await again.outbox(9)
    assert (message.routing_key, message.kind) == ("q.dlq", "reject")
    assert b"findme" in message.body


@pytest.mark.parametrize("text", [b"attempts          INTEGER", b"payload           BLOB", b"CREATE TABLE task_wal"])
async def test_rows_are_salvaged_from_under_a_damaged_schema(journals: Journals, text: bytes) -> None:
    journal: Any = await journals.open()
    await journal.accept([task("t1"), task("t2")])
    await journal.close()
    for found in re.finditer(re.escape(text), journals.path.read_bytes()):  # free space may hold older copies of it
        flip(journals.path, found.start() + 2, bit=1)
    with pytest.raises(JournalCorruptError):
        await journals.open()
    report = await asyncio.to_thread(recover, plan(journals.path))
    assert report.tasks == {"pending": 2}
    assert report.journal_uuid == journal.journal_uuid
    again: Any = await journals.open()
    assert len(await again.claim(9, names=NAMES)) == 2


async def test_a_recovery_from_a_backup_adds_only_what_the_backup_lacks(journals: Journals) -> None:
    journal: Any = await journals.open()
    await journal.accept([task("old")])
    await journal.backup(journals.directory / "copy.db")
    await journal.claim(1, names=NAMES)
    await journal.complete("old", b"{}", emits=[Emit("q.ai", b"{}")])
    await journal.accept([task("new")])
    await journal.close()
    with journals.path.open("r+b") as stream:
        stream.write(b"\xa5" * 16)
    with pytest.raises(JournalCorruptError):
        await journals.open()
    report = await asyncio.to_thread(recover, plan(journals.path), base=journals.directory / "copy.db")
    again: Any = await journals.open(known_uuid=report.journal_uuid)
    assert again.epoch > journal.epoch
    assert (await again.statistics()).counts.due >= 1


async def test_nothing_is_recovered_from_nothing(journals: Journals) -> None:
    with pytest.raises(JournalLostError, match="no base"):
        await asyncio.to_thread(recover, plan(journals.path))


async def test_a_recovery_refuses_a_journal_that_is_open(journals: Journals) -> None:
    await journals.open()
    with pytest.raises(Exception, match=f"process {os.getpid()} has it open"):
        await asyncio.to_thread(recover, plan(journals.path))


# -- room -----------------------------------------------------------------------------------------------------------


async def test_below_the_reserve_new_work_is_refused_and_running_work_ends(journals: Journals) -> None:
    journal: Any = await journals.open()
    await journal.accept([task("t1")])
    await journal.claim(1, names=NAMES)
    await journal.close()
    limits = Limits(reserve_bytes=2**60, reserve_ratio=1.0, lock_wait_s=0.2)
    full: Any = await journals.open(limits)
    with pytest.raises(JournalFullError, match="less than the reserve"):
        await full.accept([task("t2")])
    assert full.mode == "read-only"
    [running] = await full.claim(1, names=NAMES)
    await full.complete(running.task_id, b"{}")
    assert (await full.statistics()).read_only
    full.limits = Limits(lock_wait_s=0.2)
    again = await journals.restart(full)
    assert await again.accept([task("t2")]) == [Verdict.STORED]


async def test_a_full_disk_frees_the_ballast_and_lets_running_work_end(journals: Journals) -> None:
    journal: Any = await journals.open()
    await journal.accept([task(f"t{number}") for number in range(4)])
    await journal.claim(4, names=NAMES)
    ballast = journals.path.with_name("journal.db.ballast")
    assert ballast.stat().st_blocks * 512 >= Limits().ballast_bytes
    connection = journal._session._connection
    pages = int(connection.pragma("page_count"))

    def room() -> None:
        connection.pragma("max_page_count", 2**30)

    unlink = journal._session.space._files.unlink

    class Freeing(type(journal._session.space._files)):  # type: ignore[misc]  # the class of the journal's own object
        def unlink(self, path: Path) -> None:
            unlink(path)
            room()

    journal._session.space._files = Freeing()
    await journal._writer.between(lambda: connection.pragma("max_page_count", pages))
    for number in range(4):
        await journal.complete(f"t{number}", b'"%s"' % (b"x" * 20_000))
    assert not ballast.exists()
    assert (await journal.statistics()).counts.completed == 4


async def test_a_long_reader_makes_the_journal_read_only_before_its_log_grows_without_bound(journals: Journals) -> None:
    bound = 1_000_000
    journal: Any = await journals.open(
        Limits(lock_wait_s=0.2, wal_bytes_max=bound, checkpoint_wal_pages=50, volume_poll_s=0.0, wal_keep_bytes=100_000)
    )
    reader = apsw.Connection(str(journals.path), flags=apsw.SQLITE_OPEN_READWRITE)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM task_wal").fetchall()

    async def fill() -> None:
        for number in range(200):
            await journal.accept([task(f"t{number}", payload=b'"%s"' % (b"x" * 20_000))])

    with pytest.raises(JournalFullError, match="long reader"):
        await fill()
    assert (await journal.statistics()).volume.wal_bytes < 2 * bound
    [running] = await journal.claim(1, names=NAMES)
    reader.execute("ROLLBACK")
    reader.close()
    await journal.complete(running.task_id, b"{}")
    await journal.checkpoint()
    await journal.heartbeat((await journal.claim(1, names=NAMES))[0].task_id)
    await journal.heartbeat((await journal.claim(1, names=NAMES))[0].task_id)
    assert await journal.accept([task("again")]) == [Verdict.STORED]


async def test_after_a_failed_sync_the_next_open_checks_every_row(journals: Journals) -> None:
    journal: Any = await journals.open()
    await journal.accept([task("t1"), task("t2", payload=b'"findme-findme-findme"')])
    await journal.close()
    mark_broken(plan(journals.path), JournalFatalError("fsync failed"))
    await (await journals.open()).close()  # type: ignore[attr-defined]  # the sqlite one has it
    assert not suspect_mark(journals.path).exists()
    flip(journals.path, journals.path.read_bytes().index(b"findme-findme"), bit=1)
    mark_broken(plan(journals.path), JournalFatalError("fsync failed"))
    with pytest.raises(JournalCorruptError, match="checksum"):
        await journals.open()


@pytest.mark.parametrize("epoch", ["'9'", "x'00ff'", "7000"])
async def test_a_ledger_that_does_not_fit_its_checksum_stops_no_salvage(journals: Journals, epoch: str) -> None:
    """A torn page may hold anything where the epoch stood; the epoch noted outside the file counts then."""
    journal: Any = await journals.open()
    await journal.accept([task("kept")])
    await journal.close()
    connection = apsw.Connection(str(journals.path))
    (table,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'ledger'").fetchone() or ("",)
    loose = table.replace("STRICT", "").replace("INTEGER NOT NULL CHECK (epoch >= 0)", "BLOB")
    connection.pragma("writable_schema", 1)
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'ledger'", (loose,))
    connection.close()
    connection = apsw.Connection(str(journals.path))
    connection.execute(f"UPDATE ledger SET epoch = {epoch}")  # noqa: S608  # a value of this test's own
    connection.close()
    with copied(journals.path, journals.directory / "copy") as copy:
        found = salvage_all(copy)
    assert [row.task_id for row in found.tasks] == ["kept"]
    assert found.epoch == 0
