"""The rules of the hand-over, each alone. That they lose nothing together is searched for elsewhere."""

import itertools

import apsw
import pytest

from eco_workers.errors import IllegalStateError
from eco_workers.journal import Owner, State, Verdict, rules
from eco_workers.journal.queries import QUERIES, SCHEMA, load
from eco_workers.journal.records import TaskRow
from eco_workers.journal.rules import LEGAL_CHANGES, Standing

JOURNAL, BROKER = Owner.JOURNAL, Owner.BROKER


def standing(state: State, owner: Owner = JOURNAL, generation: int = 1, **facts: bool) -> Standing:
    return Standing(state, owner, generation, **facts)


@pytest.mark.parametrize(
    ("row", "generation", "verdict"),
    [
        (None, 0, Verdict.STORED),
        (standing(State.PENDING), 0, Verdict.DUPLICATE),
        (standing(State.PENDING), 1, Verdict.DUPLICATE),
        (standing(State.PENDING), 2, Verdict.RAISED),
        (standing(State.RUNNING), 1, Verdict.DUPLICATE),
        (standing(State.RUNNING), 2, Verdict.RAISED),
        (standing(State.COMPLETED), 1, Verdict.DUPLICATE),
        (standing(State.COMPLETED), 9, Verdict.DUPLICATE),
        (standing(State.FAILED), 1, Verdict.DUPLICATE),
        (standing(State.FAILED), 2, Verdict.REOPENED),
        (standing(State.TIMEOUT), 1, Verdict.DUPLICATE),
        (standing(State.TIMEOUT), 2, Verdict.REOPENED),
        (standing(State.REPUBLISHED, messaged=True), 1, Verdict.DUPLICATE),
        (standing(State.REPUBLISHED, messaged=True), 2, Verdict.REOPENED),
        (standing(State.REPUBLISHED, messaged=False), 0, Verdict.REOPENED),
        (standing(State.REPUBLISHED, messaged=False), 1, Verdict.REOPENED),
        (standing(State.PENDING, BROKER, awaiting=True), 0, Verdict.REDELIVERED),
        (standing(State.PENDING, BROKER, awaiting=True), 1, Verdict.REDELIVERED),
        (standing(State.RUNNING, BROKER, awaiting=True), 2, Verdict.REDELIVERED),
    ],
)
def test_a_delivery_is_judged_by_state_and_generation(row: Standing | None, generation: int, verdict: Verdict) -> None:
    for owner in Owner:
        accepted = rules.accept(row, generation, owner)
        assert accepted.verdict == verdict
        assert accepted.standing.generation == max(generation, 0 if row is None else row.generation) or (
            row is not None and row.state == State.COMPLETED
        )


def test_a_redelivery_of_any_generation_becomes_the_new_holder() -> None:
    awaiting = standing(State.PENDING, BROKER, 3, awaiting=True)
    assert rules.accept(awaiting, 1, BROKER).standing == standing(State.PENDING, BROKER, 3)
    assert rules.accept(awaiting, 1, JOURNAL).standing == standing(State.PENDING, JOURNAL, 3)


def test_a_delivery_that_will_be_acked_takes_an_unacked_row_along() -> None:
    held = standing(State.PENDING, BROKER, 1)
    assert rules.accept(held, 1, JOURNAL).standing.owner == JOURNAL
    assert rules.accept(held, 2, JOURNAL).standing.owner == JOURNAL
    assert rules.accept(held, 2, BROKER).standing.owner == BROKER


def test_the_outgoing_message_is_one_generation_ahead_of_the_row() -> None:
    standing_after, generation = rules.republish(standing(State.PENDING, JOURNAL, 4))
    assert (standing_after.generation, generation) == (4, 5)
    assert rules.accept(standing_after, 4, JOURNAL).verdict == Verdict.DUPLICATE
    assert rules.accept(standing_after, 5, JOURNAL).verdict == Verdict.REOPENED


def test_what_never_left_the_broker_is_given_back_without_a_message() -> None:
    standing_after, generation = rules.republish(standing(State.RUNNING, BROKER, 4))
    assert generation is None
    assert rules.accept(standing_after, 4, JOURNAL).verdict == Verdict.REOPENED


def test_what_awaits_its_redelivery_is_not_run_unasked() -> None:
    awaiting = rules.restart(standing(State.RUNNING, BROKER))
    assert awaiting == standing(State.PENDING, BROKER, awaiting=True)
    assert not rules.may_start(awaiting)
    with pytest.raises(IllegalStateError, match="redelivery"):
        rules.start(awaiting)


@pytest.mark.parametrize("change", [rules.retry, lambda row: rules.end(row, State.FAILED), rules.take_over])
def test_the_journal_owns_what_it_scheduled_ended_or_is_about_to_ack(change: object) -> None:
    after = change(standing(State.RUNNING, BROKER, awaiting=True))  # type: ignore[operator]  # one of three rules
    assert (after.owner, after.awaiting) == (JOURNAL, False)


def test_only_a_row_that_awaits_its_redelivery_is_closed_without_a_message() -> None:
    closed = rules.close_unacked(standing(State.PENDING, BROKER, awaiting=True))
    assert (closed.state, closed.messaged) == (State.REPUBLISHED, False)
    for row in (
        standing(State.PENDING, BROKER),
        standing(State.PENDING),
        standing(State.RUNNING, BROKER, awaiting=True),
    ):
        with pytest.raises(IllegalStateError):
            rules.close_unacked(row)


def test_an_illegal_change_names_both_states() -> None:
    with pytest.raises(IllegalStateError, match="from completed to failed"):
        rules.end(standing(State.COMPLETED), State.FAILED)


def table_with(state: State) -> apsw.Connection:
    """A journal's tables in memory with one row, number 1, in a state."""
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    columns = ", ".join(TaskRow._fields)
    marks = ", ".join("?" * len(TaskRow._fields))
    ended = 1.0 if state not in rules.UNFINISHED else None
    row = TaskRow(
        1, 0, b"{}", None, "t", "n", "q", "{}", state.value, "journal", 0, 0, 1, 0,
        None, None, 1.0, None, 0, "", 1, 1.0, None, ended, 1.0, None, "pending", 0, None, None,
    )  # fmt: skip
    connection.execute(f"INSERT INTO task_wal ({columns}) VALUES ({marks})", row)  # noqa: S608  # our own names
    return connection


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)))
def test_the_database_itself_allows_exactly_the_legal_changes(old: State, new: State) -> None:
    connection = table_with(old)

    def change() -> None:
        connection.execute("UPDATE task_wal SET state = ? WHERE id = 1", (new.value,))

    if old == new or (old, new) in LEGAL_CHANGES:
        change()
    else:
        with pytest.raises(apsw.ConstraintError, match="illegal state"):
            change()
        assert connection.in_transaction is False


@pytest.mark.parametrize("column", ["task_id", "payload", "result", "generation", "attempts", "ended_at"])
def test_the_database_itself_keeps_a_completed_task_as_it_is(column: str) -> None:
    connection = table_with(State.COMPLETED)
    (kind,) = connection.execute(f"SELECT typeof({column}) FROM task_wal").fetchone() or ("",)  # noqa: S608  # our own names
    value = {"text": "other", "integer": 7, "real": 7.0}.get(kind, b"other")
    with pytest.raises(apsw.ConstraintError, match="never changes again"):
        connection.execute(f"UPDATE task_wal SET {column} = ? WHERE id = 1", (value,))  # noqa: S608  # our own names
    connection.execute(f"UPDATE task_wal SET {column} = {column}, sync_status = 'synced' WHERE id = 1")  # noqa: S608  # our own names


def test_marking_reports_asks_no_trigger() -> None:
    """Each row would be read a second time for it, which is a fifth of what marking costs."""
    statement = QUERIES["task_mark_synced"]
    program = [step[1] for step in table_with(State.COMPLETED).execute(f"EXPLAIN {statement}", (1,) * 5)]
    assert "MakeRecord" in program
    assert "Program" not in program


def test_a_task_is_born_pending() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    with pytest.raises(apsw.ConstraintError, match="accepted as pending"):
        connection.execute(
            "INSERT INTO task_wal (task_id, task_name, payload, queue, headers, state, owner, generation, attempts,"
            " version, created_at, last_activity, checksum)"
            " VALUES ('t', 'n', x'', 'q', '{}', 'completed', 'journal', 0, 0, 1, 1, 1, 0)"
        )


AS_CHAIN = "(state = 'completed' OR state = 'failed' OR state = 'timeout')"
AS_LIST = "state IN ('completed', 'failed', 'timeout')"


@pytest.mark.parametrize("schema", [SCHEMA, SCHEMA.replace(AS_CHAIN, AS_LIST)], ids=["made now", "made earlier"])
def test_no_query_scans_the_table_of_tasks(schema: str) -> None:
    """Nor one in a file whose indexes still name the reported states as a list."""
    assert AS_CHAIN in SCHEMA
    connection = apsw.Connection(":memory:")
    connection.execute(schema)
    allowed = {"all_tasks", "all_outbox", "count_ended", "count_outbox"}
    for name, text in QUERIES.items():
        statement = text.replace("{names}", "?")
        if name in allowed or not statement.startswith(("SELECT", "UPDATE", "DELETE")):
            continue
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", (1,) * statement.count("?"))]
        assert not [step for step in plan if step in {"SCAN task_wal", "SCAN outbox"}], (name, plan)


@pytest.mark.parametrize(("name", "columns"), [("task_start_wide", 7), ("task_complete_wide", 7)])
def test_wide_statements_look_each_row_up_by_its_id(name: str, columns: int) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    marks = f"({', '.join('?' * columns)})"
    statement = QUERIES[name].replace("{rows}", f"{marks}, {marks}")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", (1,) * 2 * columns)]
    assert "SEARCH task_wal USING INTEGER PRIMARY KEY (rowid=?)" in plan
    assert "SCAN task_wal" not in plan


@pytest.mark.parametrize("name", ["task_insert", "task_start", "task_complete", "task_store", "task_replace"])
def test_writing_a_task_makes_no_temporary_tables(name: str) -> None:
    """SQLite makes one for each IN over three constants or more, in a condition, a check or a trigger, each time."""
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    statement = QUERIES[name]
    program = [step[1] for step in connection.execute(f"EXPLAIN {statement}", (1,) * statement.count("?"))]
    assert "MakeRecord" in program
    assert not {"OpenEphemeral", "OpenAutoindex"} & set(program)


@pytest.mark.parametrize("name", ["task_insert", "task_start", "task_complete", "task_store", "task_replace"])
def test_writing_one_row_copies_no_pages_for_the_case_that_it_fails(name: str) -> None:
    """What writes one row and may abort makes SQLite copy each page first, unless all that refuses it says FAIL."""
    assert QUERIES[name].startswith(("INSERT OR FAIL INTO task_wal", "UPDATE OR FAIL task_wal"))
    assert SCHEMA.count("RAISE(FAIL,") == SCHEMA.count("RAISE(") == SCHEMA.count("CREATE TRIGGER")


def test_queries_are_read_by_name_without_their_comments() -> None:
    found = load("-- a file\n\n-- name: one\n-- why\nSELECT {task}\nFROM x;\n\n-- name: two\nCOMMIT;\n")
    assert found["one"].startswith("SELECT id, checksum, payload")
    assert found["one"].endswith("FROM x;")
    assert found["two"] == "COMMIT;"
