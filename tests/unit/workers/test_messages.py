import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pamqp import commands as spec

from eco_workers.broker.channel import Delivery
from eco_workers.journal.model import NewTask, Rejected
from eco_workers.runtime.messages import Parser

PARSER = Parser(frozenset({"image.store"}), body_bytes_max=1000)


def delivery(
    body: bytes = b"{}", *, headers: dict[str, Any] | None = None, message_id: str = "id-1", **properties: Any
) -> Delivery:
    properties.setdefault("message_type", "image.store")
    return Delivery(
        tag=1,
        queue="q.batch",
        body=body,
        properties=spec.Basic.Properties(message_id=message_id or None, headers=headers or {}, **properties),
        redelivered=False,
    )


def parsed(*args: Any, **kwargs: Any) -> NewTask:
    found = PARSER.parse(delivery(*args, **kwargs))
    assert isinstance(found, NewTask), found
    return found


def refused(*args: Any, **kwargs: Any) -> Rejected:
    found = PARSER.parse(delivery(*args, **kwargs))
    assert isinstance(found, Rejected), found
    return found


def test_a_plain_message_needs_an_id_a_name_and_a_json_object() -> None:
    task = parsed(b'{"key": "a.jpg"}')
    assert (task.task_id, task.name, task.payload, task.queue) == (
        "id-1",
        "image.store",
        b'{"key": "a.jpg"}',
        "q.batch",
    )
    assert (task.generation, task.attempts, task.not_before, task.expires_at) == (0, 0, None, None)


def test_headers_win_over_properties() -> None:
    task = parsed(headers={"task_id": "from-header", "task": "image.store"}, message_type="other")
    assert (task.task_id, task.name) == ("from-header", "image.store")


def test_our_own_headers_win_over_all_since_a_republished_message_has_another_message_id() -> None:
    task = parsed(headers={"x-eco-task-id": "the-task", "task_id": "x", "x-eco-task-name": "image.store"})
    assert task.task_id == "the-task"


def test_what_a_republished_message_carries_is_kept() -> None:
    task = parsed(
        headers={
            "x-eco-generation": "3",
            "x-eco-attempts": "2",
            "x-eco-not-before": "1700000000.5",
            "x-eco-expires-at": "1800000000",
            "traceparent": "00-abc",
            "authorization": "not carried",
        },
    )
    assert (task.generation, task.attempts, task.not_before, task.expires_at) == (3, 2, 1700000000.5, 1800000000.0)
    assert task.headers == {"traceparent": "00-abc"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body": b"x" * 1001}, "body: 1001 bytes, want at most 1000"),
        ({"body": b"hello"}, "body: not JSON"),
        ({"body": b""}, "body: not JSON"),
        ({"body": b"[1, 2]"}, "body: a JSON list, want an object"),
        ({"body": b"\xff\xfe"}, "body: not JSON"),
        ({"message_id": ""}, "task id: missing"),
        ({"message_id": "has space"}, "task id: 'has space'"),
        ({"message_id": "x" * 256}, "task id: "),
        ({"message_type": ""}, "task name: missing"),
        ({"message_type": "unknown.task"}, "task name: 'unknown.task' is not known to this image"),
        ({"headers": {"task_id": 7}}, "task id: '7'"),
        ({"headers": {"task": ["a"]}}, "task name: \"['a']\""),
        ({"headers": {"x-eco-generation": "many"}}, "header x-eco-generation: 'many', want a number"),
        ({"headers": {"x-eco-generation": -1}}, "header x-eco-generation: -1.0, want 0 to"),
        ({"headers": {"x-eco-not-before": "nan"}}, "header x-eco-not-before: nan"),
        ({"headers": {"x-eco-expires-at": {"a": 1}}}, "header x-eco-expires-at: "),
        ({"content_encoding": "gzip"}, "content encoding: 'gzip', want utf-8"),
    ],
)
def test_what_is_no_task_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    message = refused(**change)
    assert message.reason.startswith(reason)
    assert len(message.body) <= 1000
    assert message.queue == "q.batch"


def test_a_refused_message_keeps_its_headers_as_bounded_text_but_none_of_a_letters_own() -> None:
    message = refused(
        b"x", headers={"a": "1", "b": 2, "big": "x" * 5000, "x-eco-generation": "9", "x-eco-reason": "m", "t": {"c": 1}}
    )
    assert message.headers["a"] == "1"
    assert message.headers["b"] == "2"
    assert len(message.headers["big"]) == 1024
    assert "t" not in message.headers
    # A replay raises the generation it came with.
    assert [name for name in message.headers if name.startswith("x-eco-")] == ["x-eco-generation"]


def test_a_refused_message_without_an_id_gets_one_of_its_content() -> None:
    assert refused(b"x", message_id="").message_id == refused(b"x", message_id="").message_id
    assert refused(b"x", message_id="").message_id != refused(b"y", message_id="").message_id
    assert refused(b"x", message_id="", headers={"a": "1"}).message_id != refused(b"x", message_id="").message_id


@pytest.mark.parametrize("name", ["x-eco-task-id", "task_id", "id"])
def test_a_refused_message_keeps_the_id_that_its_producer_knows(name: str) -> None:
    """Two equal bodies of two tasks are two letters."""
    assert refused(b"x", message_id="", headers={name: "mine"}).message_id == "mine"


def celery(args: Any = (), kwargs: Any = None, embed: Any = None, **headers: Any) -> dict[str, Any]:
    body = json.dumps([list(args), kwargs or {}, embed if embed is not None else {}]).encode()
    return {"body": body, "headers": {"task": "image.store", "id": "celery-1", "lang": "py", **headers}}


def test_a_celery_message_gives_its_keyword_arguments_as_payload() -> None:
    task = parsed(**celery(kwargs={"key": "a.jpg"}, embed={"callbacks": None, "chord": None}))
    assert (task.task_id, json.loads(task.payload)) == ("celery-1", {"key": "a.jpg"})


def test_a_celery_eta_and_expires_are_honoured() -> None:
    task = parsed(**celery(eta="2030-01-02T03:04:05+00:00", expires="2030-01-02T03:04:06"))
    assert task.not_before == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert task.expires_at == task.not_before + 1


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (celery(embed={"chord": {"task": "x"}}), "celery body: 'chord' is not supported"),
        (celery(embed={"chain": [{}]}), "celery body: 'chain' is not supported"),
        (celery(embed={"callbacks": [{}]}), "celery body: 'callbacks' is not supported"),
        (celery(args=[1, 2]), "celery body: positional arguments are not supported"),
        (celery(eta="tomorrow"), "header eta: 'tomorrow', want an ISO 8601 time"),
        ({"body": b"[1]", "headers": {"task": "image.store", "id": "c"}}, "celery body: 1 parts"),
        (
            {"body": b"[1,2,3]", "headers": {"task": "image.store", "id": "c"}},
            "celery body: want [list, object, object]",
        ),
    ],
)
def test_what_celery_can_say_and_we_cannot_do_is_refused(message: dict[str, Any], reason: str) -> None:
    assert refused(**message).reason.startswith(reason)


def test_a_body_nested_to_exhaustion_is_refused() -> None:
    """A list of lists of lists: the parser answers, and does not fall over."""
    parser = Parser(frozenset({"image.store"}), body_bytes_max=1_000_000)
    found = parser.parse(delivery(b"[" * 400_000))
    assert isinstance(found, Rejected)
    assert found.reason.startswith("body: not JSON")
