"""Who applies what was decided: the operator itself, or Argo CD from Applications that the operator writes.

Decisions are the same in both. Where Argo CD delivers, the steps that would apply a shard's objects become one step
that writes its Application, with what they want as values; an object is as wanted once it carries the hash that the
chart gives it, which is the operator's own. A shard keeps the values it has until its turn to roll comes.

A change of the delivery takes nothing down. To Argo CD: the operator gives its fields up once Argo CD has applied the
same ones. Back: an Application is disarmed and deleted without its objects before the operator applies them again, and
only then Argo CD's fields are given up. So at each moment one of them owns an object, and a pod never changes.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from eco_crds import contract
from eco_crds.conditions import ConditionType
from eco_crds.ecoworker import Delivery, EcoWorker
from eco_crds.fields import ConditionStatus
from eco_operator import kinds
from eco_operator.cache import Child
from eco_operator.reconcile import target
from eco_operator.reconcile.findings import MESSAGE_LENGTH_MAX, Finding
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.ownership import drift
from eco_operator.reconcile.plan import Announce, Apply, Delete, Release, Step
from eco_operator.reconcile.revision import Revision
from eco_operator.resources import application
from eco_operator.resources.application import Held, ShardValues, Source

_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE
LOOK_AGAIN_S: Final = 5.0
"""An Application has no event of its own here: how it fares is looked up at intervals."""
UNAVAILABLE: Final = "ArgoCDUnavailable"
_DELIVERED: Final = frozenset(
    kind.kind for kind in (kinds.DEPLOYMENT, kinds.CLAIM, kinds.SERVICE, kinds.BUDGET, kinds.CONFIG_MAP)
)


def is_by_argocd(worker: EcoWorker) -> bool:
    """Whether Argo CD is to apply the objects."""
    return worker.spec.delivery is Delivery.ARGOCD


def difference(worker: EcoWorker, desired: Mapping[str, Any], existing: Child) -> str:
    """Why an object has to be applied, or empty. Of what Argo CD applies the hash alone says whether it has."""
    if is_by_argocd(worker) and existing.kind in _DELIVERED:
        wanted = desired["metadata"]["annotations"][contract.ANNOTATION_HASH]
        return "" if existing.desired_hash == wanted else "the wanted state changed"
    return drift(desired, existing)


def route(seen: Observation, worker: EcoWorker, current: Revision, steps: Iterable[Step]) -> Iterator[Step]:
    """The steps as they are to be taken: those that apply an object may go by way of an Application."""
    source = seen.policy.argocd
    if not is_by_argocd(worker):
        yield from _taken_back(seen, source, steps)
    elif source is None:
        yield from (step for step in steps if not _is_delivered(step))
    else:
        yield from _handed_on(seen, worker, current, source, steps)


def next_look_s(seen: Observation) -> float | None:
    """When to look at the Applications again; None when nothing is under way."""
    return LOOK_AGAIN_S if _applications(seen) and _under_way(seen) else None


def failure(seen: Observation, shard: Shard) -> str:
    """What kept Argo CD from applying the objects of a shard; empty when nothing did."""
    found = _application_of(seen, shard.name)
    return found.application.failure if found is not None and found.application is not None else ""


def finding(seen: Observation) -> Finding | None:
    """How far Argo CD is; None where it has nothing to do."""
    worker = seen.worker
    found = _applications(seen)
    if worker is None or not (found or is_by_argocd(worker)):
        return None
    if not is_by_argocd(worker):
        told = f"{', '.join(sorted(child.name for child in found))}: still there"
        return Finding(ConditionType.DELIVERED, _FALSE, "HandingOver", told[:MESSAGE_LENGTH_MAX])
    if seen.policy.argocd is None:
        told = "delivery: the operator knows of no Argo CD"
        return Finding(ConditionType.DELIVERED, _FALSE, UNAVAILABLE, told)
    failed = [f"{it.name}: {it.application.failure}" for it in found if it.application and it.application.failure]
    if failed:
        told = "; ".join(failed)[:MESSAGE_LENGTH_MAX]
        return Finding(ConditionType.DELIVERED, _FALSE, "SyncFailed", told)
    late = _under_way(seen)
    if late:
        told = f"{', '.join(late)}: not applied by Argo CD yet"[:MESSAGE_LENGTH_MAX]
        return Finding(ConditionType.DELIVERED, _FALSE, "OutOfSync", told)
    return Finding(ConditionType.DELIVERED, _TRUE, "Synced", "every Application is synced")


def removed_with_worker(seen: Observation) -> Iterator[Step]:
    """Applications of an EcoWorker that is gone: they would make again what the garbage collector removes."""
    for child in _applications(seen):
        if not child.is_deleting:
            yield Delete(child, "its EcoWorker is gone")


def _under_way(seen: Observation) -> list[str]:
    """Names of what Argo CD has not come to."""
    worker = seen.worker
    assert worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    wanted = [application.name_of_shard(worker, shard.index) for shard in seen.shards[: worker.spec.replicas]]
    there = {child.name: child for child in _applications(seen)}
    missing = [name for name in (application.name_of_shared(worker), *wanted) if name not in there]
    late = [it.name for it in there.values() if it.is_deleting or not (it.application and it.application.is_synced)]
    return sorted({*missing, *late} if is_by_argocd(worker) else there)


def _handed_on(
    seen: Observation, worker: EcoWorker, current: Revision, source: Source, steps: Iterable[Step]
) -> Iterator[Step]:
    """Through Applications."""
    wanted: dict[str, dict[str, Apply]] = defaultdict(dict)
    for step in steps:
        if isinstance(step, Apply) and step.desired["kind"] in _DELIVERED:
            shard = step.desired["metadata"]["labels"].get(contract.LABEL_SHARD, "")
            wanted[shard][step.desired["kind"]] = step
        elif isinstance(step, Delete) and step.child.kind in _DELIVERED:
            yield from _withdrawn(seen, step)
        else:
            yield step
    settings = seen.sync.spec.settings() if seen.sync is not None else None
    yield from _written(seen, application.of_shared(worker, source, settings=settings), None)
    for shard in seen.shards:
        is_leaving = shard.index >= worker.spec.replicas
        existing = _application_of(seen, shard.name)
        if is_leaving and shard.deployment is None:
            if existing is not None and not existing.is_deleting:
                yield Delete(existing, "fewer shards are wanted")
        elif not (is_leaving and existing is None):
            yield from _shard(seen, worker, current, source, shard, wanted[shard.name])
    yield from _given_up(seen)


def _withdrawn(seen: Observation, step: Delete) -> Iterator[Step]:
    """The Application goes, and its objects with it; without one the object itself."""
    if step.child.kind != kinds.DEPLOYMENT.kind:
        return  # Argo CD prunes what the values no longer ask for.
    existing = _application_of(seen, step.child.shard)
    if existing is None:
        yield step
    elif not existing.is_deleting:
        yield Delete(existing, step.why, step.announce)


def _shard(
    seen: Observation,
    worker: EcoWorker,
    current: Revision,
    source: Source,
    shard: Shard,
    steps: Mapping[str, Apply],
) -> Iterator[Step]:
    """The Application of one shard, with what is wanted of it now; nothing while its turn has not come."""
    existing = _application_of(seen, shard.name)
    rolled = steps.get(kinds.DEPLOYMENT.kind)
    held = None
    if rolled is not None:
        wanted = rolled.desired
    elif target.is_hash_of(shard, target.wanted(seen, worker, shard, current)):
        wanted = target.wanted(seen, worker, shard, current)
    elif existing is not None and existing.application is not None:
        wanted = None
        held = Held(existing.application.values.get("spec") or {}, existing.application.revision)
    else:
        return
    if held is None and rolled is None and existing is not None and existing.application is not None:
        # As wanted: a chart that has a newer version meanwhile is no reason to render it with that.
        held = Held(application.rendered_spec(worker), existing.application.revision)
    values = _values(worker, shard, existing, steps, wanted)
    step = rolled or steps.get(kinds.CLAIM.kind)
    told = step.announce if step is not None else None
    yield from _written(seen, application.of_shard(worker, shard.index, values, source, held=held), told)


def _values(
    worker: EcoWorker,
    shard: Shard,
    existing: Child | None,
    steps: Mapping[str, Apply],
    deployment: Mapping[str, Any] | None,
) -> ShardValues:
    """What the steps want of a shard; where there is no step, what it has."""
    claim = steps[kinds.CLAIM.kind].desired if kinds.CLAIM.kind in steps else None
    present = shard.claim.claim if shard.claim is not None else None
    size = present.requested if present is not None else str(worker.spec.wal.size)
    grown = present.annotations.get(contract.ANNOTATION_GROWN, "") if present is not None else ""
    if claim is not None:
        size = str(claim["spec"]["resources"]["requests"]["storage"])
        grown = str(claim["metadata"]["annotations"].get(contract.ANNOTATION_GROWN, ""))
    uuid = shard.known_uuid
    if kinds.CONFIG_MAP.kind in steps:
        uuid = str(steps[kinds.CONFIG_MAP.kind].desired["data"][contract.JOURNAL_UUID_KEY])
    if deployment is None:
        before = _shard_values(existing)
        return ShardValues(
            replicas=int(before.get("replicas", 1)),
            image=str(before.get("image", "")),
            size=size,
            grown=grown,
            journal_uuid=uuid,
            recovery=str(before.get("recovery", "")),
        )
    return ShardValues(
        replicas=int(deployment["spec"]["replicas"]),
        image=str(deployment["spec"]["template"]["spec"]["containers"][0]["image"]),
        size=size,
        grown=grown,
        journal_uuid=uuid,
        recovery=str(deployment["metadata"]["annotations"].get(contract.ANNOTATION_RECOVERY, "")),
    )


def _shard_values(existing: Child | None) -> Mapping[str, Any]:
    state = existing.application if existing is not None else None
    found = state.values.get("shards") if state is not None else None
    return found[0] if found else {}


def _written(seen: Observation, desired: Mapping[str, Any], told: Announce | None) -> Iterator[Step]:
    existing = seen.child(kinds.APPLICATION, desired["metadata"]["name"])
    if existing is None:
        yield Apply(desired, None, "it is missing", told)
    elif not existing.is_deleting and (why := drift(desired, existing)):
        yield Apply(desired, existing, why, told)


def _given_up(seen: Observation) -> Iterator[Step]:
    """What Argo CD has applied needs no other owner: a field gone from the values would stay by our claim to it."""
    for child in seen.children:
        if child.kind in _DELIVERED and child.is_argocds and child.owned_fields and not seen.leaves(child):
            yield Release(child, contract.FIELD_MANAGER, "Argo CD applies it")


def _taken_back(seen: Observation, source: Source | None, steps: Iterable[Step]) -> Iterator[Step]:
    """By the operator itself, where no Application stands in the way any more."""
    found = _applications(seen)
    for child in found:
        yield from _let_go(child, source)
    if not found:
        yield from steps
        for child in seen.children:
            if child.kind in _DELIVERED and child.is_argocds and child.owned_fields and not seen.leaves(child):
                yield Release(child, contract.ARGOCD_FIELD_MANAGER, "the operator applies it again")
        return
    yield from (step for step in steps if not _is_delivered(step))


def _let_go(child: Child, source: Source | None) -> Iterator[Step]:
    """Disarm an Application, then delete it: its objects stay."""
    state = child.application
    if child.is_deleting or state is None:
        return
    if not state.is_armed or source is None:
        yield Delete(child, "the operator applies the objects itself")
        return
    desired = application.let_go(child.name, child.labels, state.values, state.revision, source)
    yield Apply(desired, child, "the operator takes its objects over")


def _is_delivered(step: Step) -> bool:
    if isinstance(step, Apply):
        return step.desired["kind"] in _DELIVERED
    return isinstance(step, Delete) and step.child.kind in _DELIVERED


def _applications(seen: Observation) -> list[Child]:
    return [child for child in seen.children if child.kind == kinds.APPLICATION.kind]


def _application_of(seen: Observation, shard: str) -> Child | None:
    return next((child for child in _applications(seen) if child.shard == shard), None)
