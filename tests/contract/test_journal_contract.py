"""What every journal promises, held against the SQLite journal and against its in-memory twin."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eco_workers import headers
from eco_workers.errors import IllegalStateError, InvalidTaskError
from eco_workers.journal import (
    CachedAnswer,
    Completion,
    Emit,
    Fate,
    Limits,
    Owner,
    Rejected,
    State,
    TaskJournal,
    Verdict,
    sqlite_rows,
)
from tests.support.journals import NAMES, Clock, Journals, task


@pytest.fixture(params=["sqlite", "sqlite by wide statements", "memory"])
async def journals(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Journals]:
    kind, _, wide = request.param.partition(" ")
    if wide:
        monkeypatch.setattr(sqlite_rows, "ROWS_AT_ONCE", 1)  # else only many rows at once go that way
    some = Journals(kind, tmp_path)
    yield some
    await some.close()


@pytest.fixture
async def journal(journals: Journals) -> Any:
    opened: Any = await journals.open()
    protocol: TaskJournal = opened  # both keep the protocol that the runtime is written against
    return protocol


@pytest.fixture
def clock(journals: Journals) -> Clock:
    return journals.clock


async def started(journal: TaskJournal, task_id: str = "t1", **changes: Any) -> None:
    await journal.accept([task(task_id, **changes)])
    assert [each.task_id for each in await journal.claim(1, names=NAMES)] == [task_id]


async def states(journal: TaskJournal) -> dict[str, int]:
    counts = (await journal.statistics()).counts.model_dump()
    return {name: count for name, count in counts.items() if count}


# -- accept ---------------------------------------------------------------------------------------------------------


async def test_a_delivery_is_stored_once(journal: TaskJournal) -> None:
    assert await journal.accept([task("a"), task("b")]) == [Verdict.STORED, Verdict.STORED]
    assert await journal.accept([task("b"), task("c"), task("c")]) == [
        Verdict.DUPLICATE,
        Verdict.STORED,
        Verdict.DUPLICATE,
    ]
    assert await states(journal) == {"due": 3}


async def test_a_higher_generation_of_unfinished_work_raises_the_number_and_runs_nothing(journal: TaskJournal) -> None:
    await started(journal)
    assert await journal.accept([task(generation=2)]) == [Verdict.RAISED]
    assert await journal.accept([task(generation=2)]) == [Verdict.DUPLICATE]
    assert await journal.claim(5, names=NAMES) == []


async def test_a_completed_task_never_runs_again(journal: TaskJournal) -> None:
    await started(journal)
    await journal.complete("t1", b"{}")
    assert await journal.accept([task(generation=7)]) == [Verdict.DUPLICATE]
    assert await journal.claim(5, names=NAMES) == []


@pytest.mark.parametrize("end", ["fail", "time_out"])
async def test_a_replay_of_a_task_that_ended_badly_runs_with_a_fresh_budget(journal: TaskJournal, end: str) -> None:
    await started(journal)
    await getattr(journal, end)("t1", "broken")
    assert await journal.accept([task()]) == [Verdict.DUPLICATE]
    assert await journal.accept([task(generation=1)]) == [Verdict.REOPENED]
    [running] = await journal.claim(5, names=NAMES)
    assert (running.attempt, running.generation) == (1, 1)


async def test_a_task_ends_as_failed_when_its_attempts_are_used_up(journal: TaskJournal, clock: Clock) -> None:
    await journal.accept([task(attempts=1)])
    for attempt in (2, 3):
        [running] = await journal.claim(1, names={"image.store": 3})
        assert running.attempt == attempt
        await journal.retry("t1", "not yet", not_before=clock.now)
    assert await journal.claim(1, names={"image.store": 3}) == []
    [message] = await journal.outbox(10)
    assert message.kind == "dead-letter"
    assert message.headers[headers.ATTEMPTS] == "3"
    assert await states(journal) == {"failed": 1, "outbox_unsent": 1}


async def test_an_expired_task_ends_as_timeout_with_its_dead_letter(journal: TaskJournal, clock: Clock) -> None:
    await journal.accept([task(expires_at=clock.now + 10)])
    clock.pass_(11)
    assert await journal.claim(1, names=NAMES) == []
    assert await states(journal) == {"timeout": 1, "outbox_unsent": 1}


async def test_a_scheduled_task_waits_for_its_time(journal: TaskJournal, clock: Clock) -> None:
    await journal.accept([task(not_before=clock.now + 60)])
    assert await journal.claim(1, names=NAMES) == []
    assert await states(journal) == {"waiting": 1}
    clock.pass_(60)
    assert len(await journal.claim(1, names=NAMES)) == 1


async def test_work_runs_in_the_order_in_which_it_became_due(journal: TaskJournal, clock: Clock) -> None:
    await journal.accept([task("late", not_before=clock.now + 5)])
    await journal.accept([task("first"), task("second")])
    clock.pass_(10)
    await journal.accept([task("third")])
    claimed = await journal.claim(10, names=NAMES)
    assert [each.task_id for each in claimed] == ["first", "second", "late", "third"]


async def test_an_unknown_name_stays_pending_and_is_counted(journal: TaskJournal) -> None:
    await journal.accept([task("a", name="of.a.later.image"), task("b")])
    assert [each.task_id for each in await journal.claim(10, names=NAMES)] == ["b"]
    assert await states(journal) == {"due": 1, "running": 1, "unknown_name": 1}


async def test_a_clock_that_is_set_back_does_not_hold_work_up(journal: TaskJournal, clock: Clock) -> None:
    await journal.accept([task("now")])
    clock.pass_(-86_400)
    assert [each.task_id for each in await journal.claim(10, names=NAMES)] == ["now"]


async def test_a_pause_keeps_its_length_and_a_date_stays_when_the_clock_is_set_back(
    journal: TaskJournal, clock: Clock
) -> None:
    await journal.accept([task("retried"), task("dated", not_before=clock.now + 60)])
    clock.pass_(3600)
    await journal.accept([task("dated-later", not_before=clock.now + 60)])
    await journal.claim(1, names=NAMES)
    await journal.retry("retried", "not yet", not_before=clock.now + 5)
    clock.pass_(-3600)
    await journal.accept([task("now")])
    for seconds, due in ((4, ["now"]), (2, ["retried"]), (55, ["dated"]), (3598, []), (3, ["dated-later"])):
        clock.pass_(seconds)
        assert [each.task_id for each in await journal.claim(10, names=NAMES)] == due


# -- running --------------------------------------------------------------------------------------------------------


async def test_result_and_messages_come_together(journal: TaskJournal) -> None:
    await started(journal)
    await journal.complete("t1", b'{"ok":true}', emits=[Emit("q.ai", b'{"n":1}'), Emit("q.ai", b'{"n":2}')])
    messages = await journal.outbox(10)
    assert [message.body for message in messages] == [b'{"n":1}', b'{"n":2}']
    assert len({message.message_id for message in messages}) == 2
    assert await states(journal) == {"completed": 1, "outbox_unsent": 2}


async def test_of_completions_given_together_one_that_is_refused_takes_no_other_with_it(journal: TaskJournal) -> None:
    await journal.set_sync_target("postgres")
    await journal.accept([task(name) for name in ("a", "b", "c", "waiting")])
    await journal.claim(3, names=NAMES)
    letter = [Emit("q.ai", b"{}")]
    found = await journal.complete_all(
        [
            Completion("a", b"1", letter, [CachedAnswer("k", "m", b"2")]),
            Completion("waiting", b"1", letter),
            Completion("b", b"no JSON"),
            Completion("a", b"2", letter),
            Completion("nobody", b"1"),
            Completion("c", b"1", [Emit("x" * 300, b"{}")]),
        ]
    )
    assert [type(each) for each in found] == [
        type(None),
        IllegalStateError,
        InvalidTaskError,
        IllegalStateError,
        IllegalStateError,
        InvalidTaskError,
    ]
    assert await states(journal) == {"due": 1, "running": 2, "completed": 1, "unsynced": 1, "outbox_unsent": 1}
    assert await journal.cached("k") == b"2"
    assert [report.result for report in await journal.unsynced(10)] == [b"1"]
    assert await journal.complete_all([]) == []
    assert await journal.complete_all([Completion("b", b"1"), Completion("c", b"1")]) == [None, None]
    assert await journal.verify() == []


async def test_an_operation_that_fails_writes_nothing(journal: TaskJournal) -> None:
    await started(journal)
    await journal.accept([task("t2")])
    with pytest.raises(IllegalStateError, match="t2"):
        await journal.release(["t1", "t2"])
    assert await states(journal) == {"due": 1, "running": 1}
    assert await journal.verify() == []


async def test_a_call_that_fails_undoes_nothing_of_what_the_clock_asks_for(journal: TaskJournal, clock: Clock) -> None:
    """The first call after the clock was set back is rolled back, and its mending of the schedule with it."""
    await journal.accept([task("a")])
    clock.pass_(-3600)
    with pytest.raises(IllegalStateError):
        await journal.complete("a", b"null")
    assert [each.task_id for each in await journal.claim(1, names=NAMES)] == ["a"]


async def test_finished_steps_are_handed_to_the_next_attempt(journal: TaskJournal, clock: Clock) -> None:
    await started(journal)
    await journal.step("t1", "fetch", b'"bytes"', emits=[Emit("q.ai", b"{}")])
    await journal.retry("t1", "later", not_before=clock.now)
    [running] = await journal.claim(1, names=NAMES)
    assert running.steps == {"fetch": b'"bytes"'}
    await journal.complete("t1", b"{}", emits=[Emit("q.ai", b"{}")])
    assert len({message.message_id for message in await journal.outbox(10)}) == 2


async def test_steps_that_answer_another_payload_are_dropped(journal: TaskJournal) -> None:
    await started(journal)
    await journal.step("t1", "fetch", b'"bytes"')
    await journal.fail("t1", "bad")
    await journal.accept([task(generation=1, payload=b'{"key":"other"}')])
    [running] = await journal.claim(1, names=NAMES)
    assert (running.steps, running.payload) == ({}, b'{"key":"other"}')


@pytest.mark.parametrize("call", ["complete", "step", "heartbeat", "retry", "fail"])
async def test_nothing_changes_a_completed_task(journal: TaskJournal, call: str) -> None:
    await started(journal)
    await journal.complete("t1", b"{}")
    calls: dict[str, Any] = {
        "complete": lambda: journal.complete("t1", b"1"),
        "step": lambda: journal.step("t1", "s", b"1"),
        "heartbeat": lambda: journal.heartbeat("t1"),
        "retry": lambda: journal.retry("t1", "e", not_before=0),
        "fail": lambda: journal.fail("t1", "e"),
    }
    with pytest.raises(IllegalStateError, match=r"t1.*completed"):
        await calls[call]()
    assert await states(journal) == {"completed": 1}


async def test_a_released_task_gets_its_attempt_back_and_its_place(journal: TaskJournal) -> None:
    await started(journal)
    await journal.accept([task("t2")])
    await journal.release(["t1"])
    claimed = await journal.claim(10, names=NAMES)
    assert [(each.task_id, each.attempt) for each in claimed] == [("t1", 1), ("t2", 1)]


async def test_kept_answers_are_found_again_until_they_are_too_old(journal: TaskJournal, clock: Clock) -> None:
    await started(journal)
    await journal.step("t1", "ask", b"1", cache=[CachedAnswer("key", "a-model", b'"glass"')])
    assert await journal.cached("key") == b'"glass"'
    assert await journal.cached("other") is None
    clock.pass_(Limits().cache_keep_s + 1)
    assert await journal.cached("key") is None


# -- after a crash --------------------------------------------------------------------------------------------------


async def test_a_restart_takes_up_running_work_with_its_attempt_counted(journals: Journals, journal: Any) -> None:
    await started(journal)
    await journal.step("t1", "fetch", b"1")
    again = await journals.restart(journal)
    assert again.recovered == 1
    [running] = await again.claim(1, names=NAMES)
    assert (running.attempt, running.recovered, running.steps) == (2, True, {"fetch": b"1"})
    assert again.incarnation != journal.incarnation


async def test_an_unacked_task_is_not_run_unasked_after_a_restart(journals: Journals, journal: Any) -> None:
    await journal.accept([task()], owner=Owner.BROKER)
    again = await journals.restart(journal)
    assert await again.claim(1, names=NAMES) == []
    assert await again.accept([task()], owner=Owner.BROKER) == [Verdict.REDELIVERED]
    assert len(await again.claim(1, names=NAMES)) == 1


async def test_a_task_handed_over_before_its_ack_runs_after_a_restart(journals: Journals, journal: Any) -> None:
    await journal.accept([task()], owner=Owner.BROKER)
    await journal.acked(["t1"])
    again = await journals.restart(journal)
    assert await again.accept([task()], owner=Owner.BROKER) == [Verdict.DUPLICATE]
    assert len(await again.claim(1, names=NAMES)) == 1


async def test_a_redelivery_that_went_elsewhere_closes_the_row_without_a_message(
    journals: Journals, journal: Any
) -> None:
    await journal.accept([task()], owner=Owner.BROKER)
    await journal.channel_lost()
    assert await journal.close_unacked() == 0
    journals.clock.pass_(901)
    assert await journal.close_unacked() == 1
    assert await journal.outbox(10) == []
    assert await journal.accept([task()]) == [Verdict.REOPENED]
    assert len(await journal.claim(1, names=NAMES)) == 1


async def test_a_running_task_whose_channel_was_lost_goes_on_and_keeps_its_redelivery(journal: TaskJournal) -> None:
    await journal.accept([task()], owner=Owner.BROKER)
    await journal.claim(1, names=NAMES)
    await journal.channel_lost()
    assert await journal.accept([task()], owner=Owner.BROKER) == [Verdict.REDELIVERED]
    assert await journal.claim(1, names=NAMES) == []
    await journal.complete("t1", b"{}")
    assert await states(journal) == {"completed": 1}


async def test_old_work_ends_as_timeout_at_start_only_where_that_is_asked_for(tmp_path: Path) -> None:
    for kind in ("sqlite", "memory"):
        journals = Journals(kind, tmp_path)
        journal: Any = await journals.open(Limits(expire_after_s=3600, lock_wait_s=0.2))
        await started(journal, "retried")
        await journal.retry("retried", "e", not_before=journals.clock.now + 7200)
        await journal.accept([task("old")])
        journals.clock.pass_(3601)
        again = await journals.restart(journal)
        assert await states(again) == {"waiting": 1, "timeout": 1, "outbox_unsent": 1}
        await journals.close()


# -- given back -----------------------------------------------------------------------------------------------------


async def test_republishing_writes_the_message_with_the_row(journal: TaskJournal, clock: Clock) -> None:
    await started(journal, generation=3)
    await journal.retry("t1", "later", not_before=clock.now + 50)
    assert await journal.republish() == 1
    [message] = await journal.outbox(10)
    assert (message.kind, message.routing_key) == ("republish", "q.ai")
    assert message.headers[headers.GENERATION] == "4"
    assert message.headers[headers.ATTEMPTS] == "1"
    assert float(message.headers[headers.NOT_BEFORE]) == clock.now + 50
    # The row kept its own generation: an old delivery is a duplicate, the message itself is not.
    assert await journal.accept([task(generation=3)]) == [Verdict.DUPLICATE]
    assert await journal.accept([task(generation=4, attempts=1)]) == [Verdict.REOPENED]


async def test_the_fate_of_an_unacked_delivery_is_that_of_its_row(journal: TaskJournal) -> None:
    """Kept while the broker owns it, acked once the journal does, returned where no message stands for it."""
    ids = ["runs", "ends", "retries", "returns"]
    await journal.accept([task(each) for each in ids], owner=Owner.BROKER)
    assert set((await journal.fates(ids)).values()) == {Fate.KEEP}
    for each in ids[:3]:
        await journal.start(each)
    await journal.complete("ends", b"{}")
    await journal.retry("retries", "again", not_before=0)
    await journal.republish(["returns"])
    await journal.wait_for_handover(60)
    assert await journal.fates([*ids, "pruned long ago"]) == {
        "runs": Fate.KEEP,
        "ends": Fate.ACK,
        "retries": Fate.ACK,
        "returns": Fate.RETURN,
        "pruned long ago": Fate.ACK,
    }


async def test_the_brokers_count_of_deliveries_counts_only_what_was_begun_here(
    journals: Journals, journal: TaskJournal
) -> None:
    await journal.accept([task("begun"), task("new")], owner=Owner.BROKER)
    await journal.start("begun")
    journal = await journals.restart(journal)
    await journal.accept([task("begun", deliveries=3), task("new", deliveries=3)], owner=Owner.BROKER)
    assert [(await journal.start(each)).attempt for each in ("begun", "new")] == [4, 1]


async def test_an_unacked_task_is_given_back_without_a_message(journal: TaskJournal) -> None:
    await journal.accept([task()], owner=Owner.BROKER)
    assert await journal.republish() == 1
    assert await journal.outbox(10) == []
    assert await journal.accept([task()]) == [Verdict.REOPENED]


async def test_republishing_all_leaves_running_work_alone(journal: TaskJournal) -> None:
    await started(journal)
    await journal.accept([task(f"p{number}") for number in range(1200)])
    assert await journal.republish() == 1200
    assert await states(journal) == {"running": 1, "republished": 1200, "outbox_unsent": 1200}


# -- outbox ---------------------------------------------------------------------------------------------------------


async def test_a_sent_message_is_not_sent_again_and_an_unsent_one_keeps_its_id(
    journals: Journals, journal: Any
) -> None:
    await started(journal)
    await journal.complete("t1", b"{}", emits=[Emit("q.ai", b"1"), Emit("q.ai", b"2")])
    first, second = await journal.outbox(10)
    await journal.sent([first.row_id])
    again = await journals.restart(journal)
    assert await again.outbox(10) == [second]


async def test_a_message_that_cannot_be_routed_is_parked_and_never_dropped(journal: TaskJournal, clock: Clock) -> None:
    await started(journal)
    await journal.complete("t1", b"{}", emits=[Emit("q.nowhere", b"1")])
    for _ in range(Limits().outbox_attempts_max):
        [message] = await journal.outbox(10)
        await journal.park_outbox(message.row_id, "no queue is bound")
        assert await journal.outbox(10) == []
        clock.pass_(4000)
    assert (await journal.statistics()).counts.outbox_parked == 1
    assert await journal.prune(keep_s=0) == 0
    assert await journal.retry_parked() == 1
    assert [each.message_id for each in await journal.outbox(10)] == [message.message_id]


async def test_a_delivery_that_is_no_task_is_kept_once_however_often_it_comes(journal: TaskJournal) -> None:
    one = Rejected("m1", b"\xff\x00 no json", "q.ai", "body: not JSON \ud800", {"x": "\ud800"})
    await journal.reject([one])
    await journal.reject([one])
    await journal.reject([replace(one, body=b"another body under the same id")])
    messages = await journal.outbox(10)
    assert [message.body for message in messages] == [one.body, b"another body under the same id"]
    assert messages[0].routing_key == "q.dlq"
    assert messages[0].headers[headers.QUEUE] == "q.ai"
    assert "not JSON" in messages[0].headers[headers.REASON]


# -- sync -----------------------------------------------------------------------------------------------------------


async def test_reports_are_owed_from_the_first_target_on_older_rows_too(journals: Journals, journal: Any) -> None:
    await started(journal)
    await journal.complete("t1", b'{"ok":1}')
    assert await journal.unsynced(10) == []
    await journal.set_sync_target("ledger")
    again = await journals.restart(journal)
    assert (await again.statistics()).sync_target == "ledger"
    [report] = await again.unsynced(10)
    assert (report.task_id, report.state, report.result) == ("t1", State.COMPLETED, b'{"ok":1}')
    await again.synced({"t1": report.version})
    assert await again.unsynced(10) == []
    assert (await again.statistics()).counts.unsynced == 0


async def test_a_row_that_changed_since_its_report_stays_due(journal: TaskJournal) -> None:
    await journal.set_sync_target("ledger")
    await started(journal)
    await journal.fail("t1", "bad")
    [old] = await journal.unsynced(10)
    await journal.accept([task(generation=1)])
    await journal.claim(1, names=NAMES)
    await journal.complete("t1", b"{}")
    await journal.synced({"t1": old.version})
    [report] = await journal.unsynced(10)
    assert report.version > old.version


async def test_a_report_that_the_database_refuses_is_parked_and_kept(journal: TaskJournal) -> None:
    await journal.set_sync_target("ledger")
    await started(journal)
    await journal.complete("t1", b"{}")
    for _ in range(3):
        await journal.sync_failed("t1", "value too long", max_attempts=3)
    assert await journal.unsynced(10) == []
    counts = (await journal.statistics()).counts
    assert (counts.unsynced, counts.sync_parked) == (0, 1)
    assert await journal.prune(keep_s=0) == 0
    assert await journal.retry_parked() == 1
    assert len(await journal.unsynced(10)) == 1


async def test_republished_rows_owe_no_report(journal: TaskJournal) -> None:
    await journal.set_sync_target("ledger")
    await journal.accept([task()])
    await journal.republish()
    assert await journal.unsynced(10) == []
    assert (await journal.statistics()).counts.unsynced == 0


# -- prune ----------------------------------------------------------------------------------------------------------


async def test_a_clock_that_is_set_back_does_not_hold_a_message_up(journal: TaskJournal, clock: Clock) -> None:
    """It paused after an attempt until a time that lies far away now."""
    await started(journal)
    await journal.fail("t1", "broken")
    [message] = await journal.outbox(10)
    await journal.park_outbox(message.row_id, "no queue")
    assert await journal.outbox(10) == []
    clock.pass_(-86_400)
    assert [each.row_id for each in await journal.outbox(10)] == [message.row_id]


async def test_prune_deletes_only_what_owes_nothing(journal: TaskJournal, clock: Clock) -> None:
    await journal.set_sync_target("ledger")
    await started(journal, "owes-a-report")
    await journal.complete("owes-a-report", b"{}")
    await started(journal, "owes-a-message")
    await journal.complete("owes-a-message", b"{}", emits=[Emit("q.ai", b"{}")])
    await started(journal, "owes-nothing")
    await journal.complete("owes-nothing", b"{}")
    versions = {report.task_id: report.version for report in await journal.unsynced(10)}
    del versions["owes-a-report"]
    await journal.synced(versions)
    await journal.accept([task("pending")])
    clock.pass_(100)
    assert await journal.prune(keep_s=101) == 0
    assert await journal.prune(keep_s=100) == 1
    [message] = await journal.outbox(10)
    await journal.sent([message.row_id])
    assert await journal.prune(keep_s=100) == 1
    assert await states(journal) == {"due": 1, "completed": 1, "unsynced": 1}
    assert await journal.verify() == []


async def test_without_a_target_retention_alone_decides(journal: TaskJournal, clock: Clock) -> None:
    await started(journal)
    await journal.complete("t1", b"{}")
    clock.pass_(10)
    assert await journal.prune(keep_s=10) == 1
    assert await states(journal) == {}


# -- the journal itself ---------------------------------------------------------------------------------------------


async def test_draining_survives_a_restart(journals: Journals, journal: Any) -> None:
    await journal.set_draining(True)
    again = await journals.restart(journal)
    assert (await again.statistics()).draining
    await again.set_draining(False)
    assert not (await (await journals.restart(again)).statistics()).draining


async def test_ages_tell_since_when_work_waits(journal: TaskJournal, clock: Clock) -> None:
    await journal.set_sync_target("ledger")
    await started(journal)
    clock.pass_(5)
    await journal.accept([task("t2")])
    clock.pass_(7)
    ages = (await journal.statistics()).ages
    assert (ages.oldest_running_s, ages.oldest_due_s, ages.oldest_unsynced_s) == (12, 7, None)
    await journal.complete("t1", b"{}")
    clock.pass_(3)
    ages = (await journal.statistics()).ages
    assert (ages.oldest_running_s, ages.oldest_due_s, ages.oldest_unsynced_s) == (None, 10, 3)
    assert ages.last_progress_s == 3


async def test_idle_is_no_lack_of_progress(journal: TaskJournal, clock: Clock) -> None:
    clock.pass_(10_000)
    assert (await journal.statistics()).ages.last_progress_s is None
    await journal.accept([task()])
    clock.pass_(4)
    assert (await journal.statistics()).ages.last_progress_s == 4


async def test_waiting_for_work_ends_when_work_was_committed(journal: TaskJournal) -> None:
    await journal.claim(1, names=NAMES)
    await journal.wait_for_work(0)
    await journal.accept([task()])
    await journal.wait_for_work(60)
    await journal.claim(1, names=NAMES)
    await journal.outbox(1)
    await journal.complete("t1", b"{}", emits=[Emit("q.ai", b"{}")])
    await journal.wait_for_outbox(60)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"payload": b"{"}, "payload"),
        ({"payload": b'"\\ud800"'}, "payload"),
        ({"payload": b'{"a":"\\u0000"}'}, "payload"),
        ({"payload": b"NaN"}, "payload"),
        ({"payload": b"\xff"}, "payload"),
        ({"payload": b"[" * 100_000}, "payload"),
        ({"payload": b'"' + b"x" * 2_000_000 + b'"'}, "payload"),
        ({"payload": "text"}, "payload"),
        ({"task_id": ""}, "task_id"),
        ({"task_id": "x" * 256}, "task_id"),
        ({"task_id": "a b"}, "task_id"),
        ({"task_id": "a\n"}, "task_id"),
        ({"name": ""}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"queue": "\ud800"}, "queue"),
        ({"queue": "q" * 256}, "queue"),
        ({"generation": -1}, "generation"),
        ({"generation": 10**9}, "generation"),
        ({"generation": True}, "generation"),
        ({"attempts": -1}, "attempts"),
        ({"not_before": -1.0}, "not_before"),
        ({"not_before": float("nan")}, "not_before"),
        ({"expires_at": float("inf")}, "expires_at"),
        ({"expires_at": 1_800_000_000_000.0}, "expires_at"),
        ({"headers": {"a": "\0"}}, "headers"),
        ({"headers": {"a": "x" * 20_000}}, "headers"),
    ],
)
async def test_bad_input_is_refused_with_its_field_and_nothing_is_written(
    journal: TaskJournal, changes: dict[str, Any], field: str
) -> None:
    bad = task("bad")._replace(**changes)
    with pytest.raises(InvalidTaskError, match=field):
        await journal.accept([task("good"), bad])
    assert await states(journal) == {}


async def test_an_error_text_is_kept_however_odd_it_is(journal: TaskJournal) -> None:
    await journal.set_sync_target("ledger")
    await started(journal)
    await journal.fail("t1", "\ud800 \0 " + "x" * 10_000)
    [report] = await journal.unsynced(1)
    assert report.error is not None
    assert report.error.startswith("\\ud800 \\0 x")
    assert await journal.verify() == []
