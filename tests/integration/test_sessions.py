"""Sessions of tasks on real databases: one transaction each, bounded, and none suffers from another's server."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from eco_workers.errors import DatabaseUnavailableError, SettingsError
from eco_workers.journal.model import NewTask
from eco_workers.settings import load
from eco_workers.sync import sessions as sessions_module
from eco_workers.tasks.context import Context
from eco_workers.tasks.resources import Resources
from eco_workers.testing import MemoryJournal
from tests.support.proxy import Mode, Proxy
from tests.support.worker_process import postgres_environment

pytestmark = pytest.mark.postgres


@pytest.fixture
async def databases(postgres_dsn: str) -> AsyncIterator[tuple[str, str]]:
    """Two databases of the test's own, each with one table."""
    names = (f"eco_waste_{uuid.uuid4().hex[:8]}", f"eco_chat_{uuid.uuid4().hex[:8]}")
    admin = await asyncpg.connect(postgres_dsn)
    for name in names:
        await admin.execute(f"CREATE DATABASE {name}")
        connection = await asyncpg.connect(dsn_of(postgres_dsn, name))
        await connection.execute("CREATE TABLE seen (task_id text PRIMARY KEY)")
        await connection.close()
    yield names
    for name in names:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


def dsn_of(dsn: str, database: str) -> str:
    return urlsplit(dsn)._replace(path=f"/{database}").geturl()


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[Proxy]:
    parts = urlsplit(postgres_dsn)
    with Proxy(parts.port or 5432, parts.hostname or "127.0.0.1") as made:
        yield made


@pytest.fixture
async def context(postgres_dsn: str, databases: tuple[str, str], proxy: Proxy) -> AsyncIterator[Context]:
    """A running task whose second database lives behind the proxy."""
    env = postgres_environment(postgres_dsn) | {
        "RABBITMQ_URL": "amqp://x/", "POSTGRES_CONNECTIONS_MAX": "2",
        "POSTGRES_HOSTS": f"{databases[1]}=127.0.0.1:{proxy.port}",
    }  # fmt: skip
    resources = Resources(load(env))
    journal = MemoryJournal()
    await journal.accept([NewTask("t1", "act", b"{}", "q.api")])
    [running] = await journal.claim(1, names=frozenset({"act"}))
    yield Context(running, journal, resources)
    await resources.close()


async def seen(dsn: str, database: str) -> list[str]:
    connection = await asyncpg.connect(dsn_of(dsn, database))
    try:
        return [record["task_id"] for record in await connection.fetch("SELECT task_id FROM seen ORDER BY 1")]
    finally:
        await connection.close()


async def test_a_session_is_one_transaction(context: Context, databases: tuple[str, str], postgres_dsn: str) -> None:
    waste, chat = databases
    async with context.postgres_session(waste) as connection:
        await connection.execute("INSERT INTO seen VALUES ($1)", context.task_id)
        assert await seen(postgres_dsn, waste) == []
    async with context.postgres_session(chat) as connection:
        await connection.execute("INSERT INTO seen VALUES ('other')")

    async def fail() -> None:
        async with context.postgres_session(waste) as connection:
            await connection.execute("INSERT INTO seen VALUES ('undone')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    # What the task's own statement does wrong is the task's to see.
    with pytest.raises(asyncpg.UniqueViolationError):
        async with context.postgres_session(waste) as connection:
            await connection.execute("INSERT INTO seen VALUES ($1)", context.task_id)
    assert (await seen(postgres_dsn, waste), await seen(postgres_dsn, chat)) == (["t1"], ["other"])


async def test_a_database_that_is_away_costs_the_others_nothing(
    context: Context, databases: tuple[str, str], proxy: Proxy
) -> None:
    waste, chat = databases
    async with context.postgres_session(chat) as connection:
        await connection.execute("SELECT 1")
    proxy.set(Mode.REFUSE)
    proxy.cut()

    async def use(database: str) -> str:
        try:
            async with context.postgres_session(database) as connection:
                return str(await connection.fetchval("SELECT current_database()"))
        except DatabaseUnavailableError as error:
            return str(error)

    began = time.monotonic()
    results = await asyncio.gather(*(use(name) for name in (waste, chat) * 5))
    assert time.monotonic() - began < 4
    assert results[0::2] == [waste] * 5
    assert all(chat in text and "127.0.0.1" in text for text in results[1::2])
    proxy.set(Mode.PASS)

    await asyncio.sleep(sessions_module.REST_S)
    assert await use(chat) == chat


async def test_no_more_connections_than_the_bound(
    context: Context, databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits too long is told why, and a connection that is given back serves the next."""
    monkeypatch.setattr(sessions_module, "WAIT_TIMEOUT_S", 0.3)
    waste, _ = databases
    release = asyncio.Event()

    async def hold() -> None:
        async with context.postgres_session(waste):
            await release.wait()

    holders = [asyncio.create_task(hold()) for _ in range(2)]
    await asyncio.sleep(0.1)
    with pytest.raises(DatabaseUnavailableError, match="all 2 connections"):
        async with context.postgres_session(waste):
            pass
    waiting = asyncio.create_task(hold())
    release.set()
    await asyncio.gather(*holders, waiting)


async def test_a_task_that_is_cancelled_gives_its_connection_back(
    context: Context, databases: tuple[str, str], postgres_dsn: str
) -> None:
    waste, _ = databases

    async def slow() -> None:
        async with context.postgres_session(waste) as connection:
            await connection.execute("INSERT INTO seen VALUES ('half')")
            await connection.execute("SELECT pg_sleep(30)")

    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await slow()
    async with context.postgres_session(waste) as connection:
        assert await connection.fetchval("SELECT count(*) FROM seen") == 0
    assert await seen(postgres_dsn, waste) == []


async def test_a_commit_that_is_cut_off_is_said_so(context: Context, databases: tuple[str, str], proxy: Proxy) -> None:
    _, chat = databases

    async def write() -> None:
        async with context.postgres_session(chat) as connection:
            await connection.execute("INSERT INTO seen VALUES ('x')")
            proxy.set(Mode.REFUSE)
            proxy.cut()

    with pytest.raises(DatabaseUnavailableError, match="not known"):
        await write()


async def test_a_database_that_has_no_place_or_no_name_is_said_so() -> None:
    resources = Resources(load({"RABBITMQ_URL": "amqp://x/", "POSTGRES_HOSTS": "chat=db"}))
    found = await resources.sessions()
    for name, said in (("waste", "POSTGRES_HOST: missing"), ("no name", "want 1 to 63")):
        with pytest.raises(SettingsError, match=said):
            async with found.session(name):
                pass
    await resources.close()
