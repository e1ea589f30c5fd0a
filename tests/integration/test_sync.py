"""From the in-memory journal into a real PostgreSQL: what is marked is there, what is there is the right word."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from eco_workers.errors import SyncUnavailableError
from eco_workers.journal.model import NewTask, State
from eco_workers.sync import merge
from eco_workers.sync.database import Database, migrations
from eco_workers.sync.rows import Address, Origin, Row, RowRefusedError
from eco_workers.sync.writer import Writer
from eco_workers.testing import MemoryJournal

pytestmark = pytest.mark.postgres
A, B = Origin("ns", "storage", "storage-0"), Origin("ns", "storage", "storage-1")


@dataclass(frozen=True)
class Report:
    task_id: str = "t"
    name: str = "act"
    queue: str = "q.batch"
    state: str = "completed"
    generation: int = 0
    version: int = 3
    attempts: int = 1
    payload: bytes = b"{}"
    result: bytes | None = b'{"ok": true}'
    error: str | None = None
    created_at: float = 1_700_000_000.0
    started_at: float | None = 1_700_000_001.0
    ended_at: float = 1_700_000_002.0


@pytest.fixture
async def address(postgres_dsn: str) -> AsyncIterator[Address]:
    """A database of the test's own."""
    parts = urlsplit(postgres_dsn)
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    made = Address(parts.hostname or "", parts.port or 5432, name, parts.username or "", parts.password or "")
    yield made
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def database(address: Address) -> AsyncIterator[Database]:
    made = Database(address)
    yield made
    await made.close()


async def rows(address: Address, query: str, *args: Any) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(
        host=address.host, port=address.port, database=address.database, user=address.user, password=address.password
    )
    try:
        return [dict(record) for record in await connection.fetch(query, *args)]
    finally:
        await connection.close()


async def ended(journal: MemoryJournal, count: int, *, payload: bytes = b"{}") -> None:
    tasks = [NewTask(f"t{number:05}", "act", payload, "q.batch") for number in range(count)]
    await journal.accept(tasks)
    for row in await journal.claim(count, names=frozenset({"act"})):
        await journal.complete(row.task_id, b'{"ok":true}')


async def test_all_that_ended_is_sent_in_batches_until_nothing_is_due(address: Address, database: Database) -> None:
    journal = MemoryJournal()
    await journal.set_sync_target("main")
    await ended(journal, 250)
    writer = Writer(journal, database, A)
    assert await writer.drain(batch_size=100, max_attempts=3) == 250
    assert (await journal.statistics()).counts.unsynced == 0
    (found,) = await rows(address, "SELECT count(*) AS n, count(DISTINCT task_id) AS ids FROM task_results")
    assert (found["n"], found["ids"]) == (250, 250)
    assert await writer.drain(batch_size=100, max_attempts=3) == 0


@pytest.mark.parametrize("known_task", [False, True], ids=["first word", "merged"])
async def test_a_report_arrives_whole(address: Address, database: Database, known_task: bool) -> None:
    report = Report(
        task_id="ärger-1",
        state="failed",
        generation=2,
        version=1 << 40,
        attempts=7,
        payload='{"ключ": "ü"}'.encode(),
        result=None,
        error='it\'s \\ broken\n"x"\tend',
        created_at=1_700_000_000.123_456,
        started_at=None,
        ended_at=1_700_000_002.000_001,
    )
    if known_task:
        await database.write([replace(report, version=1, payload=b"1", result=b"2", error=None, started_at=1.0)], A)
    await database.write([report], A)
    (found,) = await rows(address, "SELECT * FROM task_results")
    assert found.pop("synced_at")
    assert found == {
        **{name: getattr(report, name) for name in ("task_id", "name", "queue", "state", "generation", "version")},
        **{name: getattr(report, name) for name in ("attempts", "result", "error", "started_at")},
        **{name: getattr(A, name) for name in ("namespace", "worker", "shard")},
        "payload": report.payload.decode(),
        "created_at": datetime.fromtimestamp(report.created_at, UTC),
        "ended_at": datetime.fromtimestamp(report.ended_at, UTC),
    }


class Counting(Database):
    """Counts the batches that it tries to copy straight into their table."""

    copied = 0

    async def _copied(self, connection: Any, data: bytearray) -> bool:
        self.copied += 1
        return await super()._copied(connection, data)


async def test_a_batch_is_tried_as_new_unless_the_one_before_held_known_tasks(address: Address) -> None:
    """Else a journal that sends all its reports again would be refused batch by batch, each in the server's log."""
    database = Counting(address)
    try:
        for tasks, tries in ((("a", "b"), 1), (("b", "c"), 2), (("a", "b", "d"), 2), (("e", "f"), 2), (("g",), 3)):
            await database.write([Report(task_id) for task_id in tasks], A)
            assert database.copied == tries, tasks
        assert (await rows(address, "SELECT count(*) AS n FROM task_results"))[0]["n"] == 7
        assert (await rows(address, "SELECT count(*) AS n FROM task_history"))[0]["n"] == 0
    finally:
        await database.close()


async def test_the_same_report_twice_is_one_row(address: Address, database: Database) -> None:
    """The outcome of a COMMIT may be unknown: the batch is sent again."""
    batch = [Report(f"t{i}") for i in range(5)]
    await database.write(batch, A)
    await database.write(batch, A)
    assert (await rows(address, "SELECT count(*) AS n FROM task_results"))[0]["n"] == 5
    assert (await rows(address, "SELECT count(*) AS n FROM task_history"))[0]["n"] == 0


async def test_an_older_report_never_overwrites_a_newer_one(address: Address, database: Database) -> None:
    new = Report(state="failed", version=8, generation=1, result=None, error="second")
    old = Report(state="failed", version=4, generation=0, result=None, error="first")
    await database.write([new], A)
    await database.write([old], A)
    assert (await rows(address, "SELECT error FROM task_results"))[0]["error"] == "second"
    assert [row["error"] for row in await rows(address, "SELECT error FROM task_history")] == ["first"]


def standing(report: Report, origin: Origin) -> merge.Standing:
    return merge.Standing(
        (origin.namespace, origin.worker, origin.shard),
        report.state,
        report.generation,
        report.version,
        report.ended_at,
    )


async def test_the_database_and_python_agree_which_report_wins(address: Address, database: Database) -> None:
    """Every pair out of two shards, three states, two generations and two times, in both orders of arrival."""
    variants = [
        (Report(state=state, generation=generation, version=version, ended_at=ended_at), origin)
        for state, generation, version, ended_at, origin in itertools.product(
            ("completed", "failed", "timeout"), (0, 1), (3,), (10.0, 20.0), (A, B)
        )
    ]
    pairs = list(itertools.permutations(variants, 2))
    for place in (0, 1):
        for origin in (A, B):
            batch = [
                replace(pair[place][0], task_id=f"p{n:05}") for n, pair in enumerate(pairs) if pair[place][1] == origin
            ]
            await database.write(batch, origin)
    found = {row["task_id"]: row for row in await rows(address, "SELECT * FROM task_results")}
    lost = {row["task_id"] for row in await rows(address, "SELECT task_id FROM task_history")}
    for number, (first, second) in enumerate(pairs):
        winner = second if merge.beats(standing(*second), standing(*first)) else first
        row = found[f"p{number:05}"]
        assert (row["state"], row["generation"], row["shard"], row["ended_at"].timestamp()) == (
            winner[0].state, winner[0].generation, winner[1].shard, winner[0].ended_at,
        ), (first, second)  # fmt: skip
        same = first[1] == second[1] and first[0].generation == second[0].generation
        assert (f"p{number:05}" in lost) is not same, (first, second)


@pytest.mark.parametrize(
    "bad",
    [
        Report("bad", payload=b'{"a": "\\u0000"}'),
        Report("bad", result=b"not json"),
        Report("bad", state="unheard of"),
        Report("bad", error="nul \x00 inside"),
        Report("bad", attempts=1 << 40),
        Report("bad", ended_at=float("inf")),
        Report("bad", ended_at=1e13),
    ],
    ids=["nul in payload", "broken result", "unknown state", "nul in error", "attempts", "no time", "far time"],
)
async def test_one_row_that_is_refused_does_not_hold_up_the_others(
    address: Address, database: Database, bad: Report
) -> None:
    ledger = Ledger([*(Report(f"a{i}") for i in range(10)), bad, *(Report(f"b{i}") for i in range(10))])
    refusals: list[int] = []
    writer = Writer(ledger, database, A, on_refused=lambda: refusals.append(1))
    assert await writer.drain(batch_size=100, max_attempts=3) == 20
    assert (ledger.refused, len(refusals)) == ({"bad": 1}, 1)
    assert "bad" in writer.statistics().last_error
    assert (await rows(address, "SELECT count(*) AS n FROM task_results"))[0]["n"] == 20
    await writer.drain(batch_size=100, max_attempts=3)
    await writer.drain(batch_size=100, max_attempts=3)
    assert ledger.parked == {"bad"}
    assert await writer.drain(batch_size=100, max_attempts=3) == 0


class Ledger:
    """A journal's three methods over a list."""

    def __init__(self, due: Sequence[Report]) -> None:
        self.due = {report.task_id: report for report in due}
        self.refused: dict[str, int] = {}
        self.parked: set[str] = set()

    async def unsynced(self, limit: int, since: float = 0.0) -> Sequence[Row]:
        due = [row for key, row in self.due.items() if key not in self.parked and row.ended_at >= since]
        return sorted(due, key=lambda row: row.ended_at)[:limit]

    async def synced(self, versions: Any) -> None:
        for task_id in versions:
            del self.due[task_id]

    async def sync_failed(self, task_id: str, error: str, *, max_attempts: int) -> None:
        assert error
        self.refused[task_id] = self.refused.get(task_id, 0) + 1
        if self.refused[task_id] >= max_attempts:
            self.parked.add(task_id)


async def test_a_database_that_is_away_costs_no_attempt(address: Address) -> None:
    journal = MemoryJournal()
    await journal.set_sync_target("main")
    await ended(journal, 3)
    away = Database(replace(address, port=1))
    with pytest.raises(SyncUnavailableError):
        await Writer(journal, away, A).drain(batch_size=10, max_attempts=1)
    counts = (await journal.statistics()).counts
    assert (counts.unsynced, counts.sync_parked) == (3, 0)


@pytest.mark.parametrize("change", [{"database": "no_such_database"}, {"user": "nobody_here", "password": "hunter2"}])
async def test_a_wrong_database_or_login_is_no_rows_fault_and_shows_no_password(
    address: Address, change: dict[str, str]
) -> None:
    database = Database(replace(address, **change))
    try:
        with pytest.raises(SyncUnavailableError) as caught:
            await database.write([Report()], A)
        assert "hunter2" not in str(caught.value)
    finally:
        await database.close()


async def test_a_connection_that_the_server_ends_is_replaced(address: Address, database: Database) -> None:
    await database.write([Report("a")], A)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
    await rows(address, end, address.database)
    for attempt in range(3):
        try:
            await database.write([Report("b")], A)
            break
        except SyncUnavailableError:
            assert attempt < 2
    assert (await rows(address, "SELECT count(*) AS n FROM task_results"))[0]["n"] == 2


async def test_a_connection_on_which_the_client_failed_is_not_used_again(address: Address) -> None:
    """Asyncpg leaves it as busy when a COPY cannot even begin, and no reset between two batches would notice."""
    sessions: list[int] = []

    class Failing(Database):
        async def _copied(self, connection: Any, data: bytearray) -> bool:
            sessions.append(connection.get_server_pid())
            if len(sessions) == 1:
                raise asyncpg.InterfaceError("cannot perform operation")
            return await super()._copied(connection, data)

    failing = Failing(address)
    try:
        with pytest.raises(SyncUnavailableError):
            await failing.write([Report("a")], A)
        for task_id in ("b", "c"):
            await failing.write([Report(task_id)], A)
        assert sessions[0] != sessions[1] == sessions[2]
    finally:
        await failing.close()


async def test_a_read_only_server_costs_no_attempt(address: Address, database: Database) -> None:
    await database.write([Report("a")], A)
    await rows(address, f"ALTER DATABASE {address.database} SET default_transaction_read_only = on")
    fresh = Database(address)
    try:
        with pytest.raises(SyncUnavailableError, match="25006"):
            await fresh.write([Report("b")], A)
    finally:
        await fresh.close()


async def test_workers_that_start_together_migrate_once(address: Address) -> None:
    databases = [Database(address) for _ in range(6)]
    try:
        await asyncio.gather(*(database.write([Report(f"t{n}")], A) for n, database in enumerate(databases)))
        assert len(await rows(address, "SELECT name FROM eco_migrations")) == len(migrations())
        assert (await rows(address, "SELECT count(*) AS n FROM task_results"))[0]["n"] == 6
    finally:
        for database in databases:
            await database.close()


async def test_two_shards_with_the_same_tasks_do_not_wait_for_each_other_in_a_circle(address: Address) -> None:
    one, two = Database(address), Database(address)
    batch = [Report(f"t{n:04}") for n in range(300)]
    try:
        await one.write([Report("first")], A)
        async with asyncio.timeout(60):
            for _ in range(5):
                await asyncio.gather(one.write(batch, A), two.write(list(reversed(batch)), B))
        found = await rows(address, "SELECT count(*) AS n FROM task_results WHERE task_id LIKE 't%'")
        lost = await rows(address, "SELECT count(*) AS n FROM task_history WHERE task_id LIKE 't%'")
        assert (found[0]["n"], lost[0]["n"]) == (300, 300)
    finally:
        await one.close()
        await two.close()


async def test_a_task_that_ran_again_replaces_its_report(address: Address, database: Database) -> None:
    journal = MemoryJournal()
    await journal.set_sync_target("main")
    writer = Writer(journal, database, A)
    await journal.accept([NewTask("t", "act", b"{}", "q.batch")])
    await journal.claim(1, names=frozenset({"act"}))
    await journal.fail("t", "first time")
    assert await writer.drain(batch_size=10, max_attempts=3) == 1
    await journal.accept([NewTask("t", "act", b"{}", "q.batch", generation=1)])
    await journal.claim(1, names=frozenset({"act"}))
    await journal.complete("t", b"null")
    assert await writer.drain(batch_size=10, max_attempts=3) == 1
    (found,) = await rows(address, "SELECT state, generation FROM task_results")
    assert (found["state"], found["generation"]) == (State.COMPLETED, 1)
    assert [row["error"] for row in await rows(address, "SELECT error FROM task_history")] == ["first time"]


async def test_a_refused_batch_of_one_names_its_reason(database: Database) -> None:
    with pytest.raises(RowRefusedError, match="22"):
        await database.write([Report(payload=b"{broken")], A)
