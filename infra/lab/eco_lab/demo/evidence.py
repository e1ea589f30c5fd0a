"""Collects what the ledger is settled from: queues, rows and objects, and looks into every object."""

import asyncio
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
from PIL import Image

from eco_lab.demo import broker
from eco_lab.demo.ledger import Evidence, Row, is_of_a_journal, is_upload, object_keys
from eco_lab.demo.pictures import Picture
from eco_lab.demo.services import UPLOADS_AT_ONCE, Services, list_keys

WEB_EDGE_MAX_PX: Final = 1280
ASPECT_TOLERANCE_PX: Final = 2.0
"""Scaling rounds each side to a whole pixel."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one object of the bucket turned out to be."""

    width: int
    height: int
    has_exif: bool
    readable: bool
    size_bytes: int


async def collect(services: Services, published: Mapping[str, Picture]) -> Evidence:
    """Read everything at rest. Nothing is consumed or changed."""
    rows = await read_rows(services)
    dead, follow_ups, (objects, wrong) = await asyncio.gather(
        broker.read(services.amqp_url, "q.dlq"),
        broker.read(services.amqp_url, "q.ai"),
        inspect_objects(services, published, rows),
    )
    return Evidence(published, rows, dead, follow_ups, objects, wrong)


async def read_rows(services: Services) -> list[Row]:
    """All rows of `task_results`."""
    connection = await asyncpg.connect(services.postgres_dsn)
    try:
        found = await connection.fetch("SELECT task_id, state, result::text AS result, error FROM task_results")
    finally:
        await connection.close()
    return [
        Row(record["task_id"], record["state"], json.loads(record["result"] or "null"), record["error"])
        for record in found
    ]


async def synced_rows(services: Services, published: Mapping[str, Picture]) -> int:
    """Rows of published tasks in PostgreSQL; 0 while the worker has not made its tables."""
    connection = await asyncpg.connect(services.postgres_dsn)
    try:
        found = await connection.fetchval(
            "SELECT count(*) FROM task_results WHERE task_id = ANY($1::text[])", list(published)
        )
    except asyncpg.UndefinedTableError:
        return 0
    finally:
        await connection.close()
    return int(found)


async def inspect_objects(
    services: Services, published: Mapping[str, Picture], rows: Sequence[Row]
) -> tuple[frozenset[str], list[str]]:
    """Keys of all objects but the uploads, and what is wrong with their content."""
    async with services.s3() as s3:
        keys = frozenset(
            [key async for key in list_keys(s3, services.name) if not (is_upload(key) or is_of_a_journal(key))]
        )
        gate = asyncio.Semaphore(UPLOADS_AT_ONCE)

        async def one(key: str) -> tuple[str, Seen]:
            async with gate:
                answer = await s3.get_object(Bucket=services.name, Key=key)
                body = await answer["Body"].read()
            return key, await asyncio.to_thread(look_into, body)

        seen = dict(await asyncio.gather(*(one(key) for key in keys)))
    return keys, defects(published, rows, seen)


def look_into(body: bytes) -> Seen:
    """Decode an object as a picture."""
    try:
        with Image.open(io.BytesIO(body)) as picture:
            picture.load()
            return Seen(picture.width, picture.height, bool(picture.getexif()), readable=True, size_bytes=len(body))
    except (OSError, ValueError):
        return Seen(0, 0, has_exif=False, readable=False, size_bytes=len(body))


def defects(published: Mapping[str, Picture], rows: Sequence[Row], seen: Mapping[str, Seen]) -> list[str]:
    """What is wrong with the objects that the rows name, one sentence each."""
    found: list[str] = []
    for row in rows:
        picture = published.get(row.task_id)
        if picture is None or row.state != "completed":
            continue
        for key in sorted(object_keys(row.result) & seen.keys()):
            found += [f"{key} of {picture.name} {fault}" for fault in _faults(picture, seen[key])]
    return found


def _faults(picture: Picture, seen: Seen) -> list[str]:
    if not seen.readable:
        return ["cannot be decoded"]
    faults = ["still carries EXIF"] if seen.has_exif else []
    if max(seen.width, seen.height) > WEB_EDGE_MAX_PX:
        faults.append(f"is {seen.width}x{seen.height}, more than {WEB_EDGE_MAX_PX} on its longer side")
    # An upload that was not turned upright shows in the sides: width and height trade places. The turns that keep the
    # sides are compared pixel by pixel in the worker's own tests.
    expected_height = picture.height * seen.width / picture.width
    if abs(expected_height - seen.height) > ASPECT_TOLERANCE_PX:
        faults.append(f"is {seen.width}x{seen.height}, which is not the shape of {picture.width}x{picture.height}")
    return faults
