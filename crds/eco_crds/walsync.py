"""WalSync: how and when the results of ended tasks go from the journals of some EcoWorkers to PostgreSQL."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from eco_crds.base import ApiModel, Rule, StatusModel, Timestamp
from eco_crds.ecoworker import LabelValue
from eco_crds.fields import LIST_SET, MAP_ATOMIC, Condition, LabelName, ObjectName, OwnerMetadata, list_map
from eco_crds.wal import SyncSettings

NAME_LENGTH_MAX: Final = 63
WORKERS_SHOWN_MAX: Final = 256


class WorkerSelector(ApiModel):
    """Which EcoWorkers of the namespace are meant; all that are given must match."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.names) || has(self.matchLabels)",
            message="give names or matchLabels; an empty selector would select nothing",
            field=".names",
            holds=lambda it: it.names is not None or it.match_labels is not None,
        ),
    )

    names: list[ObjectName] | None = Field(None, min_length=1, max_length=64, json_schema_extra=LIST_SET)
    """EcoWorkers by name."""
    match_labels: dict[Annotated[str, Field(max_length=317)], LabelValue] | None = Field(
        None, min_length=1, max_length=16, json_schema_extra=MAP_ATOMIC
    )
    """Labels that an EcoWorker must have."""

    def matches(self, metadata: OwnerMetadata) -> bool:
        """Whether an EcoWorker with this metadata is selected."""
        if self.names is not None and metadata.name not in self.names:
            return False
        wanted = self.match_labels or {}
        return all(metadata.labels.get(key) == value for key, value in wanted.items())


class WalSyncSpec(ApiModel):
    """What is wanted: which journals, to which database, how often."""

    eco_workers: WorkerSelector
    """EcoWorkers of the namespace whose journals are synced. Of two WalSyncs on one EcoWorker the older wins."""
    database: LabelName
    """Name of one of the `spec.databases` of each selected EcoWorker."""
    interval_seconds: int = Field(300, ge=1, le=86_400)
    """Seconds from the end of one pass to the begin of the next. A pass goes on until nothing is left."""
    batch_size: int = Field(100, ge=1, le=10_000)
    """Results sent in one transaction, oldest first."""
    max_attempts: int = Field(10, ge=1, le=100)
    """How often the database may refuse one result before it is parked. Lost connections do not count."""
    suspend: bool = False
    """Whether to stop syncing for now. Results stay in the journals and are sent later."""

    def settings(self) -> SyncSettings:
        """What the selected workers are told."""
        return SyncSettings(
            target=self.database,
            interval_s=self.interval_seconds,
            batch_size=self.batch_size,
            max_attempts=self.max_attempts,
            suspended=self.suspend,
        )


class SyncedWorkerStatus(StatusModel):
    """One selected EcoWorker."""

    name: str = Field(max_length=63)
    """Name of the EcoWorker."""
    state: str = Field(max_length=64)
    """How it stands, one of the reasons of condition Synced."""
    unsynced: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """Results that still owe their way to the database."""
    parked: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """Results that the database refused too often; they are kept and can be tried again."""
    oldest_unsynced_time: Timestamp | None = None
    """Since when the oldest of these results waits."""
    last_sync_time: Timestamp | None = None
    """When a pass of every shard last ended well."""
    message: str = Field("", max_length=1024)
    """The last error of a shard, with the shard's name; empty when all is well."""


class WalSyncSummary(StatusModel):
    """The columns of `kubectl get`, ready to read."""

    state: str = Field("", max_length=64)
    """Synced, or why not: the reason of condition Synced."""
    unsynced: str = Field("", max_length=32)
    """Results that wait. At least this many (>=12) while a shard is not heard of."""
    parked: str = Field("", max_length=32)
    """Results that the database refused too often. At least this many while a shard is not heard of."""
    message: str = Field("", max_length=1024)
    """What is wrong, or empty."""


class WalSyncStatus(StatusModel):
    """What the operator found, as of `observedGeneration`."""

    observed_generation: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """Generation of the spec that this verdict is about."""
    conditions: list[Condition] = Field(default_factory=list, max_length=32, json_schema_extra=list_map("type"))
    """Aspects of the state. Ready is the headline; Reconciling and Stalled are there only while they hold."""
    oldest_unsynced_time: Timestamp | None = None
    """Since when the oldest result waits."""
    last_sync_time: Timestamp | None = None
    """When a pass of every shard last ended well. Written with other changes, not for its own sake."""
    summary: WalSyncSummary | None = None
    """The columns of `kubectl get`."""
    workers: list[SyncedWorkerStatus] = Field(
        default_factory=list, max_length=WORKERS_SHOWN_MAX, json_schema_extra=list_map("name")
    )
    """Each selected EcoWorker by name; of more than 256 the worst."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, if it is there."""
        return next((it for it in self.conditions if it.type == kind), None)


class WalSync(ApiModel):
    """Sends the results of ended tasks from the journals of the selected EcoWorkers to a PostgreSQL database.

    The workers do the sending; the operator hands them these settings and reports how they get on.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.metadata.name.size() <= {NAME_LENGTH_MAX}",
            message=f"the name must be at most {NAME_LENGTH_MAX} characters: it is used as a label",
            field=".metadata.name",
            holds=lambda it: len(it.metadata.name) <= NAME_LENGTH_MAX,
        ),
    )

    api_version: Literal["eco.growbin.app/v1alpha1"] = "eco.growbin.app/v1alpha1"
    kind: Literal["WalSync"] = "WalSync"
    metadata: OwnerMetadata
    spec: WalSyncSpec
    status: WalSyncStatus = WalSyncStatus()

    @classmethod
    def read(cls, document: dict[str, Any]) -> "WalSync":
        """Parse an object as the API server sends it. Raises pydantic's ValidationError."""
        return cls.model_validate(document)
