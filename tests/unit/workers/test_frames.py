"""Deliveries come out of the stream whole and in order, however it is cut, and nothing else is touched."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp import frame as pamqp_frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from eco_workers.broker.frames import HEARTBEAT, Cutter, FilteredReader

OURS = 1
FRAME_BYTES = 7
BODY_BYTES_MAX = 1000


def delivery(
    tag: int, body: bytes, *, channel: int = OURS, frame_bytes: int = FRAME_BYTES, **values: Any
) -> list[bytes]:
    """The frames of a delivery, as a broker with a small frame size sends them."""
    method = spec.Basic.Deliver(consumer_tag="tag/q.batch", delivery_tag=tag, exchange="", routing_key="q.batch")
    header = ContentHeader(body_size=len(body), properties=spec.Basic.Properties(**values))
    parts = [body[start : start + frame_bytes] for start in range(0, len(body), frame_bytes)]
    bodies = [pamqp_frame.marshal(ContentBody(part), channel) for part in parts]
    return [pamqp_frame.marshal(method, channel), pamqp_frame.marshal(header, channel), *bodies]


def others() -> list[bytes]:
    """Frames that are none of ours, or no part of a delivery."""
    return [
        pamqp_frame.marshal(Heartbeat(), 0),
        pamqp_frame.marshal(spec.Basic.CancelOk(consumer_tag="tag/q.batch"), OURS),
        pamqp_frame.marshal(spec.Queue.DeclareOk(queue="q.batch", message_count=1, consumer_count=1), 2),
        *delivery(99, b"of another channel", channel=2),
    ]


def cut(chunks: list[bytes], *, channel: int = OURS) -> tuple[bytes, list[tuple[Any, ...]]]:
    """What passes and what is taken out."""
    taken: list[tuple[Any, ...]] = []
    cutter = Cutter(lambda *values: taken.append(values), BODY_BYTES_MAX)
    cutter.channel = channel
    return b"".join(cutter.feed(chunk) for chunk in chunks), taken


@given(st.data())
def test_deliveries_come_out_whole_however_the_stream_is_cut(data: st.DataObject) -> None:
    """Chunks end anywhere; frames of other channels stand between those of a delivery."""
    bodies = data.draw(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
    frames: list[bytes] = []
    passed: list[bytes] = []
    for number, body in enumerate(bodies, 1):
        for each in delivery(number, body, message_id=f"task-{number}", headers={"n": number}):
            frames.append(each)
            if data.draw(st.booleans()):
                between = data.draw(st.sampled_from([others()[0], others()[2]]))
                frames.append(between)
                passed.append(between)
    stream = b"".join(frames)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    found, taken = cut(chunks)
    assert found == b"".join(passed)
    assert [(each[0], each[4].message_id, each[4].headers, each[5], each[6]) for each in taken] == [
        (number, f"task-{number}", {"n": number}, body, len(body)) for number, body in enumerate(bodies, 1)
    ]
    assert all(each[1:4] == ("tag/q.batch", "q.batch", False) for each in taken)


def test_everything_else_reaches_the_client_byte_for_byte() -> None:
    """Answers, heartbeats and what belongs to other channels are not ours."""
    stream = b"".join(others())
    assert cut([stream]) == (stream, [])
    assert cut([stream[place : place + 1] for place in range(len(stream))]) == (stream, [])


def test_before_a_channel_is_named_nothing_is_taken_out() -> None:
    """The handshake and the first answers are the client's alone."""
    stream = b"".join(delivery(1, b"body"))
    assert cut([stream], channel=0) == (stream, [])


def test_a_broker_that_refuses_the_protocol_is_heard() -> None:
    """It answers with its own protocol header, which is no frame."""
    assert cut([b"AM", b"QP\x00\x00\x09", b"\x01"]) == (b"AMQP\x00\x00\x09\x01", [])


def test_a_broken_frame_is_left_to_the_client() -> None:
    """It fails on it and closes the connection; nothing behind it is trusted."""
    good, bad = delivery(1, b"body"), delivery(2, b"body")
    bad[0] = bad[0][:-1] + b"\x00"
    rest = b"".join(bad)
    found, taken = cut([b"".join(good) + rest, b"more"])
    assert (found, [each[0] for each in taken]) == (rest + b"more", [1])


def test_of_a_body_over_its_bound_only_the_beginning_is_kept() -> None:
    """The size that was sent is told all the same, so that it can be refused with a reason."""
    frames = delivery(1, b"x" * 5000, frame_bytes=400) + delivery(2, b"next")
    _, taken = cut([b"".join(frames)])
    assert [(each[0], len(each[5]), each[6]) for each in taken] == [(1, 1200, 5000), (2, 4, 4)]


async def test_the_client_reads_what_passed_and_a_sign_of_life_instead_of_deliveries() -> None:
    """A connection that only delivers is alive, though the client sees no frame of it."""
    source = asyncio.StreamReader()
    taken: list[int] = []
    cutter = Cutter(lambda *values: taken.append(values[0]), BODY_BYTES_MAX)
    cutter.channel = OURS
    reader = FilteredReader(source, cutter, _always)
    answer = others()[1]
    source.feed_data(answer)
    assert await reader.readexactly(7) + await reader.readexactly(len(answer) - 7) == answer
    reader._passed_at = -1000.0
    source.feed_data(b"".join(delivery(7, b"body")))
    assert await reader.readexactly(8) == HEARTBEAT
    assert taken == [7]
    source.feed_eof()
    assert not reader.at_eof() or await reader.read() == b""
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readexactly(1)


async def test_nothing_is_read_while_there_is_no_room() -> None:
    """TCP stops the broker when too much waits to be worked on."""
    source = asyncio.StreamReader()
    room = asyncio.Event()
    taken: list[int] = []
    cutter = Cutter(lambda *values: taken.append(values[0]), BODY_BYTES_MAX)
    cutter.channel = OURS
    reader = FilteredReader(source, cutter, room.wait)
    source.feed_data(b"".join(delivery(7, b"body")) + others()[0])
    reading = asyncio.create_task(reader.readexactly(8))
    for _ in range(5):
        await asyncio.sleep(0)
    assert taken == []
    room.set()
    assert await reading == others()[0]
    assert taken == [7]


async def _always() -> None:
    return None
