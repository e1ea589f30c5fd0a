"""Deliberate faults in the rules of the hand-over, each one that somebody could write, and the policy it breaks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from eco_workers.journal import rules
from eco_workers.journal.model import Owner, State, Verdict
from eco_workers.journal.rules import Accepted, Republished, Standing
from tests.support.handover import REPUBLISH, Outgoing, Policy, Row, Rules, mark_sent


@dataclass(frozen=True, slots=True)
class Mutation:
    """A world with one fault in it, under a policy whose promise the fault breaks."""

    policy: Policy
    rules: Rules


def _row_takes_new_generation(row: Standing) -> Republished:
    given = rules.republish(row)
    if given.message_generation is None:
        return given
    return given._replace(standing=given.standing._replace(generation=given.message_generation))


def _no_message(row: Standing) -> Republished:
    return Republished(rules.republish(row).standing._replace(messaged=True), None)


def _closed_stays_closed(row: Standing | None, generation: int, owner: Owner) -> Accepted:
    if row is not None and row.state == State.REPUBLISHED and generation <= row.generation:
        return Accepted(Verdict.DUPLICATE, row)
    return rules.accept(row, generation, owner)


def _completed_reopened(row: Standing | None, generation: int, owner: Owner) -> Accepted:
    if row is not None and row.state == State.COMPLETED and generation > row.generation:
        return Accepted(Verdict.REOPENED, Standing(State.PENDING, owner, generation))
    return rules.accept(row, generation, owner)


def _raised_keeps_owner(row: Standing | None, generation: int, owner: Owner) -> Accepted:
    accepted = rules.accept(row, generation, owner)
    if row is not None and accepted.verdict in {Verdict.RAISED, Verdict.DUPLICATE}:
        return accepted._replace(standing=accepted.standing._replace(owner=row.owner))
    return accepted


def _redelivery_is_a_duplicate(row: Standing | None, generation: int, owner: Owner) -> Accepted:
    if row is not None and row.awaiting and generation <= row.generation:
        return Accepted(Verdict.DUPLICATE, row)
    return rules.accept(row, generation, owner)


def _sent_ends_the_row(row: Row, message: Outgoing) -> Row:
    after = mark_sent(row, message)
    if message.kind == REPUBLISH and row.standing.state != State.COMPLETED:
        return after._replace(standing=after.standing._replace(state=State.REPUBLISHED, messaged=True))
    return after


def _not_awaited(row: Standing) -> Standing:
    return rules.restart(row)._replace(awaiting=False)


def _left_running(row: Standing) -> Standing:
    return row if row.state == State.RUNNING else rules.restart(row)


def _retry_kept_by_broker(row: Standing) -> Standing:
    return rules.retry(row)._replace(owner=row.owner)


MUTATIONS: Final[Mapping[str, Mutation]] = {
    "ack before commit": Mutation(Policy.JOURNALED, Rules(ack_before_commit=True)),
    "a republished row takes the new generation": Mutation(
        Policy.JOURNALED, Rules(republish=_row_takes_new_generation)
    ),
    "republish without its message": Mutation(Policy.JOURNALED, Rules(republish=_no_message)),
    "a confirm ends whatever row it finds": Mutation(Policy.JOURNALED, Rules(sent=_sent_ends_the_row)),
    "a replay keeps its generation": Mutation(Policy.JOURNALED, Rules(replayed=lambda generation: generation)),
    "no dead letter": Mutation(Policy.JOURNALED, Rules(dead_letters=False)),
    "a completed row is reopened": Mutation(Policy.JOURNALED, Rules(accept=_completed_reopened)),
    "a run is not taken up after a crash": Mutation(Policy.JOURNALED, Rules(restart=_left_running)),
    "a row closed un-acked is not reopened": Mutation(Policy.COMPLETED, Rules(accept=_closed_stays_closed)),
    "a redelivery is taken for a duplicate": Mutation(Policy.COMPLETED, Rules(accept=_redelivery_is_a_duplicate)),
    "a row given back un-acked is acked": Mutation(
        Policy.COMPLETED, Rules(may_ack=lambda row: row.owner == Owner.JOURNAL or row.state == State.REPUBLISHED)
    ),
    "un-acked rows run after a crash": Mutation(Policy.COMPLETED, Rules(restart=_not_awaited)),
    "a retry that the broker still owns is acked": Mutation(
        Policy.COMPLETED,
        Rules(
            retry=_retry_kept_by_broker, may_ack=lambda row: row.owner == Owner.JOURNAL or row.state == State.PENDING
        ),
    ),
    "an acked delivery leaves the owner as it was": Mutation(Policy.MIXED, Rules(accept=_raised_keeps_owner)),
    "ack before the store has confirmed": Mutation(Policy.REPLICATED, Rules(ack_before_replica=True)),
    "a restore does not seal the old epoch": Mutation(Policy.REPLICATED, Rules(restore_seals=False)),
}
