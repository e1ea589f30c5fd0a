"""What is said about an EcoWorker beside its health: recoveries, shards on their way out, wishes of people."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from eco_crds.conditions import ConditionType
from eco_crds.ecoworker_status import ShardStatus
from eco_crds.fields import ConditionStatus
from eco_operator.reconcile import delivery, growth, recovery, scale_in
from eco_operator.reconcile.findings import MESSAGE_LENGTH_MAX, Finding
from eco_operator.reconcile.observation import Observation
from eco_operator.reconcile.plan import Outcome
from eco_operator.reconcile.recovery import Stage
from eco_operator.reconcile.scale_in import Hold

_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE
_BY_TROUBLE: Final = (
    Stage.FAILED,
    Stage.NODE_LOST,
    Stage.APPROVAL,
    Stage.LOOKED,
    Stage.FENCING,
    Stage.READY,
    Stage.RUNNING,
    Stage.DONE,
)


def findings(seen: Observation, shards: list[ShardStatus], outcome: Outcome) -> Iterator[Finding]:
    """What people have asked for, and what the operator is in the middle of."""
    worker = seen.worker
    assert worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    recovered = _repair(seen) or _recovered(seen, shards)
    if recovered is not None:
        yield recovered
    delivered = delivery.finding(seen)
    if delivered is not None:
        yield delivered
    blocked = _blocked(seen)
    if blocked is not None:
        yield blocked
    growing = _growing(seen, outcome)
    if growing is not None:
        yield growing
    if worker.paused:
        yield Finding(ConditionType.PAUSED, _TRUE, "Annotation", "nothing is changed until the annotation goes")
    if worker.hibernated:
        yield Finding(ConditionType.HIBERNATED, _TRUE, "Annotation", "every shard is stopped until the annotation goes")
    fenced = [shard.name for shard in seen.shards if worker.fences(shard.name)]
    if fenced:
        told = f"{', '.join(fenced)}: told to stand still until the annotation goes"
        yield Finding(ConditionType.FENCED, _TRUE, "Annotation", told[:MESSAGE_LENGTH_MAX])


def _repair(seen: Observation) -> Finding | None:
    """How far journals are that their workers call damaged or lost; the one that is farthest from being well counts."""
    worker = seen.worker
    assert worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    found = [(shard.name, recovery.look(seen, worker, shard)) for shard in seen.shards]
    for stage in _BY_TROUBLE:
        told = [f"{name}: {it.cause}, {it.message}" for name, it in found if it.stage is stage]
        if told:
            return Finding(ConditionType.RECOVERED, _FALSE, stage.value, "; ".join(told)[:MESSAGE_LENGTH_MAX])
    return None


def _blocked(seen: Observation) -> Finding | None:
    """Why a shard that is not wanted any more is still there after its deadline; None before that."""
    worker = seen.worker
    assert worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    deadline = timedelta(seconds=worker.spec.drain_deadline_seconds)
    late = [it for it in scale_in.leaving(seen, worker) if seen.now - scale_in.since(seen, it) >= deadline]
    found = [(shard.name, scale_in.look(seen, worker, shard)) for shard in late]
    told = [f"{name}: {it.message}" for name, it in found if it.hold is not Hold.NONE]
    if not told:
        return None
    first = next(it.hold for _, it in found if it.hold is not Hold.NONE)
    return Finding(ConditionType.SCALE_IN_BLOCKED, _TRUE, first.value, "; ".join(told)[:MESSAGE_LENGTH_MAX])


def _growing(seen: Observation, outcome: Outcome) -> Finding | None:
    """How far volumes are that grow, or should and cannot."""
    worker, owned = seen.worker, seen.owned
    assert worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    assert owned is not None, "a valid object is there"  # noqa: S101  # a caller's mistake
    before = seen.previous.condition(ConditionType.STORAGE_GROWING)
    is_unheard = any(shard.probe.report is None for shard in seen.shards[: worker.spec.replicas])
    if before is not None and seen.is_settling and is_unheard and before.observed_generation == owned.generation:
        # Nobody has been asked yet: what was written before the operator started is the best there is.
        return Finding(ConditionType.STORAGE_GROWING, before.status, before.reason, before.message)
    stage, told = growth.summary(seen, worker, outcome)
    if stage is growth.Stage.NONE:
        return None
    status = _TRUE if stage in growth.UNDER_WAY else _FALSE
    return Finding(ConditionType.STORAGE_GROWING, status, stage.value, told[:MESSAGE_LENGTH_MAX])


def _recovered(seen: Observation, shards: list[ShardStatus]) -> Finding | None:
    resuming = []
    for shard, seen_shard in zip(shards, seen.shards, strict=False):
        report = seen_shard.probe.report
        if report is not None and report.recovered and report.resumed_after_s is None:
            counts = report.counts
            if counts.due + counts.running > 0:
                resuming.append(shard.name)
    if resuming:
        told = f"{', '.join(resuming)}: unfinished tasks were found and none is running yet"
        return Finding(ConditionType.RECOVERED, _FALSE, "Resuming", told[:MESSAGE_LENGTH_MAX])
    repaired = [it for it in shards if it.last_recovery is not None and it.last_recovery.succeeded]
    if any(it.last_recovery is not None and not it.last_recovery.dry_run for it in repaired):
        told = f"{', '.join(it.name for it in repaired)}: set right"
        return Finding(ConditionType.RECOVERED, _TRUE, "Repaired", told[:MESSAGE_LENGTH_MAX])
    if any(shard.last_recovery_time is not None for shard in shards):
        return Finding(ConditionType.RECOVERED, _TRUE, "Resumed", "unfinished tasks of the last start were taken up")
    return None
