"""A journal that its worker calls damaged or lost: the shard is fenced, a job sets it right, the shard starts again.

Only the worker's own word counts, and it must have said so twice, or at the end of its process: silence never does. The
order is strict, for two writers would ruin what is left: the Deployment goes to none with the cause written on it, the
pod object must be gone, one job has the volume, its pod object must be gone, the Deployment comes back. Each look finds
out anew how far that is, so an operator that dies in between goes on where it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from eco_crds.ecoworker import EcoWorker, RecoveryMode
from eco_crds.ecoworker_status import RecoveryResult
from eco_crds.jobs import JobName
from eco_crds.wal import LAST_WORDS
from eco_operator.reconcile import volume_jobs
from eco_operator.reconcile.hearing import is_fresh, lost_pod
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.plan import Announce, Delete, EventType, ObjectRef, Step

REPORTS_MIN: Final = 2
_SINCE: Final = " since "


class Stage(StrEnum):
    """How far a recovery is; each but the first is a reason of condition Recovered."""

    NONE = ""
    APPROVAL = "ApprovalNeeded"
    FENCING = "Fencing"
    NODE_LOST = "NodeLost"
    READY = "Queued"
    RUNNING = "Recovering"
    LOOKED = "DryRunDone"
    FAILED = "RecoveryFailed"
    DONE = "Ending"


@dataclass(frozen=True, slots=True)
class Recovery:
    """How far the recovery of one shard is."""

    stage: Stage
    cause: str = ""
    message: str = ""

    @property
    def is_fenced(self) -> bool:
        """Whether the shard must not have a worker."""
        return self.stage not in {Stage.NONE, Stage.APPROVAL}


NO_RECOVERY: Final = Recovery(Stage.NONE)


def look(seen: Observation, worker: EcoWorker, shard: Shard) -> Recovery:
    """How far the recovery of a shard is, if it is in one."""
    record = record_of(shard)
    cause = cause_in(record) or _told(seen, shard)
    if not cause:
        return NO_RECOVERY
    result = _result_of(shard, record)
    is_over = result is not None and result.succeeded and not result.dry_run
    if not is_over and not _is_allowed(worker) and volume_jobs.find(shard, JobName.RECOVER) is None:
        return Recovery(Stage.APPROVAL, cause, "recovery.mode is Manual: annotate eco.growbin.app/recover=true")
    if not record:
        return Recovery(Stage.FENCING, cause, "its worker is being stopped")
    return _look_at_fenced(seen, worker, shard, result)


def record_of(shard: Shard) -> str:
    """What stands on the Deployment of a shard that is stopped for a recovery; empty when it is not."""
    state = shard.deployment.deployment if shard.deployment is not None else None
    return state.recovery if state is not None else ""


def cause_in(record: str) -> str:
    """The cause that such a record names."""
    return record.partition(_SINCE)[0]


def record(seen: Observation, shard: Shard, found: Recovery) -> str:
    """What the Deployment has to carry while the shard is stopped: the cause, and since when."""
    return record_of(shard) or f"{found.cause}{_SINCE}{seen.now.strftime('%Y-%m-%dT%H:%M:%SZ')}"


def decide(seen: Observation, worker: EcoWorker, image: str, about: ObjectRef) -> Iterator[Step]:
    """The jobs of shards that are fenced: begun one at a time, and removed once their end is in the status."""
    found = [(shard, look(seen, worker, shard)) for shard in seen.shards]
    is_busy = any(it.stage is Stage.RUNNING for _, it in found)
    for shard, recovery in found:
        if not recovery.is_fenced:
            continue
        job = volume_jobs.find(shard, JobName.RECOVER)
        if recovery.stage is Stage.READY and not is_busy:
            yield from volume_jobs.clear(shard, "a recovery comes first")
            if volume_jobs.is_free(shard):
                is_busy = True
                yield from _start(seen, worker, shard, image, recovery.cause, about)
        elif recovery.stage is Stage.RUNNING:
            yield from _tell_end(seen, shard, about)
        elif recovery.stage in {Stage.DONE, Stage.LOOKED} and job is not None and not job.is_deleting:
            yield Delete(job, "its end is written down")


def result(seen: Observation, shard: Shard) -> RecoveryResult | None:
    """How the last recovery went, with the job that has just ended if there is one."""
    before = shard.previous.last_recovery if shard.previous is not None else None
    job = volume_jobs.find(shard, JobName.RECOVER)
    if job is None or job.job is None or not job.job.has_ended or (before is not None and before.job == job.uid):
        return before
    report = volume_jobs.report(shard, job)
    if report is None and job.job.is_complete and not volume_jobs.is_speechless(shard, job, seen.now):
        return before  # its pod is about to say it
    cause = cause_in(record_of(shard))
    if report is None or not job.job.is_complete:
        message = volume_jobs.failure(shard, job)
        is_dry = job.job.is_dry_run
        return RecoveryResult(
            time=seen.now, job=job.uid, succeeded=False, dry_run=is_dry, cause=cause, message=message[:1024]
        )
    return RecoveryResult(
        time=seen.now,
        job=job.uid,
        succeeded=report.succeeded,
        dry_run=report.dry_run,
        cause=cause,
        action=report.action,
        seconds=round(report.took_s),
        salvaged=report.salvaged,
        unreadable=report.unreadable,
        distrusted=report.distrusted,
        republished=report.republished,
        synced=report.synced,
        message=(report.error or "; ".join(report.problems))[:1024],
    )


def _told(seen: Observation, shard: Shard) -> str:
    """What the worker itself says of its journal: Corrupt, Lost, or nothing of the kind."""
    report = shard.report
    if report is not None and is_fresh(seen, shard):
        is_sure = shard.probe.same_mode >= REPORTS_MIN
        return LAST_WORDS[report.mode] if report.mode in LAST_WORDS and is_sure else ""
    pod = shard.pod.pod if shard.pod is not None and not shard.pod.is_deleting else None
    if pod is None or pod.process:
        return ""
    said = pod.last_exit.partition(":")[0]
    return said if said in LAST_WORDS.values() else ""


def _is_allowed(worker: EcoWorker) -> bool:
    is_automatic = worker.spec.recovery.mode is RecoveryMode.AUTOMATIC
    return is_automatic or worker.asks_for_recovery or worker.asks_for_dry_run


def _result_of(shard: Shard, record: str) -> RecoveryResult | None:
    """The end of a job of this recovery as it stands in the status; None before there is one."""
    before = shard.previous.last_recovery if shard.previous is not None else None
    try:
        since = datetime.fromisoformat(record.partition(_SINCE)[2])
    except ValueError:
        return None
    return before if before is not None and before.time >= since else None


def _look_at_fenced(seen: Observation, worker: EcoWorker, shard: Shard, result: RecoveryResult | None) -> Recovery:
    cause = cause_in(record_of(shard))
    job = volume_jobs.find(shard, JobName.RECOVER)
    is_noted = job is None or (result is not None and result.job == job.uid)
    if result is not None and result.succeeded and not result.dry_run and is_noted:
        # The worker comes back when the job and its pod have gone.
        is_clear = job is None and not shard.job_pods
        return NO_RECOVERY if is_clear else Recovery(Stage.DONE, cause, "the journal is set right")
    node = lost_pod(seen, shard)
    if node:
        return Recovery(Stage.NODE_LOST, cause, f"its pod is on node {node}, which does not answer: no job may start")
    if job is not None and not is_noted:
        return Recovery(Stage.RUNNING, cause, "a job sets the journal right")
    if result is not None and result.dry_run and worker.asks_for_dry_run:
        told = result.action if result.succeeded else result.message
        return Recovery(Stage.LOOKED, cause, f"a recovery would end in: {told}")
    if result is not None and not result.succeeded and not result.dry_run and job is not None:
        return Recovery(Stage.FAILED, cause, f"the job failed: {result.message}")
    if shard.pods:
        return Recovery(Stage.FENCING, cause, "its pod is not gone yet")
    if result is not None and result.dry_run and job is not None:
        return Recovery(Stage.LOOKED, cause, "the job that only looked has to go first")
    return Recovery(Stage.READY, cause, "a job is about to set the journal right")


def _start(
    seen: Observation, worker: EcoWorker, shard: Shard, image: str, cause: str, about: ObjectRef
) -> Iterator[Step]:
    is_dry = worker.asks_for_dry_run
    what = "only looks what a recovery would do" if is_dry else "sets it right"
    message = f"The journal of {shard.name} is {cause.lower()}; a job {what}."
    told = Announce(about, "DryRunStarted" if is_dry else "RecoveryStarted", message, EventType.WARNING)
    yield from volume_jobs.start(seen, shard, worker, job=JobName.RECOVER, image=image, told=told, dry_run=is_dry)


def _tell_end(seen: Observation, shard: Shard, about: ObjectRef) -> Iterator[Step]:
    """The event of a job that has ended, in the look that also writes it into the status."""
    last = result(seen, shard)
    if last is None or (shard.previous is not None and last == shard.previous.last_recovery):
        return
    reason = "RecoveryFailed" if not last.succeeded else "DryRunDone" if last.dry_run else "RecoveryDone"
    counts = f"{last.salvaged} rows salvaged, {last.republished} tasks given back, {last.synced} results synced"
    message = f"{shard.name}: {last.action or 'nothing'} in {last.seconds} s; {counts}. {last.message}"
    kind = EventType.NORMAL if last.succeeded else EventType.WARNING
    yield Announce(about, reason, message[:1000].strip(), kind, once=last.job)
