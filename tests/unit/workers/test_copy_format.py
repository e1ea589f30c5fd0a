"""What goes to PostgreSQL as bytes of our own making; tests/integration/test_sync.py reads every column back."""

import struct
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from eco_workers.journal.model import Report, State
from eco_workers.sync.copy_format import encode
from eco_workers.sync.rows import Origin

ORIGIN = Origin("eco", "w", "w-0")
CREATED_AT = 19 + 2 + 3 * 4 + 8 + 8 + 4 + 4
"""Where the first row's `created_at` stands: behind the header, a count, three numbers, and lengths."""


def report(task_id: str = "t", created_at: float = 1.0) -> Report:
    return Report(task_id, "n", "q", State.COMPLETED, 0, 3, 1, b"{}", b"{}", None, created_at, 1.0, 1.0)


@given(st.floats(-1e9, 1e10))
def test_a_time_is_rounded_as_datetime_rounds_it(seconds: float) -> None:
    (found,) = struct.unpack_from(">q", encode([report(created_at=seconds)], ORIGIN), CREATED_AT)
    expected = datetime.fromtimestamp(seconds, UTC) - datetime(2000, 1, 1, tzinfo=UTC)
    assert found == expected / timedelta(microseconds=1)


@given(st.permutations(["", "a", "B", "b", "ä", "z", "😀", "\uffff"]))
def test_every_batch_has_the_order_of_its_ids(task_ids: list[str]) -> None:
    data = bytes(encode([report(f"task-{each}.") for each in task_ids], ORIGIN))
    places = [data.index(f"task-{each}.".encode()) for each in sorted(task_ids, key=lambda text: text.encode())]
    assert places == sorted(places)
