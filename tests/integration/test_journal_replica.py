"""Segments in a store: nothing acked is missing from them, a gap stops a restore, an isolated writer is fenced."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eco_workers.errors import JournalCorruptError, JournalFullError, JournalLostError, JournalRefusedError
from eco_workers.journal import Emit, Limits, SqliteJournal, Verdict, segments
from eco_workers.journal.replica import DirectoryStore, ObjectExistsError, Replica
from eco_workers.journal.replicated import ReplicatedJournal
from eco_workers.journal.restore import digest_of, rehearse, restore
from eco_workers.journal.segments import Kind, Segment
from tests.support.journals import IDENTITY, NAMES, Clock, task

PLACE = segments.location("journals", IDENTITY)
LIMITS = Limits(lock_wait_s=0.2)


class Store(DirectoryStore):
    """A store that can be away, or lose the answer of a put."""

    away = False
    answers_lost = 0

    async def put_new(self, key: str, data: bytes) -> None:
        if self.away:
            raise OSError("the store is away")
        await super().put_new(key, data)
        if self.answers_lost:
            self.answers_lost -= 1
            raise TimeoutError("no answer")

    async def list_keys(self, prefix: str) -> list[str]:
        if self.away:
            raise OSError("the store is away")
        return await super().list_keys(prefix)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
async def opened() -> AsyncIterator[list[ReplicatedJournal]]:
    journals: list[ReplicatedJournal] = []
    yield journals
    for journal in journals:
        await journal.close()


async def begin(opened: list[ReplicatedJournal], path: Path, store: Store, *, wait: bool = True) -> ReplicatedJournal:
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
    name = store.root / segments.key(PLACE, journal.epoch, 3)
    other = store.root / segments.key(PLACE, journal.epoch, 4)
    whole = name.read_bytes()
    name.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(JournalCorruptError, match="digest"):
        await rehearse(store, PLACE)
    name.write_bytes(other.read_bytes())
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


async def test_segments_of_another_journal_are_refused(
    opened: list[ReplicatedJournal], store: Store, tmp_path: Path
) -> None:
    await (await begin(opened, tmp_path / "a" / "journal.db", store)).close()
    stranger = await begin(opened, tmp_path / "b" / "journal.db", store, wait=False)
    assert stranger._claiming is not None
    await asyncio.wait_for(asyncio.shield(stranger._claiming), 30)
    with pytest.raises(JournalRefusedError, match="segments of journal"):
        await stranger.accept([task("t1")])


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
