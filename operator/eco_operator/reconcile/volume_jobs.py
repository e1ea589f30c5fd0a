"""Jobs on a shard's volume: begun only where no worker and no other job can be, read once they have ended."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from eco_crds.ecoworker import EcoWorker
from eco_crds.jobs import JobName, JobReport
from eco_operator import kinds
from eco_operator.cache import Child
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.plan import Announce, Apply, Delete, Step
from eco_operator.resources import job as job_resource

REPORT_WAIT: Final = timedelta(seconds=60)
"""How long after the end of a job its pod's last words may be on their way."""
LOOK_AGAIN_S: Final = 5.0


def find(shard: Shard, *names: JobName) -> Child | None:
    """The shard's job of one of these names, on its way out or not."""
    return next((it for it in shard.jobs if it.job is not None and it.job.name in names), None)


def is_free(shard: Shard) -> bool:
    """Whether nothing can have the volume: no pod object of a worker or a job, and no job that would make one.

    A pod that is only marked for deletion may still write.
    """
    return not shard.pods and not shard.job_pods and not shard.jobs


def start(
    seen: Observation,
    shard: Shard,
    worker: EcoWorker,
    *,
    job: JobName,
    image: str,
    told: Announce,
    dry_run: bool = False,
    request: str = "",
) -> Iterator[Step]:
    """Begin a job on a volume that is free and there."""
    claim = shard.claim
    if claim is None or claim.is_deleting or not is_free(shard):
        return
    desired = job_resource.build(
        worker, shard.index, job=job, image=image, claim_uid=claim.uid, dry_run=dry_run, request=request
    )
    if seen.child(kinds.JOB, desired["metadata"]["name"]) is None:
        yield Apply(desired, None, f"{job.value} of {shard.name}", told)


def clear(shard: Shard, why: str) -> Iterator[Step]:
    """Remove every job on the volume; their pods take a while longer to go."""
    for child in shard.jobs:
        if not child.is_deleting:
            yield Delete(child, why)


def is_at_work(shard: Shard) -> bool:
    """Whether a job on the volume has not ended yet."""
    return any(child.job is not None and not child.job.has_ended for child in shard.jobs)


def report(shard: Shard, child: Child) -> JobReport | None:
    """What the last pod of a job said at its end; None when none has said anything that can be read."""
    for pod in reversed(shard.job_pods):
        if child.uid in pod.owner_uids and pod.pod is not None and not pod.pod.process and pod.pod.last_exit:
            try:
                return JobReport.model_validate_json(pod.pod.last_exit.strip().rpartition("\n")[2])
            except ValidationError:
                return None
    return None


def is_speechless(shard: Shard, child: Child, now: datetime) -> bool:
    """Whether a job has completed without a report, and long enough ago that none is on its way."""
    if child.job is None or not child.job.is_complete or report(shard, child) is not None:
        return False
    try:
        ended = datetime.fromisoformat(child.job.ended)
    except ValueError:
        return True
    return now - ended > REPORT_WAIT


def failure(shard: Shard, child: Child) -> str:
    """Why a job failed, in its own words or the job controller's."""
    last = report(shard, child)
    if last is not None and last.error:
        return last.error
    said = next((pod.pod for pod in reversed(shard.job_pods) if pod.pod is not None and pod.pod.last_exit), None)
    if said is not None and last is None:
        return said.last_exit.strip().rpartition("\n")[2][:300]
    return (child.job.reason if child.job is not None else "") or "no reason is known"
