"""Looks into a journal without owning it: for the command line, on a live journal or on one that nobody has open.

Every look is one short read transaction on a connection of its own, so it never stands in the way of the worker's
checkpoints for long, and it closes without moving the log.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import apsw

from eco_workers.errors import JournalError
from eco_workers.journal import messages
from eco_workers.journal.checks import check_everything
from eco_workers.journal.faults import translate
from eco_workers.journal.lock import JournalLock
from eco_workers.journal.model import Identity
from eco_workers.journal.opening import Plan, check_header, check_log, connect, quarantine_mark
from eco_workers.journal.operations import Context
from eco_workers.journal.records import TaskRow, checked_task
from eco_workers.journal.sqlite_rows import SqliteRows
from eco_workers.journal.upkeep import Upkeep
from eco_workers.journal.walfile import survey

NOBODY: Final = Identity("", "", "")
SLICE_ROWS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Inspector:
    """Reads one journal by its path."""

    path: Path

    @property
    def plan(self) -> Plan:
        """How its connections are opened; the identity plays no part in reading."""
        return Plan(self.path, NOBODY)

    @contextmanager
    def reading(self) -> Iterator[SqliteRows]:
        """One read transaction."""
        if not self.path.exists():
            raise JournalError(f"read {self.path}: there is no journal; give its path by --db or WAL_DB_PATH")
        check_header(self.path)
        connection: apsw.Connection | None = None
        try:
            connection = connect(self.plan)
            connection.pragma("query_only", 1)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.execute("BEGIN")
            rows = SqliteRows(connection)
            rows.read_ledger()
            yield rows
            connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise translate(error, f"read {self.path}") from error
        finally:
            if connection is not None:
                connection.close()

    def holder(self) -> dict[str, str]:
        """Who has the journal open; empty when nobody has."""
        lock = JournalLock(self.path)
        if lock.try_acquire():
            lock.release()
            return {}
        return lock.read()

    def statistics(self) -> dict[str, Any]:
        """Counts, ages, sizes and identity."""
        with self.reading() as rows:
            context = Context(time.time, self.plan.limits, opened_at=time.time())
            counts, ages = Upkeep(rows, context).counts_and_ages()
            about = {key: rows.meta(key) for key in ("journal_uuid", "namespace", "worker", "shard", "sync_target")}
            found: dict[str, Any] = about | {
                "epoch": rows.epoch,
                "draining": rows.meta("draining") == "1",
                "counts": counts.model_dump(),
                "ages": ages.model_dump(exclude={"last_progress_s", "last_checkpoint_s"}),
                "synced": sum(counts.model_dump()[state] for state in ("completed", "failed", "timeout"))
                - rows.counters.values["unsynced"]
                - rows.counters.values["sync_parked"],
            }
        volume = os.statvfs(self.path.parent)
        found["bytes"] = {
            "database": self.path.stat().st_size,
            "log": _size(self.path.with_name(self.path.name + "-wal")),
            "volume_free": volume.f_bavail * volume.f_frsize,
            "volume_total": volume.f_blocks * volume.f_frsize,
        }
        found["quarantined"] = quarantine_mark(self.path).exists()
        found["holder"] = self.holder()
        return found

    def tasks(self, *, state: str | None, name: str | None, limit: int) -> list[dict[str, Any]]:
        """Rows, the youngest first, without their payloads."""
        columns = ", ".join(TaskRow._fields)
        wanted = {"state": state, "task_name": name}
        conditions = [f"{column} = ?" for column, value in wanted.items() if value is not None]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        values = [value for value in wanted.values() if value is not None]
        with self.reading() as rows:
            found = rows.connection.execute(
                f"SELECT {columns} FROM task_wal {where} ORDER BY id DESC LIMIT ?",  # noqa: S608  # our own names
                (*values, limit),
            ).fetchall()
        return [_shown(checked_task(TaskRow._make(row)), whole=False) for row in found]

    def task(self, task_id: str) -> dict[str, Any] | None:
        """All that the journal knows of one task: row, finished steps, messages."""
        with self.reading() as rows:
            row = rows.load(task_id)
            if row is None:
                return None
            shown = _shown(row, whole=True)
            shown["steps"] = [
                {"name": step.name, "created_at": step.created_at, "result": messages.readable(step.result)}
                for step in rows.steps(task_id)
            ]
            sent = rows.connection.execute(
                "SELECT message_id, kind, routing_key, status, attempts, created_at, sent_at, error FROM outbox"
                " WHERE task_id = ? ORDER BY id",
                (task_id,),
            ).fetchall()
        names = ("message_id", "kind", "routing_key", "status", "attempts", "created_at", "sent_at", "error")
        shown["messages"] = [dict(zip(names, each, strict=True)) for each in sent]
        return shown

    def verify(self) -> list[str]:
        """Everything that is wrong with the file."""
        live = bool(self.holder())
        # The log of a live journal is open in another process, which may move it at any time; its own start checked it.
        found = None if live else survey(self.path.with_name(self.path.name + "-wal"))
        try:
            check_header(self.path)
            connection = connect(self.plan)
        except (apsw.Error, JournalError) as error:
            return [str(translate(error, f"verify {self.path}"))]
        try:
            connection.pragma("query_only", 1)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            problem = "" if found is None else check_log(connection, found)
            return [problem] if problem else check_everything(connection)
        except apsw.Error as error:
            return [str(translate(error, f"verify {self.path}"))]
        finally:
            connection.close()

    def export(self) -> Iterator[str]:
        """Every task as one line of JSON, in slices, so that no transaction lasts long."""
        last = -(2**62)
        while True:
            with self.reading() as rows:
                found = list(rows.all_tasks(last, SLICE_ROWS))
            if not found:
                return
            for _number, row in found:
                yield json.dumps(_shown(checked_task(row), whole=True), ensure_ascii=False)
            last = found[-1][0]

    def checkpoint(self) -> tuple[int, int]:
        """Move the log of a journal that nobody has open; pages in the log, and pages moved."""
        lock = JournalLock(self.path)
        if not lock.try_acquire():
            holder = lock.read()
            raise JournalError(
                f"checkpoint {self.path}: process {holder.get('pid', '?')} has it open and moves its log itself;"
                " ask it by POST /wal/checkpoint"
            )
        try:
            check_header(self.path)
            connection = connect(self.plan)
            try:
                return connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                connection.close()
        except apsw.Error as error:
            raise translate(error, f"checkpoint {self.path}") from error
        finally:
            lock.release()


def _shown(row: TaskRow, *, whole: bool) -> dict[str, Any]:
    shown: dict[str, Any] = row._asdict()
    payload, result = shown.pop("payload"), shown.pop("result")
    del shown["checksum"]
    shown["headers"] = json.loads(row.headers)
    if whole:
        shown["payload"] = messages.readable(payload)
        shown["result"] = None if result is None else messages.readable(result)
    return shown


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
