"""A clean slate on the lab's servers for one run: a virtual host, a database and a bucket of its own.

Runs and tests share the servers; with names of their own none of them sees another's tasks, rows or objects.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import aioboto3
import aiohttp
import asyncpg
from botocore.config import Config
from botocore.exceptions import ClientError

from eco_lab.demo.pictures import Album, Picture
from eco_lab.environment import LabEnvironment
from eco_lab.errors import LabError

MANAGEMENT_PORT: Final = 15_672
MANAGEMENT_TIMEOUT_S: Final = 30
UPLOADS_AT_ONCE: Final = 16
DELETE_AT_ONCE: Final = 1000
"""The most keys that one DeleteObjects call takes."""
S3_TIMEOUT_S: Final = 30


@dataclass(frozen=True, slots=True)
class Services:
    """Where one run finds its broker, database and bucket: from this machine and, for pods, inside the cluster."""

    name: str
    """Of the virtual host, the database and the bucket alike."""
    lab: LabEnvironment

    @property
    def path(self) -> str:
        """The name as part of a URL."""
        return quote(self.name, safe="")

    @property
    def amqp_url(self) -> str:
        """The run's virtual host, from this machine."""
        return _with_path(self.lab.amqp_url, self.path)

    @property
    def amqp_url_in_cluster(self) -> str:
        """The run's virtual host, from a pod."""
        return _with_path(self.lab.amqp_url_in_cluster, self.path)

    @property
    def postgres_dsn(self) -> str:
        """The run's database, from this machine."""
        return _with_path(self.lab.postgres_dsn, self.name)

    def s3(self) -> AbstractAsyncContextManager[Any]:
        """An S3 client; one serves a whole run."""
        session = aioboto3.Session(
            aws_access_key_id=self.lab.s3_access_key,
            aws_secret_access_key=self.lab.s3_secret_key,
            region_name=self.lab.s3_region,
        )
        config = Config(
            max_pool_connections=UPLOADS_AT_ONCE,
            connect_timeout=S3_TIMEOUT_S,
            read_timeout=S3_TIMEOUT_S,
            s3={"addressing_style": "path"},
        )
        client: AbstractAsyncContextManager[Any] = session.client(
            "s3", endpoint_url=self.lab.s3_endpoint_url, config=config
        )
        return client


def _with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))


async def renew(services: Services) -> None:
    """Drop what an earlier run of this name left behind and make all three anew."""
    async with asyncio.TaskGroup() as group:
        group.create_task(renew_virtual_host(services))
        group.create_task(renew_database(services))
        group.create_task(renew_bucket(services))


async def renew_virtual_host(services: Services) -> None:
    """An empty virtual host that the lab's user may use."""
    await drop_virtual_host(services)
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    user = urlsplit(services.lab.amqp_url).username or "guest"
    async with management(services) as api:
        await _answered(api.put(f"/api/vhosts/{services.path}", json={"default_queue_type": "quorum"}))
        await _answered(api.put(f"/api/permissions/{services.path}/{quote(user, safe='')}", json=everything))


async def drop_virtual_host(services: Services) -> None:
    """Remove the run's virtual host with its queues; fine when there is none."""
    async with management(services) as api:
        await _answered(api.delete(f"/api/vhosts/{services.path}"), also=(404,))


def management(services: Services) -> aiohttp.ClientSession:
    """RabbitMQ's management API: its command line would start a virtual machine for every call."""
    broker = urlsplit(services.lab.amqp_url)
    return aiohttp.ClientSession(
        f"http://{broker.hostname}:{MANAGEMENT_PORT}",
        headers={
            "Authorization": aiohttp.encode_basic_auth(
                unquote(broker.username or "guest"), unquote(broker.password or "guest")
            )
        },
        timeout=aiohttp.ClientTimeout(total=MANAGEMENT_TIMEOUT_S),
    )


async def _answered(request: AbstractAsyncContextManager[aiohttp.ClientResponse], also: tuple[int, ...] = ()) -> None:
    try:
        async with request as response:
            if not response.ok and response.status not in also:
                raise LabError(
                    f"{response.method} {response.url.path} of RabbitMQ's management API",
                    f"{response.status} {await response.text()}",
                )
    except (TimeoutError, aiohttp.ClientConnectionError) as error:
        raise LabError(
            "make a virtual host for this run",
            f"RabbitMQ's management API does not answer: {type(error).__name__} {error}",
            hint="the demo needs the management plugin and a user with the tag administrator",
        ) from None


async def renew_database(services: Services) -> None:
    """An empty database; sessions that still use the old one are ended by the server."""
    await drop_database(services)
    async with _administration(services) as connection:
        await connection.execute(f'CREATE DATABASE "{services.name}"')


async def drop_database(services: Services) -> None:
    """Remove the run's database; fine when there is none."""
    async with _administration(services) as connection:
        await connection.execute(f'DROP DATABASE IF EXISTS "{services.name}" WITH (FORCE)')


@asynccontextmanager
async def _administration(services: Services) -> AsyncIterator[asyncpg.Connection]:
    if '"' in services.name:
        raise LabError("name a database", f"{services.name!r} holds a quote")
    connection = await asyncpg.connect(services.lab.postgres_dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def renew_bucket(services: Services) -> None:
    """An empty bucket."""
    await drop_bucket(services)
    async with services.s3() as s3:
        await s3.create_bucket(Bucket=services.name)


async def drop_bucket(services: Services) -> None:
    """Remove the run's bucket with all objects; fine when there is none."""
    async with services.s3() as s3:
        try:
            keys = [key async for key in list_keys(s3, services.name)]
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchBucket", "404"):
                return
            raise
        for first in range(0, len(keys), DELETE_AT_ONCE):
            batch = [{"Key": key} for key in keys[first : first + DELETE_AT_ONCE]]
            await s3.delete_objects(Bucket=services.name, Delete={"Objects": batch, "Quiet": True})
        await s3.delete_bucket(Bucket=services.name)


async def list_keys(s3: Any, bucket: str, prefix: str = "") -> AsyncIterator[str]:
    """Keys of all objects below a prefix."""
    async for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            yield entry["Key"]


async def upload(services: Services, album: Album, pictures: Iterable[Picture] | None = None) -> int:
    """Put the pictures into the bucket under their keys; how many bytes."""
    chosen = album.pictures if pictures is None else tuple(pictures)
    gate = asyncio.Semaphore(UPLOADS_AT_ONCE)
    async with services.s3() as s3:

        async def one(picture: Picture) -> int:
            async with gate:
                body = await asyncio.to_thread(album.body, picture)
                await s3.put_object(Bucket=services.name, Key=picture.key, Body=body, ContentType=picture.content_type)
            return len(body)

        return sum(await asyncio.gather(*(one(picture) for picture in chosen)))
