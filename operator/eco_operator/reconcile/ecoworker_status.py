"""The verdict on one EcoWorker, and whether it is worth writing down.

Moments are kept as they were written while they still are about right, and numbers only count as news after a while: a
fleet that does nothing writes nothing. A change of a condition, of a journal's health or of readiness is always news.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from eco_crds.conditions import ConditionType
from eco_crds.ecoworker import Wal
from eco_crds.ecoworker_status import UNKNOWN, EcoWorkerStatus, EcoWorkerSummary, ShardStatus, WalState, worst
from eco_crds.fields import ConditionStatus
from eco_operator.reconcile import delivery, growth, life_status, recovery, scale_in, standstill, target
from eco_operator.reconcile.findings import MESSAGE_LENGTH_MAX, Finding, Urgency, dated, moment, total, turns
from eco_operator.reconcile.health import Bounds, Verdict, judge
from eco_operator.reconcile.hearing import lost_pod, too_many_silent
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.plan import Outcome
from eco_operator.reconcile.revision import Revision, resolved_image
from eco_operator.reconcile.revision import wanted as wanted_revision
from eco_operator.resources.metadata import selector_text

DISK_TOLERANCE_PERCENT: Final = 2
SIZE_LENGTH_MAX: Final = 32
_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


@dataclass(frozen=True, slots=True)
class _View:
    """What every shard of one look is judged by."""

    bounds: Bounds
    outcome: Outcome
    current: Revision | None


def conclude(seen: Observation, outcome: Outcome) -> EcoWorkerStatus:
    """The status as it should be written now. `seen` holds an object that exists."""
    assert seen.owned is not None, "nothing to conclude about an object that is gone"  # noqa: S101  # a caller's mistake
    if seen.worker is None:
        return _invalid(seen)
    spec = seen.worker.spec
    bounds = Bounds(spec.wal.stall_after_seconds, spec.wal.max_lag_seconds, seen.policy.report_age_s)
    view = _View(bounds, outcome, _revision(seen))
    wanted = [_shard(seen, shard, view) for shard in seen.shards[: spec.replicas]]
    leaving = [
        _shard(seen, shard, view).model_copy(update={"draining_since": scale_in.since(seen, shard)})
        for shard in scale_in.leaving(seen, seen.worker)
    ]
    existing = [shard for shard in seen.shards if shard.deployment is not None]
    findings = [*_findings(seen, wanted, leaving, outcome)]
    ready = sum(shard.ready for shard in wanted)
    shards = [*wanted, *leaving]
    recoveries = [shard.last_recovery_time for shard in shards if shard.last_recovery_time is not None]
    oldest = [shard.oldest_pending_time for shard in shards if shard.oldest_pending_time is not None]
    return EcoWorkerStatus(
        observed_generation=seen.owned.generation,
        conditions=dated(findings, seen.previous.conditions, now=seen.now, generation=seen.owned.generation),
        replicas=len(existing),
        ready_replicas=ready,
        selector=selector_text(seen.worker),
        image=resolved_image(seen) or None,
        oldest_pending_time=min(oldest, default=None),
        last_recovery_time=max(recoveries, default=None),
        summary=_summary(wanted, leaving, ready, findings),
        shards=shards,
    )


def urgency(new: EcoWorkerStatus, old: EcoWorkerStatus) -> Urgency:
    """How long the new status may wait to be written."""
    if new == old:
        return Urgency.NONE
    if _essence(new) != _essence(old):
        return Urgency.NEWS
    return Urgency.TURN if turns(_sums(new), _sums(old)) else Urgency.NUMBERS


def body(seen: Observation, status: EcoWorkerStatus) -> dict[str, Any]:
    """The object to apply to the status subresource."""
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "apiVersion": seen.owned.body["apiVersion"] if seen.owned else "",
        "kind": seen.key.kind,
        "metadata": {"name": seen.key.name, "namespace": seen.key.namespace},
        "status": written,
    }


def _invalid(seen: Observation) -> EcoWorkerStatus:
    """A spec that is refused: what runs is left alone, and judged on as long as it runs, by the usual bounds."""
    assert seen.owned is not None, "conclude saw an object"  # noqa: S101  # a caller's mistake
    told = "; ".join(str(problem) for problem in seen.problems[:5])[:MESSAGE_LENGTH_MAX]
    usual = Wal()
    bounds = Bounds(usual.stall_after_seconds, usual.max_lag_seconds, seen.policy.report_age_s)
    view = _View(bounds, Outcome(), None)
    running = [_shard(seen, shard, view) for shard in seen.shards if shard.deployment is not None]
    ready = sum(shard.ready for shard in running)
    findings = [
        Finding(ConditionType.READY, _FALSE, "InvalidSpec", told),
        Finding(ConditionType.STALLED, _TRUE, "InvalidSpec", told),
        _health(running) if running else Finding(ConditionType.WAL_HEALTHY, _UNKNOWN, "Unknown", "nothing was started"),
    ]
    summary = _summary(running, [], ready, findings)
    return seen.previous.model_copy(
        update={
            "observed_generation": seen.owned.generation,
            "conditions": dated(findings, seen.previous.conditions, now=seen.now, generation=seen.owned.generation),
            "replicas": len(running),
            "ready_replicas": ready,
            "summary": summary if running else summary.model_copy(update={"wal": UNKNOWN}),
            "shards": running,
        }
    )


def _findings(
    seen: Observation, shards: list[ShardStatus], leaving: list[ShardStatus], outcome: Outcome
) -> Iterator[Finding]:
    stalled = next(_obstacles(seen, outcome), None)
    # A shard on its way out holds work as long as it is there: its journal counts.
    health = _health([*shards, *leaving])
    yield _ready(seen, shards, stalled, health) or _current(seen)
    yield health
    if stalled is not None:
        yield stalled
    elif outcome.failed:
        yield Finding(ConditionType.RECONCILING, _TRUE, "Retrying", outcome.failed[0][:MESSAGE_LENGTH_MAX])
    elif not _is_settled(seen):
        yield Finding(ConditionType.RECONCILING, _TRUE, "Progressing", "the objects of the spec are being made")
    yield from life_status.findings(seen, [*shards, *leaving], outcome)


def _obstacles(seen: Observation, outcome: Outcome) -> Iterator[Finding]:
    if seen.worker is not None and not seen.worker.paused and not resolved_image(seen):
        yield Finding(
            ConditionType.STALLED, _TRUE, "NoImage", "spec.image: neither the spec nor the operator names an image"
        )
    if seen.worker is not None and delivery.is_by_argocd(seen.worker) and seen.policy.argocd is None:
        told = "spec.delivery: the operator was installed without an Argo CD to deliver through"
        yield Finding(ConditionType.STALLED, _TRUE, delivery.UNAVAILABLE, told)
    claims = [name for name in outcome.foreign if name.startswith("PersistentVolumeClaim/")]
    if claims:
        told = f"{', '.join(claims)}: not a claim of this EcoWorker; it is left alone"
        yield Finding(ConditionType.STALLED, _TRUE, "ForeignClaim", told[:MESSAGE_LENGTH_MAX])
    if outcome.foreign:
        told = f"{', '.join(outcome.foreign)}: there already and not the operator's; left alone"
        yield Finding(ConditionType.STALLED, _TRUE, "NameConflict", told[:MESSAGE_LENGTH_MAX])
    if outcome.rejected:
        yield Finding(ConditionType.STALLED, _TRUE, "Rejected", "; ".join(outcome.rejected)[:MESSAGE_LENGTH_MAX])


def _ready(seen: Observation, shards: list[ShardStatus], stalled: Finding | None, health: Finding) -> Finding | None:
    """The headline as far as health has a say in it; None when all is well."""
    if stalled is not None:
        reason = "Conflict" if stalled.reason in {"ForeignClaim", "NameConflict"} else "ShardsNotReady"
        return Finding(ConditionType.READY, _FALSE, reason, stalled.message)
    assert seen.worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    if not shards:
        last = ", ".join(shard.name for shard in scale_in.leaving(seen, seen.worker))
        if last:
            return Finding(ConditionType.READY, _FALSE, "ShardsNotReady", f"{last}: not wanted and not gone yet")
        return Finding(ConditionType.READY, _TRUE, "ScaledToZero", "no shard is wanted")
    if seen.worker.hibernated:
        return Finding(ConditionType.READY, _FALSE, "Hibernated", "every shard is stopped, as the annotation asks")
    waiting = [shard for shard in shards if not shard.ready]
    if waiting:
        told = "; ".join(f"{shard.name}: {shard.message or 'not ready'}" for shard in waiting)
        return Finding(ConditionType.READY, _FALSE, "ShardsNotReady", told[:MESSAGE_LENGTH_MAX])
    unknown = sum(shard.wal is WalState.UNKNOWN for shard in shards)
    if too_many_silent(unknown, len(shards)):
        told = f"{unknown} of {len(shards)} shards are not heard of"
        return Finding(ConditionType.READY, _UNKNOWN, "ProbeUnavailable", told)
    if health.status is not _TRUE:
        return Finding(ConditionType.READY, _FALSE, "WALUnhealthy", health.message)
    return None


def _current(seen: Observation) -> Finding:
    """The headline of shards that are all well: good for this generation only if they are what it asks for."""
    assert seen.worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    wanted = [] if seen.worker.paused else seen.shards[: seen.worker.spec.replicas]
    current = _revision(seen)
    behind = [it.name for it in wanted if it.deployment is not None and _is_outdated(seen, it, current)]
    if behind:
        told = f"{', '.join(behind)}: still as an earlier spec had it"
        return Finding(ConditionType.READY, _FALSE, "ShardsNotReady", told[:MESSAGE_LENGTH_MAX])
    return Finding(ConditionType.READY, _TRUE, "AllShardsReady", "every shard is ready")


def _health(shards: list[ShardStatus]) -> Finding:
    if not shards:
        return Finding(ConditionType.WAL_HEALTHY, _TRUE, "NoShards", "there is no journal to judge")
    state = worst(shard.wal for shard in shards)
    if state is WalState.HEALTHY:
        return Finding(ConditionType.WAL_HEALTHY, _TRUE, "Healthy", "every journal moves its work, or has none")
    told = "; ".join(f"{shard.name}: {shard.message or shard.wal}" for shard in shards if shard.wal is state)
    status = _UNKNOWN if state in {WalState.UNKNOWN, WalState.DISABLED} else _FALSE
    return Finding(ConditionType.WAL_HEALTHY, status, state.value, told[:MESSAGE_LENGTH_MAX])


def _is_settled(seen: Observation) -> bool:
    """Whether every object of the current spec is there and the deployment controller has come up to it."""
    assert seen.worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    current = _revision(seen)
    wanted = seen.shards[: seen.worker.spec.replicas]
    is_asleep = seen.worker.hibernated
    return not scale_in.leaving(seen, seen.worker) and all(
        shard.deployment is not None
        and shard.deployment.deployment is not None
        and (not shard.pods if is_asleep else shard.deployment.deployment.is_up)
        and not shard.deployment.is_deleting
        and not _is_outdated(seen, shard, current)
        for shard in wanted
    )


def _revision(seen: Observation) -> Revision | None:
    image = resolved_image(seen)
    return wanted_revision(seen, seen.worker, image) if seen.worker is not None and image else None


def _revision_name(seen: Observation, shard: Shard, current: Revision | None) -> str | None:
    """Which revision the shard's Deployment is of; of a spec that is refused, the one that was known."""
    if seen.worker is None or current is None:
        return shard.previous.revision if shard.previous is not None else None
    found = target.revision_of(seen, seen.worker, shard, current)
    return found.name if found is not None else None


def _is_outdated(seen: Observation, shard: Shard, current: Revision | None) -> bool:
    assert seen.worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    return current is None or not target.is_hash_of(shard, target.wanted(seen, seen.worker, shard, current))


def _shard(seen: Observation, shard: Shard, view: _View) -> ShardStatus:
    verdict = judge(shard.probe, view.bounds, known_uuid=shard.known_uuid)
    numbers = _numbers(shard, seen.now, shard.previous or ShardStatus(name=shard.name))
    pod = shard.pod
    if recovery.record_of(shard):
        verdict = Verdict(WalState.FENCED, f"stopped for a recovery: {recovery.cause_in(recovery.record_of(shard))}")
    elif seen.worker is not None and seen.worker.hibernated and not shard.pods:
        verdict = Verdict(WalState.DISABLED, "hibernated")
    elif pod is None or pod.pod is None or not pod.pod.process:
        verdict = Verdict(WalState.UNKNOWN, "no worker runs")
    elif seen.is_settling and shard.probe.report is None and shard.previous is not None:
        # Nobody has been asked yet: what was written before the operator started is the best there is.
        verdict = Verdict(shard.previous.wal, shard.previous.message)
    elif shard.probe.report is not None and (shard.probe.pod_uid, shard.probe.process) != (pod.uid, pod.pod.process):
        # What an earlier process said of the journal is no news of what the present one finds.
        verdict = Verdict(WalState.UNKNOWN, "the worker has started anew and not been heard of yet")
    child = shard.deployment
    ready = child is not None and child.deployment is not None and child.deployment.is_up and not child.is_deleting
    message = verdict.message
    if not ready and verdict.state in {WalState.UNKNOWN, WalState.HEALTHY}:
        message = _kubelet_says(seen, shard) or message
    return numbers.model_copy(
        update={
            "ready": ready,
            "wal": verdict.state,
            "message": message[:MESSAGE_LENGTH_MAX],
            "pod": pod.name if pod is not None else None,
            "node": (pod.pod.node or None) if pod is not None and pod.pod is not None else None,
            "image": child.deployment.image if child is not None and child.deployment is not None else None,
            "revision": _revision_name(seen, shard, view.current),
            "claim": shard.claim.name if shard.claim is not None else None,
            "volume_size": _volume_size(shard),
            "growth_refused": growth.refused(seen, shard, view.outcome),
            "journal_uuid": shard.known_uuid or numbers.journal_uuid,
            "last_report_time": _last_report(shard, verdict, seen),
            "last_recovery": recovery.result(seen, shard),
            "sync_now": standstill.sync_done(seen, shard, view.outcome),
        }
    )


def _numbers(shard: Shard, now: datetime, before: ShardStatus) -> ShardStatus:
    """What the last report says, with moments and percentages left as they were while they are about right."""
    probe = shard.probe
    report = probe.report
    if report is None or probe.age_s is None:
        return before
    counts, ages = report.counts, report.ages
    heard = now - timedelta(seconds=probe.age_s)
    oldest = max((age for age in (ages.oldest_due_s, ages.oldest_running_s) if age is not None), default=None)
    is_same_start = before.incarnation == report.incarnation
    recovered_at, recovered = before.last_recovery_time, before.recovered
    if report.recovered and not is_same_start:
        recovered_at, recovered = heard, report.recovered
    return ShardStatus(
        name=shard.name,
        journal_uuid=report.journal_uuid or before.journal_uuid,
        incarnation=report.incarnation or before.incarnation,
        pending=counts.due + counts.running,
        waiting=counts.waiting,
        oldest_pending_time=moment(heard, oldest, before.oldest_pending_time),
        unsynced=counts.unsynced,
        oldest_unsynced_time=moment(heard, ages.oldest_unsynced_s, before.oldest_unsynced_time),
        parked=counts.sync_parked + counts.outbox_parked,
        disk_percent=_steady_percent(report.volume.used_percent, before.disk_percent),
        last_recovery_time=recovered_at,
        recovered=recovered,
    )


def _steady_percent(percent: int, before: int | None) -> int:
    return before if before is not None and abs(percent - before) < DISK_TOLERANCE_PERCENT else percent


def _volume_size(shard: Shard) -> str | None:
    claim = shard.claim.claim if shard.claim is not None else None
    return (claim.capacity[:SIZE_LENGTH_MAX] or None) if claim is not None else None


def _last_report(shard: Shard, verdict: Verdict, seen: Observation) -> datetime | None:
    if verdict.state is not WalState.UNKNOWN:
        return None
    before = shard.previous.last_report_time if shard.previous is not None else None
    if shard.probe.age_s is None:
        return before
    return moment(seen.now, shard.probe.age_s, before)


def _kubelet_says(seen: Observation, shard: Shard) -> str:
    """What is known about a worker that does not answer, from the deployment down to the container."""
    pod = shard.pod
    if node := lost_pod(seen, shard):
        return f"NodeLost: a pod is on node {node}, which does not answer"
    if pod is None or pod.pod is None:
        return "no pod yet" if shard.deployment is not None else "no deployment yet"
    state = pod.pod
    if state.reason:
        said = f"{state.reason}: {state.message}" if state.message else state.reason
        return f"{said} (last exit: {state.last_exit})" if state.last_exit else said
    if shard.probe.report is not None and not shard.probe.failures and not shard.probe.report.consuming:
        return "the worker takes no tasks: it has no consumer at the broker"
    return "the pod is not ready yet" if state.phase == "Running" else f"the pod is {state.phase or 'unknown'}"


def _summary(
    wanted: list[ShardStatus], leaving: list[ShardStatus], ready: int, findings: list[Finding]
) -> EcoWorkerSummary:
    shards = [*wanted, *leaving]
    silent = any(shard.wal is WalState.UNKNOWN for shard in shards)
    trouble = next((it for it in findings if it.type is ConditionType.STALLED), None) or next(
        (it for it in findings if it.type is ConditionType.READY and it.status is not _TRUE), None
    )
    if trouble is None:
        # Nothing stands still for it yet, but it will.
        storage = (it for it in findings if it.type is ConditionType.STORAGE_GROWING and it.status is _FALSE)
        trouble = next(storage, None)
    disks = [shard.disk_percent for shard in shards if shard.disk_percent is not None]
    return EcoWorkerSummary(
        ready=f"{ready}/{len(wanted)}",
        wal=worst(shard.wal for shard in shards).value,
        pending=total((shard.pending for shard in shards), silent=silent),
        unsynced=total((shard.unsynced for shard in shards), silent=silent),
        disk=(f">={max(disks)}" if silent else str(max(disks))) if disks else (UNKNOWN if shards else ""),
        message=trouble.message[:MESSAGE_LENGTH_MAX] if trouble is not None else "",
    )


def _sums(status: EcoWorkerStatus) -> tuple[str, ...]:
    return (status.summary.pending, status.summary.unsynced) if status.summary is not None else ()


def _essence(status: EcoWorkerStatus) -> object:
    conditions = [(it.type, it.status, it.reason, it.observed_generation) for it in status.conditions]
    shards = [
        (
            *(it.name, it.ready, it.wal, it.pod, it.image, it.journal_uuid, it.incarnation),
            *(it.volume_size, it.growth_refused),
            *(it.sync_now, it.draining_since, it.last_recovery.job if it.last_recovery is not None else None),
        )
        for it in status.shards
    ]
    return (
        sorted(conditions),
        sorted(shards, key=lambda shard: shard[0]),
        status.observed_generation,
        status.replicas,
        status.ready_replicas,
        status.image,
        status.selector,
        status.last_recovery_time,
    )
