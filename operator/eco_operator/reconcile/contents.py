"""What a journal held when it was last heard of, in words for events."""

from eco_crds.ecoworker_status import UNKNOWN
from eco_operator.reconcile.observation import Shard


def is_empty(shard: Shard) -> bool:
    """Whether the journal owed nothing when it was last heard of."""
    report = shard.probe.report
    if report is None:
        return False
    counts = report.counts
    owed = counts.due + counts.waiting + counts.running + counts.unsynced + counts.sync_parked
    return owed + counts.outbox_unsent + counts.outbox_parked == 0


def holds(shard: Shard) -> str:
    """What the journal owed when it was last heard of, as a sentence."""
    report = shard.probe.report
    if report is None:
        return f"What its journal holds is not known ({UNKNOWN.lower()})."
    counts = report.counts
    before = "" if shard.probe.age_s is None or shard.probe.age_s < 1 else f", {shard.probe.age_s:.0f} s before"
    if is_empty(shard):
        return f"Its journal was empty when last heard of{before}."
    return (
        f"When last heard of{before}, its journal held {counts.due + counts.waiting + counts.running} unfinished tasks,"
        f" {counts.unsynced + counts.sync_parked} unsynced results and"
        f" {counts.outbox_unsent + counts.outbox_parked} unsent messages."
    )
