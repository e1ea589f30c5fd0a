"""EcoWorker: one kind of queue worker, in N shards, each with a write-ahead journal on its own volume."""

import re
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, StrictStr

from eco_crds import contract
from eco_crds.base import ApiModel, Rule, TransitionRule
from eco_crds.ecoworker_status import EcoWorkerStatus
from eco_crds.fields import (
    LIST_ATOMIC,
    LIST_SET,
    MAP_ATOMIC,
    LabelName,
    ObjectName,
    ObjectReference,
    OwnerMetadata,
    SecretKeyRef,
    list_map,
)
from eco_crds.quantity import Quantity, parse

NAME_LENGTH_MAX: Final = 45
REPLICAS_MAX: Final = 100
WAL_SIZE_MIN: Final = "64Mi"

# Set by the operator on every worker, or fixed by the pod it builds; a second value would make two truths. The bound on
# waiting tasks has no field, so a variable may set it.
RESERVED_ENV: Final = tuple(
    sorted(
        {value for name, value in vars(contract).items() if name.startswith("ENV_")} - {contract.ENV_MAX_WAITING}
        | set(contract.FIXED_ENV)
    )
)

_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]


class Role(StrEnum):
    """What the workers can do."""

    STORAGE = "storage"


class Queue(StrEnum):
    """Queues that a worker may consume. The dead-letter queue is not among them: nothing consumes it by itself."""

    AI = "q.ai"
    BATCH = "q.batch"
    API = "q.api"
    SCHED = "q.sched"


QUEUES_OF_ROLE: Final = {Role.STORAGE: (Queue.BATCH,)}


class ImagePullPolicy(StrEnum):
    """When the node fetches the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class AccessMode(StrEnum):
    """How many pods may have the volume mounted for writing."""

    ONE_POD = "ReadWriteOncePod"
    ONE_NODE = "ReadWriteOnce"


class AckPolicy(StrEnum):
    """When the broker is told that a task has been taken: what the loss of a volume costs."""

    JOURNALED = "Journaled"
    COMPLETED = "Completed"
    REPLICATED = "Replicated"


class Delivery(StrEnum):
    """Who applies the objects of an EcoWorker."""

    DIRECT = "Direct"
    ARGOCD = "ArgoCD"


class ReclaimPolicy(StrEnum):
    """What becomes of a volume that no shard uses any more."""

    RETAIN = "Retain"
    DELETE = "Delete"


class RecoveryMode(StrEnum):
    """Who decides that a damaged journal is set right."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class ResourceRequirements(ApiModel):
    """Computing resources of each worker."""

    requests: dict[Annotated[str, Field(max_length=253)], Quantity] | None = Field(None, max_length=8)
    """What the scheduler sets aside, by resource name."""
    limits: dict[Annotated[str, Field(max_length=253)], Quantity] | None = Field(None, max_length=8)
    """What a worker may never exceed, by resource name."""


class Toleration(ApiModel):
    """A taint of nodes that the workers put up with."""

    key: str | None = Field(None, max_length=316)
    """Key of the taint; empty with operator Exists matches every taint."""
    operator: Literal["Exists", "Equal"] | None = None
    """How the value is compared; Equal when not given."""
    value: str | None = Field(None, max_length=63)
    """Value of the taint, for operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; every effect when not given."""
    toleration_seconds: int | None = Field(None, ge=0, json_schema_extra={"format": "int64"})
    """How long a running worker stays under a NoExecute taint; for ever when not given."""


class EnvVarSource(ApiModel):
    """Where the value of a variable comes from."""

    secret_key_ref: SecretKeyRef
    """One key of a Secret."""


class EnvVar(ApiModel):
    """An environment variable of the workers."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.value) != has(self.valueFrom)",
            message="give exactly one of value and valueFrom",
            field=".name",
            holds=lambda it: (it.value is None) != (it.value_from is None),
        ),
    )

    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the variable; the names that the operator sets itself are refused."""
    value: StrictStr | None = Field(None, max_length=4096)
    """The value itself. For anything secret use valueFrom."""
    value_from: EnvVarSource | None = None
    """Where the value comes from."""


class Broker(ApiModel):
    """The RabbitMQ that the workers consume from and publish to."""

    url_secret_ref: SecretKeyRef
    """Key that holds the AMQP URL, as in amqp://user:password@host:5672/vhost."""


class Database(ApiModel):
    """A PostgreSQL that takes the results of ended tasks."""

    name: LabelName
    """What a WalSync calls it."""
    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.:-]+$")
    """Host name or address of the server."""
    port: int = Field(5432, ge=1, le=65535)
    """TCP port of the server."""
    database: str = Field(min_length=1, max_length=63)
    """Name of the database on the server."""
    user_secret_ref: SecretKeyRef
    """Key that holds the user's name."""
    password_secret_ref: SecretKeyRef
    """Key that holds the user's password."""


class ObjectStore(ApiModel):
    """The S3 bucket that the workers read uploads from and write pictures to."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.accessKeySecretRef) == has(self.secretKeySecretRef)",
            message="give both accessKeySecretRef and secretKeySecretRef, or neither for a cloud identity of the pod",
            field=".secretKeySecretRef",
            holds=lambda it: (it.access_key_secret_ref is None) == (it.secret_key_secret_ref is None),
        ),
    )

    endpoint_url: str | None = Field(None, max_length=2048, pattern=r"^https?://[^\s/]+(/\S*)?$")
    """Address of an S3 service other than AWS, as in http://s3.example:9000."""
    bucket: str = Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$")
    """Name of the bucket. It must exist: the workers do not make it."""
    region: str = Field(min_length=1, max_length=63, pattern=r"^[a-z0-9-]+$")
    """Region of the bucket, as in ap-northeast-2."""
    access_key_secret_ref: SecretKeyRef | None = None
    """Key that holds the access key id; left out where the pod has a cloud identity of its own."""
    secret_key_secret_ref: SecretKeyRef | None = None
    """Key that holds the secret access key; goes with accessKeySecretRef."""


class Growth(ApiModel):
    """When the operator makes a shard's volume larger by itself, and how large at most."""

    at: int = Field(80, ge=50, le=95)
    """Use of the volume, in percent, from which on its claim asks for half as much again. The next step waits until
    the worker sees the room of the one before."""
    max: Quantity
    """Size beyond which no volume is made larger because it is full. Never less than size."""


class Wal(ApiModel):
    """The journal of each shard and the volume that holds it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"quantity(string(self.size)).compareTo(quantity('{WAL_SIZE_MIN}')) >= 0",
            message=f"must be at least {WAL_SIZE_MIN}: the journal keeps a reserve to finish running work on"
            " a full volume",
            field=".size",
            holds=lambda it: parse(it.size) >= parse(WAL_SIZE_MIN),
        ),
        Rule(
            cel="!has(self.growth) || quantity(string(self.growth.max)).compareTo(quantity(string(self.size))) >= 0",
            message="must not be less than size: every volume is at least that large",
            field=".growth.max",
            holds=lambda it: it.growth is None or parse(it.growth.max) >= parse(it.size),
        ),
    )
    transitions: ClassVar[tuple[TransitionRule, ...]] = (
        TransitionRule(
            cel="quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",
            message="a volume cannot shrink; give the old size or a larger one",
            field=".size",
            holds=lambda new, old: parse(new.size) >= parse(old.size),
        ),
        TransitionRule(
            cel="has(self.storageClass) == has(oldSelf.storageClass)"
            " && (!has(self.storageClass) || self.storageClass == oldSelf.storageClass)",
            message="cannot be changed, added or removed: existing volumes keep their class",
            field=".storageClass",
            holds=lambda new, old: new.storage_class == old.storage_class,
        ),
        TransitionRule(
            cel="self.accessMode == oldSelf.accessMode",
            message="cannot be changed: existing claims keep their access mode",
            field=".accessMode",
            holds=lambda new, old: new.access_mode == old.access_mode,
        ),
    )

    size: Quantity = "10Gi"
    """Size of each shard's volume. May be raised where the storage class allows it, never lowered; a volume that is
    larger already keeps its size."""
    growth: Growth | None = None
    """Lets volumes grow by themselves as they fill, also while a journal is full. They do not when it is not given. The
    storage class has to allow it."""
    storage_class: ObjectName | None = None
    """Storage class of the volumes; the cluster's default class when not given. Cannot be changed."""
    access_mode: AccessMode = AccessMode.ONE_POD
    """How the volume may be attached. ReadWriteOncePod keeps a second pod away from a journal; use ReadWriteOnce only
    for storage that does not know it. Cannot be changed."""
    ack_policy: AckPolicy = AckPolicy.JOURNALED
    """When a task is acked at the broker. Journaled: once it is durable on the volume; survives everything but the loss
    of the volume. Completed: once it has ended or waits for a scheduled start, so that a lost volume costs no other
    task; as many are taken from the broker as can run. Replicated: once it is confirmed in objectStore, so that a lost
    volume costs none; nothing new is taken while the bucket is away. May be changed at any time."""
    reclaim_policy: ReclaimPolicy = ReclaimPolicy.RETAIN
    """What becomes of a volume whose shard or EcoWorker is gone. Delete removes it once a job has found the journal
    empty, and only then; Retain keeps it."""
    stall_after_seconds: int = Field(300, ge=10, le=86_400)
    """A journal with work to do that makes no progress for this long is reported as Stalled."""
    max_lag_seconds: int = Field(900, ge=10, le=604_800)
    """A journal whose oldest task waits longer than this is reported as Lagging."""


class Recovery(ApiModel):
    """How a journal that its worker calls Corrupt or Lost is set right."""

    mode: RecoveryMode = RecoveryMode.AUTOMATIC
    """Automatic starts the recovery as soon as the worker has said so twice; Manual waits for the annotation
    eco.growbin.app/recover=true."""


def valid_name(name: str) -> bool:
    """Whether an EcoWorker may be called so: shards, claims and a Service get names made from it."""
    return len(name) <= NAME_LENGTH_MAX and _NAME.fullmatch(name) is not None


def _reserved_cel() -> str:
    listed = ", ".join(f"'{name}'" for name in RESERVED_ENV)
    return f"!has(self.env) || self.env.all(it, !(it.name in [{listed}]))"


class EcoWorkerSpec(ApiModel):
    """What is wanted: which workers, how many, what they consume and what they may use."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.role != 'storage' || has(self.objectStore)",
            message="role storage needs an objectStore: it stores pictures there",
            field=".objectStore",
            holds=lambda it: it.role is not Role.STORAGE or it.object_store is not None,
        ),
        Rule(
            cel="!has(self.maxUnfinished) || self.maxUnfinished >= self.concurrency",
            message="must not be less than concurrency: some of the worker's slots would never be used",
            field=".maxUnfinished",
            holds=lambda it: it.max_unfinished is None or it.max_unfinished >= it.concurrency,
        ),
        Rule(
            cel="self.wal.ackPolicy != 'Replicated' || has(self.objectStore)",
            message="Replicated needs an objectStore: the journals' segments are kept there",
            field=".wal.ackPolicy",
            holds=lambda it: it.wal.ack_policy is not AckPolicy.REPLICATED or it.object_store is not None,
        ),
        Rule(
            cel="self.wal.ackPolicy != 'Completed' || self.queues.size() <= self.concurrency",
            message="with ackPolicy Completed it must not be less than the number of queues: as many tasks are taken"
            " from the broker as can run, and each queue needs one",
            field=".concurrency",
            holds=lambda it: it.wal.ack_policy is not AckPolicy.COMPLETED or len(it.queues) <= it.concurrency,
        ),
        Rule(
            cel=_reserved_cel(),
            message="a variable of the worker's identity, broker, database, object store or journal is set by the"
            " operator; use the field of the spec instead",
            field=".env",
            holds=lambda it: not any(variable.name in RESERVED_ENV for variable in it.env),
        ),
    )
    transitions: ClassVar[tuple[TransitionRule, ...]] = (
        TransitionRule(
            cel="self.role == oldSelf.role",
            message="cannot be changed: the journals hold tasks of this role; make another EcoWorker",
            field=".role",
            holds=lambda new, old: new.role is old.role,
        ),
    )

    role: Role
    """What the workers do: storage takes uploaded pictures and stores them in several sizes. Cannot be changed."""
    image: str | None = Field(None, min_length=1, max_length=1024, pattern=r"^[^\s]+$")
    """Container image of the workers; the operator's default for the role when not given."""
    image_pull_policy: ImagePullPolicy | None = None
    """When the node fetches the image; Always for a tag latest and IfNotPresent otherwise, when not given."""
    image_pull_secrets: list[ObjectReference] = Field(
        default_factory=list, max_length=8, json_schema_extra=list_map("name")
    )
    """Secrets with the credentials of the image's registry."""
    service_account_name: ObjectName | None = None
    """Service account of the workers, for a cloud identity; its token is not mounted. The namespace's default when not
    given."""
    priority_class_name: ObjectName | None = None
    """Priority class of the workers."""
    replicas: int = Field(1, ge=0, le=REPLICAS_MAX)
    """Number of shards. Each has a Deployment, a volume and a journal of its own."""
    queues: list[Queue] = Field(default_factory=list, max_length=4, json_schema_extra=LIST_SET)
    """Queues to consume; those of the role when empty (storage: q.batch)."""
    concurrency: int = Field(4, ge=1, le=256)
    """Tasks that one worker runs at the same time."""
    max_unfinished: int | None = Field(None, ge=1, le=100_000)
    """Tasks that one worker may hold unfinished before it stops taking more from the broker; concurrency + 256 when not
    given."""
    resources: ResourceRequirements = ResourceRequirements()
    """Computing resources of each worker; a request of 100m CPU and 160Mi memory when none is given."""
    node_selector: dict[Annotated[str, Field(max_length=317)], LabelValue] | None = Field(
        None, max_length=32, json_schema_extra=MAP_ATOMIC
    )
    """Labels that a node must have to run a worker."""
    tolerations: list[Toleration] = Field(default_factory=list, max_length=32, json_schema_extra=LIST_ATOMIC)
    """Taints of nodes that the workers put up with."""
    env: list[EnvVar] = Field(default_factory=list, max_length=64, json_schema_extra=list_map("name"))
    """More environment variables for the workers."""
    broker: Broker
    """The RabbitMQ that the workers consume from and publish to."""
    databases: list[Database] = Field(default_factory=list, max_length=1, json_schema_extra=list_map("name"))
    """The PostgreSQL that a WalSync can send results to; at most one for now. Without one the results stay in the
    journals."""
    object_store: ObjectStore | None = None
    """The S3 bucket that the workers read from and write to; role storage needs it."""
    grace_period_seconds: int = Field(60, ge=5, le=3600)
    """How long a worker may take to finish or put back its running tasks when its pod is stopped."""
    drain_deadline_seconds: int = Field(600, ge=10, le=86_400)
    """How long a shard that is not wanted any more may take to give back its tasks before condition ScaleInBlocked says
    what it waits for. It is waited for all the same."""
    wal: Wal = Wal()
    """The journal of each shard and the volume that holds it."""
    recovery: Recovery = Recovery()
    """What is done about a journal that its worker calls damaged or lost."""
    delivery: Delivery = Delivery.DIRECT
    """Who applies Deployments, volumes and what the shards share. Direct: the operator. ArgoCD: Argo CD, from one
    Application for each shard that the operator writes; the operator needs to be installed with an Argo CD to write
    to. May be changed at any time: no worker restarts and no volume changes."""

    @property
    def effective_queues(self) -> tuple[Queue, ...]:
        """The queues to consume: those asked for, or those of the role."""
        return tuple(self.queues) or QUEUES_OF_ROLE[self.role]

    @property
    def effective_max_unfinished(self) -> int:
        """The bound on due and running tasks of one worker."""
        return self.concurrency + 256 if self.max_unfinished is None else self.max_unfinished

    def database(self, name: str) -> Database | None:
        """The database that a WalSync calls `name`; None when there is none of that name."""
        return next((it for it in self.databases if it.name == name), None)


class EcoWorker(ApiModel):
    """A kind of queue worker. Each of its shards writes every task to a local journal before it owns it.

    The operator makes one Deployment and one volume per shard, and reports the health of each journal here.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.metadata.name.size() <= {NAME_LENGTH_MAX}"
            " && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message=f"the name must be at most {NAME_LENGTH_MAX} characters, begin with a letter and hold only lower"
            " case letters, digits and dashes: names of shards, volumes and a Service are made from it",
            field=".metadata.name",
            holds=lambda it: valid_name(it.metadata.name),
        ),
    )

    api_version: Literal["eco.growbin.app/v1alpha1"] = "eco.growbin.app/v1alpha1"
    kind: Literal["EcoWorker"] = "EcoWorker"
    metadata: OwnerMetadata
    spec: EcoWorkerSpec
    status: EcoWorkerStatus = EcoWorkerStatus()

    @classmethod
    def read(cls, document: dict[str, Any]) -> "EcoWorker":
        """Parse an object as the API server sends it. Raises pydantic's ValidationError."""
        return cls.model_validate(document)

    @property
    def paused(self) -> bool:
        """Whether an annotation asks the operator to leave the object alone."""
        return self._asks(contract.ANNOTATION_PAUSED)

    @property
    def hibernated(self) -> bool:
        """Whether an annotation asks for every shard to be stopped."""
        return self._asks(contract.ANNOTATION_HIBERNATE)

    def fences(self, shard: str) -> bool:
        """Whether an annotation asks for that shard to stand still."""
        named = self.metadata.annotations.get(contract.ANNOTATION_FENCE, "")
        return self._asks(contract.ANNOTATION_FENCE) or shard in {name.strip() for name in named.split(",")}

    @property
    def asks_for_recovery(self) -> bool:
        """Whether an annotation asks for damaged journals to be set right."""
        return self._asks(contract.ANNOTATION_RECOVER)

    @property
    def asks_for_dry_run(self) -> bool:
        """Whether an annotation asks what a recovery of damaged journals would do, and for no more."""
        return self.metadata.annotations.get(contract.ANNOTATION_RECOVER, "").lower() == "dry-run"

    def _asks(self, annotation: str) -> bool:
        return self.metadata.annotations.get(annotation, "").lower() == "true"
