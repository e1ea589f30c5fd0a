"""Objects in S3: fetched with a bound on their size, stored once under keys derived from their content.

A PUT carries `If-None-Match: *`. Answer 412 means that the key exists: its bytes were put there by an earlier attempt,
or by another shard, and are compared by checksum instead of being written again.
"""

import base64
import hashlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import aioboto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from eco_workers.errors import ObjectMismatchError, ObjectStoreError, TaskFailedError

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 30
CONNECTIONS_MAX: Final = 32
TRIES_MAX: Final = 3
PART_BYTES: Final = 64 * 1024
CHECKSUM_KEY: Final = "sha256"


class ObjectMissingError(TaskFailedError):
    """The object does not exist: the task names a key that nobody has uploaded."""


class ObjectTooLargeError(TaskFailedError):
    """The object is larger than it may be. Names both sizes."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that is in the bucket now."""

    key: str
    sha256: str
    size_bytes: int
    created: bool
    """False when it was there already, with the same bytes."""


class ObjectStore:
    """One bucket, through one client."""

    def __init__(self, client: "S3Client", bucket: str, stack: AsyncExitStack) -> None:
        self._client = client
        self._bucket = bucket
        self._stack = stack

    @classmethod
    async def open(
        cls, *, bucket: str, endpoint_url: str | None, region: str, access_key: str = "", secret_key: str = ""
    ) -> Self:
        """Make the client. Without keys the machine's own role is used, as in the cloud it should be."""
        stack = AsyncExitStack()
        session = aioboto3.Session(
            aws_access_key_id=access_key or None, aws_secret_access_key=secret_key or None, region_name=region
        )
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=CONNECTIONS_MAX,
            retries={"max_attempts": TRIES_MAX, "mode": "standard"},
            # A stand-in has no DNS name a bucket; real S3 accepts the virtual style only for new buckets.
            s3={"addressing_style": "path" if endpoint_url else "auto"},
        )
        client = await stack.enter_async_context(session.client("s3", endpoint_url=endpoint_url, config=config))
        return cls(client, bucket, stack)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._stack.aclose()

    async def ping(self) -> None:
        """Ask whether the bucket is there; raises ObjectStoreError."""
        try:
            await self._client.head_bucket(Bucket=self._bucket)
        except (ClientError, BotoCoreError, HTTPClientError, OSError, TimeoutError) as error:
            raise ObjectStoreError(f"bucket {self._bucket!r}: {error}") from error

    async def fetch(self, key: str, *, bytes_max: int) -> bytes:
        """The object's bytes. Raises ObjectMissingError, ObjectTooLargeError, or ObjectStoreError to try again."""
        try:
            answer = await self._client.get_object(Bucket=self._bucket, Key=key)
            size = int(answer.get("ContentLength") or 0)
            body = answer["Body"]
            parts: list[bytes] = []
            read = 0
            async with body:
                # The announced size is only a promise: what comes is counted too.
                _check_size(key, size, bytes_max)
                async for part in body.iter_chunks(PART_BYTES):
                    read += len(part)
                    _check_size(key, read, bytes_max)
                    parts.append(part)
        except ClientError as error:
            # A bucket that is not there (NoSuchBucket, 404 too) is a setting to be mended, not the task's fault.
            if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                raise ObjectMissingError(f"object {key!r} does not exist in bucket {self._bucket!r}") from None
            raise ObjectStoreError(f"get {key!r} from {self._bucket!r}: {error}") from error
        except (BotoCoreError, HTTPClientError, OSError, TimeoutError) as error:
            raise ObjectStoreError(f"get {key!r} from {self._bucket!r}: {type(error).__name__}: {error}") from error
        if size and read != size:
            raise ObjectStoreError(f"get {key!r}: {read} of {size} bytes came")
        return b"".join(parts)

    async def store_once(self, key: str, body: bytes, *, content_type: str) -> Stored:
        """Put an object unless it exists; an existing one must hold the same bytes, else ObjectMismatchError."""
        digest = hashlib.sha256(body)
        try:
            await self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=body,
                ContentType=content_type,
                ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
                Metadata={CHECKSUM_KEY: digest.hexdigest()},
                CacheControl="public, max-age=31536000, immutable",
                IfNoneMatch="*",
            )
        except ClientError as error:
            if _status(error) == 412:
                await self._compare(key, digest.hexdigest(), len(body))
                return Stored(key, digest.hexdigest(), len(body), created=False)
            raise ObjectStoreError(f"put {key!r} into {self._bucket!r}: {error}") from error
        except (BotoCoreError, HTTPClientError, OSError, TimeoutError) as error:
            raise ObjectStoreError(f"put {key!r} into {self._bucket!r}: {type(error).__name__}: {error}") from error
        return Stored(key, digest.hexdigest(), len(body), created=True)

    async def _compare(self, key: str, sha256: str, size_bytes: int) -> None:
        try:
            head = await self._client.head_object(Bucket=self._bucket, Key=key)
        except (ClientError, BotoCoreError, HTTPClientError, OSError, TimeoutError) as error:
            raise ObjectStoreError(f"head {key!r} in {self._bucket!r}: {error}") from error
        found = head.get("Metadata", {}).get(CHECKSUM_KEY)
        if found is None:
            # Put there by somebody else: only its bytes can tell.
            found = hashlib.sha256(await self.fetch(key, bytes_max=max(size_bytes, 1))).hexdigest()
        if found != sha256 or head.get("ContentLength") != size_bytes:
            raise ObjectMismatchError(f"object {key!r} exists with sha256 {found}, want {sha256}")


def _check_size(key: str, size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise ObjectTooLargeError(f"object {key!r}: {size} bytes or more, want at most {bytes_max}")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
