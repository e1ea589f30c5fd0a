"""What a worker needs, tried once before it runs: broker, database, bucket, volume. Changes nothing."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from eco_workers.broker.publisher import Publisher
from eco_workers.errors import EcoWorkerError
from eco_workers.runtime import redis
from eco_workers.runtime.executor import describe
from eco_workers.runtime.holding import check_time_limits
from eco_workers.settings import Settings
from eco_workers.sync.database import Database
from eco_workers.tasks.registry import ROLE_MODULES, collect
from eco_workers.tasks.resources import Resources, address_of

TIMEOUT_S: Final = 15.0


async def check_all(settings: Settings) -> list[tuple[str, str]]:
    """(what, problem) of each part; an empty problem is none."""
    parts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("volume " + str(settings.wal_db_path.parent), lambda: _volume(settings)),
        ("broker", lambda: _broker(settings)),
    ]
    if settings.postgres_host:
        parts.append((f"database {settings.postgres_host}/{settings.postgres_db}", lambda: _database(settings)))
    for name, place in settings.postgres_hosts.items():
        parts.append((f"database {place}/{name}", partial(_database, settings, name)))
    if url := settings.redis_url.get_secret_value():
        parts.append(("redis", lambda: redis.ping(url)))
    if settings.ack_policy == "Completed":
        parts.append(("time limits", lambda: _time_limits(settings)))
    if settings.role == "storage":
        parts.append((f"bucket {settings.s3_bucket}", lambda: _bucket(settings)))
    return [(what, await _problem(work)) for what, work in parts]


async def _problem(work: Callable[[], Awaitable[None]]) -> str:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await work()
    except (EcoWorkerError, OSError, TimeoutError) as error:
        return describe(error)
    return ""


async def _volume(settings: Settings) -> None:
    folder = settings.wal_db_path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written by user {os.geteuid()}")


async def _broker(settings: Settings) -> None:
    publisher = Publisher(settings.amqp_url, name=f"{settings.shard} check")
    try:
        await publisher.open()
    finally:
        await publisher.close()


async def _database(settings: Settings, name: str = "") -> None:
    database = Database(address_of(settings, name))
    try:
        await database.ping()
    finally:
        await database.close()


async def _time_limits(settings: Settings) -> None:
    registry = await asyncio.to_thread(collect, (*ROLE_MODULES[settings.role], *settings.task_modules))
    check_time_limits(registry)


async def _bucket(settings: Settings) -> None:
    resources = Resources(settings)
    try:
        await (await resources.objects()).ping()
    finally:
        await resources.close()
