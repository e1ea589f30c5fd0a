"""The checksum of a row is a promise to files written years ago: its form must never drift."""

from marshal import dumps
from pathlib import Path
from sys import intern

import apsw
import pytest

from eco_workers.errors import JournalCorruptError
from eco_workers.journal import Identity, NewTask, SqliteJournal, opening
from eco_workers.journal.checks import check_everything
from eco_workers.journal.records import _VALUES, TaskRow, checked_task, task_checksum

ROW = TaskRow(
    id=7, checksum=0, payload=b'{"n":1}', result=b"null", task_id="task-1", task_name="image.store", queue="q.batch",
    headers="{}", state="completed", owner="journal", generation=0, attempts=1, version=3, messaged=0,
    awaiting_since=None, not_before=None, due_at=None, expires_at=None, emits=0, incarnation="boot:3", salvaged=0,
    created_at=1.25, started_at=2.5, ended_at=3.75, last_activity=3.75, error=None, sync_status="pending",
    sync_retry_count=0, last_sync_attempt=None, sync_error="größer",
)  # fmt: skip
GOLDEN = 7_205_877_833_935_298_202
ODD_GOLDEN = 7_205_877_834_036_052_245


def test_a_rows_checksum_is_what_it_was_when_the_first_file_was_written() -> None:
    """Whatever Python runs it: a file outlives interpreters."""
    assert task_checksum(ROW) == GOLDEN


def test_every_value_but_the_id_is_covered() -> None:
    """A bit that flips anywhere is found; salvage may give a row another id."""
    sealed = ROW.sealed()
    assert task_checksum(sealed._replace(id=8)) == sealed.checksum
    for name in TaskRow._fields[2:]:
        value = getattr(sealed, name)
        other = b"other" if isinstance(value, bytes) else "other" if isinstance(value, str) else (value or 0) + 1
        with pytest.raises(JournalCorruptError):
            checked_task(sealed._replace(**{name: other}))


def test_equal_text_gives_an_equal_checksum_however_it_came_to_be() -> None:
    """Interned or built, ASCII or not: what is read from the file must give what was written."""
    built = "-".join(ROW.task_id.split("-"))
    assert task_checksum(ROW._replace(task_id=built)) == GOLDEN


def test_each_kind_of_value_goes_in_as_it_is_written_down() -> None:
    """The form that `records` describes, byte for byte: another program can check a journal by it."""
    known = {
        None: "4e",
        -5: "69fbffffff",
        1 << 40: "6c03000000000000000004",
        -(1 << 40): "6cfdffffff000000000004",
        1.5: "67000000000000f83f",
        "ab": "75020000006162",
        "ö": "7502000000c3b6",
    }
    for value, encoded in known.items():
        assert dumps(value, _VALUES).hex() == encoded
    assert dumps(("ab", None), _VALUES).hex() == "2802000000" + known["ab"] + known[None]


def test_rows_with_numbers_of_every_size_have_known_checksums() -> None:
    """Negative, beyond 32 and 64 bits, repeated and interned values."""
    odd = ROW._replace(generation=1 << 40, attempts=-7, version=1 << 70, created_at=-2.25, queue=intern("image.store"))
    assert task_checksum(odd) == ODD_GOLDEN


async def test_marking_a_batch_of_reports_keeps_every_checksum_true(tmp_path: Path) -> None:
    """The one statement that marks them writes the upper bits without reading a row; a parked one is marked as well."""
    identity = Identity("test", "unit", "unit-0")
    async with await SqliteJournal.open(tmp_path / "journal.db", identity=identity) as journal:
        await journal.set_sync_target("main")
        await journal.accept([NewTask(f"task-{n}", "unit.task", b"{}", "q.batch") for n in range(4)])
        for running in await journal.claim(4, names=frozenset({"unit.task"})):
            await journal.complete(running.task_id, b"null")
        await journal.sync_failed("task-0", "refused", max_attempts=5)
        await journal.sync_failed("task-1", "refused", max_attempts=1)
        version = 3
        await journal.synced(
            {"task-0": version, "task-1": version, "task-2": version, "task-3": version + 1, "gone": 1}
        )
        assert await journal.verify() == []
        counts = (await journal.statistics()).counts
        assert (counts.unsynced, counts.sync_parked) == (1, 0), "only the row that changed since is still due"
        assert [report.task_id for report in await journal.unsynced(10)] == ["task-3"]


@pytest.mark.parametrize(
    "changed", [{"payload": '{"n":1}'}, {"payload": None}, {"result": "null"}, {"sync_retry_count": None}], ids=str
)
def test_a_value_of_another_type_is_damage_as_well(changed: dict[str, object]) -> None:
    """No checksum can be made of it, and that must not look like a passing error."""
    with pytest.raises(JournalCorruptError):
        checked_task(ROW.sealed()._replace(**changed))  # type: ignore[arg-type]  # the wrong type is the point


async def test_a_flipped_bit_that_turns_a_payload_into_text_quarantines_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the header of a row bytes and text differ by one bit; a large file is not checked so far at its opening."""
    path = tmp_path / "wal.db"
    identity = Identity("ns", "w", "w-0")
    async with await SqliteJournal.open(path, identity=identity) as journal:
        await journal.accept([NewTask("a", "act", b'{"n":12345}', "q.batch")])
    content = path.read_bytes()
    serial = 12 + 2 * len(b'{"n":12345}')
    place = content.index(b'{"n":12345}')
    header = content.rindex(bytes([serial]), place - 200, place)
    path.write_bytes(content[:header] + bytes([serial ^ 1]) + content[header + 1 :])
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT typeof(payload) FROM task_wal").fetchall() == [("text",)]
    assert check_everything(connection)
    connection.close()
    monkeypatch.setattr(opening, "check_structure", lambda *_: [])
    async with await SqliteJournal.open(path, identity=identity) as journal:
        with pytest.raises(JournalCorruptError):
            await journal.claim(1, names=frozenset({"act"}))
