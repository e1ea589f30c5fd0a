"""Looks for damage: SQLite's own structure, every row's checksum, the counters. Only reads."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

import apsw

from eco_workers.errors import JournalCorruptError
from eco_workers.journal.queries import QUERIES
from eco_workers.journal.records import (
    CacheRow,
    Counters,
    StepRow,
    checksum_of,
    outbox_checksum,
    step_checksum,
    task_checksum,
)
from eco_workers.journal.schema import check_schema
from eco_workers.journal.sqlite_rows import SqliteRows

SLICE_ROWS: Final = 2_000
PROBLEMS_MAX: Final = 100


def check_structure(connection: apsw.Connection, time_ms: int | None) -> list[str]:
    """SQLite's own integrity check, given up without a verdict when the time is over; the problems found."""
    if time_ms is not None:
        until = time.monotonic() + time_ms / 1000
        connection.set_progress_handler(lambda: time.monotonic() > until, 20_000)
    try:
        lines = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
    except apsw.InterruptError:
        return []
    finally:
        connection.set_progress_handler(None)
    return [line for line in lines if line != "ok"]


def check_everything(connection: apsw.Connection, queries: Mapping[str, str] = QUERIES) -> list[str]:
    """Structure, checksums and counters, in one snapshot; the problems found, at most a hundred."""
    rows = SqliteRows(connection, queries)
    connection.execute("BEGIN")
    try:
        problems = check_schema(connection)
        if problems:
            return problems  # what the queries say of such a file has no meaning
        problems = check_structure(connection, None)
        problems += _check_rows(rows)
        problems += _check_small(connection)
        problems += _check_counters(rows, queries)
    except (apsw.CorruptError, apsw.NotADBError, JournalCorruptError, UnicodeDecodeError) as error:
        return [f"the file cannot be read to its end: {error}"]
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return problems[:PROBLEMS_MAX]


def _check_rows(rows: SqliteRows) -> list[str]:
    problems = []
    last = -(2**62)
    while found := list(rows.all_tasks(last, SLICE_ROWS)):
        problems += [
            f"task row {number}: checksum" for number, row in found if row.checksum != checksum_of(task_checksum, row)
        ]
        last = found[-1][0]
    last = -(2**62)
    while messages := list(rows.all_outbox(last, SLICE_ROWS)):
        problems += [
            f"outbox row {number}: checksum"
            for number, row in messages
            if row.checksum != checksum_of(outbox_checksum, row)
        ]
        last = messages[-1][0]
    return problems


def _check_small(connection: apsw.Connection) -> list[str]:
    problems = []
    for values in connection.execute("SELECT checksum, result, task_id, name, created_at FROM steps"):
        step = StepRow._make(values)
        if step.checksum != checksum_of(step_checksum, step):
            problems.append(f"step {step.name!r} of task {step.task_id!r}: checksum")
    for values in connection.execute("SELECT checksum, response, key, model, created_at FROM gpt_cache"):
        answer = CacheRow._make(values)
        if answer.checksum != checksum_of(step_checksum, answer):
            problems.append(f"cached answer {answer.key!r}: checksum")
    return problems


def _check_counters(rows: SqliteRows, queries: Mapping[str, str]) -> list[str]:
    rows.read_ledger()
    counted: Counter[str] = Counter()
    for state, sync_status, count in rows.connection.execute(queries["count_ended"]):
        counted[state] += count
        if state != "republished" and sync_status != "synced":
            counted["unsynced" if sync_status == "pending" else "sync_parked"] += count
    for status, count in rows.connection.execute(queries["count_outbox"]):
        if status != "sent":
            counted[f"outbox_{status}"] += count
    return [
        f"counter {name}: {rows.counters.values[name]} noted, {counted[name]} there"
        for name in Counters.NAMES
        if rows.counters.values[name] != counted[name]
    ]
