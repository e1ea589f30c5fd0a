"""Claims whose EcoWorker is gone: marked with the time, and some time later drained on the word of the claim alone.

Until then an EcoWorker of the same name finds them untouched: a deletion by mistake costs nothing.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.jobs import Left
from eco_operator.cache import Child
from eco_operator.reconcile import delivery, kept_claims, volume_jobs
from eco_operator.reconcile.contents import holds, is_empty
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.plan import Announce, EventType, MarkClaim, ObjectRef, Plan, Step
from eco_operator.resources import claim as claim_resource

DRAINED_AFTER: Final = timedelta(minutes=15)
"""How long a claim waits for an EcoWorker of its name before it is drained."""


def decide(seen: Observation, about: ObjectRef) -> Plan:
    """What to do about the claims of an EcoWorker that is gone; `about` is how events call it."""
    orphans = [
        (shard, shard.claim)
        for shard in seen.shards
        if shard.claim is not None and shard.claim.claim is not None and not shard.claim.is_deleting
    ]
    marked = [(shard, claim, since) for shard, claim in orphans if (since := _since(claim)) is not None]
    unmarked = [(shard, claim) for shard, claim in orphans if _since(claim) is None]
    steps = [*delivery.removed_with_worker(seen), *_mark(seen, unmarked, about)]
    waits = []
    for shard, claim, since in marked:
        wait = since + DRAINED_AFTER - seen.now
        if wait > timedelta():
            waits.append(wait.total_seconds())
            continue
        worker = remembered(seen, claim)
        if worker is None or not worker.spec.image:
            steps.extend(_unreadable(seen, claim))
            continue
        steps.extend(kept_claims.settle(seen, shard, worker, worker.spec.image))
        if shard.jobs or not volume_jobs.is_free(shard):
            waits.append(volume_jobs.LOOK_AGAIN_S)
    return Plan(tuple(steps), min(waits, default=None))


def remembered(seen: Observation, claim: Child) -> EcoWorker | None:
    """The EcoWorker that a claim was of, as far as a job needs to know it; None when that is unreadable."""
    assert claim.claim is not None, "asked about claims"  # noqa: S101  # a caller's mistake
    uid = claim.labels.get(contract.LABEL_WORKER_UID, "")
    try:
        return claim_resource.read_drain_settings(
            claim.claim.annotations, namespace=seen.key.namespace, name=seen.key.name, uid=uid
        )
    except (ValidationError, ValueError):
        return None


def _since(claim: Child) -> datetime | None:
    """Since when its EcoWorker is gone; a mark that nobody can read is made anew."""
    written = kept_claims.marks(claim).get(contract.ANNOTATION_ORPHANED, "")
    try:
        since = datetime.fromisoformat(written)
    except ValueError:
        return None
    return since if since.tzinfo is not None else None


def _mark(seen: Observation, unmarked: list[tuple[Shard, Child]], about: ObjectRef) -> Iterator[Step]:
    """Say once that the claims of an EcoWorker that is gone stay, and mark them with the time."""
    if not unmarked:
        return
    kind = EventType.NORMAL if all(is_empty(shard) for shard, _ in unmarked) else EventType.WARNING
    summary = " ".join(f"{shard.name}: {holds(shard)}" for shard, _ in unmarked)
    told = f"The EcoWorker is gone, its claims stay; a new one of this name goes on with them. {summary}"
    yield Announce(about, "ClaimsKept", told[:1000], kind, once=about.uid)
    for shard, claim in unmarked:
        kind = EventType.NORMAL if is_empty(shard) else EventType.WARNING
        message = f"EcoWorker {seen.key.name} is gone. {holds(shard)}"
        yield Announce(kept_claims.ref(claim), "ClaimKept", message, kind, once=about.uid)
        written = {contract.ANNOTATION_ORPHANED: seen.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        yield MarkClaim(claim, {**kept_claims.marks(claim), **written}, "its EcoWorker is gone")


def _unreadable(seen: Observation, claim: Child) -> Iterator[Step]:
    """Say once of a claim that nobody can start anything on that it is so."""
    if kept_claims.left(claim) is not None:
        return
    message = "what it takes to drain it cannot be read from the claim; an EcoWorker of its name can go on with it"
    note = Left(at=seen.now.strftime("%Y-%m-%dT%H:%M:%SZ"), error=message)
    told = Announce(kept_claims.ref(claim), "DrainFailed", f"{claim.name}: {message}.", EventType.WARNING)
    yield MarkClaim(
        claim, {**kept_claims.marks(claim), contract.ANNOTATION_LEFT: note.model_dump_json()}, message, told
    )
