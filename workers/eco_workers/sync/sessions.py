"""Connections for tasks: a session is one transaction on one database, out of a pool that is bounded for each.

Every database has a pool of its own, so one that is away, slow or out of connections costs only those who ask for it.
While it is away it is asked once a second at most: tasks that want it fail at once and hold nobody's place.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from eco_workers.errors import DatabaseUnavailableError
from eco_workers.sync.rows import Address

if TYPE_CHECKING:
    from asyncpg import Pool
    from asyncpg.pool import PoolConnectionProxy

CONNECT_TIMEOUT_S: Final = 5.0
WAIT_TIMEOUT_S: Final = 10.0
"""How long a task waits for a connection of the pool."""
ROLLBACK_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_MS: Final = 60_000
IDLE_CONNECTION_S: Final = 60.0
REST_S: Final = 1.0
"""How long a database that did not answer is left alone."""
Session: TypeAlias = "PoolConnectionProxy"
_SERVERS_FAULT: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


@dataclass(slots=True)
class _Domain:
    """One database."""

    address: Address
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    pool: "Pool | None" = None
    resting_until: float = 0.0
    last_error: str = ""


class Sessions:
    """The pools of one worker, each made when its database is first asked for."""

    def __init__(self, address_of: Callable[[str], Address], *, connections_max: int) -> None:
        self._address_of = address_of
        self._connections_max = connections_max
        self._domains: dict[str, _Domain] = {}

    @asynccontextmanager
    async def session(self, database: str) -> AsyncIterator[Session]:
        """A connection in a transaction: committed at the end of the block, undone when the block raises.

        Raises DatabaseUnavailableError when there is no connection to be had, or when it is not known whether COMMIT
        was heard. What the block itself raises passes through.
        """
        domain = self._domains.get(database)
        if domain is None:
            domain = self._domains[database] = _Domain(self._address_of(database))
        pool, connection = await self._acquire(domain)
        try:
            transaction = connection.transaction()
            with _as_unavailable(f"begin at {domain.address}"):
                await transaction.start()
            try:
                yield connection
            except BaseException:
                with contextlib.suppress(*_SERVERS_FAULT):
                    async with asyncio.timeout(ROLLBACK_TIMEOUT_S):
                        await transaction.rollback()
                raise
            with _as_unavailable(f"commit at {domain.address}, whether it was heard is not known"):
                await transaction.commit()
        finally:
            with contextlib.suppress(*_SERVERS_FAULT):
                await pool.release(connection, timeout=ROLLBACK_TIMEOUT_S)

    async def close(self) -> None:
        """Close every pool."""
        for domain in self._domains.values():
            pool, domain.pool = domain.pool, None
            if pool is None:
                continue
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await pool.close()
            except _SERVERS_FAULT:
                pool.terminate()
        self._domains.clear()

    async def _acquire(self, domain: _Domain) -> tuple["Pool", Session]:
        loop = asyncio.get_running_loop()
        if loop.time() < domain.resting_until:
            raise DatabaseUnavailableError(f"connect to {domain.address}: {domain.last_error}")
        pool = domain.pool or await self._open(domain)
        if pool.get_size() - pool.get_idle_size() >= self._connections_max:
            what = f"all {self._connections_max} connections to {domain.address} are in use"
        else:
            what = f"connect to {domain.address}"
        try:
            return pool, await pool.acquire(timeout=WAIT_TIMEOUT_S)
        except _SERVERS_FAULT as error:
            text = str(error) or type(error).__name__
            if not what.startswith("all"):
                domain.last_error, domain.resting_until = text, loop.time() + REST_S
            raise DatabaseUnavailableError(f"{what}: {text}") from error

    async def _open(self, domain: _Domain) -> "Pool":
        async with domain.opening:
            if domain.pool is None:
                address = domain.address
                domain.pool = await asyncpg.create_pool(
                    host=address.host,
                    port=address.port,
                    database=address.database,
                    user=address.user,
                    password=address.password or None,
                    ssl=address.tls,
                    min_size=0,
                    max_size=self._connections_max,
                    max_inactive_connection_lifetime=IDLE_CONNECTION_S,
                    timeout=CONNECT_TIMEOUT_S,
                    command_timeout=STATEMENT_TIMEOUT_MS / 1000 + 5,
                    server_settings={
                        "application_name": "eco-worker task",
                        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                        "idle_in_transaction_session_timeout": str(10 * STATEMENT_TIMEOUT_MS),
                    },
                )
            return domain.pool


@contextmanager
def _as_unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except _SERVERS_FAULT as error:
        raise DatabaseUnavailableError(f"{what}: {str(error) or type(error).__name__}") from error
