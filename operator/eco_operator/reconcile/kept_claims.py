"""Claims that no shard uses: drained by a job, then kept or deleted as the policy says.

A claim is deleted only when a job has had the volume for itself and found the journal empty. What a worker said before
it ended does not count for that: something may have come in since.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import ValidationError

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker, ReclaimPolicy
from eco_crds.jobs import JobName, JobReport, Left
from eco_operator import kinds
from eco_operator.cache import Child
from eco_operator.reconcile import volume_jobs
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.plan import Announce, Delete, EventType, MarkClaim, ObjectRef, Step

BOUND: Final = "Bound"
_MARKS: Final = (contract.ANNOTATION_ORPHANED, contract.ANNOTATION_SCALED_IN, contract.ANNOTATION_LEFT)


def marks(claim: Child) -> dict[str, str]:
    """What a claim is marked with now."""
    found: Mapping[str, str] = claim.claim.annotations if claim.claim is not None else {}
    return {name: found[name] for name in _MARKS if found.get(name)}


def describe(claim: Child) -> tuple[str, str] | None:
    """Why no shard uses a claim, and what its journal holds, in words for a metric; None for one that is used."""
    found = marks(claim)
    if not found:
        return None
    cause = "orphaned" if contract.ANNOTATION_ORPHANED in found else "scaled-in"
    noted = left(claim)
    if noted is None:
        return cause, "unknown"
    return cause, "failed" if noted.error else "empty" if noted.empty else "holding"


def left(claim: Child) -> Left | None:
    """What the last job left in the journal; None when none has ended."""
    try:
        return Left.model_validate_json(marks(claim).get(contract.ANNOTATION_LEFT, ""))
    except ValidationError:
        return None


def settle(seen: Observation, shard: Shard, worker: EcoWorker, image: str) -> Iterator[Step]:
    """The next step with a claim that no shard uses, and never will again as far as is known."""
    claim = shard.claim
    if claim is None or claim.claim is None or claim.is_deleting or claim.claim.phase != BOUND:
        return
    job = volume_jobs.find(shard, JobName.DRAIN)
    noted = left(claim)
    may_go = noted is not None and noted.empty and worker.spec.wal.reclaim_policy is ReclaimPolicy.DELETE
    if job is None:
        if volume_jobs.is_at_work(shard):
            return  # one that was begun while the shard was wanted; it comes to an end
        if noted is None or not noted.empty:
            told = _tell(claim, "DrainStarted", f"A job empties the journal of {shard.name}, which no worker uses.")
            yield from volume_jobs.clear(shard, "a drain comes in its place")
            yield from volume_jobs.start(seen, shard, worker, job=JobName.DRAIN, image=image, told=told)
        elif may_go and volume_jobs.is_free(shard):
            told = _tell(claim, "ClaimDeleted", f"The journal of {shard.name} is empty, and reclaimPolicy is Delete.")
            yield Delete(claim, "its journal is empty and the policy says so", told)
    elif job.job is not None and job.job.has_ended and not job.is_deleting:
        if noted is None or noted.job != job.uid:
            yield from _note(seen, shard, claim, job)
        elif may_go:
            # The volume is held as long as any pod of the job is there.
            yield Delete(job, "its claim is to go")


def ref(claim: Child) -> ObjectRef:
    """The claim as the subject of an event."""
    return ObjectRef(kinds.CLAIM.api_version, kinds.CLAIM.kind, claim.namespace, claim.name, claim.uid)


def _note(seen: Observation, shard: Shard, claim: Child, job: Child) -> Iterator[Step]:
    if volume_jobs.is_speechless(shard, job, seen.now):
        yield Delete(job, "it has left no report")
        return
    report = volume_jobs.report(shard, job)
    assert job.job is not None, "asked about jobs"  # noqa: S101  # a caller's mistake
    if report is None and job.job.is_complete:
        return  # its pod is about to say it
    error = _error(shard, job, report)
    note = Left(
        job=job.uid,
        at=seen.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        empty=not error and report is not None and report.empty,
        unfinished=report.unfinished if report is not None else 0,
        unsynced=report.unsynced if report is not None else 0,
        unsent=report.unsent if report is not None else 0,
        error=error[:512],
    )
    reason = "ClaimDrained" if note.empty else "DrainFailed" if error else "ClaimHolds"
    kind = EventType.NORMAL if note.empty else EventType.WARNING
    told = Announce(ref(claim), reason, f"{shard.name}: {note}."[:1000], kind, once=job.uid)
    yield MarkClaim(claim, {**marks(claim), contract.ANNOTATION_LEFT: note.model_dump_json()}, str(note), told)


def _error(shard: Shard, job: Child, report: JobReport | None) -> str:
    """Why the end of a job says nothing good of the volume; empty when it does."""
    if report is None or not report.succeeded or job.job is None or not job.job.is_complete:
        return volume_jobs.failure(shard, job)
    if shard.known_uuid and report.journal_uuid != shard.known_uuid:
        return f"found journal {report.journal_uuid or 'of no identity'} in place of {shard.known_uuid}"
    return ""


def _tell(claim: Child, reason: str, message: str) -> Announce:
    return Announce(ref(claim), reason, message)
