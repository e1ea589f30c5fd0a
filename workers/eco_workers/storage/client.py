"""The S3 client, made in one place: a bucket is reached alike for pictures and for a journal's segments."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aioboto3
from botocore.config import Config

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client waits, how often it tries (the first time included), how many connections it holds."""

    connect_timeout_s: float
    read_timeout_s: float
    tries_max: int
    connections_max: int


async def open_client(
    stack: AsyncExitStack,
    patience: Patience,
    *,
    endpoint_url: str | None,
    region: str,
    access_key: str = "",
    secret_key: str = "",
) -> "S3Client":
    """Make a client that closes with the stack; asks the store nothing. Without keys the pod's own identity is used."""
    session = aioboto3.Session(
        aws_access_key_id=access_key or None, aws_secret_access_key=secret_key or None, region_name=region
    )
    config = Config(
        connect_timeout=patience.connect_timeout_s,
        read_timeout=patience.read_timeout_s,
        max_pool_connections=patience.connections_max,
        retries={"total_max_attempts": patience.tries_max, "mode": "standard"},
        # A stand-in has no DNS name a bucket; real S3 accepts the virtual style only for new buckets.
        s3={"addressing_style": "path" if endpoint_url else "auto"},
    )
    client: S3Client = await stack.enter_async_context(session.client("s3", endpoint_url=endpoint_url, config=config))
    return client
