"""What the operator reports of an EcoWorker.

Moments are reported, never ages: an age would have to be written anew all the time, a moment stays the same, and
kubectl shows it as an age. A number that is not known is left out or called Unknown; it is never shown as zero.
"""

from collections.abc import Iterable
from enum import StrEnum

from pydantic import Field

from eco_crds.base import StatusModel, Timestamp
from eco_crds.fields import Condition, list_map

UNKNOWN = "Unknown"


class WalState(StrEnum):
    """Health of a journal, from the worst to the best: of several, the first in this order counts."""

    CORRUPT = "Corrupt"
    """The file is damaged: the worker has stopped work and leaves it as it is."""
    LOST = "Lost"
    """Another journal than the one known, or none where one was known."""
    FULL = "Full"
    """No room for new tasks; running ones are finished."""
    STALLED = "Stalled"
    """There is work and nothing has moved for the bound of the spec."""
    UNKNOWN = "Unknown"
    """No report for three periods of the probe."""
    FENCED = "Fenced"
    """Told to stop: neither accepts nor runs."""
    LAGGING = "Lagging"
    """Work moves, but the oldest task waits longer than the bound of the spec."""
    DISABLED = "Disabled"
    """Nothing is expected of it."""
    HEALTHY = "Healthy"
    """Work moves, or there is none."""


_SEVERITY = {state: rank for rank, state in enumerate(WalState)}


def worst(states: Iterable[WalState]) -> WalState:
    """The state that counts for all of them; Disabled when there are none."""
    return min(states, key=_SEVERITY.__getitem__, default=WalState.DISABLED)


class RecoveryResult(StatusModel):
    """How the last recovery of a journal that was damaged or lost went."""

    time: Timestamp
    """When its job ended."""
    succeeded: bool
    """Whether the journal is set right; of a dry run, whether it could be."""
    dry_run: bool = False
    """Whether it only looked and changed nothing."""
    job: str = Field("", max_length=64)
    """UID of the job, so that its end is counted once."""
    cause: str = Field("", max_length=32)
    """What the worker had said of the journal: Corrupt or Lost."""
    action: str = Field("", max_length=32)
    """What was done: none, unmarked, adopted, rebuilt or restored."""
    seconds: int = Field(0, ge=0)
    """How long the job worked."""
    salvaged: int = Field(0, ge=0, json_schema_extra={"format": "int64"})
    """Rows read from the damaged journal."""
    unreadable: int = Field(0, ge=0, json_schema_extra={"format": "int64"})
    """Places that could not be read."""
    distrusted: int = Field(0, ge=0, json_schema_extra={"format": "int64"})
    """Rows that did not fit their checksum; each is a dead letter."""
    republished: int = Field(0, ge=0, json_schema_extra={"format": "int64"})
    """Tasks given back to the broker."""
    synced: int = Field(0, ge=0, json_schema_extra={"format": "int64"})
    """Results brought to the database."""
    message: str = Field("", max_length=1024)
    """Why it failed, or what it met; empty when there is nothing to say."""


class ShardStatus(StatusModel):
    """One shard: its worker, its volume and its journal, as last heard of."""

    name: str = Field(max_length=63)
    """Name of the shard and of its Deployment."""
    ready: bool = False
    """Whether the worker runs and says it is ready."""
    wal: WalState = WalState.UNKNOWN
    """Health of the journal."""
    message: str = Field("", max_length=1024)
    """Why the shard is not well; empty when it is."""
    pod: str | None = Field(None, max_length=253)
    """Pod that runs the worker."""
    node: str | None = Field(None, max_length=253)
    """Node that the pod runs on."""
    image: str | None = Field(None, max_length=1024)
    """Image of the worker."""
    revision: str | None = Field(None, max_length=64)
    """ControllerRevision that the shard's pod was rendered for; empty while its Deployment is of none that is kept."""
    claim: str | None = Field(None, max_length=253)
    """Claim of the volume that holds the journal."""
    journal_uuid: str | None = Field(None, max_length=64)
    """Identity of the journal, known from the first report on."""
    incarnation: str | None = Field(None, max_length=128)
    """Boot id and epoch of the process that owns the journal."""
    pending: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """Tasks that are due or running, as of the last report."""
    waiting: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """Tasks scheduled for later, or awaiting redelivery by the broker."""
    oldest_pending_time: Timestamp | None = None
    """Since when the oldest of the pending tasks is due."""
    unsynced: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """Results that still owe their way to the database."""
    oldest_unsynced_time: Timestamp | None = None
    """Since when the oldest of these results waits."""
    parked: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """Results and messages that were given up for now; they are kept and can be tried again."""
    disk_percent: int | None = Field(None, ge=0, le=100)
    """Use of the volume."""
    volume_size: str | None = Field(None, max_length=32)
    """Size of the volume, as its claim has it; larger than asked where it has grown or was larger before."""
    growth_refused: str | None = Field(None, max_length=32)
    """Size that the API server will not let the volume grow to. It is asked again after a change of the spec."""
    last_recovery_time: Timestamp | None = None
    """When a worker last started with unfinished tasks in its journal."""
    recovered: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """Unfinished tasks found at that start."""
    last_recovery: RecoveryResult | None = None
    """How the last job that set a damaged or lost journal right went."""
    draining_since: Timestamp | None = None
    """Since when the shard is not wanted any more and gives back what it holds."""
    sync_now: str | None = Field(None, max_length=253)
    """The last request to sync at once that was passed on."""
    last_report_time: Timestamp | None = None
    """When the worker was last heard of; kept only while it is not."""


class EcoWorkerSummary(StatusModel):
    """The columns of `kubectl get`, ready to read."""

    ready: str = Field("", max_length=32)
    """Ready shards of all, as in 1/2."""
    wal: str = Field("", max_length=32)
    """State of the worst journal."""
    pending: str = Field("", max_length=32)
    """Due and running tasks of all shards. At least this many (>=12) while a shard is not heard of."""
    unsynced: str = Field("", max_length=32)
    """Results that still owe their way to the database. At least this many (>=12) while a shard is not heard of."""
    disk: str = Field("", max_length=32)
    """Use of the fullest volume in percent. At least this much (>=41) while a shard is not heard of."""
    message: str = Field("", max_length=1024)
    """What is wrong, or empty."""


class EcoWorkerStatus(StatusModel):
    """What the operator found, as of `observedGeneration`."""

    observed_generation: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """Generation of the spec that this verdict is about."""
    conditions: list[Condition] = Field(default_factory=list, max_length=32, json_schema_extra=list_map("type"))
    """Aspects of the state. Ready is the headline; Reconciling and Stalled are there only while they hold."""
    replicas: int | None = Field(None, ge=0)
    """Shards that exist."""
    ready_replicas: int | None = Field(None, ge=0)
    """Shards that are ready."""
    selector: str | None = Field(None, max_length=1024)
    """Label selector of the workers' pods, for autoscalers."""
    image: str | None = Field(None, max_length=1024)
    """Image that the workers are meant to run, after defaults."""
    oldest_pending_time: Timestamp | None = None
    """Since when the oldest pending task of all shards is due."""
    last_recovery_time: Timestamp | None = None
    """When a shard last started with unfinished tasks in its journal."""
    summary: EcoWorkerSummary | None = None
    """The columns of `kubectl get`."""
    shards: list[ShardStatus] = Field(default_factory=list, max_length=200, json_schema_extra=list_map("name"))
    """Each shard by name."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, if it is there."""
        return next((it for it in self.conditions if it.type == kind), None)
