"""Segments in a store: nothing acked is missing from them, a gap stops a restore, an isolated writer is fenced."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eco_workers.errors import (
    JournalCorruptError,
    JournalFullError,
    JournalLostError,
    JournalRefusedError,
    ObjectExistsError,
)
from eco_workers.journal import Emit, Limits, SqliteJournal, Verdict, segments
from eco_workers.journal import replica as replica_module
from eco_workers.journal.replica import DirectoryStore, ObjectStore, Replica
from eco_workers.journal.replicated import ReplicatedJournal
from eco_workers.journal.restore import digest_of, rehearse, restore
from eco_workers.journal.segments import Kind, Segment
from eco_workers.storage import segments as segment_store_module
from tests.support.journals import IDENTITY, NAMES, Clock, task
from tests.support.objectstore import ObjectStore as Moto
from tests.support.objectstore import make_bucket, segment_store

PLACE = segments.location("journals", IDENTITY)
LIMITS = Limits(lock_wait_s=0.2)


class Store:
    """A store that can be away, lose the answer of a put, or contradict itself."""

    away = False
    answers_lost = 0
    refusals = 0
    """Puts that are still to be refused as existing, whatever is there."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    async def put_new(self, key: str, data: bytes) -> None:
        self._reach()
        if self.refusals:
            self.refusals -= 1
            raise ObjectExistsError("it is there already")
        await self.inner.put_new(key, data)
        if self.answers_lost:
            self.answers_lost -= 1
            raise TimeoutError("no answer")

    async def get(self, key: str) -> bytes | None:
        self._reach()
        return await self.inner.get(key)

    async def list_keys(self, prefix: str) -> list[str]:
        self._reach()
        return await self.inner.list_keys(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        self._reach()
        await self.inner.delete(keys)

    async def exchange(self, key: str, data: bytes) -> None:
        """What a person or a defect may do, and a replica never does."""
        await self.inner.delete([key])
        await self.inner.put_new(key, data)

    def _reach(self) -> None:
        if self.away:
            raise OSError("the store is away")


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    server = Moto(tmp_path_factory.mktemp("moto"))
    server.start()
    yield server
    server.close()


@pytest.fixture(params=["directory", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "directory":
        yield Store(DirectoryStore(tmp_path / "store"))
        return
    server = request.getfixturevalue("moto")
    made = await segment_store(server, await make_bucket(server))
    yield Store(made)
    await made.close()


@pytest.fixture
async def opened() -> AsyncIterator[list[ReplicatedJournal]]:
    journals: list[ReplicatedJournal] = []
    yield journals
    for journal in journals:
        await journal.close()


async def begin(
    opened: list[ReplicatedJournal], path: Path, store: ObjectStore, *, wait: bool = True
) -> ReplicatedJournal:
    path.parent.mkdir(exist_ok=True)
    journal = await ReplicatedJournal.open_replicated(
        path, identity=IDENTITY, replica=Replica(store, PLACE), limits=LIMITS, clock=Clock()
    )
    opened.append(journal)
    if wait:
        assert journal._claiming is not None
        await asyncio.wait_for(asyncio.shield(journal._claiming), 30)
    return journal


async def work(journal: Any, names: Sequence[str]) -> None:
    """Tasks through every kind of change, several in one group."""
    await asyncio.gather(*(journal.accept([task(name)]) for name in names))
    for running in await journal.claim(len(names), names=NAMES):
        await journal.step(running.task_id, "fetch", b'"x"', emits=[Emit("q.ai", b"{}")])
        if running.task_id.endswith("0"):
            await journal.fail(running.task_id, "bad")
        elif running.task_id.endswith("1"):
            await journal.retry(running.task_id, "later", not_before=0)
        else:
            await journal.complete(running.task_id, b'{"ok":true}')
    await journal.sent([message.row_id for message in await journal.outbox(5)])


async def test_a_restore_gives_the_same_journal_row_for_row(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    await work(journal, [f"t{number}" for number in range(20)])
    await journal.prune(keep_s=-1)
    await journal.replica.confirm()
    await journal.backup(tmp_path / "copy.db")
    expected = await asyncio.to_thread(digest_of, tmp_path / "copy.db")
    assert (await rehearse(store, PLACE)).digest == expected
    found = await restore(store, PLACE, tmp_path / "restored.db")
    assert (found.digest, found.journal_uuid) == (expected, journal.journal_uuid)


async def test_what_was_accepted_is_in_the_store(opened: list[ReplicatedJournal], store: Store, tmp_path: Path) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    await journal.accept([task("t1")])
    await restore(store, PLACE, tmp_path / "b.db")
    async with await SqliteJournal.open(tmp_path / "b.db", identity=IDENTITY, limits=LIMITS) as restored:
        assert await restored.accept([task("t1")]) == [Verdict.DUPLICATE]
        assert await restored.verify() == []


async def test_an_isolated_writer_cannot_ack_what_a_restore_will_not_see(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    isolated = await begin(opened, tmp_path / "a" / "journal.db", store)
    await isolated.accept([task("before")])
    (tmp_path / "b").mkdir()
    await restore(store, PLACE, tmp_path / "b" / "journal.db")
    with pytest.raises(JournalRefusedError, match="taken over"):
        await isolated.accept([task("behind")])
    with pytest.raises(JournalRefusedError):
        await isolated.accept([task("later")])
    successor = await begin(opened, tmp_path / "b" / "journal.db", store)
    assert successor.epoch > isolated.epoch
    assert await successor.accept([task("before"), task("behind")]) == [Verdict.DUPLICATE, Verdict.STORED]


async def test_the_old_file_is_refused_after_a_restore_went_on(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    old = await begin(opened, tmp_path / "a" / "journal.db", store)
    await old.accept([task("t1")])
    (tmp_path / "b").mkdir()
    await restore(store, PLACE, tmp_path / "b" / "journal.db")
    await old.close()
    for _ in range(2):
        await (await begin(opened, tmp_path / "b" / "journal.db", store)).close()
    with pytest.raises(JournalRefusedError, match="old copy"):
        await begin(opened, tmp_path / "a" / "journal.db", store)


async def test_the_old_file_is_refused_as_soon_as_it_was_restored_elsewhere(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    """Opened once more before the restored journal is, it would claim the next epoch and ack under it."""
    old = await begin(opened, tmp_path / "a" / "journal.db", store)
    await old.accept([task("t1")])
    await old.close()
    (tmp_path / "b").mkdir()
    await restore(store, PLACE, tmp_path / "b" / "journal.db")
    with pytest.raises(JournalRefusedError, match="old copy"):
        await begin(opened, tmp_path / "a" / "journal.db", store)
    successor = await begin(opened, tmp_path / "b" / "journal.db", store)
    assert await successor.accept([task("t1")]) == [Verdict.DUPLICATE]


async def test_a_restore_that_was_cut_off_can_be_run_again(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    await journal.accept([task("t1")])
    first = await restore(store, PLACE, tmp_path / "first.db")
    again = await restore(store, PLACE, tmp_path / "again.db")
    assert (again.digest, again.epoch) == (first.digest, first.epoch)


async def test_a_gap_is_a_hard_stop(opened: list[ReplicatedJournal], store: Store, tmp_path: Path) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    for number in range(5):
        await journal.accept([task(f"t{number}")])
    await store.delete([segments.key(PLACE, journal.epoch, 4)])
    with pytest.raises(JournalCorruptError, match="segment 4 of epoch 1 is missing"):
        await restore(store, PLACE, tmp_path / "b.db")


async def test_a_damaged_or_exchanged_segment_is_refused(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    for number in range(4):
        await journal.accept([task(f"t{number}")])
    name = segments.key(PLACE, journal.epoch, 3)
    whole, other = await store.get(name), await store.get(segments.key(PLACE, journal.epoch, 4))
    assert whole is not None
    assert other is not None
    await store.exchange(name, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(JournalCorruptError, match="digest"):
        await rehearse(store, PLACE)
    await store.exchange(name, other)
    with pytest.raises(JournalCorruptError, match="does not belong"):
        await rehearse(store, PLACE)


async def test_while_the_store_is_away_work_ends_and_nothing_new_is_acked(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    await journal.accept([task("t1")])
    [running] = await journal.claim(1, names=NAMES)
    store.away = True
    await journal.complete(running.task_id, b"{}")
    waiting = asyncio.create_task(journal.accept([task("t2")]))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    store.away = False
    assert await asyncio.wait_for(waiting, 30) == [Verdict.STORED]


async def test_a_journal_opened_while_the_store_is_away_accepts_nothing_until_it_is_back(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    store.away = True
    journal = await begin(opened, tmp_path / "a" / "journal.db", store, wait=False)
    with pytest.raises(JournalFullError, match="not yet claimed"):
        await journal.accept([task("t1")])
    assert "not yet claimed" in (await journal.statistics()).held_back
    store.away = False
    assert journal._claiming is not None
    await asyncio.wait_for(asyncio.shield(journal._claiming), 30)
    assert await journal.accept([task("t1")]) == [Verdict.STORED]


async def test_a_put_whose_answer_was_lost_is_no_other_writer(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    store.answers_lost = 2
    await journal.accept([task("t1")])
    await journal.accept([task("t2")])
    assert (await rehearse(store, PLACE)).segments == journal.replica.statistics().confirmed


async def test_a_journal_in_the_store_that_is_not_here_is_lost_rather_than_new(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    await (await begin(opened, tmp_path / "a" / "journal.db", store)).close()
    with pytest.raises(JournalLostError, match="is known to belong here"):
        await begin(opened, tmp_path / "b" / "journal.db", store)


async def test_segments_of_another_journal_are_refused(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    """The store was away when the file was made anew; what stands there is met when the epoch is claimed."""
    await (await begin(opened, tmp_path / "a" / "journal.db", store)).close()
    store.away = True
    stranger = await begin(opened, tmp_path / "b" / "journal.db", store, wait=False)
    store.away = False
    assert stranger._claiming is not None
    await asyncio.wait_for(asyncio.shield(stranger._claiming), 30)
    assert "segments of journal" in await asyncio.wait_for(stranger.replica.wait_fenced(), 5)
    with pytest.raises(JournalRefusedError, match="segments of journal"):
        await stranger.accept([task("t1")])


async def test_a_seal_outlives_the_epoch_that_it_ends(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    """Pruned with the rest, an isolated writer would find its next key free, and ack what nobody will restore."""
    isolated = await begin(opened, tmp_path / "a" / "journal.db", store)
    await isolated.accept([task("before")])
    (tmp_path / "b").mkdir()
    await restore(store, PLACE, tmp_path / "b" / "journal.db")
    successor = await begin(opened, tmp_path / "b" / "journal.db", store)
    assert await successor.replica.prune() >= 2
    assert await successor.replica.prune() == 0
    with pytest.raises(JournalRefusedError, match="taken over"):
        await isolated.accept([task("behind")])
    assert await asyncio.wait_for(isolated.replica.wait_fenced(), 5)


async def test_a_refusal_with_nothing_there_is_no_other_writer(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    store.refusals = 2
    await journal.accept([task("t1")])
    assert journal.replica.fenced == ""


async def test_a_restore_seals_an_epoch_that_was_about_to_begin(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    """A writer that had put half of its snapshot cannot go on beside the journal that was restored meanwhile."""
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    await journal.accept([task("t1")])
    for later in (1, 2):
        half = Segment(journal.journal_uuid, journal.epoch + later, 1, Kind.SNAPSHOT, b"half", part=1, parts=2)
        await store.put_new(segments.key(PLACE, half.epoch, 1), segments.encode(half))
    (tmp_path / "b").mkdir()
    found = await restore(store, PLACE, tmp_path / "b" / "journal.db")
    assert found.epoch == journal.epoch
    sealed = await store.get(segments.key(PLACE, half.epoch, 2))
    assert sealed is not None
    assert segments.decode(sealed).kind == Kind.SEAL
    assert (await rehearse(store, PLACE)).epoch == journal.epoch
    successor = await begin(opened, tmp_path / "b" / "journal.db", store)
    assert successor.epoch > half.epoch


async def test_what_ends_reaches_the_store_though_no_ack_waits_for_it(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    await journal.accept([task("t1")])
    [running] = await journal.claim(1, names=NAMES)
    await journal.complete(running.task_id, b"{}")
    async with asyncio.timeout(10):
        while journal.replica.statistics().pending:  # noqa: ASYNC110  # the replica tells nobody that it is idle
            await asyncio.sleep(0.01)
    await restore(store, PLACE, tmp_path / "b.db", seal=False)
    async with await SqliteJournal.open(tmp_path / "b.db", identity=IDENTITY, limits=LIMITS) as restored:
        assert (await restored.statistics()).counts.completed == 1


async def test_commits_gather_while_the_store_is_slow(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    await journal.accept([task("t1")])
    before = journal.replica.statistics().confirmed
    store.away = True
    waiting = [asyncio.create_task(journal.accept([task(f"n{number}")])) for number in range(3)]
    await asyncio.wait(waiting, timeout=0.05)
    for number in range(50):
        await journal.set_sync_target(f"target-{number}")
    store.away = False
    await asyncio.wait_for(asyncio.gather(*waiting), 30)
    await journal.replica.confirm()
    assert journal.replica.statistics().confirmed - before <= 4
    await journal.backup(tmp_path / "copy.db")
    assert (await rehearse(store, PLACE)).digest == await asyncio.to_thread(digest_of, tmp_path / "copy.db")


async def test_a_retry_does_not_wait_for_the_store(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    """Its task was acked when it was accepted: no ack follows, and a slot must not stand still."""
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    await journal.accept([task("t1")])
    [running] = await journal.claim(1, names=NAMES)
    store.away = True
    await asyncio.wait_for(journal.retry(running.task_id, "again", not_before=0), 5)
    store.away = False


async def test_a_renewal_waits_for_a_store_that_is_away_and_acks_nothing_meanwhile(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await begin(opened, tmp_path / "a" / "journal.db", store)
    await journal.accept([task("t1")])
    monkeypatch.setattr(replica_module, "SEGMENTS_MAX", 2)
    store.away = True
    assert journal.renew()
    assert not journal.renew(), "once is enough"
    waiting = asyncio.create_task(journal.accept([task("t2")]))
    await journal.complete((await journal.claim(1, names=NAMES))[0].task_id, b"{}")
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    store.away = False
    assert await asyncio.wait_for(waiting, 30) == [Verdict.STORED]
    assert journal.epoch == 2
    await journal.replica.confirm()
    await journal.backup(tmp_path / "copy.db")
    assert (await rehearse(store, PLACE)).digest == await asyncio.to_thread(digest_of, tmp_path / "copy.db")


async def test_a_writer_that_was_sealed_cannot_begin_anew(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolated = await begin(opened, tmp_path / "a" / "journal.db", store)
    await isolated.accept([task("t1")])
    await restore(store, PLACE, tmp_path / "b.db")
    monkeypatch.setattr(replica_module, "SEGMENTS_MAX", 2)
    assert isolated.renew()
    assert "is claimed there" in await asyncio.wait_for(isolated.replica.wait_fenced(), 10)
    with pytest.raises(JournalRefusedError):
        await isolated.accept([task("behind")])


async def test_only_epochs_that_a_newer_snapshot_holds_are_pruned(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    first = await begin(opened, tmp_path / "a" / "journal.db", store)
    await first.accept([task("t1")])
    await first.close()
    second = await begin(opened, tmp_path / "a" / "journal.db", store)
    await second.accept([task("t2")])
    assert await second.replica.prune() >= 2
    found = await restore(store, PLACE, tmp_path / "restored.db")
    assert found.epoch == 2
    async with await SqliteJournal.open(tmp_path / "restored.db", identity=IDENTITY, limits=LIMITS) as restored:
        assert (await restored.statistics()).counts.due == 2


async def test_nothing_is_restored_from_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(JournalLostError, match="no epoch"):
        await restore(store, PLACE, tmp_path / "b.db")


async def test_only_keys_of_the_place_are_listed_however_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_store_module, "KEYS_AT_ONCE", 3)
    for number in range(7):
        await store.put_new(f"a/b/{number}", b"")
    await store.put_new("a/bc/1", b"1")
    assert await store.list_keys("a/b") == [f"a/b/{number}" for number in range(7)]
    await store.delete([*(f"a/b/{number}" for number in range(7)), "a/b/none"])
    assert await store.list_keys("a/b") == []
    assert await store.get("a/b/1") is None


async def test_a_key_is_written_once(store: Store) -> None:
    await store.put_new("a/b", b"1")
    with pytest.raises(ObjectExistsError):
        await store.put_new("a/b", b"2")
    assert await store.get("a/b") == b"1"
    assert await store.list_keys("a") == ["a/b"]


def test_a_segment_is_read_as_it_was_written() -> None:
    segment = Segment("uuid", 3, 7, Kind.CHANGES, b"body" * 1000, ids=("t1", "t2"), previous="abc")
    data = segments.encode(segment)
    assert segments.decode(data) == segment
    assert segments.numbers(segments.key(PLACE, 3, 7)) == (3, 7)
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 4
        with pytest.raises(JournalCorruptError):
            segments.decode(bytes(flipped))


async def test_work_that_ends_while_the_epoch_waits_to_be_claimed_is_in_the_snapshot_once(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    async with await SqliteJournal.open(tmp_path / "a" / "journal.db", identity=IDENTITY, clock=Clock()) as before:
        await before.accept([task(f"t{number}") for number in range(30)])
    store.away = True
    journal = await begin(opened, tmp_path / "a" / "journal.db", store, wait=False)
    for number in range(30):
        [running] = await journal.claim(1, names=NAMES)
        await journal.complete(running.task_id, b"{}")
        if number == 20:
            store.away = False
    assert journal._claiming is not None
    await asyncio.wait_for(asyncio.shield(journal._claiming), 30)
    await journal.replica.confirm()
    await journal.backup(tmp_path / "copy.db")
    assert (await rehearse(store, PLACE)).digest == await asyncio.to_thread(digest_of, tmp_path / "copy.db")
