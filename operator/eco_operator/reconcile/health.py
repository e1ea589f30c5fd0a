"""How a journal is, judged from the report of its worker.

What counts is work that waits and does not move, never how long ago something succeeded: a journal without work is
well. A journal that is not heard of is Unknown, whatever it said before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from eco_crds.ecoworker_status import WalState, worst
from eco_crds.wal import JournalMode, WalReport
from eco_operator.shards import Probe


@dataclass(frozen=True, slots=True)
class Bounds:
    """From when on a journal counts as slow, stuck or silent."""

    stall_after_s: float
    lag_s: float
    report_age_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one journal is, and why, as a sentence without numbers that change from second to second."""

    state: WalState
    message: str = ""


def judge(probe: Probe, bounds: Bounds, *, known_uuid: str) -> Verdict:
    """The worst of all that holds. `known_uuid` is the journal's identity from earlier reports, or empty."""
    if probe.report is None:
        return Verdict(WalState.UNKNOWN, f"never heard of{f': {probe.error}' if probe.error else ''}")
    if probe.age_s is None or probe.age_s > bounds.report_age_s:
        return Verdict(WalState.UNKNOWN, f"not heard of{f': {probe.error}' if probe.error else ' any more'}")
    found = list(_findings(probe.report, bounds, known_uuid))
    state = worst(verdict.state for verdict in found) if found else WalState.HEALTHY
    return next((verdict for verdict in found if verdict.state is state), Verdict(WalState.HEALTHY))


def _findings(report: WalReport, bounds: Bounds, known_uuid: str) -> Iterator[Verdict]:
    error = f": {report.last_error}" if report.last_error else ""
    match report.mode:
        case JournalMode.QUARANTINED:
            yield Verdict(WalState.CORRUPT, f"the journal is damaged{error}")
        case JournalMode.LOST:
            yield Verdict(WalState.LOST, f"the volume does not hold the known journal{error}")
        case JournalMode.READ_ONLY:
            yield Verdict(WalState.FULL, f"the volume is full{error}")
        case JournalMode.FENCED:
            yield Verdict(WalState.FENCED, "told to stop")
        case JournalMode.NORMAL | JournalMode.DRAINING:
            pass
    if known_uuid and report.journal_uuid != known_uuid:
        yield Verdict(WalState.LOST, f"journal {report.journal_uuid or 'of no identity'} in place of {known_uuid}")
    counts, ages = report.counts, report.ages
    if counts.due + counts.running > 0 and (ages.last_progress_s or 0.0) >= bounds.stall_after_s:
        yield Verdict(WalState.STALLED, f"work waits and nothing moved for {bounds.stall_after_s:g} s{error}")
    if (ages.oldest_due_s or 0.0) > bounds.lag_s:
        yield Verdict(WalState.LAGGING, f"the oldest task waits longer than {bounds.lag_s:g} s")
    if (ages.oldest_outbox_s or 0.0) > bounds.lag_s:
        yield Verdict(WalState.LAGGING, f"the oldest message to send waits longer than {bounds.lag_s:g} s{error}")
