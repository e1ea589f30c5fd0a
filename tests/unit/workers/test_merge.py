from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from eco_workers.sync.merge import Standing, beats

reports = st.builds(
    Standing,
    origin=st.tuples(st.just("ns"), st.just("w"), st.sampled_from(["a", "b", "c"])),
    state=st.sampled_from(["completed", "failed", "timeout"]),
    generation=st.integers(0, 2),
    version=st.integers(1, 3),
    ended_at=st.sampled_from([1.0, 2.0, 3.0]),
)


def fold(rows: tuple[Standing, ...]) -> Standing:
    held = rows[0]
    for row in rows[1:]:
        if beats(row, held):
            held = row
    return held


def final_of_each_shard(rows: list[Standing]) -> list[Standing]:
    """A shard's reports of one task follow one another: only its last one meets those of other shards."""
    last: dict[tuple[str, str, str], Standing] = {}
    for row in rows:
        held = last.get(row.origin)
        if held is None or beats(row, held):
            last[row.origin] = row
    return list(last.values())


@given(st.lists(reports, min_size=1, max_size=5))
def test_the_winner_does_not_depend_on_who_came_first(rows: list[Standing]) -> None:
    finals = final_of_each_shard(rows)
    assert len({fold(order) for order in permutations(finals)}) == 1


@given(reports)
def test_the_same_report_twice_changes_nothing(row: Standing) -> None:
    assert not beats(row, row)


def test_a_completed_report_of_another_shard_beats_a_later_failure() -> None:
    done = Standing(("n", "w", "a"), "completed", 0, 3, ended_at=5)
    failed = Standing(("n", "w", "b"), "failed", 7, 9, ended_at=1)
    assert beats(done, failed)
    assert not beats(failed, done)


def test_of_two_completed_reports_the_earlier_stays() -> None:
    first = Standing(("n", "w", "b"), "completed", 0, 1, ended_at=1)
    second = Standing(("n", "w", "a"), "completed", 5, 9, ended_at=2)
    assert beats(first, second)
    assert not beats(second, first)


def test_on_one_shard_the_newer_version_wins_whatever_it_says() -> None:
    old = Standing(("n", "w", "a"), "failed", 0, 4, ended_at=9)
    new = Standing(("n", "w", "a"), "timeout", 1, 2, ended_at=1)
    assert beats(new, old)
    assert not beats(old, new)
