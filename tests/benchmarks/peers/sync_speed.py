"""How fast reports reach PostgreSQL, beside the fastest way there is: bare COPY into a temp table and INSERT SELECT.

Both send the same rows in batches of the same size, each batch one transaction, into tables with the same columns and
indexes. The worker's way also reads each row from the journal, checks it, and marks it as synced, durably.
"""

import asyncio
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from eco_workers.journal import SqliteJournal
from eco_workers.journal.model import Identity, NewTask, Report
from eco_workers.sync.database import Address, Database, Origin
from eco_workers.sync.writer import Writer
from tests.support import figures
from tests.support.postgres import Postgres

NAME: Final = "bench.noop"
GROUP_ROWS: Final = 500
RESULT: Final = b'{"key":"images/0123456789abcdef.jpg","width":1280,"height":960}'
ORIGIN: Final = Origin("test", "bench", "bench-0")
BATCH_ROWS: Final = 1_000
DEFAULT_BATCH_ROWS: Final = 100


async def measure(scratch: Path, *, rows: int, rounds: int) -> None:
    """Take turns and record `sync.vs_copy`."""
    server = Postgres(scratch / "postgres")
    server.start()
    try:
        print(f"PostgreSQL, {rows} rows a round, {rounds} rounds")
        best = {}
        for batch_rows in (BATCH_ROWS, DEFAULT_BATCH_ROWS):
            mine, bare = 0.0, 0.0
            for turn in range(rounds):
                journal = await _filled_journal(scratch / f"sync-{batch_rows}-{turn}", rows)
                reports = await journal.unsynced(rows)
                bare = max(bare, await _bare(server.dsn, reports, batch_rows))
                mine = max(mine, await _with_journal(server.dsn, journal, batch_rows))
                await journal.close()
                shutil.rmtree(scratch / f"sync-{batch_rows}-{turn}")
                print(
                    f"  batches of {batch_rows:>5}: worker {mine:>8,.0f} rows/s, bare {bare:>8,.0f} rows/s", flush=True
                )
            best[batch_rows] = (mine, bare)
    finally:
        server.stop()
    for batch_rows, name, target in (
        (BATCH_ROWS, "sync.vs_copy", ">= 0.8"),
        (DEFAULT_BATCH_ROWS, "sync.vs_copy_batch_100", None),
    ):
        mine, bare = best[batch_rows]
        text = f"{mine:,.0f} rows/s, journal read and marked, against {bare:,.0f}; batches of {batch_rows}"
        figures.record(name, mine / bare, "ratio", target, peer=text)


async def _filled_journal(directory: Path, rows: int) -> SqliteJournal:
    await asyncio.to_thread(directory.mkdir, parents=True)
    journal = await SqliteJournal.open(directory / "journal.db", identity=Identity("test", "bench", "bench-0"))
    await journal.set_sync_target("main")
    for start in range(0, rows, GROUP_ROWS):
        numbers = range(start, min(rows, start + GROUP_ROWS))
        await journal.accept(
            [NewTask(f"task-{n:08d}", NAME, b'{"n":%d,"pad":"%s"}' % (n, b"x" * 160), "q.sched") for n in numbers]
        )
        running = await journal.claim(GROUP_ROWS, names=frozenset({NAME}))
        await asyncio.gather(*(journal.complete(each.task_id, RESULT) for each in running))
    return journal


async def _with_journal(dsn: str, journal: SqliteJournal, batch_rows: int) -> float:
    await _execute(dsn, "DROP TABLE IF EXISTS task_results, task_history, eco_migrations")
    parts = urlsplit(dsn)
    address = Address(
        parts.hostname or "", parts.port or 5432, parts.path.lstrip("/"), parts.username or "", parts.password or ""
    )
    database = Database(address)
    warm = Report(
        task_id="warm", name=NAME, queue="q.sched", state="completed", generation=0, version=1, attempts=1,  # type: ignore[arg-type]  # a state's text will do
        payload=b"{}", result=b"{}", error=None, created_at=1.0, started_at=1.0, ended_at=1.0,
    )  # fmt: skip
    await database.write([warm], ORIGIN)
    writer = Writer(journal, database, ORIGIN)
    try:
        began = time.perf_counter()
        sent = await writer.drain(batch_size=batch_rows, max_attempts=3)
        return sent / (time.perf_counter() - began)
    finally:
        await database.close()


async def _bare(dsn: str, reports: Sequence[Report], batch_rows: int) -> float:
    await _execute(dsn, "DROP TABLE IF EXISTS bare_results")
    database_made = await asyncpg.connect(dsn)
    try:
        await database_made.execute(_BARE_TABLE)
        await database_made.execute(_BARE_STAGING)
        records: list[tuple[Any, ...]] = [_record(report, ORIGIN) for report in reports]
        began = time.perf_counter()
        for start in range(0, len(records), batch_rows):
            async with database_made.transaction():
                await database_made.copy_records_to_table(
                    "incoming", records=records[start : start + batch_rows], columns=_COLUMNS
                )
                await database_made.execute(_BARE_INSERT)
        return len(records) / (time.perf_counter() - began)
    finally:
        await database_made.close()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _record(report: Report, origin: Origin) -> tuple[Any, ...]:
    return (
        report.task_id,
        report.name,
        report.queue,
        str(report.state),
        report.generation,
        report.version,
        report.attempts,
        report.payload.decode("utf-8"),
        None if report.result is None else report.result.decode("utf-8"),
        report.error,
        origin.namespace,
        origin.worker,
        origin.shard,
        datetime.fromtimestamp(report.created_at, UTC),
        None if report.started_at is None else datetime.fromtimestamp(report.started_at, UTC),
        datetime.fromtimestamp(report.ended_at, UTC),
    )


_COLUMNS: Final = (
    "task_id", "name", "queue", "state", "generation", "version", "attempts", "payload", "result", "error", "namespace",
    "worker", "shard", "created_at", "started_at", "ended_at",
)  # fmt: skip
_BARE_STAGING: Final = """
CREATE TEMP TABLE incoming (
  task_id text, name text, queue text, state text, generation bigint, version bigint, attempts bigint, payload text,
  result text, error text, namespace text, worker text, shard text, created_at timestamptz, started_at timestamptz,
  ended_at timestamptz
) ON COMMIT DELETE ROWS
"""
_LIST: Final = ", ".join(_COLUMNS)
_CASTS: Final = {"payload": "payload::jsonb", "result": "result::jsonb", "attempts": "attempts::integer"}
_VALUES: Final = ", ".join(_CASTS.get(column, column) for column in _COLUMNS)
_BARE_INSERT: Final = f"INSERT INTO bare_results ({_LIST}) SELECT {_VALUES} FROM incoming"  # noqa: S608  # column names of ours
_BARE_TABLE: Final = """
CREATE TABLE bare_results (
  task_id text COLLATE "C" PRIMARY KEY, name text NOT NULL, queue text NOT NULL, state text NOT NULL,
  generation bigint NOT NULL, version bigint NOT NULL, attempts integer NOT NULL, payload jsonb, result jsonb,
  error text, namespace text NOT NULL, worker text NOT NULL, shard text NOT NULL,
  created_at timestamptz NOT NULL, started_at timestamptz, ended_at timestamptz NOT NULL,
  synced_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON bare_results (ended_at);
CREATE INDEX ON bare_results (name, state);
"""
