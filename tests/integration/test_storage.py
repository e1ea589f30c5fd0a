"""Objects against an S3 endpoint over HTTP: bounded reads, one write for each content."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aioboto3
import pytest

from eco_workers.errors import ObjectMismatchError, ObjectStoreError
from eco_workers.storage import objects as objects_module
from eco_workers.storage.objects import (
    PART_BYTES,
    REQUEST_S_MAX,
    ObjectMissingError,
    ObjectStore,
    ObjectTooLargeError,
)
from eco_workers.tasks.registry import collect
from tests.support.lab import S3Target

pytestmark = pytest.mark.s3


@pytest.fixture
async def bucket(s3: S3Target) -> AsyncIterator[str]:
    """A bucket of the test's own."""
    session = aioboto3.Session(s3.access_key, s3.secret_key, region_name="us-east-1")
    async with session.client("s3", endpoint_url=s3.endpoint_url) as client:
        name = f"test-{uuid.uuid4().hex[:12]}"
        await client.create_bucket(Bucket=name)
        yield name
        for found in (await client.list_objects_v2(Bucket=name)).get("Contents", []):
            await client.delete_object(Bucket=name, Key=found["Key"])
        await client.delete_bucket(Bucket=name)


@pytest.fixture
async def objects(s3: S3Target, bucket: str) -> AsyncIterator[ObjectStore]:
    made = await ObjectStore.open(
        bucket=bucket,
        endpoint_url=s3.endpoint_url,
        region="us-east-1",
        access_key=s3.access_key,
        secret_key=s3.secret_key,
    )
    yield made
    await made.close()


async def test_what_was_stored_is_fetched_whole(objects: ObjectStore) -> None:
    body = bytes(range(256)) * 1000
    stored = await objects.store_once("a/b", body, content_type="image/jpeg")
    assert (stored.created, stored.size_bytes) == (True, len(body))
    assert await objects.fetch("a/b", bytes_max=len(body)) == body


async def test_an_empty_object_is_empty(objects: ObjectStore) -> None:
    await objects.store_once("empty", b"", content_type="text/plain")
    assert await objects.fetch("empty", bytes_max=1) == b""


async def test_storing_the_same_bytes_again_writes_nothing(objects: ObjectStore) -> None:
    first = await objects.store_once("k", b"same", content_type="text/plain")
    second = await objects.store_once("k", b"same", content_type="text/plain")
    assert (first.created, second.created) == (True, False)
    assert first.sha256 == second.sha256


async def test_other_bytes_under_the_same_key_are_an_error_and_change_nothing(objects: ObjectStore) -> None:
    await objects.store_once("k", b"first", content_type="text/plain")
    with pytest.raises(ObjectMismatchError, match="'k' exists"):
        await objects.store_once("k", b"other", content_type="text/plain")
    assert await objects.fetch("k", bytes_max=100) == b"first"


async def test_an_object_that_somebody_else_put_there_is_compared_by_its_bytes(
    objects: ObjectStore, bucket: str, s3: S3Target
) -> None:
    session = aioboto3.Session(s3.access_key, s3.secret_key, region_name="us-east-1")
    async with session.client("s3", endpoint_url=s3.endpoint_url) as client:
        await client.put_object(Bucket=bucket, Key="k", Body=b"same")
    assert not (await objects.store_once("k", b"same", content_type="text/plain")).created
    with pytest.raises(ObjectMismatchError):
        await objects.store_once("k", b"diff", content_type="text/plain")


async def test_an_object_over_the_bound_is_refused_unread(objects: ObjectStore) -> None:
    await objects.store_once("big", b"x" * 1001, content_type="text/plain")
    with pytest.raises(ObjectTooLargeError, match="1001 bytes or more, want at most 1000"):
        await objects.fetch("big", bytes_max=1000)
    assert len(await objects.fetch("big", bytes_max=1001)) == 1001


async def test_a_missing_object_is_named(objects: ObjectStore) -> None:
    with pytest.raises(ObjectMissingError, match="'nope' does not exist"):
        await objects.fetch("nope", bytes_max=10)


async def test_an_endpoint_that_is_away_is_worth_another_attempt(s3: S3Target) -> None:
    away = await ObjectStore.open(
        bucket="b-ucket",
        endpoint_url="http://127.0.0.1:9",
        region="us-east-1",
        access_key=s3.access_key,
        secret_key="hunter2",
    )
    try:
        for attempt in (
            away.fetch("k", bytes_max=10),
            away.store_once("k", b"", content_type="text/plain"),
            away.ping(),
        ):
            with pytest.raises(ObjectStoreError) as caught:
                await attempt
            assert "hunter2" not in str(caught.value)
    finally:
        await away.close()


async def test_a_store_whose_name_nobody_looks_up_is_worth_another_attempt_before_the_task_s_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No time-out of a connection covers that: it took minutes behind a cable that was pulled."""

    async def silence(*_: object, **__: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", silence)
    monkeypatch.setattr(objects_module, "REQUEST_S_MAX", 0.3)
    store = await ObjectStore.open(
        bucket="b", endpoint_url="http://store.example:9000", region="us-east-1", access_key="a", secret_key="b"
    )
    try:
        async with asyncio.timeout(5):
            with pytest.raises(ObjectStoreError, match="no answer within"):
                await store.fetch("k", bytes_max=1)
            with pytest.raises(ObjectStoreError, match="no answer within"):
                await store.store_once("k", b"1", content_type="text/plain")
            with pytest.raises(ObjectStoreError, match="no answer within"):
                await store.ping()
    finally:
        await store.close()


def test_a_picture_s_time_limit_is_longer_than_its_requests_to_the_store_may_take() -> None:
    requests = 1 + 2 * 2  # The picture; for each of its sizes a put, and a look at what is there already.
    assert collect(["eco_workers.tasks.images"])["image.store"].time_limit_s > (requests - 1) * REQUEST_S_MAX


async def test_a_bucket_that_does_not_exist_is_said_so(s3: S3Target) -> None:
    lost = await ObjectStore.open(
        bucket="no-such-bucket-here", endpoint_url=s3.endpoint_url, region="us-east-1",
        access_key=s3.access_key, secret_key=s3.secret_key,
    )  # fmt: skip
    try:
        with pytest.raises(ObjectStoreError, match="no-such-bucket-here"):
            await lost.ping()
        with pytest.raises(ObjectStoreError):
            await lost.fetch("k", bytes_max=10)
        with pytest.raises(ObjectStoreError):
            await lost.store_once("k", b"x", content_type="text/plain")
    finally:
        await lost.close()


LARGE = bytes(range(256)) * (2 * PART_BYTES // 256) + b"end"


@pytest.fixture
def conditional(objects: ObjectStore, bucket: str) -> ObjectStore:
    """The store as S3 itself is: the stand-in does not look at `If-None-Match` where an upload in parts ends."""
    one_at_a_time = asyncio.Lock()

    async def look(params: dict[str, Any], **_: object) -> tuple[SimpleNamespace, dict[str, Any]] | None:
        assert params["headers"]["If-None-Match"] == "*"
        await one_at_a_time.acquire()
        found = await objects._client.list_objects_v2(Bucket=bucket)
        if not found.get("KeyCount"):
            return None
        error = {"Code": "PreconditionFailed", "Message": "it exists"}
        return SimpleNamespace(status_code=412), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 412}}

    def done(**_: object) -> None:
        one_at_a_time.release()

    events = objects._client.meta.events
    events.register("before-call.s3.CompleteMultipartUpload", look)
    events.register("after-call.s3.CompleteMultipartUpload", done)
    return objects


async def unfinished_uploads(objects: ObjectStore, bucket: str) -> int:
    return len((await objects._client.list_multipart_uploads(Bucket=bucket)).get("Uploads", []))


async def test_a_large_object_goes_in_parts_and_is_fetched_whole(objects: ObjectStore, bucket: str) -> None:
    stored = await objects.store_once("large", LARGE, content_type="video/mp4")
    assert (stored.created, stored.size_bytes, stored.sha256) == (True, len(LARGE), hashlib.sha256(LARGE).hexdigest())
    head = await objects._client.head_object(Bucket=bucket, Key="large")
    assert (head["ContentType"], head["Metadata"], head["ETag"].endswith('-3"')) == (
        "video/mp4", {"sha256": stored.sha256}, True,
    )  # fmt: skip
    assert await objects.fetch("large", bytes_max=len(LARGE)) == LARGE


async def test_a_large_object_that_exists_is_compared_and_not_carried_again(objects: ObjectStore, bucket: str) -> None:
    await objects.store_once("large", LARGE, content_type="video/mp4")
    again = await objects.store_once("large", LARGE, content_type="video/mp4")
    assert (again.created, await unfinished_uploads(objects, bucket)) == (False, 0)
    with pytest.raises(ObjectMismatchError, match="'large' exists"):
        await objects.store_once("large", LARGE[:-1] + b"x", content_type="video/mp4")
    with pytest.raises(ObjectMismatchError):
        await objects.store_once("large", b"small", content_type="video/mp4")


async def test_of_two_uploads_at_once_one_is_kept_and_the_other_called_off(
    conditional: ObjectStore, bucket: str
) -> None:
    both = [conditional.store_once("large", LARGE, content_type="video/mp4") for _ in range(2)]
    assert sorted(stored.created for stored in await asyncio.gather(*both)) == [False, True]
    assert await unfinished_uploads(conditional, bucket) == 0


async def test_an_upload_that_is_cancelled_leaves_no_parts_behind(objects: ObjectStore, bucket: str) -> None:
    work = asyncio.create_task(objects.store_once("large", LARGE * 2, content_type="video/mp4"))
    async with asyncio.timeout(20):
        while not await unfinished_uploads(objects, bucket):  # noqa: ASYNC110  # the server tells, no event here
            await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await unfinished_uploads(objects, bucket) == 0
    with pytest.raises(ObjectMissingError):
        await objects.fetch("large", bytes_max=1)
