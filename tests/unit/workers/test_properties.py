"""What a content header says is read as the client reads it, whatever stands in it."""

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.header import ContentHeader

from eco_workers.broker import properties as module
from eco_workers.broker.properties import properties
from tests.support import producer

CONTENT = b"\x00\x3c\x00\x00" + b"\x00" * 8
SHORT = st.text(max_size=20).filter(lambda text: 0 < len(text.encode()) < 256)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**63 - 1)
    | st.text(max_size=30)
    | st.binary(max_size=30).map(bytearray)
    | st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.just(Decimal("1.25"))
    | st.just(datetime(2026, 11, 30, tzinfo=UTC)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SHORT, inner, max_size=4),
    max_leaves=12,
)
TEXTS = ("content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id", "message_type")


def as_the_client(header: bytes) -> spec.Basic.Properties:
    content = ContentHeader()
    try:
        content.unmarshal(header)
    except (ValueError, struct.error, OverflowError, TypeError, IndexError, KeyError, RecursionError):
        return spec.Basic.Properties()
    return content.properties


def same(one: spec.Basic.Properties, other: spec.Basic.Properties) -> bool:
    """Equal, and of equal types: True is 1 to Python."""
    return all(repr(getattr(one, name)) == repr(getattr(other, name)) for name in one.__slots__)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys((*TEXTS, "user_id", "app_id"), SHORT),
            "headers": st.dictionaries(SHORT, VALUES, max_size=6),
            "delivery_mode": st.sampled_from([1, 2]),
            "priority": st.integers(0, 9),
            "timestamp": st.just(datetime(2026, 11, 30, tzinfo=UTC)),
        },
    )
)
def test_every_property_is_read_as_the_client_reads_it(values: dict[str, Any]) -> None:
    header = ContentHeader(body_size=3, properties=spec.Basic.Properties(**values)).marshal()
    assert same(properties(header), as_the_client(header))


@given(st.data())
def test_a_header_with_other_bytes_in_it_is_read_as_the_client_reads_it(data: st.DataObject) -> None:
    """Flipped, cut short or prolonged: nothing is raised, and nothing is read that the client would not read."""
    values = data.draw(st.dictionaries(SHORT, VALUES, max_size=4))
    texts = {name: name for name in data.draw(st.sets(st.sampled_from(TEXTS)))}
    made = bytearray(ContentHeader(properties=spec.Basic.Properties(headers=values, **texts)).marshal())
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(12, len(made) - 1))] = data.draw(st.integers(0, 255))
    header = bytes(made[: data.draw(st.integers(12, len(made)))]) + data.draw(st.binary(max_size=4))
    assert same(properties(header), as_the_client(header))


@pytest.mark.parametrize("form", ["plain", "celery"])
def test_both_forms_of_a_task_are_common(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not take the way that is slow."""
    message = getattr(producer, form)("a.task", {"n": 1})
    header = ContentHeader(body_size=len(message.body), properties=message.properties).marshal()
    wanted = as_the_client(header)
    monkeypatch.setattr(module, "_uncommon", lambda _: pytest.fail("the client's decoder was asked"))
    assert same(properties(header), wanted)


@pytest.mark.parametrize("size", range(10))
def test_a_table_or_array_of_any_size_is_read_as_the_client_reads_it(size: int) -> None:
    """It may end in the middle of a value, or of what follows it."""
    table = b"\x01a\x53\x00\x00\x00\x02xy"
    array = b"\x53\x00\x00\x00\x02xy"
    nested = b"\x01l\x41" + struct.pack(">I", size) + array
    for headers in (struct.pack(">I", size) + table, struct.pack(">I", len(nested)) + nested):
        header = CONTENT + b"\x20\x80" + headers + b"\x02id"
        assert same(properties(header), as_the_client(header))


def test_tables_in_tables_without_an_end_are_no_properties() -> None:
    depth = 20_000
    inner = b""
    for _ in range(depth):
        inner = b"\x01a\x46" + struct.pack(">I", len(inner)) + inner
    header = CONTENT + b"\x20\x00" + struct.pack(">I", len(inner)) + inner
    assert properties(header) == spec.Basic.Properties()


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(CONTENT + b"\x80\x00\x05\xff\xfe\xff\xff\xff", id="text-that-is-no-utf8"),
        pytest.param(CONTENT + b"\x20\x00\x00\x00\xff\xff", id="table-that-ends-too-early"),
        pytest.param(CONTENT, id="no-flags"),
    ],
)
def test_properties_that_cannot_be_read_are_none(broken: bytes) -> None:
    """One producer's nonsense must not cost the connection of all."""
    assert properties(broken) == spec.Basic.Properties()
