"""A job on a shard's volume: what sets a journal right, or empties it, while no worker has it.

It is the worker's own image with the worker's own settings, so that it finds the same broker and the same database. Its
owner is the claim: it must outlive an EcoWorker that is deleted, and has no use without the volume. The pod carries the
component `job`, so that neither the Service nor a budget nor an autoscaler takes it for a worker.
"""

from typing import Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.jobs import DRY_RUN, JobName
from eco_operator.resources import deployment
from eco_operator.resources.metadata import Manifest, shard_labels, with_hash

ATTEMPTS_AGAIN_MAX: Final = 3
DEADLINE_S: Final = {JobName.DRAIN: 3_600, JobName.SYNC: 3_600, JobName.RECOVER: 6 * 3_600}
# How long the end of a job can be read; also the pause before one that has not reached its aim is made anew.
KEPT_S: Final = 3_600
# Of the running worker only: its admin surface.
_WORKERS_ONLY: Final = frozenset({"admin-token"})
_KEPT_OF_CONTAINER: Final = (
    "image",
    "imagePullPolicy",
    "env",
    "resources",
    "securityContext",
    "terminationMessagePolicy",
)


def build(
    worker: EcoWorker,
    index: int,
    *,
    job: JobName,
    image: str,
    claim_uid: str,
    dry_run: bool = False,
    request: str = "",
) -> Manifest:
    """The Job. `worker` may be all that a claim remembers of one; `claim_uid` is the claim's.

    `request` is what people asked for, where it has to be told from an earlier one.
    """
    name = contract.job_name(worker.metadata.name, index, job.value)
    labels = shard_labels(worker, index, contract.COMPONENT_JOB)
    owner = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "name": contract.claim_name(worker.metadata.name, index),
        "uid": claim_uid,
    }
    return with_hash(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": name,
                "namespace": worker.metadata.namespace,
                "labels": labels,
                **({"annotations": {contract.ANNOTATION_SYNC_NOW: request}} if request else {}),
                "ownerReferences": [owner],
            },
            "spec": {
                "backoffLimit": ATTEMPTS_AGAIN_MAX,
                "activeDeadlineSeconds": DEADLINE_S[job],
                "ttlSecondsAfterFinished": KEPT_S,
                # One that is on its way out may still write: the next waits until it is gone.
                "podReplacementPolicy": "Failed",
                "template": _pod(worker, index, job=job, image=image, dry_run=dry_run),
            },
        }
    )


def _pod(worker: EcoWorker, index: int, *, job: JobName, image: str, dry_run: bool) -> Manifest:
    template = deployment.pod_template(worker, index, image=image)
    pod: Manifest = template["spec"]
    [running] = pod["containers"]
    container: Manifest = {
        "name": contract.JOB_CONTAINER_NAME,
        "args": ["job", job.value, *([DRY_RUN] if dry_run else [])],
        **{field: running[field] for field in _KEPT_OF_CONTAINER if field in running},
        "volumeMounts": [it for it in running["volumeMounts"] if it["name"] not in _WORKERS_ONLY],
    }
    return {
        "metadata": {"labels": shard_labels(worker, index, contract.COMPONENT_JOB)},
        "spec": {
            **pod,
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [it for it in pod["volumes"] if it["name"] not in _WORKERS_ONLY],
        },
    }
