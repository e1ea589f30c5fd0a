"""The verdict on one WalSync. It needs no step of its own: EcoWorkers hand its settings to their workers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from eco_crds import contract
from eco_crds.conditions import ConditionType
from eco_crds.ecoworker import EcoWorker
from eco_crds.fields import ConditionStatus
from eco_crds.validation import Problem
from eco_crds.wal import WalReport
from eco_crds.walsync import WORKERS_SHOWN_MAX, SyncedWorkerStatus, WalSync, WalSyncStatus, WalSyncSummary
from eco_operator import kinds
from eco_operator.cache import Cache, Key, Owned
from eco_operator.reconcile.findings import MESSAGE_LENGTH_MAX, Finding, Urgency, dated, moment, total, turns
from eco_operator.reconcile.observation import Policy, read_status, read_sync, read_worker, valid_syncs
from eco_operator.shards import Probe, ShardKey

_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


class State(StrEnum):
    """How one EcoWorker's results fare, the worst first."""

    OVERRULED = "Overruled"
    NO_DATABASE = "NoDatabase"
    UNKNOWN = "Unknown"
    RETRYING = "Retrying"
    PARKED = "Parked"
    PENDING = "Pending"
    SUSPENDED = "Suspended"
    SYNCING = "Syncing"
    SYNCED = "Synced"


NO_WORKERS: Final = "NoWorkers"
INVALID_SPEC: Final = "InvalidSpec"
_RANK: Final = {state: rank for rank, state in enumerate(State)}
_FINE: Final = frozenset({State.SYNCED, State.SYNCING, State.SUSPENDED})
_MEANING: Final = {
    State.OVERRULED: "an older WalSync has the same EcoWorker",
    State.NO_DATABASE: "the EcoWorker has no database of that name",
    State.UNKNOWN: "a shard is not heard of",
    State.RETRYING: "results are kept and sent again",
    State.PARKED: "results that the database refused too often are kept",
    State.PENDING: "a worker has not taken up the settings yet",
    State.SUSPENDED: "suspended as asked; results stay in the journals",
    State.SYNCING: "results are being sent",
    State.SYNCED: "results reach the database",
}


@dataclass(frozen=True, slots=True)
class Selected:
    """One EcoWorker that the WalSync selects, and what its shards report."""

    worker: EcoWorker
    is_governed: bool
    """No older WalSync selects it."""
    probes: tuple[tuple[str, Probe], ...]


@dataclass(frozen=True, slots=True)
class SyncObservation:
    """All there is to know about one WalSync."""

    key: Key
    now: datetime
    policy: Policy
    owned: Owned
    sync: WalSync | None
    problems: tuple[Problem, ...]
    previous: WalSyncStatus
    selected: tuple[Selected, ...]
    is_settling: bool


def observe(
    key: Key,
    *,
    cache: Cache,
    probe: Callable[[ShardKey], Probe],
    policy: Policy,
    now: datetime,
    is_settling: bool,
) -> SyncObservation | None:
    """Everything known about the WalSync of that key; None when it is gone."""
    owned = cache.owned(key)
    if owned is None:
        return None
    sync, problems = read_sync(owned)
    return SyncObservation(
        key=key,
        now=now,
        policy=policy,
        owned=owned,
        sync=sync,
        problems=problems,
        previous=read_status(WalSyncStatus, owned.body),
        selected=tuple(_selected(sync, cache, probe)) if sync is not None else (),
        is_settling=is_settling,
    )


def conclude(seen: SyncObservation) -> WalSyncStatus | None:
    """The status as it should be written now; None while it is too early to say anything new."""
    if seen.sync is None:
        return _invalid(seen)
    if (
        seen.is_settling
        and seen.previous.conditions
        and any(probe.report is None for chosen in seen.selected for _, probe in chosen.probes)
    ):
        return None
    workers = [_worker(seen, seen.sync, chosen) for chosen in seen.selected]
    states = [State(worker.state) for worker in workers]
    worst = min(states, key=_RANK.__getitem__, default=None)
    culprits = [worker for worker in workers if worker.state == worst]
    message = _message(worst, culprits)
    findings = list(_findings(worst, message))
    silent = State.UNKNOWN in states
    # Each counts above; the list of a status is bounded, and has room for those in trouble first.
    shown = sorted(workers, key=lambda worker: (_RANK[State(worker.state)], worker.name))[:WORKERS_SHOWN_MAX]
    oldest = [it.oldest_unsynced_time for it in workers if it.oldest_unsynced_time is not None]
    synced = [it.last_sync_time for it in workers]
    return WalSyncStatus(
        observed_generation=seen.owned.generation,
        conditions=dated(findings, seen.previous.conditions, now=seen.now, generation=seen.owned.generation),
        oldest_unsynced_time=min(oldest, default=None),
        last_sync_time=min((it for it in synced if it is not None), default=None) if None not in synced else None,
        summary=WalSyncSummary(
            state=worst.value if worst is not None else NO_WORKERS,
            unsynced=total((it.unsynced for it in workers), silent=silent),
            parked=total((it.parked for it in workers), silent=silent),
            message="" if worst in _FINE else message,
        ),
        workers=sorted(shown, key=lambda worker: worker.name),
    )


def urgency(new: WalSyncStatus, old: WalSyncStatus) -> Urgency:
    """How long the new status may wait to be written. The time of the last pass alone is not worth a write."""
    if _timeless(new) == _timeless(old):
        return Urgency.NONE
    if _essence(new) != _essence(old):
        return Urgency.NEWS
    return Urgency.TURN if turns(_sums(new), _sums(old)) else Urgency.NUMBERS


def body(seen: SyncObservation, status: WalSyncStatus) -> dict[str, Any]:
    """The object to apply to the status subresource."""
    return {
        "apiVersion": contract.API_VERSION,
        "kind": seen.key.kind,
        "metadata": {"name": seen.key.name, "namespace": seen.key.namespace},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def _selected(sync: WalSync, cache: Cache, probe: Callable[[ShardKey], Probe]) -> Iterator[Selected]:
    syncs = valid_syncs(cache, sync.metadata.namespace)
    for owned in cache.all_owned(kinds.ECO_WORKER, sync.metadata.namespace):
        worker, _, _ = read_worker(owned)
        if owned.is_deleting or worker is None or not sync.spec.eco_workers.matches(worker.metadata):
            continue
        first = next(it for it in syncs if it.spec.eco_workers.matches(worker.metadata))
        name, namespace = worker.metadata.name, worker.metadata.namespace
        shards = [contract.shard_name(name, index) for index in range(worker.spec.replicas)]
        probes = tuple((shard, probe(ShardKey(namespace, name, shard))) for shard in shards)
        yield Selected(worker, first.metadata.uid == sync.metadata.uid, probes)


def _worker(seen: SyncObservation, sync: WalSync, chosen: Selected) -> SyncedWorkerStatus:
    name = chosen.worker.metadata.name
    if not chosen.is_governed:
        return SyncedWorkerStatus(name=name, state=State.OVERRULED)
    if chosen.worker.spec.database(sync.spec.database) is None:
        return SyncedWorkerStatus(name=name, state=State.NO_DATABASE)
    before = next((worker for worker in seen.previous.workers if worker.name == name), None)
    judged = [(_state(probe, sync, seen.policy), shard, probe) for shard, probe in chosen.probes]
    state, shard, probe = min(judged, key=lambda it: _RANK[it[0]], default=(State.SYNCED, "", None))
    reports = [(it.report, it.age_s or 0.0) for _, it in chosen.probes if it.report is not None]
    unsynced = [report.ages.oldest_unsynced_s + age for report, age in reports if report.ages.oldest_unsynced_s]
    passes = [report.last_sync_s + age for report, age in reports if report.last_sync_s is not None]
    is_complete = len(passes) == len(chosen.probes) and bool(passes)
    error = probe.report.sync_error if probe is not None and probe.report is not None else ""
    return SyncedWorkerStatus(
        name=name,
        state=state,
        unsynced=sum(report.counts.unsynced for report, _ in reports) if reports else None,
        parked=sum(report.counts.sync_parked for report, _ in reports) if reports else None,
        oldest_unsynced_time=moment(
            seen.now, max(unsynced, default=None), before.oldest_unsynced_time if before is not None else None
        ),
        last_sync_time=(seen.now - timedelta(seconds=max(passes))).replace(microsecond=0) if is_complete else None,
        message=f"{shard}: {error}"[:MESSAGE_LENGTH_MAX] if error and state not in _FINE else "",
    )


def _state(probe: Probe, sync: WalSync, policy: Policy) -> State:
    report = probe.report
    if report is None or probe.age_s is None or probe.age_s > policy.report_age_s:
        return State.UNKNOWN
    if sync.spec.suspend:
        return State.SUSPENDED
    if report.sync_target != sync.spec.database:
        return State.PENDING
    if report.sync_error:
        return State.RETRYING
    if report.counts.sync_parked:
        return State.PARKED
    return State.SYNCING if _is_late(report, sync) else State.SYNCED


def _is_late(report: WalReport, sync: WalSync) -> bool:
    return report.counts.unsynced > 0 and (report.ages.oldest_unsynced_s or 0.0) > sync.spec.interval_seconds


def _message(worst: State | None, culprits: list[SyncedWorkerStatus]) -> str:
    if worst is None:
        return "no EcoWorker of the namespace is selected"
    told = "; ".join(worker.message or worker.name for worker in culprits)
    return f"{_MEANING[worst]}: {told}"[:MESSAGE_LENGTH_MAX]


def _findings(worst: State | None, message: str) -> Iterator[Finding]:
    reason = worst.value if worst is not None else NO_WORKERS
    if worst in {State.SYNCED, State.SYNCING}:
        yield Finding(ConditionType.READY, _TRUE, State.SYNCED.value, _MEANING[State.SYNCED])
    elif worst is State.SUSPENDED:
        yield Finding(ConditionType.READY, _TRUE, reason, _MEANING[State.SUSPENDED])
    else:
        yield Finding(ConditionType.READY, _UNKNOWN if worst is State.UNKNOWN else _FALSE, reason, message)
    status = {State.SYNCED: _TRUE, State.UNKNOWN: _UNKNOWN}.get(worst, _FALSE) if worst is not None else _FALSE
    yield Finding(ConditionType.SYNCED, status, reason, message if worst not in _FINE else _MEANING[worst])
    if worst in {State.NO_DATABASE, State.OVERRULED}:
        yield Finding(ConditionType.STALLED, _TRUE, reason, message)
    if worst is State.PENDING:
        yield Finding(ConditionType.RECONCILING, _TRUE, "Progressing", message)


def _invalid(seen: SyncObservation) -> WalSyncStatus:
    told = "; ".join(str(problem) for problem in seen.problems[:5])[:MESSAGE_LENGTH_MAX]
    findings = [
        Finding(ConditionType.READY, _FALSE, INVALID_SPEC, told),
        Finding(ConditionType.STALLED, _TRUE, INVALID_SPEC, told),
    ]
    return WalSyncStatus(
        observed_generation=seen.owned.generation,
        conditions=dated(findings, seen.previous.conditions, now=seen.now, generation=seen.owned.generation),
        summary=WalSyncSummary(state=INVALID_SPEC, message=told),
    )


def _sums(status: WalSyncStatus) -> tuple[str, ...]:
    return (status.summary.unsynced, status.summary.parked) if status.summary is not None else ()


def _essence(status: WalSyncStatus) -> object:
    conditions = sorted((it.type, it.status, it.reason, it.observed_generation) for it in status.conditions)
    return conditions, status.observed_generation, sorted((it.name, it.state) for it in status.workers)


def _timeless(status: WalSyncStatus) -> WalSyncStatus:
    workers = [worker.model_copy(update={"last_sync_time": None}) for worker in status.workers]
    return status.model_copy(update={"last_sync_time": None, "workers": workers})
