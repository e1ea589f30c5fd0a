"""A shard that is not wanted any more: it gives back what it holds before its Deployment goes.

The worker is told to drain and its report watched: nothing pending or running, nothing left to send that could be sent.
Results that are not synced yet do not hold it, since a job sends them from the claim. A worker that cannot be reached
is stopped, and the job drains in its place once its pod is gone. Nothing is given up at the deadline: it only says why.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.wal import JournalMode, WalCounts
from eco_operator.reconcile import kept_claims
from eco_operator.reconcile.contents import holds, is_empty
from eco_operator.reconcile.hearing import is_fresh, is_probing_down, lost_pod
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.plan import Announce, Command, Delete, EventType, MarkClaim, ObjectRef, Step


class Hold(StrEnum):
    """What keeps a shard from going; each is a reason of condition ScaleInBlocked."""

    NONE = ""
    TASKS_LEFT = "TasksLeft"
    MESSAGES_LEFT = "MessagesLeft"
    DAMAGED = "JournalDamaged"
    FENCED = "Fenced"
    SILENT = "NotHeardOf"
    PROBES = "ProbeUnavailable"
    RECOVERING = "Recovering"
    POD_LEFT = "PodLeft"
    NODE_LOST = "NodeLost"


@dataclass(frozen=True, slots=True)
class Leaving:
    """How far a shard is on its way out."""

    hold: Hold
    message: str = ""
    command: str = ""
    """What its worker has to be told; empty when nothing."""


GONE: Final = Leaving(Hold.NONE)
_WORKS: Final = frozenset({JournalMode.NORMAL, JournalMode.READ_ONLY})


def leaving(seen: Observation, worker: EcoWorker) -> tuple[Shard, ...]:
    """Shards beyond the wanted number of which something may still run."""
    return tuple(shard for shard in seen.shards[worker.spec.replicas :] if shard.deployment is not None or shard.pods)


def look(seen: Observation, worker: EcoWorker, shard: Shard) -> Leaving:
    """How far a shard that is not wanted any more is on its way out."""
    node = lost_pod(seen, shard)
    if node:
        return Leaving(Hold.NODE_LOST, f"its pod is on node {node}, which does not answer")
    if shard.deployment is None:
        return Leaving(Hold.POD_LEFT, "its pod is not gone yet") if shard.pods else GONE
    if shard.deployment.deployment is not None and shard.deployment.deployment.recovery:
        return Leaving(Hold.RECOVERING, "its journal has to be set right first")
    if not is_fresh(seen, shard):
        return _look_at_silent(seen, shard)
    report = shard.report
    assert report is not None, "it is fresh"  # noqa: S101  # for the type checker
    if report.mode is JournalMode.DRAINING:
        return _look_at_draining(report.counts)
    if report.mode in _WORKS:
        return Leaving(Hold.TASKS_LEFT, "it has not begun to drain", "drain")
    if report.mode is JournalMode.FENCED:
        fenced = worker.fences(shard.name)
        return Leaving(Hold.FENCED, "it is told to stand still", "" if fenced else "resume")
    return Leaving(Hold.DAMAGED, "its journal is damaged or lost and has to be set right first")


def since(seen: Observation, shard: Shard) -> datetime:
    """Since when the shard is not wanted any more, as far as is known."""
    before = shard.previous.draining_since if shard.previous is not None else None
    return before or seen.now


def decide(seen: Observation, worker: EcoWorker, image: str, about: ObjectRef) -> Iterator[Step]:
    """The next step with each shard beyond the wanted number, its claim included."""
    for shard in seen.shards[worker.spec.replicas :]:
        if shard.deployment is None:
            yield from _retire(seen, shard)
            yield from kept_claims.settle(seen, shard, worker, image)
            continue
        if seen.leaves(shard.deployment):
            continue
        state = look(seen, worker, shard)
        target = shard.target
        if state.command and target is not None:
            told = Announce(
                about, "ShardDraining", f"Shard {shard.name} is not wanted any more and gives back its tasks."
            )
            yield Command(target, state.command, state.message, told if state.command == "drain" else None)
        elif state.hold is Hold.NONE:
            kind = EventType.NORMAL if is_empty(shard) else EventType.WARNING
            message = f"Shard {shard.name} is not wanted any more; its claim stays. {holds(shard)}"
            yield Delete(shard.deployment, "fewer shards are wanted", Announce(about, "ShardRemoved", message, kind))


def next_look_s(seen: Observation, worker: EcoWorker) -> float | None:
    """Seconds until a deadline passes that no event will tell of; None when there is none."""
    waits = []
    for shard in leaving(seen, worker):
        waited = seen.now - since(seen, shard)
        for limit_s in (seen.policy.report_age_s, worker.spec.drain_deadline_seconds):
            rest = timedelta(seconds=limit_s) - waited
            if rest > timedelta():
                waits.append(rest.total_seconds() + 1.0)
    return min(waits, default=None)


def _look_at_silent(seen: Observation, shard: Shard) -> Leaving:
    """Silence is believed only of a worker that has had time to answer, and not when nobody answers."""
    waited_s = (seen.now - since(seen, shard)).total_seconds()
    if seen.is_settling or waited_s <= seen.policy.report_age_s:
        return Leaving(Hold.SILENT, "its worker is not heard of")
    if shard.target is not None and is_probing_down(seen):
        return Leaving(Hold.PROBES, "too many workers are not heard of to believe that this one is gone")
    return GONE


def _look_at_draining(counts: WalCounts) -> Leaving:
    unfinished = counts.due + counts.waiting + counts.running
    if unfinished:
        return Leaving(Hold.TASKS_LEFT, "it still has unfinished tasks")
    if counts.outbox_unsent:
        return Leaving(Hold.MESSAGES_LEFT, "it still has messages to send")
    return GONE


def _retire(seen: Observation, shard: Shard) -> Iterator[Step]:
    """Mark the claim of a shard that is gone with the time."""
    claim = shard.claim
    if claim is None or claim.claim is None or claim.is_deleting:
        return
    found = kept_claims.marks(claim)
    if found.get(contract.ANNOTATION_SCALED_IN) and contract.ANNOTATION_ORPHANED not in found:
        return
    kept = {name: value for name, value in found.items() if name != contract.ANNOTATION_ORPHANED}
    written = {contract.ANNOTATION_SCALED_IN: seen.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    yield MarkClaim(claim, {**kept, **written}, "its shard is not wanted any more")
