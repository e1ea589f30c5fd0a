"""What to do about one EcoWorker.

Its claims outlive it, everything else goes with it by owner reference, so a deletion needs no step of ours: what is
left to do then is to say which claims stay and what they still hold. Nothing is started beside something that may be
the same: an object on its way out, or one of an EcoWorker of the same name before this, is waited for.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.wal import JournalMode
from eco_operator import kinds
from eco_operator.cache import Child
from eco_operator.reconcile import (
    delivery,
    growth,
    kept_claims,
    orphans,
    recovery,
    revision,
    scale_in,
    standstill,
    target,
    volume_jobs,
)
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.plan import Announce, Apply, Delete, EventType, MarkClaim, ObjectRef, Plan, Step
from eco_operator.reconcile.revision import Revision, resolved_image
from eco_operator.resources import budget, claim, service, service_monitor, shard_config, sync_config, token_secret

LOOK_AGAIN_AT_LEAVING_S: Final = 5.0


def decide(seen: Observation) -> Plan:
    """The steps that bring the EcoWorker nearer to what is wanted; none when it is there."""
    if seen.owned is None:
        return orphans.decide(seen, about(seen))
    if seen.owned.is_deleting or seen.worker is None or seen.worker.paused:
        return Plan()
    image = resolved_image(seen)
    if not image:
        return Plan()
    current = revision.wanted(seen, seen.worker, image)
    steps = (
        *_wanted(seen, seen.worker, current),
        *recovery.decide(seen, seen.worker, image, about(seen)),
        *_leaving(seen, seen.worker, current),
    )
    return Plan(tuple(delivery.route(seen, seen.worker, current, steps)), _next_look_s(seen, seen.worker))


def about(seen: Observation) -> ObjectRef:
    """The EcoWorker as the subject of an event; of one that is gone, with the uid its claims remember."""
    uid = seen.owned.uid if seen.owned is not None else ""
    if not uid:
        uid = next((child.labels.get(contract.LABEL_WORKER_UID, "") for child in seen.children), "")
    return ObjectRef(contract.API_VERSION, kinds.ECO_WORKER.kind, seen.key.namespace, seen.key.name, uid)


def _wanted(seen: Observation, worker: EcoWorker, current: Revision) -> Iterator[Step]:
    name = worker.metadata.name
    yield from _apply(seen, kinds.SECRET, token_secret.build(worker, token=""))
    yield from _apply(seen, kinds.SERVICE, service.build(worker))
    yield from _apply(seen, kinds.BUDGET, budget.build(worker))
    if seen.policy.monitor_labels is not None:
        monitor = service_monitor.build(worker, labels=seen.policy.monitor_labels)
        yield from _apply(seen, kinds.SERVICE_MONITOR, monitor)
    if seen.sync is not None:
        yield from _apply(seen, kinds.CONFIG_MAP, sync_config.build(worker, settings=seen.sync.spec.settings()))
    elif (settings := seen.child(kinds.CONFIG_MAP, contract.sync_config_name(name))) and not settings.is_deleting:
        yield Delete(settings, "no WalSync selects the EcoWorker", _tell(seen, "SyncStopped", "No WalSync selects it."))
    yield from revision.decide(seen, current)
    may_roll = _next_to_roll(seen, worker, current)
    for shard in seen.shards[: worker.spec.replicas]:
        yield from _wanted_shard(seen, worker, shard, current, may_roll=may_roll)
        yield from standstill.decide(seen, worker, shard, current.image, about(seen))
    yield from growth.tell(seen, worker, about(seen))


def _wanted_shard(
    seen: Observation, worker: EcoWorker, shard: Shard, current: Revision, *, may_roll: frozenset[int]
) -> Iterator[Step]:
    uuid = shard.known_uuid or _reported_uuid(shard)

    def of_size(size: str, grown: str) -> dict[str, Any]:
        wanted = claim.build(worker, shard.index, image=current.image, journal_uuid=uuid, size=size, grown=grown)
        return _with_immutable(wanted, shard.claim)

    wanted = of_size(growth.size(worker, shard), growth.note(worker, shard))
    yield from _apply(seen, kinds.CLAIM, wanted)
    if shard.claim is not None and shard.claim.claim is not None and not shard.claim.is_deleting:
        if kept_claims.marks(shard.claim):
            yield MarkClaim(shard.claim, {}, "its shard is wanted again")
        if shard.claim.labels.get(contract.LABEL_WORKER_UID) != worker.metadata.uid:
            yield _tell(seen, "ClaimAdopted", f"Goes on with the journal on claim {shard.claim.name}.")
    if uuid:
        yield from _apply(seen, kinds.CONFIG_MAP, shard_config.build(worker, shard.index, journal_uuid=uuid))
    if shard.claim is not None and shard.claim.is_deleting and shard.deployment is None:
        return
    yield from _wanted_deployment(seen, worker, shard, current, may_roll=may_roll)
    if shard.claim is not None and not delivery.difference(worker, wanted, shard.claim):
        # By itself and last: a size that is refused keeps back nothing else of the shard.
        yield from growth.decide(shard, growth.look(seen, worker, shard), of_size, about(seen))


def _wanted_deployment(
    seen: Observation, worker: EcoWorker, shard: Shard, current: Revision, *, may_roll: frozenset[int]
) -> Iterator[Step]:
    """The Deployment of a shard that has one, or is to have one; never beside a job that has the volume."""
    desired = target.wanted(seen, worker, shard, current)
    if target.starts(shard, desired) and (shard.jobs or shard.job_pods):
        yield from volume_jobs.clear(shard, "a worker takes the volume")
        return
    requires = f"{kinds.CLAIM.kind}/{contract.claim_name(worker.metadata.name, shard.index)}"
    if shard.deployment is None or target.is_switch(shard, desired) or shard.index in may_roll:
        yield from _apply(seen, kinds.DEPLOYMENT, desired, requires=requires, told=_told_switch(seen, shard, desired))
    elif (own := target.revision_of(seen, worker, shard, current)) is not None:
        # Its turn to roll has not come: it is held to what it is.
        yield from _apply(seen, kinds.DEPLOYMENT, target.wanted(seen, worker, shard, own), requires=requires)


def _next_to_roll(seen: Observation, worker: EcoWorker, current: Revision) -> frozenset[int]:
    """Shards whose Deployment may be changed now: all that are not ready, and one of the others when all are.

    So a change that makes a shard worse stops there, and one that mends it always gets in. A shard that is stopped on
    purpose takes any change and holds nobody up.
    """
    stopped, outdated, down = [], [], []
    for shard in seen.shards[: worker.spec.replicas]:
        if shard.deployment is None or shard.deployment.deployment is None:
            continue
        desired = target.wanted(seen, worker, shard, current)
        if not desired["spec"]["replicas"]:
            stopped.append(shard.index)
        elif not shard.deployment.deployment.is_up:
            down.append(shard.index)
        elif delivery.difference(worker, desired, shard.deployment):
            outdated.append(shard.index)
    return frozenset(stopped + (down or outdated[:1]))


def _leaving(seen: Observation, worker: EcoWorker, current: Revision) -> Iterator[Step]:
    """Shards beyond the wanted number: a damaged journal is set right first, everything else is drained."""
    for shard in seen.shards[worker.spec.replicas :]:
        child = shard.deployment
        if child is None or child.deployment is None or seen.leaves(child):
            continue
        if recovery.look(seen, worker, shard).is_fenced or child.deployment.recovery:
            yield from _wanted_deployment(seen, worker, shard, current, may_roll=frozenset())
    yield from scale_in.decide(seen, worker, current.image, about(seen))


def _is_young(job: Child, seen: Observation) -> bool:
    """Whether a job ended so lately that its pod's last words may still be on their way."""
    try:
        ended = datetime.fromisoformat(job.job.ended if job.job is not None else "")
    except ValueError:
        return True
    return seen.now - ended < 2 * volume_jobs.REPORT_WAIT


def _told_switch(seen: Observation, shard: Shard, desired: dict[str, Any]) -> Announce | None:
    """The event of a shard that is stopped or started on purpose; None for any other change."""
    if shard.deployment is None or not target.is_switch(shard, desired):
        return None
    cause = target.record_in(desired)
    if cause:
        message = f"The worker of {shard.name} says that its journal is {cause.lower()}: it is stopped."
        return _tell(seen, "ShardFenced", message, EventType.WARNING)
    if desired["spec"]["replicas"]:
        return _tell(seen, "ShardStarted", f"Shard {shard.name} is started again.")
    return _tell(seen, "ShardHibernated", f"Shard {shard.name} is stopped, as the annotation asks.")


def _next_look_s(seen: Observation, worker: EcoWorker) -> float | None:
    """When to look again although no event may come."""
    waits = [scale_in.next_look_s(seen, worker), delivery.next_look_s(seen)]
    jobs = [job for shard in seen.shards for job in shard.jobs]
    if any(seen.leaves(child) for child in seen.children if child.kind != kinds.POD.kind):
        waits.append(LOOK_AGAIN_AT_LEAVING_S)
    if any(job.job is not None and job.job.has_ended and _is_young(job, seen) for job in jobs):
        waits.append(volume_jobs.LOOK_AGAIN_S)
    return min((it for it in waits if it is not None), default=None)


def _apply(
    seen: Observation,
    kind: kinds.Kind,
    desired: dict[str, Any],
    *,
    requires: str = "",
    told: Announce | None = None,
) -> Iterator[Step]:
    name = desired["metadata"]["name"]
    existing = seen.child(kind, name)
    if existing is None:
        told = _tell(seen, f"{_WORDS[kind.kind]}Created", f"Made {kind.kind} {name}.")
        yield Apply(desired, None, "it is missing", told, requires)
        return
    if seen.leaves(existing):
        return
    assert seen.worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    why = delivery.difference(seen.worker, desired, existing)
    if why:
        told = told or _tell(seen, f"{_WORDS[kind.kind]}Updated", f"Updated {name}: {why}.")
        yield Apply(desired, existing, why, told, requires)


_WORDS: Final = {
    kinds.DEPLOYMENT.kind: "Shard",
    kinds.CLAIM.kind: "Claim",
    kinds.SERVICE.kind: "Service",
    kinds.BUDGET.kind: "Budget",
    kinds.SERVICE_MONITOR.kind: "Monitor",
    kinds.SECRET.kind: "Token",
    kinds.CONFIG_MAP.kind: "Settings",
}


def _with_immutable(desired: dict[str, Any], existing: Child | None) -> dict[str, Any]:
    """The claim with the class it has: what was left to the cluster's default is not ours to change later."""
    if existing is None or existing.claim is None or "storageClassName" not in desired["spec"]:
        return desired
    if existing.claim.storage_class == desired["spec"]["storageClassName"]:
        return desired
    return {**desired, "spec": {**desired["spec"], "storageClassName": existing.claim.storage_class}}


def _reported_uuid(shard: Shard) -> str:
    report = shard.probe.report
    pod = shard.pod
    if report is None or report.mode is JournalMode.LOST or pod is None or shard.probe.pod_uid != pod.uid:
        return ""
    return report.journal_uuid


def _tell(seen: Observation, reason: str, message: str, kind: EventType = EventType.NORMAL) -> Announce:
    return Announce(about(seen), reason, message, kind)
