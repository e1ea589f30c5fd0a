"""What to do about one EcoWorker.

Its claims outlive it, everything else goes with it by owner reference, so a deletion needs no step of ours: what is
left to do then is to say which claims stay and what they still hold. Nothing is started beside something that may be
the same: an object on its way out, or one of an EcoWorker of the same name before this, is waited for.
"""

from collections.abc import Iterator
from typing import Any, Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.ecoworker_status import UNKNOWN
from eco_crds.wal import JournalMode
from eco_operator import kinds
from eco_operator.cache import Child
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.ownership import drift
from eco_operator.reconcile.plan import Announce, Apply, Delete, EventType, MarkClaim, ObjectRef, Plan, Step
from eco_operator.resources import claim, deployment, service, shard_config, sync_config, token_secret

LOOK_AGAIN_AT_LEAVING_S: Final = 5.0


def decide(seen: Observation) -> Plan:
    """The steps that bring the EcoWorker nearer to what is wanted; none when it is there."""
    if seen.owned is None:
        return Plan(tuple(_keep_claims(seen)))
    if seen.owned.is_deleting or seen.worker is None or seen.worker.paused:
        return Plan()
    image = resolved_image(seen)
    if not image:
        return Plan()
    steps = tuple(_wanted(seen, seen.worker, image)) + tuple(_unwanted(seen))
    is_waiting = any(_leaves(child, seen) for child in seen.children if child.kind != kinds.POD.kind)
    return Plan(steps, LOOK_AGAIN_AT_LEAVING_S if is_waiting else None)


def resolved_image(seen: Observation) -> str:
    """The image to run: the spec's, else the default that was resolved for this generation, else the default now.

    A default stays as it was resolved until the spec changes, so that a newer operator restarts nothing.
    """
    if seen.worker is None or seen.owned is None:
        return ""
    if seen.worker.spec.image:
        return seen.worker.spec.image
    if seen.previous.observed_generation == seen.owned.generation and seen.previous.image:
        return seen.previous.image
    return seen.policy.default_image


def about(seen: Observation) -> ObjectRef:
    """The EcoWorker as the subject of an event; of one that is gone, with the uid its claims remember."""
    uid = seen.owned.uid if seen.owned is not None else ""
    if not uid:
        uid = next((child.labels.get(contract.LABEL_WORKER_UID, "") for child in seen.children), "")
    return ObjectRef(contract.API_VERSION, kinds.ECO_WORKER.kind, seen.key.namespace, seen.key.name, uid)


def _wanted(seen: Observation, worker: EcoWorker, image: str) -> Iterator[Step]:
    name = worker.metadata.name
    yield from _apply(seen, kinds.SECRET, token_secret.build(worker, token=""))
    yield from _apply(seen, kinds.SERVICE, service.build(worker))
    if seen.sync is not None:
        yield from _apply(seen, kinds.CONFIG_MAP, sync_config.build(worker, settings=seen.sync.spec.settings()))
    elif (settings := seen.child(kinds.CONFIG_MAP, contract.sync_config_name(name))) and not settings.is_deleting:
        yield Delete(settings, "no WalSync selects the EcoWorker", _tell(seen, "SyncStopped", "No WalSync selects it."))
    may_roll = _next_to_roll(seen, worker, image)
    for shard in seen.shards[: worker.spec.replicas]:
        yield from _wanted_shard(seen, worker, shard, image, may_roll=may_roll)


def _wanted_shard(
    seen: Observation, worker: EcoWorker, shard: Shard, image: str, *, may_roll: frozenset[int]
) -> Iterator[Step]:
    uuid = shard.known_uuid or _reported_uuid(shard)
    present = shard.claim.claim.requested if shard.claim is not None and shard.claim.claim is not None else None
    wanted = claim.build(worker, shard.index, image=image, journal_uuid=uuid, present_size=present)
    yield from _apply(seen, kinds.CLAIM, _with_immutable(wanted, shard.claim))
    if shard.claim is not None and shard.claim.claim is not None and not shard.claim.is_deleting:
        if shard.claim.claim.annotations.get(contract.ANNOTATION_ORPHANED):
            yield MarkClaim(shard.claim, "", "its EcoWorker is back")
        if shard.claim.labels.get(contract.LABEL_WORKER_UID) != worker.metadata.uid:
            yield _tell(seen, "ClaimAdopted", f"Goes on with the journal on claim {shard.claim.name}.")
    if uuid:
        yield from _apply(seen, kinds.CONFIG_MAP, shard_config.build(worker, shard.index, journal_uuid=uuid))
    if shard.claim is not None and shard.claim.is_deleting and shard.deployment is None:
        return
    if shard.deployment is None or shard.index in may_roll:
        requires = f"{kinds.CLAIM.kind}/{wanted['metadata']['name']}"
        yield from _apply(seen, kinds.DEPLOYMENT, deployment.build(worker, shard.index, image=image), requires=requires)


def _next_to_roll(seen: Observation, worker: EcoWorker, image: str) -> frozenset[int]:
    """Shards whose Deployment may be changed now: all that are not ready, and one of the others when all are.

    So a change that makes a shard worse stops there, and one that mends it always gets in.
    """
    outdated, down = [], []
    for shard in seen.shards[: worker.spec.replicas]:
        if shard.deployment is None or shard.deployment.deployment is None:
            continue
        if not shard.deployment.deployment.is_up:
            down.append(shard.index)
        elif drift(deployment.build(worker, shard.index, image=image), shard.deployment):
            outdated.append(shard.index)
    return frozenset(down or outdated[:1])


def _unwanted(seen: Observation) -> Iterator[Step]:
    """Deployments of shards beyond the wanted number. Their claims stay, with what is known about the journals."""
    assert seen.worker is not None, "decide saw a valid object"  # noqa: S101  # a caller's mistake
    for shard in seen.shards[seen.worker.spec.replicas :]:
        if shard.deployment is not None and not _leaves(shard.deployment, seen):
            message = f"Shard {shard.name} is not wanted any more; its claim stays. {_holds(shard)}"
            kind = EventType.NORMAL if _is_empty(shard) else EventType.WARNING
            yield Delete(shard.deployment, "fewer shards are wanted", _tell(seen, "ShardRemoved", message, kind))


def _keep_claims(seen: Observation) -> Iterator[Step]:
    """Say once that the claims of an EcoWorker that is gone stay, and mark them with the time."""
    unmarked = [
        shard
        for shard in seen.shards
        if shard.claim is not None
        and shard.claim.claim is not None
        and not shard.claim.is_deleting
        and not shard.claim.claim.annotations.get(contract.ANNOTATION_ORPHANED)
    ]
    if not unmarked:
        return
    subject = about(seen)
    kind = EventType.NORMAL if all(_is_empty(shard) for shard in unmarked) else EventType.WARNING
    summary = " ".join(f"{shard.name}: {_holds(shard)}" for shard in unmarked)
    told = f"The EcoWorker is gone, its claims stay; a new one of this name goes on with them. {summary}"
    yield Announce(subject, "ClaimsKept", told[:1000], kind, once=subject.uid)
    for shard in unmarked:
        kept = shard.claim
        assert kept is not None, "filtered above"  # noqa: S101  # for the type checker
        ref = ObjectRef(kinds.CLAIM.api_version, kinds.CLAIM.kind, kept.namespace, kept.name, kept.uid)
        kind = EventType.NORMAL if _is_empty(shard) else EventType.WARNING
        yield Announce(ref, "ClaimKept", f"EcoWorker {seen.key.name} is gone. {_holds(shard)}", kind, once=subject.uid)
        yield MarkClaim(kept, seen.now.strftime("%Y-%m-%dT%H:%M:%SZ"), "its EcoWorker is gone")


def _apply(seen: Observation, kind: kinds.Kind, desired: dict[str, Any], *, requires: str = "") -> Iterator[Step]:
    name = desired["metadata"]["name"]
    existing = seen.child(kind, name)
    if existing is None:
        told = _tell(seen, f"{_WORDS[kind.kind]}Created", f"Made {name}.")
        yield Apply(desired, None, "it is missing", told, requires)
        return
    if _leaves(existing, seen):
        return
    why = drift(desired, existing)
    if why:
        told = _tell(seen, f"{_WORDS[kind.kind]}Updated", f"Updated {name}: {why}.")
        yield Apply(desired, existing, why, told, requires)


_WORDS: Final = {
    kinds.DEPLOYMENT.kind: "Shard",
    kinds.CLAIM.kind: "Claim",
    kinds.SERVICE.kind: "Service",
    kinds.SECRET.kind: "Token",
    kinds.CONFIG_MAP.kind: "Settings",
}


def _leaves(child: Child, seen: Observation) -> bool:
    """Whether it is on its way out: being deleted, or owned by an EcoWorker of this name that is gone."""
    ours = seen.owned.uid if seen.owned is not None else ""
    return child.is_deleting or (bool(child.owner_uids) and ours not in child.owner_uids and child.kind != "Pod")


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


def _is_empty(shard: Shard) -> bool:
    report = shard.probe.report
    if report is None:
        return False
    counts = report.counts
    owed = counts.due + counts.waiting + counts.running + counts.unsynced + counts.sync_parked
    return owed + counts.outbox_unsent + counts.outbox_parked == 0


def _holds(shard: Shard) -> str:
    report = shard.probe.report
    if report is None:
        return f"What its journal holds is not known ({UNKNOWN.lower()})."
    counts = report.counts
    before = "" if shard.probe.age_s is None or shard.probe.age_s < 1 else f", {shard.probe.age_s:.0f} s before"
    if _is_empty(shard):
        return f"Its journal was empty when last heard of{before}."
    return (
        f"When last heard of{before}, its journal held {counts.due + counts.waiting + counts.running} unfinished tasks,"
        f" {counts.unsynced + counts.sync_parked} unsynced results and"
        f" {counts.outbox_unsent + counts.outbox_parked} unsent messages."
    )


def _tell(seen: Observation, reason: str, message: str, kind: EventType = EventType.NORMAL) -> Announce:
    return Announce(about(seen), reason, message, kind)
