"""Reading a dead letter, whoever wrote it and whatever stands in its headers."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec

from eco_workers.broker.channel import Delivery
from eco_workers.broker.dead_letters import Letter
from eco_workers.cli_dlq import seconds
from eco_workers.errors import EcoWorkerError
from eco_workers.journal.messages import rejected
from eco_workers.runtime.dlq import Entry, Filter, described, read, replay_headers, replay_id
from eco_workers.runtime.messages import Parser

NOW = 1_800_000_000.0


def letter(headers: dict[str, Any], body: bytes = b"{}", **properties: Any) -> Letter:
    return Letter(1, body, spec.Basic.Properties(headers=headers, **properties))


def entry(**changes: Any) -> Entry:
    values = {
        "task_id": "t", "message_id": "m", "name": "image.store", "queue": "q.api", "reason": "failed: No route",
        "failed_at": NOW - 100, "generation": 0, "attempts": 1, "size_bytes": 2,
    } | changes  # fmt: skip
    return Entry(**values)


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Filter(), True),
        (Filter(ids=frozenset({"t"})), True),
        (Filter(ids=frozenset({"m", "x"})), True),
        (Filter(ids=frozenset({"x"})), False),
        (Filter(name="image.*"), True),
        (Filter(name="image"), False),
        (Filter(reason="no ROUTE"), True),
        (Filter(reason="timeout"), False),
        (Filter(queue="q.api"), True),
        (Filter(queue="q.ap"), False),
        (Filter(older_than_s=99), True),
        (Filter(older_than_s=101), False),
        (Filter(younger_than_s=101), True),
        (Filter(younger_than_s=99), False),
        (Filter(name="image.*", queue="q.ai"), False),
    ],
)
def test_every_condition_that_is_set_must_hold(wanted: Filter, matches: bool) -> None:
    assert wanted.matches(entry(), NOW) is matches
    assert wanted.is_empty == (wanted == Filter())


def test_a_letter_without_a_time_is_neither_older_nor_younger() -> None:
    timeless = entry(failed_at=None)
    assert not Filter(older_than_s=0).matches(timeless, NOW)
    assert not Filter(younger_than_s=1e9).matches(timeless, NOW)


def test_the_id_of_a_replay_is_the_same_however_often_it_is_sent() -> None:
    assert replay_id(entry()) == replay_id(entry(reason="another"))
    assert replay_id(entry()) != replay_id(entry(generation=1))
    assert replay_id(entry()) != replay_id(entry(task_id="u"))


def test_the_brokers_own_history_is_read_and_not_sent_again() -> None:
    death = {"queue": "q.ai", "reason": "delivery_limit", "time": datetime.fromtimestamp(NOW, UTC), "count": 1}
    found = letter(
        {"x-death": [death], "x-first-death-queue": "q.ai", "x-delivery-count": 3, "traceparent": "00-a"},
        message_id="t", message_type="image.store",
    )  # fmt: skip
    read_ = read(found)
    assert (read_.task_id, read_.name, read_.queue, read_.failed_at) == ("t", "image.store", "q.ai", NOW)
    assert (read_.reason, read_.problem, found.returns) == ("delivery_limit by the broker", "", 3)
    assert replay_headers(found, read_) == {
        "x-eco-task-id": "t", "x-eco-task-name": "image.store", "x-eco-generation": "1", "traceparent": "00-a",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "properties", "headers"),
    [
        (b"{}", {"message_id": "t", "message_type": "late"}, {"x-eco-generation": "7", "traceparent": "00-a"}),
        (b'[[],{"n":1},{}]', {}, {"task": "late", "id": "t", "lang": "py", "x-eco-generation": 7}),
        (b"{}", {}, {"task": "late", "task_id": "t", "x-eco-generation": "7"}),
    ],
)
def test_a_refused_delivery_becomes_the_same_task_when_its_name_is_known(
    body: bytes, properties: dict[str, Any], headers: dict[str, Any]
) -> None:
    """There and back: refused by one image, kept as a letter, sent again, read by the next image."""
    given_ = Delivery(1, "q.api", body, spec.Basic.Properties(headers=headers, **properties), redelivered=False)
    refused = Parser(frozenset(), 1000).parse(given_)
    kept = rejected(refused, NOW)  # type: ignore[arg-type]  # a refusal, since no name is known
    found = letter(json.loads(kept.headers), kept.body, message_id=kept.message_id)
    entry_ = read(found)
    assert (entry_.problem, entry_.queue, entry_.generation) == ("", "q.api", 7)
    again = spec.Basic.Properties(headers=replay_headers(found, entry_), message_id=replay_id(entry_))
    task = Parser(frozenset({"late"}), 1000).parse(Delivery(2, "q.api", kept.body, again, redelivered=False))
    expected = Parser(frozenset({"late"}), 1000).parse(given_)
    assert (task.task_id, task.name, task.payload) == (expected.task_id, "late", expected.payload)  # type: ignore[union-attr]  # tasks both
    assert task.generation == 8  # type: ignore[union-attr]  # see above


def test_a_body_that_was_cut_is_never_sent_again() -> None:
    given_ = Delivery(1, "q.api", b"{" * 10, spec.Basic.Properties(message_id="t"), redelivered=False, size_bytes=99)
    kept = rejected(Parser(frozenset(), 10).parse(given_), NOW)  # type: ignore[arg-type]  # a refusal
    assert "99 bytes" in read(letter(json.loads(kept.headers), kept.body)).problem


@pytest.mark.parametrize(("text", "found"), [("", None), ("90s", 90), ("1.5h", 5400), ("7d", 604_800), ("2m", 120)])
def test_durations_are_read_as_a_person_writes_them(text: str, found: float | None) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["soon", "5", "-1h", "1w", "1 h"])
def test_what_is_no_duration_is_said(text: str) -> None:
    with pytest.raises(EcoWorkerError, match="no duration"):
        seconds(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    ["x-eco-generation", "x-eco-attempts", "x-eco-queue", "x-eco-task-id", "x-eco-failed-at", "x-death", "task", "id"]
)


@given(st.dictionaries(keys | st.text(max_size=10), values, max_size=8), st.binary(max_size=50))
def test_headers_with_nonsense_are_read_and_shown_all_the_same(headers: dict[str, Any], body: bytes) -> None:
    found = letter(headers, body)
    entry_ = read(found)
    json.dumps(described(entry_))
    replay_headers(found, entry_)
    Filter(older_than_s=1, name="*", reason="a").matches(entry_, NOW)
