"""The object store of a journal's replica on S3: segments put once each, read back, listed, deleted.

Nothing is tried again here. Whoever puts a segment waits for it anyhow, asks again with a growing pause, and compares
what is there when a put whose answer was lost meets itself.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Self

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from eco_workers.errors import ObjectExistsError, ObjectStoreError
from eco_workers.storage.client import Patience, open_client

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import ObjectIdentifierTypeDef

PATIENCE: Final = Patience(connect_timeout_s=3, read_timeout_s=15, tries_max=1, connections_max=4)
KEYS_AT_ONCE: Final = 1_000
"""What one request may name, or be answered with."""
_FAULTS: Final = (BotoCoreError, HTTPClientError, OSError, TimeoutError)


class SegmentStore:
    """One bucket, through a client of its own: pictures that are being stored must not stand in the way of an ack."""

    def __init__(self, client: "S3Client", bucket: str, stack: AsyncExitStack) -> None:
        self._client = client
        self._bucket = bucket
        self._stack = stack

    @classmethod
    async def open(
        cls, *, bucket: str, endpoint_url: str | None, region: str, access_key: str = "", secret_key: str = ""
    ) -> Self:
        """Make the client; asks the store nothing. Without keys the pod's own cloud identity is used."""
        stack = AsyncExitStack()
        client = await open_client(
            stack, PATIENCE, endpoint_url=endpoint_url, region=region, access_key=access_key, secret_key=secret_key
        )
        return cls(client, bucket, stack)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._stack.aclose()

    async def put_new(self, key: str, data: bytes) -> None:
        """Write an object unless the key is taken; then ObjectExistsError. Anything else is ObjectStoreError."""
        try:
            await self._client.put_object(
                Bucket=self._bucket, Key=key, Body=data, ContentType="application/octet-stream", IfNoneMatch="*"
            )
        except ClientError as error:
            if _status(error) == 412:
                raise ObjectExistsError(f"put {key!r} into {self._bucket!r}: it is there already") from None
            raise self._fault("put", key, error) from error
        except _FAULTS as error:
            raise self._fault("put", key, error) from error

    async def get(self, key: str) -> bytes | None:
        """An object, None when there is none."""
        try:
            answer = await self._client.get_object(Bucket=self._bucket, Key=key)
            async with answer["Body"] as body:
                data: bytes = await body.read()
        except ClientError as error:
            # A bucket that is not there answers 404 too, and is no proof that the object never was.
            if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                return None
            raise self._fault("get", key, error) from error
        except _FAULTS as error:
            raise self._fault("get", key, error) from error
        if len(data) != int(answer.get("ContentLength") or 0):
            raise ObjectStoreError(f"get {key!r}: {len(data)} of {answer.get('ContentLength')} bytes came")
        return data

    async def list_keys(self, prefix: str) -> list[str]:
        """All keys under a prefix, sorted."""
        found: list[str] = []
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{prefix}/", PaginationConfig={"PageSize": KEYS_AT_ONCE}
            )
            async for page in pages:
                found += [item["Key"] for item in page.get("Contents", [])]
        except (ClientError, *_FAULTS) as error:
            raise self._fault("list", prefix, error) from error
        return sorted(found)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        for start in range(0, len(keys), KEYS_AT_ONCE):
            named: list[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys[start : start + KEYS_AT_ONCE]]
            try:
                answer: Any = await self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": named, "Quiet": True}
                )
            except (ClientError, *_FAULTS) as error:
                raise self._fault("delete", keys[start], error) from error
            for refused in answer.get("Errors", [])[:1]:
                raise ObjectStoreError(
                    f"delete {refused.get('Key')!r} from {self._bucket!r}: {refused.get('Code')}"
                    f" {refused.get('Message', '')}"
                )

    def _fault(self, operation: str, key: str, error: Exception) -> ObjectStoreError:
        """Botocore's texts name operation, code and endpoint, never a key or a signature."""
        return ObjectStoreError(f"{operation} {key!r} in {self._bucket!r}: {type(error).__name__}: {error}")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
