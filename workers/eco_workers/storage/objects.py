"""Objects in S3: fetched with a bound on their size, stored once under keys derived from their content.

A PUT carries `If-None-Match: *`. Answer 412 means that the key exists: its bytes were put there by an earlier attempt,
or by another shard, and are compared by checksum instead of being written again.

A large object goes in parts, each with its checksum, and it is the end of the upload that is conditional. Whether the
key exists is asked beforehand too, so that no attempt carries what is there already; an upload that does not come to
its end is called off, since its parts would cost money and be seen by nobody.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self, TypedDict, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from eco_workers import logs
from eco_workers.errors import ObjectMismatchError, ObjectStoreError, TaskFailedError
from eco_workers.storage.client import Patience, open_client

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

PATIENCE: Final = Patience(connect_timeout_s=5, read_timeout_s=10, tries_max=4, connections_max=32)
REQUEST_S_MAX: Final = 25.0
"""Of a request with all its tries. The time-outs above leave out the look-up of the store's name, which takes minutes
where the network is gone; a task that waited through it would end by its time limit, for good, and not be tried again.
"""
READ_BYTES: Final = 64 * 1024
PART_BYTES: Final = 8 * 1024 * 1024
"""Of an upload in parts; a smaller object is one PUT. S3 wants at least 5 MiB and at most 10,000 parts."""
HASHED_HERE_BYTES: Final = 1024 * 1024
PARTS_AT_ONCE: Final = 4
ABORT_TIMEOUT_S: Final = 10.0
CHECKSUM_KEY: Final = "sha256"
FOR_EVER: Final = "public, max-age=31536000, immutable"
_AnswerT = TypeVar("_AnswerT")
_AWAY: Final = (BotoCoreError, HTTPClientError, OSError, TimeoutError)
log = logs.get(__name__)


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
        client = await open_client(
            stack, PATIENCE, endpoint_url=endpoint_url, region=region, access_key=access_key, secret_key=secret_key
        )
        return cls(client, bucket, stack)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._stack.aclose()

    async def ping(self) -> None:
        """Ask whether the bucket is there; raises ObjectStoreError."""
        try:
            await _answer(self._client.head_bucket(Bucket=self._bucket))
        except (ClientError, *_AWAY) as error:
            raise ObjectStoreError(f"bucket {self._bucket!r}: {error}") from error

    async def fetch(self, key: str, *, bytes_max: int) -> bytes:
        """The object's bytes. Raises ObjectMissingError, ObjectTooLargeError, or ObjectStoreError to try again."""
        try:
            answer = await _answer(self._client.get_object(Bucket=self._bucket, Key=key))
            size = int(answer.get("ContentLength") or 0)
            body = answer["Body"]
            parts: list[bytes] = []
            read = 0
            async with body:
                # The announced size is only a promise: what comes is counted too.
                _check_size(key, size, bytes_max)
                async for part in body.iter_chunks(READ_BYTES):
                    read += len(part)
                    _check_size(key, read, bytes_max)
                    parts.append(part)
        except ClientError as error:
            # A bucket that is not there (NoSuchBucket, 404 too) is a setting to be mended, not the task's fault.
            if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                raise ObjectMissingError(f"object {key!r} does not exist in bucket {self._bucket!r}") from None
            raise ObjectStoreError(f"get {key!r} from {self._bucket!r}: {error}") from error
        except _AWAY as error:
            raise ObjectStoreError(f"get {key!r} from {self._bucket!r}: {type(error).__name__}: {error}") from error
        if size and read != size:
            raise ObjectStoreError(f"get {key!r}: {read} of {size} bytes came")
        return b"".join(parts)

    async def store_once(self, key: str, body: bytes, *, content_type: str) -> Stored:
        """Put an object unless it exists; an existing one must hold the same bytes, else ObjectMismatchError."""
        stored = Stored(key, (await _digest(body)).hex(), len(body), created=True)
        try:
            if len(body) > PART_BYTES:
                created = await self._put_in_parts(stored, body, content_type)
            else:
                created = await self._put(stored, body, content_type)
        except ClientError as error:
            if _status(error) != HTTPStatus.PRECONDITION_FAILED:
                raise ObjectStoreError(f"put {key!r} into {self._bucket!r}: {error}") from error
            created = False
        except _AWAY as error:
            raise ObjectStoreError(f"put {key!r} into {self._bucket!r}: {type(error).__name__}: {error}") from error
        if created:
            return stored
        await self._compare(stored)
        return replace(stored, created=False)

    async def _put(self, stored: Stored, body: bytes, content_type: str) -> bool:
        request = self._client.put_object(
            Bucket=self._bucket,
            Key=stored.key,
            Body=body,
            ContentType=content_type,
            ChecksumSHA256=base64.b64encode(bytes.fromhex(stored.sha256)).decode(),
            Metadata={CHECKSUM_KEY: stored.sha256},
            CacheControl=FOR_EVER,
            IfNoneMatch="*",
        )
        await _answer(request)
        return True

    async def _put_in_parts(self, stored: Stored, body: bytes, content_type: str) -> bool:
        """Upload a large object; false when it is there already."""
        where: _Place = {"Bucket": self._bucket, "Key": stored.key}
        if await self._exists(stored.key):
            return False
        request = self._client.create_multipart_upload(
            **where,
            ContentType=content_type,
            ChecksumAlgorithm="SHA256",
            Metadata={CHECKSUM_KEY: stored.sha256},
            CacheControl=FOR_EVER,
        )
        upload = await _answer(request)
        upload_id = upload["UploadId"]
        places = asyncio.Semaphore(PARTS_AT_ONCE)

        async def put(number: int, part: bytes) -> "CompletedPartTypeDef":
            async with places:
                checksum = base64.b64encode(await _digest(part)).decode()
                request = self._client.upload_part(
                    **where, UploadId=upload_id, PartNumber=number, Body=part, ChecksumSHA256=checksum
                )
                answer = await _answer(request)
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

        parts = [
            asyncio.create_task(put(number, body[start : start + PART_BYTES]))
            for number, start in enumerate(range(0, len(body), PART_BYTES), start=1)
        ]
        try:
            done = await asyncio.gather(*parts)
            end = self._client.complete_multipart_upload(
                **where, UploadId=upload_id, MultipartUpload={"Parts": done}, IfNoneMatch="*"
            )
            await _answer(end)
        except BaseException:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self._abort(where, upload_id)
            raise
        return True

    async def _abort(self, where: "_Place", upload_id: str) -> None:
        """Call an upload off; what cannot be reached now is left to the bucket's own rule for unfinished uploads."""
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                await self._client.abort_multipart_upload(**where, UploadId=upload_id)
        except (ClientError, *_AWAY) as error:
            log.warning("upload could not be called off", key=where["Key"], error=str(error))

    async def _exists(self, key: str) -> bool:
        try:
            await _answer(self._client.head_object(Bucket=self._bucket, Key=key))
        except ClientError as error:
            if _status(error) == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    async def _compare(self, stored: Stored) -> None:
        """Raise ObjectMismatchError unless the object that exists holds the same bytes."""
        key = stored.key
        try:
            head = await _answer(self._client.head_object(Bucket=self._bucket, Key=key))
        except (ClientError, *_AWAY) as error:
            raise ObjectStoreError(f"head {key!r} in {self._bucket!r}: {error}") from error
        found = head.get("Metadata", {}).get(CHECKSUM_KEY)
        if found is None and head.get("ContentLength") == stored.size_bytes:
            # Put there by somebody else: only its bytes can tell.
            found = (await _digest(await self.fetch(key, bytes_max=max(stored.size_bytes, 1)))).hex()
        if found != stored.sha256 or head.get("ContentLength") != stored.size_bytes:
            raise ObjectMismatchError(f"object {key!r} exists with sha256 {found}, want {stored.sha256}")


class _Place(TypedDict):
    Bucket: str
    Key: str


async def _answer(request: Awaitable[_AnswerT]) -> _AnswerT:
    """What a request is answered with; raises TimeoutError when that takes too long."""
    try:
        async with asyncio.timeout(REQUEST_S_MAX):
            return await request
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {REQUEST_S_MAX:g} s") from error


async def _digest(body: bytes) -> bytes:
    """SHA-256; of a large body beside the loop, which it would hold for a while."""
    if len(body) < HASHED_HERE_BYTES:
        return hashlib.sha256(body).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(body).digest())


def _check_size(key: str, size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise ObjectTooLargeError(f"object {key!r}: {size} bytes or more, want at most {bytes_max}")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
