"""Every condition and reason that the operator may report, as data.

The operator's code, its tests and the documents draw on this table, so that none of them can know a reason that the
others do not.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from eco_crds.fields import ConditionStatus

_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


class ConditionType(StrEnum):
    """Aspects of the state of an object."""

    READY = "Ready"
    """The headline: the object does what it is for."""
    RECONCILING = "Reconciling"
    """The operator is still at work on the spec; absent when it is done."""
    STALLED = "Stalled"
    """The operator cannot go on before a person changes something; absent when it can."""
    WAL_HEALTHY = "WALHealthy"
    """Every journal is known to be well."""
    RECOVERED = "Recovered"
    """Journals that were damaged, lost or left unfinished by a process that ended work again."""
    SCALE_IN_BLOCKED = "ScaleInBlocked"
    """A shard that is not wanted any more cannot go yet, and its deadline has passed; absent when none is late."""
    STORAGE_GROWING = "StorageGrowing"
    """A volume is being made larger, or should be and cannot; absent when none is to grow."""
    HIBERNATED = "Hibernated"
    """An annotation asks for every shard to be stopped; absent when there is none."""
    FENCED = "Fenced"
    """An annotation asks for shards to stand still; absent when there is none."""
    PAUSED = "Paused"
    """An annotation asks the operator to leave the object alone; absent when there is none."""
    DELIVERED = "Delivered"
    """Argo CD has applied what the operator has decided; absent where the operator applies it itself."""
    SYNCED = "Synced"
    """Results reach their database."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One verdict that the operator may give."""

    kind: str
    """Kind of the object."""
    type: ConditionType
    status: ConditionStatus
    reason: str
    meaning: str
    """For the reader of `kubectl describe`: what holds and what to do."""


def _worker(kind: ConditionType, status: ConditionStatus, reason: str, meaning: str) -> Entry:
    return Entry("EcoWorker", kind, status, reason, meaning)


def _sync(kind: ConditionType, status: ConditionStatus, reason: str, meaning: str) -> Entry:
    return Entry("WalSync", kind, status, reason, meaning)


_T = ConditionType
TABLE: Final = (
    _worker(_T.READY, _TRUE, "AllShardsReady", "Every shard is ready and every journal is known to be well."),
    _worker(_T.READY, _TRUE, "ScaledToZero", "No shard is wanted and none is left."),
    _worker(_T.READY, _FALSE, "ShardsNotReady", "A shard's worker is not ready; `status.shards` says which and why."),
    _worker(_T.READY, _FALSE, "WALUnhealthy", "A journal is not well; condition WALHealthy says which and how."),
    _worker(_T.READY, _FALSE, "InvalidSpec", "The spec is refused; condition Stalled names the field."),
    _worker(_T.READY, _FALSE, "Conflict", "An object of the needed name belongs to somebody else."),
    _worker(
        _T.READY, _FALSE, "Hibernated", "Every shard is stopped, as the annotation eco.growbin.app/hibernate asks."
    ),
    _worker(_T.READY, _UNKNOWN, "ProbeUnavailable", "Too many shards are not heard of to tell anything."),
    _worker(_T.RECONCILING, _TRUE, "Progressing", "Objects of the current spec are being made or replaced."),
    _worker(_T.RECONCILING, _TRUE, "Retrying", "A call to the API server failed and is tried again."),
    _worker(_T.STALLED, _TRUE, "InvalidSpec", "A field holds a value that cannot work; the message names it."),
    _worker(
        _T.STALLED, _TRUE, "NameConflict", "An object of the needed name is not the operator's; move it or rename this."
    ),
    _worker(
        _T.STALLED,
        _TRUE,
        "ForeignClaim",
        "A claim of the needed name holds a journal of somebody else.",
    ),
    _worker(_T.STALLED, _TRUE, "NoImage", "Neither the spec nor the operator names an image."),
    _worker(_T.STALLED, _TRUE, "Rejected", "The API server refuses a needed object; the message quotes it."),
    _worker(_T.WAL_HEALTHY, _TRUE, "Healthy", "Every journal moves its work, or has none."),
    _worker(_T.WAL_HEALTHY, _TRUE, "NoShards", "There is no journal to judge."),
    _worker(_T.WAL_HEALTHY, _FALSE, "Lagging", "The oldest task of a journal waits longer than `wal.maxLagSeconds`."),
    _worker(_T.WAL_HEALTHY, _FALSE, "Stalled", "A journal has work and moved nothing for `wal.stallAfterSeconds`."),
    _worker(_T.WAL_HEALTHY, _FALSE, "Full", "A volume is full: its worker finishes what it has and accepts nothing."),
    _worker(_T.WAL_HEALTHY, _FALSE, "Corrupt", "A journal is damaged: its worker has stopped and leaves it as it is."),
    _worker(_T.WAL_HEALTHY, _FALSE, "Lost", "A worker found another journal than the known one, or none."),
    _worker(
        _T.WAL_HEALTHY, _FALSE, "Fenced", "A worker was told to stop and does nothing, or is stopped for a recovery."
    ),
    _worker(_T.WAL_HEALTHY, _UNKNOWN, "Disabled", "Every shard is stopped, so no journal is heard of."),
    _worker(_T.WAL_HEALTHY, _UNKNOWN, "Unknown", "A worker has not reported for three periods of the probe."),
    _worker(_T.RECOVERED, _TRUE, "Resumed", "The tasks that were unfinished at a start have been taken up again."),
    _worker(_T.RECOVERED, _FALSE, "Resuming", "A worker found unfinished tasks and has not taken one up yet."),
    _worker(_T.RECOVERED, _TRUE, "Repaired", "A journal that was damaged or lost has been set right."),
    _worker(
        _T.RECOVERED,
        _FALSE,
        "ApprovalNeeded",
        "A journal is damaged or lost and `recovery.mode` is Manual: annotate eco.growbin.app/recover=true.",
    ),
    _worker(_T.RECOVERED, _FALSE, "Fencing", "A shard whose journal is damaged or lost is being stopped."),
    _worker(_T.RECOVERED, _FALSE, "Queued", "A shard is stopped for a recovery and waits for its job."),
    _worker(_T.RECOVERED, _FALSE, "Recovering", "A job sets a journal right."),
    _worker(
        _T.RECOVERED, _FALSE, "Ending", "A journal is set right; its worker comes back when the job's pod is gone."
    ),
    _worker(
        _T.RECOVERED,
        _FALSE,
        "DryRunDone",
        "What a recovery would do is in `lastRecovery` of the shard; annotate eco.growbin.app/recover=true to do it.",
    ),
    _worker(
        _T.RECOVERED,
        _FALSE,
        "RecoveryFailed",
        "The job failed and the shard stays stopped. It is tried again when the job is deleted, or an hour later.",
    ),
    _worker(
        _T.RECOVERED, _FALSE, "NodeLost", "A pod may still write on a node that does not answer, so no job may start."
    ),
    _worker(_T.SCALE_IN_BLOCKED, _TRUE, "TasksLeft", "A shard that is not wanted any more still has unfinished tasks."),
    _worker(_T.SCALE_IN_BLOCKED, _TRUE, "MessagesLeft", "Such a shard has messages that the broker does not take."),
    _worker(_T.SCALE_IN_BLOCKED, _TRUE, "JournalDamaged", "The journal of such a shard has to be set right first."),
    _worker(_T.SCALE_IN_BLOCKED, _TRUE, "Recovering", "The journal of such a shard is being set right."),
    _worker(_T.SCALE_IN_BLOCKED, _TRUE, "Fenced", "Such a shard was told to stand still; take the annotation off."),
    _worker(
        _T.SCALE_IN_BLOCKED, _TRUE, "NotHeardOf", "The worker of such a shard has not answered for long enough yet."
    ),
    _worker(
        _T.SCALE_IN_BLOCKED, _TRUE, "ProbeUnavailable", "Too many workers are silent to believe that this one is gone."
    ),
    _worker(_T.SCALE_IN_BLOCKED, _TRUE, "PodLeft", "The pod of such a shard is not gone yet."),
    _worker(_T.SCALE_IN_BLOCKED, _TRUE, "NodeLost", "The pod of such a shard is on a node that does not answer."),
    _worker(_T.STORAGE_GROWING, _TRUE, "Resizing", "A volume is being made larger."),
    _worker(
        _T.STORAGE_GROWING,
        _TRUE,
        "FileSystemResizePending",
        "A volume is larger; its file system grows on the node, with some drivers only when the pod starts anew.",
    ),
    _worker(
        _T.STORAGE_GROWING,
        _TRUE,
        "NotSeen",
        "A claim has grown and its worker sees no more room yet; of a volume without a size of its own it never will.",
    ),
    _worker(
        _T.STORAGE_GROWING,
        _TRUE,
        "NotBound",
        "A claim gets the larger size once it is bound, and not before.",
    ),
    _worker(
        _T.STORAGE_GROWING,
        _FALSE,
        "NotExpandable",
        "The storage class lets no volume grow. It is not tried again before the class or the spec changes.",
    ),
    _worker(
        _T.STORAGE_GROWING,
        _FALSE,
        "MaxReached",
        "A volume is filling up and as large as `wal.growth.max` lets it be.",
    ),
    _worker(
        _T.STORAGE_GROWING,
        _FALSE,
        "Infeasible",
        "The storage cannot make a volume as large as its claim asks; lower `wal.growth.max` and that request.",
    ),
    _worker(
        _T.STORAGE_GROWING,
        _FALSE,
        "Retrying",
        "The API server has not taken the larger size, of which a quota may be the cause; it is tried again.",
    ),
    _worker(
        _T.HIBERNATED,
        _TRUE,
        "Annotation",
        "Every shard is stopped until the annotation eco.growbin.app/hibernate goes.",
    ),
    _worker(_T.FENCED, _TRUE, "Annotation", "Shards stand still until the annotation eco.growbin.app/fence goes."),
    _worker(_T.PAUSED, _TRUE, "Annotation", "Nothing is changed until the annotation eco.growbin.app/paused goes."),
    _worker(
        _T.STALLED,
        _TRUE,
        "ArgoCDUnavailable",
        "`delivery` is ArgoCD and the operator was installed without: set `argocd.enabled` of its chart.",
    ),
    _worker(_T.DELIVERED, _TRUE, "Synced", "Every Application of the EcoWorker is synced."),
    _worker(_T.DELIVERED, _FALSE, "OutOfSync", "Argo CD has not applied everything yet."),
    _worker(_T.DELIVERED, _FALSE, "SyncFailed", "Argo CD could not render or apply; the message quotes it."),
    _worker(_T.DELIVERED, _FALSE, "ArgoCDUnavailable", "The operator knows of no Argo CD to deliver through."),
    _worker(_T.DELIVERED, _FALSE, "HandingOver", "The operator takes the objects over from Argo CD."),
    _sync(_T.READY, _TRUE, "Synced", "Results reach the database."),
    _sync(_T.READY, _TRUE, "Suspended", "Syncing is suspended as asked; results stay in the journals."),
    _sync(_T.READY, _FALSE, "InvalidSpec", "The spec is refused; condition Stalled names the field."),
    _sync(_T.READY, _FALSE, "NoWorkers", "No EcoWorker of the namespace is selected."),
    _sync(_T.READY, _FALSE, "NoDatabase", "A selected EcoWorker has no database of the given name."),
    _sync(_T.READY, _FALSE, "Overruled", "An older WalSync has the same EcoWorker."),
    _sync(_T.READY, _FALSE, "Retrying", "The database cannot be reached or refuses; results are kept and sent later."),
    _sync(_T.READY, _FALSE, "Parked", "The database refused some results too often; they are kept."),
    _sync(_T.READY, _FALSE, "Pending", "A worker has not taken up the settings yet."),
    _sync(_T.READY, _UNKNOWN, "Unknown", "A selected worker is not heard of."),
    _sync(_T.RECONCILING, _TRUE, "Progressing", "The settings are being handed to the workers."),
    _sync(_T.STALLED, _TRUE, "InvalidSpec", "A field holds a value that cannot work; the message names it."),
    _sync(_T.STALLED, _TRUE, "NoDatabase", "A selected EcoWorker has no database of the given name."),
    _sync(_T.STALLED, _TRUE, "Overruled", "An older WalSync has the same EcoWorker; narrow one of the selectors."),
    _sync(_T.SYNCED, _TRUE, "Synced", "Nothing waits, or what waits is younger than one interval."),
    _sync(_T.SYNCED, _FALSE, "Syncing", "Results wait longer than an interval and are being sent."),
    _sync(_T.SYNCED, _FALSE, "Retrying", "The database cannot be reached or refuses; results are kept and sent later."),
    _sync(_T.SYNCED, _FALSE, "Parked", "The database refused some results too often; they are kept."),
    _sync(_T.SYNCED, _FALSE, "Suspended", "Syncing is suspended as asked; results stay in the journals."),
    _sync(_T.SYNCED, _FALSE, "NoWorkers", "No EcoWorker of the namespace is selected."),
    _sync(_T.SYNCED, _FALSE, "NoDatabase", "A selected EcoWorker has no database of the given name."),
    _sync(_T.SYNCED, _FALSE, "Overruled", "An older WalSync has the same EcoWorker."),
    _sync(_T.SYNCED, _FALSE, "Pending", "A worker has not taken up the settings yet."),
    _sync(_T.SYNCED, _UNKNOWN, "Unknown", "A selected worker is not heard of."),
)


def as_markdown() -> str:
    """The table for the documents, one part a kind."""
    parts = []
    for kind in dict.fromkeys(entry.kind for entry in TABLE):
        rows = [f"| {it.type} | {it.status} | {it.reason} | {it.meaning} |" for it in TABLE if it.kind == kind]
        parts.append(
            "\n".join([f"### {kind}", "", "| Condition | Status | Reason | Meaning |", "|---|---|---|---|", *rows])
        )
    return "\n\n".join(parts)


def find(kind: str, type_: str, status: str, reason: str) -> Entry | None:
    """The entry of the table, or None for a verdict that nobody has documented."""
    wanted = (kind, type_, status, reason)
    return next((it for it in TABLE if (it.kind, it.type, it.status, it.reason) == wanted), None)
