"""What a worker that runs is told: to stand still, to go on, or to send its results at once.

The annotations say what is wanted, the report of the worker says what is. A worker that stands still or drains without
being asked to is told to go on: a shard that is wanted again takes up its journal where the drain left it.
"""

from collections.abc import Iterator
from typing import Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.jobs import JobName
from eco_crds.wal import JournalMode
from eco_operator.reconcile import volume_jobs
from eco_operator.reconcile.hearing import is_fresh
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.plan import Announce, Command, ObjectRef, Outcome, Step

SYNC_NOW_LENGTH_MAX: Final = 253
_USABLE: Final = frozenset({JournalMode.NORMAL, JournalMode.READ_ONLY, JournalMode.DRAINING, JournalMode.FENCED})


def decide(seen: Observation, worker: EcoWorker, shard: Shard, image: str, about: ObjectRef) -> Iterator[Step]:
    """What the worker of a wanted shard has to be told now."""
    report, target = shard.report, shard.target
    # A worker on its way out may go before it has done what it is told: that is left to a job behind it.
    if worker.hibernated or report is None or target is None or not is_fresh(seen, shard):
        yield from _sync_stopped(seen, worker, shard, image, about)
        return
    is_fenced = worker.fences(shard.name)
    if is_fenced and report.mode in _USABLE and report.mode is not JournalMode.FENCED:
        told = Announce(about, "ShardFenced", f"Shard {shard.name} stands still, as the annotation asks.")
        yield Command(target, "fence", "an annotation asks for it", told)
    elif not is_fenced and report.mode in {JournalMode.FENCED, JournalMode.DRAINING}:
        told = Announce(about, "ShardResumed", f"Shard {shard.name} takes up its work again.")
        yield Command(target, "resume", f"it is wanted and {report.mode.value}", told)
    if report.mode in _USABLE and sync_request(seen, shard):
        yield Command(target, "sync", "an annotation of the WalSync asks for it")


def sync_request(seen: Observation, shard: Shard) -> str:
    """The request to sync at once that has not been passed on to this shard yet; empty when there is none."""
    if seen.sync is None or seen.sync.spec.suspend:
        return ""
    asked = seen.sync.metadata.annotations.get(contract.ANNOTATION_SYNC_NOW, "")[:SYNC_NOW_LENGTH_MAX]
    before = shard.previous.sync_now if shard.previous is not None else None
    return asked if asked != (before or "") else ""


def sync_done(seen: Observation, shard: Shard, outcome: Outcome) -> str | None:
    """The last request to sync at once that was passed on, with what has just been done."""
    before = shard.previous.sync_now if shard.previous is not None else None
    asked = sync_request(seen, shard)
    job = volume_jobs.find(shard, JobName.SYNC)
    has_ended = job is not None and job.job is not None and job.job.has_ended and job.job.request == asked
    return asked if asked and (f"sync {shard.name}" in outcome.commanded or has_ended) else before


def _sync_stopped(seen: Observation, worker: EcoWorker, shard: Shard, image: str, about: ObjectRef) -> Iterator[Step]:
    """Where no worker runs because none is to run, a job sends what the journal owes."""
    state = shard.deployment.deployment if shard.deployment is not None else None
    is_stopped = worker.hibernated and state is not None and not state.replicas and not state.recovery
    asked = sync_request(seen, shard)
    if not is_stopped or not asked:
        return
    before = volume_jobs.find(shard, JobName.SYNC)
    if before is not None and before.job is not None and before.job.has_ended and before.job.request != asked:
        yield from volume_jobs.clear(shard, "people ask again")
    told = Announce(about, "SyncStarted", f"A job sends the results of {shard.name}, which is stopped.")
    yield from volume_jobs.start(seen, shard, worker, job=JobName.SYNC, image=image, told=told, request=asked)
