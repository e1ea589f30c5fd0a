"""A worker's journal in a bucket: opened by its settings, restored, and given up when another has taken over."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest

from eco_workers.errors import JournalCorruptError, JournalRefusedError, ObjectStoreError
from eco_workers.journal import Identity, SqliteJournal, Verdict, segments
from eco_workers.journal import replica as replica_module
from eco_workers.journal.limits import Limits
from eco_workers.journal.opening import Plan
from eco_workers.journal.recover import recover
from eco_workers.journal.replicated import ReplicatedJournal
from eco_workers.journal.restore import digest_of, rehearse
from eco_workers.runtime.replication import Replication, restore_base
from eco_workers.settings import Settings, load
from eco_workers.storage.segments import SegmentStore
from tests.support.journals import task
from tests.support.objectstore import ObjectStore, make_bucket, segment_store
from tests.support.processes import free_port

SECRET = "a-secret-key-that-nobody-prints"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    server = ObjectStore(tmp_path_factory.mktemp("moto"))
    server.start()
    yield server
    server.close()


@pytest.fixture
async def settings(moto: ObjectStore, tmp_path: Path) -> Settings:
    return given(moto.url, await make_bucket(moto), tmp_path / "a")


def given(url: str, bucket: str, volume: Path, policy: str = "Replicated") -> Settings:
    volume.mkdir(exist_ok=True)
    return load(
        {
            "RABBITMQ_URL": "amqp://nowhere/", "ECO_ACK_POLICY": policy, "WAL_DB_PATH": str(volume / "journal.db"),
            "S3_ENDPOINT_URL": url, "S3_BUCKET": bucket, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET,
        }
    )  # fmt: skip


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[ReplicatedJournal, Replication]]:
    replication = Replication(settings)
    journal = cast("ReplicatedJournal", await replication.open(settings, Limits(lock_wait_s=0.2), None))
    assert journal._claiming is not None
    await asyncio.wait_for(asyncio.shield(journal._claiming), 30)
    try:
        yield journal, replication
    finally:
        await journal.close()
        await replication.close()


def plan(settings: Settings) -> Plan:
    return Plan(settings.wal_db_path, Identity(settings.namespace, settings.worker, settings.shard))


async def test_a_lost_volume_is_made_whole_from_the_bucket(
    settings: Settings, moto: ObjectStore, tmp_path: Path
) -> None:
    """What `eco-worker job recover` does: restore a base, recover onto the empty volume, open as before."""
    async with opened(settings) as (journal, _):
        await journal.accept([task("t1"), task("t2")])
        uuid, epoch = journal.journal_uuid, journal.epoch
    empty = given(moto.url, settings.s3_bucket, tmp_path / "b")
    base = await restore_base(empty, tmp_path / "b" / "base.db")
    assert base is not None
    report = await asyncio.to_thread(recover, plan(empty), base=base)
    assert (report.action, report.journal_uuid) == ("restored", uuid)
    async with opened(empty) as (journal, _):
        assert (journal.journal_uuid, journal.epoch > epoch) == (uuid, True)
        assert await journal.accept([task("t1"), task("t3")]) == [Verdict.DUPLICATE, Verdict.STORED]


async def test_an_epoch_that_has_grown_long_is_followed_by_the_next(
    settings: Settings, moto: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is accepted meanwhile is confirmed by the next epoch; the old one's segments go, and a restore is short."""
    async with opened(settings) as (journal, replication):
        assert not journal.renew()
        for number in range(6):
            await journal.accept([task(f"a{number}")])
        epoch = journal.epoch
        monkeypatch.setattr(replica_module, "SEGMENTS_MAX", 5)
        busy = [asyncio.create_task(journal.accept([task(f"b{number}")])) for number in range(20)]
        await replication.keep_house()
        assert await asyncio.gather(*busy) == [[Verdict.STORED]] * 20
        assert journal._claiming is not None
        await asyncio.wait_for(asyncio.shield(journal._claiming), 30)
        assert journal.epoch == epoch + 1
        await journal.accept([task("c")])
        monkeypatch.undo()
        await replication.keep_house()
        await journal.replica.confirm()
        await journal.backup(tmp_path / "copy.db")
    store = await segment_store(moto, settings.s3_bucket)
    assert {segments.numbers(key)[0] for key in await store.list_keys("eco-wal")} == {epoch + 1}
    found = await rehearse(store, segments.location("eco-wal", plan(settings).identity))
    await store.close()
    assert found.digest == await asyncio.to_thread(digest_of, tmp_path / "copy.db")


async def test_segments_stand_under_prefix_namespace_worker_and_shard(settings: Settings, moto: ObjectStore) -> None:
    async with opened(settings) as (journal, _):
        await journal.accept([task("t1")])
    store = await segment_store(moto, settings.s3_bucket)
    keys = await store.list_keys("eco-wal")
    await store.close()
    assert keys[0] == "eco-wal/default/storage/storage-0/0000000001/000000000001"


async def test_a_worker_ends_when_its_journal_was_restored_elsewhere(settings: Settings, tmp_path: Path) -> None:
    async with opened(settings) as (journal, replication):
        await journal.accept([task("t1")])
        watch = asyncio.create_task(replication.watch())
        await restore_base(settings, tmp_path / "base.db")
        with pytest.raises(JournalRefusedError, match="taken over"):
            await journal.accept([task("t2")])
        with pytest.raises(JournalRefusedError, match="taken over"):
            await asyncio.wait_for(watch, 5)


async def test_there_is_no_base_where_nothing_was_ever_acked(
    settings: Settings, moto: ObjectStore, tmp_path: Path
) -> None:
    target = tmp_path / "base.db"
    assert await restore_base(settings, target) is None
    async with opened(settings) as (journal, _):
        await journal.accept([task("t1")])
    other = given(moto.url, settings.s3_bucket, tmp_path / "a", "Journaled")
    assert await restore_base(other, target) is None, "under another policy what stands there may be old"
    assert not target.exists()


async def test_a_gap_stops_the_restore_and_leaves_no_base(
    settings: Settings, moto: ObjectStore, tmp_path: Path
) -> None:
    async with opened(settings) as (journal, _):
        for number in range(4):
            await journal.accept([task(f"t{number}")])
    store = await segment_store(moto, settings.s3_bucket)
    keys = await store.list_keys("eco-wal")
    await store.delete([keys[2]])
    await store.close()
    with pytest.raises(JournalCorruptError, match="segment 3 of epoch 1 is missing"):
        await restore_base(settings, tmp_path / "base.db")
    assert not (tmp_path / "base.db").exists()


async def test_a_dry_run_leaves_the_bucket_and_its_writer_alone(settings: Settings, tmp_path: Path) -> None:
    async with opened(settings) as (journal, _):
        await journal.accept([task("t1")])
        assert await restore_base(settings, tmp_path / "base.db", seal=False) is not None
        assert await journal.accept([task("t2")]) == [Verdict.STORED]


async def test_a_base_left_by_a_restore_that_was_cut_off_is_made_anew(settings: Settings, tmp_path: Path) -> None:
    async with opened(settings) as (journal, _):
        await journal.accept([task("t1")])
    (tmp_path / "base.db").write_bytes(b"half of it")
    base = await restore_base(settings, tmp_path / "base.db")
    assert base is not None
    async with await SqliteJournal.open(base, identity=plan(settings).identity) as journal:
        assert (await journal.statistics()).counts.due == 1


async def test_a_bucket_that_is_away_or_missing_is_named_without_secrets(moto: ObjectStore, tmp_path: Path) -> None:
    for url, bucket in ((f"http://127.0.0.1:{free_port()}", "some-bucket"), (moto.url, "no-such-bucket")):
        settings = given(url, bucket, tmp_path / "a")
        with pytest.raises(ObjectStoreError, match=bucket) as refused:
            await restore_base(settings, tmp_path / "base.db")
        assert SECRET not in str(refused.value)
        store = await SegmentStore.open(
            bucket=bucket, endpoint_url=url, region="us-east-1", access_key="test", secret_key=SECRET
        )
        for call in (store.put_new("k", b""), store.get("k"), store.delete(["k"])):
            with pytest.raises(ObjectStoreError, match=bucket) as refused:
                await call
            assert SECRET not in str(refused.value)
        await store.close()
