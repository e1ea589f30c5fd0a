"""The rows as they stand in the file, and their checksums.

A row is a NamedTuple in the order in which the queries select, so reading one costs no more than making a tuple. The
checksum comes first behind the id, then the values that may be large, then all others.
"""

from collections.abc import Callable, Mapping, Sequence
from marshal import dumps
from typing import Any, Final, NamedTuple
from zlib import crc32

from eco_workers.errors import JournalCorruptError
from eco_workers.journal.model import Owner, State
from eco_workers.journal.rules import REPORTED, Standing

_STATES: Final[dict[str, State]] = {state.value: state for state in State}
_OWNERS: Final[dict[str, Owner]] = {owner.value: owner for owner in Owner}


class TaskRow(NamedTuple):
    """One row of `task_wal`. `state` and `owner` compare equal to the enums' members, whichever of the two they are."""

    id: int | None
    checksum: int
    payload: bytes
    result: bytes | None
    task_id: str
    task_name: str
    queue: str
    headers: str
    state: str
    owner: str
    generation: int
    attempts: int
    version: int
    messaged: int
    awaiting_since: float | None
    not_before: float | None
    due_at: float | None
    expires_at: float | None
    emits: int
    incarnation: str
    salvaged: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    last_activity: float
    error: str | None
    sync_status: str
    sync_retry_count: int
    last_sync_attempt: float | None
    sync_error: str | None

    def standing(self) -> Standing:
        """The facts that the rules look at."""
        return Standing(
            _STATES[self.state],
            _OWNERS[self.owner],
            self.generation,
            self.awaiting_since is not None,
            bool(self.messaged),
        )

    def sealed(self) -> "TaskRow":
        """This row with the checksum of its values."""
        return self.resealed({})

    def resealed(self, changes: Mapping[str, Any]) -> "TaskRow":
        """This row with other values and the checksum that goes with them.

        `_replace` looks at each of thirty names, at three times the cost.
        """
        values = list(self)
        for name, value in changes.items():
            values[_PLACES[name]] = value
        return sealed(values)


_PLACES: Final = {name: place for place, name in enumerate(TaskRow._fields)}


class At:
    """Where the values stand that change as a task goes its usual way: what all pass builds its rows from lists."""

    CHECKSUM: Final = _PLACES["checksum"]
    PAYLOAD: Final = _PLACES["payload"]
    RESULT: Final = _PLACES["result"]
    TASK_ID: Final = _PLACES["task_id"]
    TASK_NAME: Final = _PLACES["task_name"]
    QUEUE: Final = _PLACES["queue"]
    HEADERS: Final = _PLACES["headers"]
    STATE: Final = _PLACES["state"]
    OWNER: Final = _PLACES["owner"]
    GENERATION: Final = _PLACES["generation"]
    ATTEMPTS: Final = _PLACES["attempts"]
    VERSION: Final = _PLACES["version"]
    MESSAGED: Final = _PLACES["messaged"]
    AWAITING_SINCE: Final = _PLACES["awaiting_since"]
    NOT_BEFORE: Final = _PLACES["not_before"]
    DUE_AT: Final = _PLACES["due_at"]
    EXPIRES_AT: Final = _PLACES["expires_at"]
    EMITS: Final = _PLACES["emits"]
    INCARNATION: Final = _PLACES["incarnation"]
    CREATED_AT: Final = _PLACES["created_at"]
    STARTED_AT: Final = _PLACES["started_at"]
    ENDED_AT: Final = _PLACES["ended_at"]
    LAST_ACTIVITY: Final = _PLACES["last_activity"]
    ERROR: Final = _PLACES["error"]


def sealed(values: list[Any]) -> TaskRow:
    """A row of these values, with the checksum that goes with them."""
    values[At.CHECKSUM] = task_checksum(values)
    return TaskRow._make(values)


class OutboxRow(NamedTuple):
    """One row of `outbox`."""

    id: int | None
    checksum: int
    body: bytes
    message_id: str
    task_id: str
    kind: str
    exchange: str
    routing_key: str
    headers: str
    status: str
    attempts: int
    next_at: float
    created_at: float
    sent_at: float | None
    error: str | None

    def sealed(self) -> "OutboxRow":
        """This row with the checksum of its values."""
        return self._replace(checksum=outbox_checksum(self))


class StepRow(NamedTuple):
    """One row of `steps`."""

    checksum: int
    result: bytes
    task_id: str
    name: str
    created_at: float


class CacheRow(NamedTuple):
    """One row of `gpt_cache`."""

    checksum: int
    response: bytes
    key: str
    model: str
    created_at: float


_VALUES: Final = 2
"""Form in which a row's values go into its checksum: `marshal`, version 2, of the tuple of values in field order.

Byte by byte: `(` and the number of values, 4 bytes little-endian; then for each value `N` for null; `i` and 4 bytes for
an integer that fits 32 bits, signed; `l` for a larger one, the signed number of its 15-bit digits (4 bytes) and the
digits, 2 bytes each, lowest first; `g` and the 8 bytes of an IEEE double; `u`, the length (4 bytes) and the UTF-8 of a
text. All numbers are little-endian. There are no references and no interned strings in this form, so equal values give
equal bytes whatever their history. A test holds known answers; decision 0002 has the measurement.
"""


def task_checksum(row: Sequence[Any]) -> int:
    """Of a row's values, everything but the id, since salvage may give a row another id.

    The low 32 bits are a CRC-32 of what the task is; `sync_retry_count` is its start value. The 31 bits above are what
    marking a report changes (`report_checksum`): a whole batch gets the same ones, so one statement can write them.
    """
    value = crc32(row[2], crc32(dumps(tuple(row[4:26]), _VALUES), row[27]))
    if row[3] is not None:
        value = crc32(row[3], value) ^ 1
    return value | report_checksum(row[26], row[28], row[29])


def report_checksum(sync_status: str, last_sync_attempt: float | None, sync_error: str | None) -> int:
    """The upper bits of a task's checksum: how its report stands."""
    if last_sync_attempt is None and sync_status == "pending" and sync_error is None:
        return _NOT_REPORTED
    return (crc32(dumps((sync_status, last_sync_attempt, sync_error), _VALUES)) & REPORT_BITS) << 32


CONTENT_BITS: Final = 0xFFFF_FFFF
"""The lower bits of a task's checksum."""
REPORT_BITS: Final = 0x7FFF_FFFF
"""As many as leave the sum of both a positive integer of SQLite's."""
_NOT_REPORTED: Final = (crc32(dumps(("pending", None, None), _VALUES)) & REPORT_BITS) << 32


def outbox_checksum(row: OutboxRow) -> int:
    """CRC-32 of everything but the id."""
    return crc32(row[2], crc32(dumps(row[3:], _VALUES)))


def step_checksum(row: StepRow | CacheRow) -> int:
    """CRC-32 of a checkpoint or of a cached answer."""
    return crc32(row[1], crc32(dumps(row[2:], _VALUES)))


def text_checksum(*values: object) -> int:
    """CRC-32 of a small record: a line of `meta`, or the ledger."""
    return crc32("\x1f".join(map(str, values)).encode())


def checksum_of(made: Callable[[Any], int], row: object) -> int:
    """The checksum of a row as it was read; -1, which never fits, where a value's type lets none be made.

    One flipped bit in the header of a row turns bytes into text.
    """
    try:
        return made(row)
    except (TypeError, ValueError):
        return -1


def checked_task(row: TaskRow) -> TaskRow:
    """Return the row if it is as it was written; raises JournalCorruptError."""
    if row[1] != checksum_of(task_checksum, row):
        raise JournalCorruptError(f"task row {row.id}: its checksum does not fit its values; run `eco-wal verify`")
    return row


def checked_outbox(row: OutboxRow) -> OutboxRow:
    """Return the row if it is as it was written; raises JournalCorruptError."""
    if row[1] != checksum_of(outbox_checksum, row):
        raise JournalCorruptError(f"outbox row {row.id}: its checksum does not fit its values; run `eco-wal verify`")
    return row


def checked_step(row: StepRow) -> StepRow:
    """Return the row if it is as it was written; raises JournalCorruptError."""
    if row[0] != checksum_of(step_checksum, row):
        raise JournalCorruptError(f"step {row.name!r}: its checksum does not fit its values; run `eco-wal verify`")
    return row


def checked_cache(row: CacheRow) -> CacheRow:
    """Return the row if it is as it was written; raises JournalCorruptError."""
    if row[0] != checksum_of(step_checksum, row):
        raise JournalCorruptError(f"cached answer {row.key!r}: its checksum does not fit its values")
    return row


class Counters:
    """Rows by state and by what they owe, kept in step with each change so that nobody needs to count."""

    NAMES: Final = (
        "completed",
        "failed",
        "timeout",
        "republished",
        "unsynced",
        "sync_parked",
        "outbox_unsent",
        "outbox_parked",
    )

    def __init__(self, values: tuple[int, ...] = (0,) * 8) -> None:
        self.values = dict(zip(self.NAMES, values, strict=True))

    def task(self, before: TaskRow | None, after: TaskRow | None) -> None:
        """Account for a change of a task row; None stands for a row that does not exist."""
        for row, change in ((before, -1), (after, 1)):
            if row is None or row.ended_at is None:
                continue
            self.values[str(row.state)] += change
            if row.state in REPORTED and row.sync_status != "synced":
                self.values["unsynced" if row.sync_status == "pending" else "sync_parked"] += change

    def outbox(self, before: str | None, after: str | None) -> None:
        """Account for a change of an outbox row's status."""
        for status, change in ((before, -1), (after, 1)):
            if status in {"unsent", "parked"}:
                self.values[f"outbox_{status}"] += change

    def snapshot(self) -> tuple[int, ...]:
        """The counters in the order of `NAMES`."""
        return tuple(self.values.values())

    def restore(self, values: tuple[int, ...]) -> None:
        """Go back to a snapshot: the changes since then were rolled back."""
        self.values = dict(zip(self.NAMES, values, strict=True))
