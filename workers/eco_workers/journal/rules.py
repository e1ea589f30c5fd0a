"""The rules of one task in one journal: what a delivery, a start, an end, a crash may change. Pure, no I/O.

The SQLite journal, its in-memory twin and the exhaustive search of the hand-over all call these functions, so there is
one copy of the rules and the search proves the copy that runs.

A task here is its `Standing`: the few facts that decide. The rest of a row (payload, times, attempts) says when and how
a task runs, never who holds it.
"""

from typing import Final, NamedTuple

from eco_workers.errors import IllegalStateError
from eco_workers.journal.model import Fate, Owner, State, Verdict

LEGAL_CHANGES: Final[frozenset[tuple[State, State]]] = frozenset(
    {
        (State.PENDING, State.RUNNING),
        (State.RUNNING, State.PENDING),
        (State.RUNNING, State.COMPLETED),
        (State.RUNNING, State.FAILED),
        (State.RUNNING, State.TIMEOUT),
        (State.PENDING, State.FAILED),
        (State.PENDING, State.TIMEOUT),
        (State.PENDING, State.REPUBLISHED),
        (State.RUNNING, State.REPUBLISHED),
        (State.REPUBLISHED, State.PENDING),
        (State.FAILED, State.PENDING),
        (State.TIMEOUT, State.PENDING),
    }
)
"""Every change between two states that exists. Triggers of the database refuse all others, whoever asks."""

UNFINISHED: Final = frozenset({State.PENDING, State.RUNNING})
ENDED: Final = frozenset({State.COMPLETED, State.FAILED, State.TIMEOUT, State.REPUBLISHED})
REPORTED: Final = frozenset({State.COMPLETED, State.FAILED, State.TIMEOUT})
"""Ended states that owe a report to the sync target."""


class Standing(NamedTuple):
    """The facts of a row that decide what may happen to it."""

    state: State
    owner: Owner
    generation: int
    awaiting: bool = False
    """Its delivery was lost with a channel or a process: the broker will redeliver it, and it does not run unasked."""
    messaged: bool = False
    """`republished` only: a message went out (or waits in the outbox), so an old delivery is a duplicate."""


class Accepted(NamedTuple):
    """What a delivery does: the verdict, and the row after it."""

    verdict: Verdict
    standing: Standing


class Republished(NamedTuple):
    """What giving a task back to the broker does: the row after it, and the generation of the outgoing message.

    The generation is None where no message goes out, since the delivery never left the broker.
    """

    standing: Standing
    message_generation: int | None


def accept(row: Standing | None, generation: int, owner: Owner) -> Accepted:
    """Judge a delivery of `generation` against the row of its task, None where there is none.

    `owner` is who holds the task after this transaction: the broker when the delivery stays un-acked, else the journal.
    """
    if row is None:
        return Accepted(Verdict.STORED, Standing(State.PENDING, owner, generation))
    higher = max(row.generation, generation)
    if row.state in UNFINISHED:
        if row.awaiting:
            # Whatever its generation, this delivery is the holder from now on. Calling an older one a duplicate would
            # let it be acked, and the row would wait for a redelivery that no longer exists.
            return Accepted(Verdict.REDELIVERED, Standing(row.state, owner, higher))
        # A delivery that will be acked takes the whole task along: once it is gone the broker may hold no other.
        held = take_over(row) if owner == Owner.JOURNAL else row
        if generation > row.generation:
            return Accepted(Verdict.RAISED, held._replace(generation=generation))
        return Accepted(Verdict.DUPLICATE, held)
    if row.state == State.COMPLETED:
        return Accepted(Verdict.DUPLICATE, row)
    unmessaged = row.state == State.REPUBLISHED and not row.messaged
    if unmessaged or generation > row.generation:
        return Accepted(Verdict.REOPENED, Standing(State.PENDING, owner, higher))
    return Accepted(Verdict.DUPLICATE, row)


def may_ack(row: Standing) -> bool:
    """Whether a delivery that was kept un-acked may be acked now: the broker's part has ended."""
    return row.owner == Owner.JOURNAL


def fate(row: Standing | None) -> Fate:
    """What is to become of an un-acked delivery, by the row of its task; None where that was pruned, long ended."""
    if row is None or may_ack(row):
        return Fate.ACK
    return Fate.RETURN if row.state == State.REPUBLISHED else Fate.KEEP


def may_start(row: Standing) -> bool:
    """Whether the row may be claimed, its time permitting."""
    return row.state == State.PENDING and not row.awaiting


def start(row: Standing) -> Standing:
    """Claim a pending row."""
    if row.awaiting:
        raise IllegalStateError("start: the task awaits its redelivery and is not run unasked")
    return _change(row, State.RUNNING, "start")


def end(row: Standing, state: State) -> Standing:
    """Complete, fail or time out. The journal owns what has ended: an equal delivery is a duplicate from here on."""
    if state not in REPORTED:
        raise IllegalStateError(f"end: {state} is no end of a task")
    _check_change(row, state, "end")
    return Standing(state, Owner.JOURNAL, row.generation, awaiting=False, messaged=row.messaged)


def retry(row: Standing) -> Standing:
    """Schedule another attempt. The schedule lives in the journal, so the journal owns the task from here on."""
    _must_run(row, "retry")
    return _change(row, State.PENDING, "retry")._replace(owner=Owner.JOURNAL, awaiting=False)


def release(row: Standing) -> Standing:
    """Put a running task back without a verdict on it. Who owns it does not change."""
    _must_run(row, "release")
    return _change(row, State.PENDING, "release")


def republish(row: Standing) -> Republished:
    """Give an unfinished task back to the broker.

    The message carries generation + 1 and the row keeps its own, so the task may come back here and is no duplicate.
    """
    changed = _change(row, State.REPUBLISHED, "republish")
    if row.owner == Owner.BROKER:
        return Republished(changed._replace(awaiting=False, messaged=False), None)
    return Republished(changed._replace(awaiting=False, messaged=True), row.generation + 1)


def take_over(row: Standing) -> Standing:
    """Pass the task from broker to journal, in the transaction before the ack is sent."""
    if row.owner == Owner.JOURNAL:
        return row
    return row._replace(owner=Owner.JOURNAL, awaiting=False)


def lose_channel(row: Standing) -> Standing:
    """Note that the delivery of an un-acked row is gone: the broker will bring it back."""
    if row.owner == Owner.BROKER and row.state in UNFINISHED:
        return row._replace(awaiting=True)
    return row


def restart(row: Standing) -> Standing:
    """Note that the process is gone: what ran is pending again, and what was un-acked awaits its redelivery."""
    if row.state == State.RUNNING:
        row = row._replace(state=State.PENDING)
    return lose_channel(row)


def close_unacked(row: Standing) -> Standing:
    """Close a row whose redelivery went elsewhere. No message: the broker, or another shard, holds the task."""
    if not (row.state == State.PENDING and row.awaiting and row.owner == Owner.BROKER):
        raise IllegalStateError(
            f"close: a {row.state} task that awaits no redelivery cannot be closed without a message"
        )
    return row._replace(state=State.REPUBLISHED, awaiting=False, messaged=False)


def _must_run(row: Standing, operation: str) -> None:
    # Ended rows may become pending too, but only by a delivery.
    if row.state != State.RUNNING:
        raise IllegalStateError(f"{operation}: no change from {row.state} to {State.PENDING} but by a new delivery")


def _change(row: Standing, target: State, operation: str) -> Standing:
    _check_change(row, target, operation)
    # Not `_replace`, which costs three times as much: each task passes here twice.
    return Standing(target, row.owner, row.generation, row.awaiting, row.messaged)


def _check_change(row: Standing, target: State, operation: str) -> None:
    if (row.state, target) not in LEGAL_CHANGES:
        raise IllegalStateError(f"{operation}: no change from {row.state} to {target} exists")
