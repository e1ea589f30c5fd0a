"""PostgreSQL: one pool, migrations, one batch as one transaction. The only module that imports the client.

An error is either the row's own fault or not. Lost connections, time-outs, full pools and disks, a server that starts
or stops (SQLSTATE classes 08, 53, 57, and 25006: a read-only standby) say nothing of a row: SyncUnavailableError.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING, Final

import asyncpg

from eco_workers.errors import SyncUnavailableError
from eco_workers.sync import copy_format, merge
from eco_workers.sync.rows import Address, Origin, Row, RowRefusedError

if TYPE_CHECKING:
    from asyncpg import Connection, Pool
    from asyncpg.pool import PoolConnectionProxy

CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_MS: Final = 20_000
LOCK_TIMEOUT_MS: Final = 5_000
POOL_CONNECTIONS_MAX: Final = 2
IDLE_CONNECTION_S: Final = 60.0
MIGRATION_LOCK: Final = 0x0EC0_0001
_PASSING_CLASSES: Final = ("08", "53", "57")
# Serialization failure, deadlock, lock not available, read-only, missing table, right, database or login.
_PASSING_STATES: Final = frozenset({"40001", "40P01", "55P03", "25006", "42P01", "42501", "3D000", "28000", "28P01"})

_CLIENT_ERRORS: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Database:
    """A target of the sync: connects when first needed, migrates once a process."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._pool: Pool | None = None
        self._migrated = False
        self._known_tasks_expected = False
        """The batch before held known tasks: the next is merged at once, not refused first."""

    async def write(self, rows: Sequence[Row], origin: Origin) -> None:
        """Merge a batch in one transaction; returns when COMMIT has returned.

        Raises SyncUnavailableError when no row is to blame, RowRefusedError when one of the rows is.
        """
        async with self._connection(f"write {len(rows)} rows") as connection:
            # In here, since a value that cannot be turned into a column's is the row's fault and no defect of ours.
            data = copy_format.encode(rows, origin)
            await self._migrate(connection)
            if self._known_tasks_expected or not await self._copied(connection, data):
                self._known_tasks_expected = await self._merge(connection, data, len(rows))

    async def ping(self) -> None:
        """Ask for an answer, no more; raises SyncUnavailableError."""
        async with self._connection("ping") as connection:
            await connection.execute("SELECT 1")

    async def close(self) -> None:
        """Close the pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await pool.close()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pool.terminate()

    async def _copied(self, connection: "PoolConnectionProxy", data: bytearray) -> bool:
        """Copy a batch straight into its table, the one statement being the transaction; False if a task is known."""
        try:
            await _copy(connection, "task_results", data)
        except asyncpg.UniqueViolationError:
            return False
        return True

    async def _merge(self, connection: "PoolConnectionProxy", data: bytearray, count: int) -> bool:
        """Merge a batch by way of a table of its own; whether some of its tasks were known."""
        async with connection.transaction():
            await connection.execute(merge.STAGING)
            await _copy(connection, "incoming", data)
            if await connection.execute(merge.INSERT_NEW) == f"INSERT 0 {count}":
                return False
            for statement in merge.MERGE:
                await connection.execute(statement)
        return True

    @asynccontextmanager
    async def _connection(self, what: str) -> AsyncIterator["PoolConnectionProxy"]:
        try:
            pool = self._pool or await self._open()
            async with pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                try:
                    yield connection
                except _CLIENT_ERRORS:
                    # Nobody knows what it would answer next.
                    connection.terminate()
                    raise
        except asyncpg.PostgresError as error:
            if is_passing(error.sqlstate):
                raise SyncUnavailableError(f"{what} at {self.address}: {error.sqlstate} {error}") from error
            raise RowRefusedError(f"{error.sqlstate} {error}"[:1000]) from error
        except _CLIENT_ERRORS as error:
            text = str(error) or type(error).__name__
            raise SyncUnavailableError(f"{what} at {self.address}: {text}") from error
        except (ValueError, TypeError, OverflowError, struct.error) as error:
            # A value cannot be encoded: no other row suffers from it.
            raise RowRefusedError(f"cannot be encoded: {error}"[:1000]) from error

    async def _open(self) -> "Pool":
        address = self.address
        self._pool = await asyncpg.create_pool(
            host=address.host,
            port=address.port,
            database=address.database,
            user=address.user,
            password=address.password or None,
            ssl=address.tls,
            min_size=0,
            max_size=POOL_CONNECTIONS_MAX,
            max_inactive_connection_lifetime=IDLE_CONNECTION_S,
            reset=_keep_session,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_MS / 1000 + 5,
            server_settings={
                "application_name": "eco-worker",
                "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": "60000",
                "client_min_messages": "warning",
            },
        )
        return self._pool

    async def _migrate(self, connection: "Connection | PoolConnectionProxy") -> None:
        """Bring the tables up to date; several workers may try at once, one does it."""
        if self._migrated:
            return
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS eco_migrations (name text PRIMARY KEY, at timestamptz DEFAULT now())"
            )
            done = {record["name"] for record in await connection.fetch("SELECT name FROM eco_migrations")}
            for name, script in migrations().items():
                if name not in done:
                    await connection.execute(script)
                    await connection.execute("INSERT INTO eco_migrations (name) VALUES ($1)", name)
        self._migrated = True


def migrations() -> Mapping[str, str]:
    """Scripts by name, in the order in which they are applied."""
    folder = resources.files("eco_workers.sync") / "migrations"
    found = {item.name: item.read_text(encoding="utf-8") for item in folder.iterdir() if item.name.endswith(".sql")}
    return dict(sorted(found.items()))


def is_passing(sqlstate: str | None) -> bool:
    """Whether an error will pass by itself, or at least is no row's fault."""
    return sqlstate is None or sqlstate[:2] in _PASSING_CLASSES or sqlstate in _PASSING_STATES


async def _copy(connection: "PoolConnectionProxy", table: str, data: bytearray) -> None:
    await connection.copy_to_table(
        table,
        source=data,  # type: ignore[arg-type]  # its types leave out buffers, which its documentation names
        columns=copy_format.COLUMNS,
        format="binary",
    )


async def _keep_session(_connection: "Connection") -> None:
    """Ask for no reset: no statement here leaves anything in a session but the table by which batches are merged."""
