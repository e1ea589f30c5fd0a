"""The queue of keys: serial per key, coalesced, with a pause after a failure. Time is the event loop's, and virtual."""

import asyncio
import random

import pytest

from eco_operator.queue import KeyQueue

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


def queue(backoff_s_min: float = 1, backoff_s_max: float = 300) -> KeyQueue[str]:
    return KeyQueue(backoff_s_min, backoff_s_max, rng=random.Random(1))


async def test_a_key_named_often_is_worked_on_once() -> None:
    keys = queue()
    for _ in range(5):
        keys.add("a")
    assert await keys.get() == "a"
    keys.done("a")
    assert keys.statistics().ready == 0


async def test_a_key_that_comes_during_its_work_comes_again_afterwards() -> None:
    keys = queue()
    keys.add("a")
    await keys.get()
    keys.add("a")
    assert keys.statistics().ready == 0
    keys.done("a")
    assert await keys.get() == "a"


async def test_a_key_is_never_worked_on_twice_at_the_same_time() -> None:
    keys, running, overlaps = queue(), set[str](), 0

    async def work() -> None:
        nonlocal overlaps
        while True:
            key = await keys.get()
            overlaps += key in running
            running.add(key)
            await asyncio.sleep(1)
            running.discard(key)
            keys.done(key)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    for _ in range(20):
        for key in "abc":
            keys.add(key)
        await asyncio.sleep(0.4)
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert overlaps == 0


async def test_keys_come_in_the_order_in_which_they_were_named() -> None:
    keys = queue()
    for key in "cab":
        keys.add(key)
    assert [await keys.get() for _ in range(3)] == ["c", "a", "b"]


async def test_a_failed_key_comes_back_after_a_pause_that_doubles_up_to_its_bound() -> None:
    keys = queue(backoff_s_min=1, backoff_s_max=10)
    keys.add("a")
    pauses = []
    for _ in range(6):
        await keys.get()
        pause = keys.done("a", failed=True)
        assert pause is not None
        pauses.append(pause)
    for pause, bound in zip(pauses, (1, 2, 4, 8, 10, 10), strict=True):
        assert 0.75 * bound <= pause <= bound


async def test_success_ends_the_doubling() -> None:
    keys = queue()
    keys.add("a")
    for _ in range(3):
        await keys.get()
        keys.done("a", failed=True)
    await keys.get()
    keys.done("a")
    keys.add("a")
    await keys.get()
    pause = keys.done("a", failed=True)
    assert pause is not None
    assert pause <= 1


async def test_a_server_that_asks_for_rest_gets_it() -> None:
    keys = queue()
    keys.add("a")
    await keys.get()
    pause = keys.done("a", failed=True, retry_after_s=42)
    assert pause == 42


async def test_what_comes_during_a_failing_look_does_not_cut_its_pause_short() -> None:
    keys = queue()
    keys.add("a")
    await keys.get()
    keys.add("a")
    keys.done("a", failed=True)
    assert keys.statistics().ready == 0
    assert keys.statistics().delayed == 1


async def test_a_patient_caller_waits_for_the_pause_and_an_edit_does_not() -> None:
    keys = queue()
    keys.add("a")
    await keys.get()
    keys.done("a", failed=True)
    keys.add("a", patient=True)
    assert keys.statistics().ready == 0
    keys.add("a")
    assert keys.statistics().ready == 1


async def test_an_appointment_is_kept_and_an_earlier_one_wins() -> None:
    keys, loop = queue(), asyncio.get_running_loop()
    keys.add("a", after_s=30)
    keys.add("a", after_s=10)
    keys.add("a", after_s=20)
    begun = loop.time()
    await keys.get()
    assert loop.time() - begun == pytest.approx(10, abs=0.1)
    keys.done("a")
    assert keys.statistics().delayed == 0


async def test_more_keys_than_the_bound_are_dropped_and_counted() -> None:
    keys: KeyQueue[str] = KeyQueue(keys_max=2)
    for key in "abc":
        keys.add(key)
    assert keys.statistics().ready == 2
    assert keys.statistics().dropped == 1


async def test_the_statistics_tell_how_long_the_first_key_waits() -> None:
    keys = queue()
    keys.add("a")
    await asyncio.sleep(7)
    assert keys.statistics().oldest_ready_s == pytest.approx(7)


async def test_a_key_put_last_waits_for_what_holds_back_the_last_and_for_nothing_else() -> None:
    keys, loop = queue(), asyncio.get_running_loop()
    for key in "abcd":
        keys.add(key)
    for key in "ab":
        assert await keys.get() == key
        keys.put_last(key)
        keys.done(key)
    assert [await keys.get() for _ in "cd"] == ["c", "d"]
    keys.hold_back_last("c")
    waiting = [asyncio.create_task(keys.get()) for _ in range(2)]
    await asyncio.sleep(5)
    assert not any(it.done() for it in waiting)
    ended = loop.time()
    keys.done("c")
    assert await asyncio.gather(*waiting) == ["a", "b"]
    assert loop.time() == ended
    for key in "abd":
        keys.done(key)
    assert keys.statistics().delayed == keys.statistics().running == 0


async def test_a_key_put_last_waits_no_longer_than_its_bound() -> None:
    keys, loop = queue(), asyncio.get_running_loop()
    for key in "ab":
        keys.add(key)
    assert await keys.get() == "a"
    keys.put_last("a")
    keys.done("a")
    begun = loop.time()
    assert await keys.get() == "b"
    keys.hold_back_last("b")
    async with asyncio.timeout(keys.last_s_max + 1):
        assert await keys.get() == "a"
    assert loop.time() - begun == pytest.approx(keys.last_s_max, abs=0.1)


async def test_a_key_put_last_comes_at_once_when_it_is_named_and_only_once() -> None:
    keys = queue()
    for key in "ab":
        keys.add(key)
    assert await keys.get() == "a"
    keys.add("a")
    keys.put_last("a")  # With what has come for it.
    keys.done("a")
    assert await keys.get() == "b"
    keys.hold_back_last("b")
    assert keys.statistics().ready == 0
    keys.add("a")
    assert await keys.get() == "a"
    for key in "ab":
        keys.done(key)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(keys.get(), 2 * keys.last_s_max)


async def test_a_key_named_after_it_was_put_last_comes_at_once() -> None:
    keys = queue()
    keys.add("a")
    await keys.get()
    keys.put_last("a")
    keys.add("a")
    keys.done("a")
    assert keys.statistics().ready == 1


async def test_a_key_put_last_is_not_worked_on_twice_at_once() -> None:
    keys = queue()
    keys.add("a")
    await keys.get()
    keys.put_last("a")
    other = asyncio.create_task(keys.get())
    await asyncio.sleep(2 * keys.last_s_max)
    assert not other.done()
    keys.done("a")
    assert await other == "a"


async def test_a_key_that_was_put_last_and_failed_keeps_its_pause() -> None:
    keys, loop = queue(), asyncio.get_running_loop()
    keys.add("a")
    await keys.get()
    keys.put_last("a")
    assert keys.done("a", failed=True, retry_after_s=80.0) == 80.0
    begun = loop.time()
    await keys.get()
    assert loop.time() - begun == pytest.approx(80.0, abs=0.1)


async def test_a_key_knows_whether_another_is_ready_or_holds_back_the_last() -> None:
    keys = queue()
    for key in "ab":
        keys.add(key)
    assert await keys.get() == "a"
    assert keys.has_others("a")
    assert await keys.get() == "b"
    keys.hold_back_last("a")
    assert not keys.has_others("a")
    keys.hold_back_last("b")
    assert keys.has_others("a")
    keys.done("b")
    assert not keys.has_others("a")
