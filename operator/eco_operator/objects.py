"""What is remembered of one object of the cluster: our own whole, everything else as a small projection."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from eco_crds import contract
from eco_crds.jobs import DRY_RUN, TERMINATION_LOG_BYTES_MAX
from eco_operator import kinds
from eco_operator.kinds import Kind
from eco_operator.managed_fields import CREATED, ours_by, owned_fields

SHARED_CHARACTERS_MAX: Final = 64
"""Longer texts are each an object's own."""


class Key(NamedTuple):
    """One of our own objects, existing or gone."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class PodState:
    """What the kubelet says of a worker's pod."""

    ip: str
    node: str
    phase: str
    is_ready: bool
    process: str
    """Names the process of the worker that runs in it now; empty when none does."""
    restarts: int
    reason: str
    """Why it does not run, as the kubelet or scheduler has it: `ImagePullBackOff`, `Unschedulable`, …; or empty."""
    message: str
    last_exit: str
    """Message the container left when it last ended, or empty."""
    image_id: str
    created: str
    is_lost: bool = False
    """Whether it is to go and its node does not answer: what it does there nobody knows."""
    leaves_by: str = ""
    """When it should have ended at the latest; empty while it is not to go."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What the job controller says."""

    name: str
    """What the job does, as in `drain`."""
    is_complete: bool
    is_failed: bool
    reason: str
    """Why it failed, in the controller's words."""
    started: str
    ended: str
    is_dry_run: bool
    request: str = ""
    """The request that it fulfils, of a job that people asked for."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will run for it."""
        return self.is_complete or self.is_failed


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """What the deployment controller says."""

    replicas: int
    ready: int
    """Pods of the present template that are ready; those of the one before do not count."""
    image: str
    is_observed: bool
    """Whether the controller has seen the present spec; until then its numbers are about the one before."""
    recovery: str = ""
    """What the worker had said of the journal when the shard was stopped for a recovery; empty when it was not."""

    @property
    def is_up(self) -> bool:
        """Whether what is wanted now runs and is ready."""
        return self.is_observed and self.ready > 0


@dataclass(frozen=True, slots=True)
class ClaimState:
    """A claim on a volume with a journal."""

    phase: str
    requested: str
    capacity: str
    storage_class: str | None
    access_modes: tuple[str, ...]
    annotations: Mapping[str, str]
    resize: str = ""
    """How far a volume is that is being made larger, in the words of the claim's conditions; empty when none is."""
    resize_error: str = ""
    """What the storage said to the size that the claim asks for."""
    is_infeasible: bool = False
    """Whether the storage has given up making the volume that large."""

    @property
    def is_bound(self) -> bool:
        """Whether there is a volume."""
        return self.phase == "Bound"


@dataclass(frozen=True, slots=True)
class ApplicationState:
    """An Application of Argo CD, as far as it is ours to write and to follow."""

    values: Mapping[str, Any]
    """What the chart is rendered with."""
    revision: str
    """Of the chart."""
    is_armed: bool
    """Whether it applies by itself, or takes its objects along when it is deleted."""
    is_synced: bool
    failure: str
    """Why it could not be rendered or applied, in Argo CD's words; empty when it could."""


@dataclass(frozen=True, slots=True)
class Child:
    """Anything that is not of our own kinds."""

    kind: str
    namespace: str
    name: str
    uid: str
    version: int
    labels: Mapping[str, str]
    desired_hash: str
    owned_fields: str
    """The `fieldsV1` of our own managed-fields entry as JSON, or empty when we own nothing. Never its time.

    It is that of our applies, or of our create while we have applied nothing. The uid of `owner` reads `OWNER` in it:
    so it is the same for every shard of every EcoWorker.
    """
    owner_uids: tuple[str, ...]
    is_deleting: bool
    pod: PodState | None = None
    deployment: DeploymentState | None = None
    claim: ClaimState | None = None
    job: JobState | None = None
    application: ApplicationState | None = None
    ours_by: tuple[str, ...] = ()
    """Kinds of write by which fields are ours; of those by a create no apply can take one away."""
    is_argocds: bool = False
    """Whether Argo CD has applied it, be it beside us."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Of a ConfigMap: all of it. Of a ControllerRevision: its number and, as JSON, its data. Of a Secret: nothing."""

    @property
    def is_as_created(self) -> bool:
        """Whether fields are still ours by the create."""
        return CREATED in self.ours_by

    @property
    def owner(self) -> str:
        """Uid of the first owner, or empty."""
        return next(iter(self.owner_uids), "")

    @property
    def worker(self) -> str:
        """Name of the EcoWorker it belongs to, or empty."""
        return self.labels.get(contract.LABEL_WORKER, "")

    @property
    def worker_namespace(self) -> str:
        """Namespace of the EcoWorker it belongs to."""
        return self.labels.get(contract.LABEL_NAMESPACE, self.namespace)

    @property
    def shard(self) -> str:
        """Name of the shard it belongs to, or empty."""
        return self.labels.get(contract.LABEL_SHARD, "")

    @property
    def is_of_job(self) -> bool:
        """Whether it is the pod of a job, and no worker's."""
        return self.labels.get(contract.LABEL_SHORT_COMPONENT) == contract.COMPONENT_JOB


@dataclass(frozen=True, slots=True, eq=False)
class Owned:
    """An EcoWorker or a WalSync, whole but for its managed fields. Equal to itself alone: another was read anew."""

    key: Key
    uid: str
    version: int
    body: Mapping[str, Any]

    @property
    def is_deleting(self) -> bool:
        """Whether it is on its way out."""
        return "deletionTimestamp" in self.body["metadata"]

    @property
    def generation(self) -> int:
        """Counts the changes of its spec."""
        return int(self.body["metadata"].get("generation", 0))


def own(kind: Kind, body: Mapping[str, Any]) -> Owned:
    """Keep one of our own objects whole but for its managed fields."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    key = Key(kind.kind, metadata["namespace"], metadata["name"])
    return Owned(key, metadata["uid"], version_of(body), _shared({**body, "metadata": metadata}))


def _shared(value: Any) -> Any:
    """The same with strings that objects have in common held once: a fleet's specs and statuses are much alike."""
    if isinstance(value, dict):
        return {sys.intern(name): _shared(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_shared(entry) for entry in value]
    return sys.intern(value) if isinstance(value, str) and len(value) <= SHARED_CHARACTERS_MAX else value


def project(kind: Kind, body: Mapping[str, Any]) -> Child:
    """Keep of a child what decisions need."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    return Child(
        kind=kind.kind,
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=version_of(body),
        labels={sys.intern(name): sys.intern(value) for name, value in (metadata.get("labels") or {}).items()},
        desired_hash=annotations.get(contract.ANNOTATION_HASH, ""),
        owned_fields=owned_fields(metadata),
        ours_by=ours_by(metadata),
        owner_uids=tuple(owner["uid"] for owner in metadata.get("ownerReferences") or ()),
        is_deleting="deletionTimestamp" in metadata,
        pod=_pod(body) if kind == kinds.POD else None,
        deployment=_deployment(body) if kind == kinds.DEPLOYMENT else None,
        claim=_claim(body) if kind == kinds.CLAIM else None,
        job=_job(body) if kind == kinds.JOB else None,
        application=_application(body) if kind == kinds.APPLICATION else None,
        is_argocds=any(
            entry.get("manager") == contract.ARGOCD_FIELD_MANAGER and entry.get("operation") == "Apply"
            for entry in metadata.get("managedFields") or ()
        ),
        data=_data(kind, body),
    )


def _data(kind: Kind, body: Mapping[str, Any]) -> dict[str, str]:
    if kind == kinds.CONFIG_MAP:
        return dict(body.get("data") or {})
    if kind == kinds.REVISION:
        # As text, a tenth of the size of the objects it stands for.
        return {"data": msgspec.json.encode(body.get("data")).decode(), "revision": str(body.get("revision", 0))}
    return {}


def _application(body: Mapping[str, Any]) -> ApplicationState:
    spec, status = body.get("spec") or {}, body.get("status") or {}
    source = spec.get("source") or {}
    operation = status.get("operationState") or {}
    told = [str(entry.get("message", "")) for entry in status.get("conditions") or () if "Error" in entry["type"]]
    if operation.get("phase") in {"Failed", "Error"}:
        told.append(str(operation.get("message", "")))
    return ApplicationState(
        values=(source.get("helm") or {}).get("valuesObject") or {},
        revision=str(source.get("targetRevision", "")),
        is_armed=bool(body["metadata"].get("finalizers") or (spec.get("syncPolicy") or {}).get("automated")),
        is_synced=(status.get("sync") or {}).get("status") == "Synced",
        failure="; ".join(told)[:512],
    )


def _pod(body: Mapping[str, Any]) -> PodState:
    status = body.get("status") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions") or ()}
    containers = status.get("containerStatuses") or ()
    names = {contract.CONTAINER_NAME, contract.JOB_CONTAINER_NAME}
    main: Mapping[str, Any] = next((entry for entry in containers if entry["name"] in names), {})
    is_job = main.get("name") == contract.JOB_CONTAINER_NAME
    state, last = main.get("state") or {}, main.get("lastState") or {}
    scheduled = conditions.get("PodScheduled", {})
    waiting = state.get("waiting") or state.get("terminated") or {}
    if scheduled.get("status") == "False":
        waiting = scheduled
    ended = state.get("terminated") or last.get("terminated") or {}
    return PodState(
        ip=status.get("podIP", ""),
        node=(body.get("spec") or {}).get("nodeName", ""),
        phase=status.get("phase", ""),
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        process=str(main.get("containerID") or f"start-{main.get('restartCount', 0)}") if "running" in state else "",
        restarts=int(main.get("restartCount", 0)),
        reason=str(status.get("reason") or waiting.get("reason") or ""),
        message=str(status.get("message") or waiting.get("message") or "")[:512],
        # The report of a job is here whole; of a worker's last words the first will do.
        last_exit=str(ended.get("message") or ended.get("reason") or "")[
            : TERMINATION_LOG_BYTES_MAX if is_job else 512
        ],
        image_id=str(main.get("imageID", "")),
        created=str(body["metadata"].get("creationTimestamp", "")),
        is_lost="deletionTimestamp" in body["metadata"] and _is_cut_off(status, conditions),
        leaves_by=str(body["metadata"].get("deletionTimestamp", "")),
    )


def _is_cut_off(status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether it was its node's silence that had the pod deleted, by what the control plane wrote on the pod."""
    disruption = conditions.get("DisruptionTarget", {})
    by_taint = disruption.get("status") == "True" and disruption.get("reason") == "DeletionByTaintManager"
    return bool(status.get("reason") == "NodeLost" or by_taint)


def _job(body: Mapping[str, Any]) -> JobState:
    status = body.get("status") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions") or () if entry.get("status") == "True"}
    ended = conditions.get("Complete") or conditions.get("Failed") or {}
    arguments: list[str] = body["spec"]["template"]["spec"]["containers"][0].get("args") or []
    return JobState(
        name=next(iter(arguments[1:]), ""),
        is_complete="Complete" in conditions,
        is_failed="Failed" in conditions,
        reason=str(ended.get("message") or ended.get("reason") or ""),
        started=str(status.get("startTime", "")),
        ended=str(ended.get("lastTransitionTime", "")),
        is_dry_run=DRY_RUN in arguments,
        request=(body["metadata"].get("annotations") or {}).get(contract.ANNOTATION_SYNC_NOW, ""),
    )


def _deployment(body: Mapping[str, Any]) -> DeploymentState:
    status, spec = body.get("status") or {}, body["spec"]
    containers = spec["template"]["spec"]["containers"]
    image = next((entry["image"] for entry in containers if entry["name"] == contract.CONTAINER_NAME), "")
    return DeploymentState(
        replicas=int(spec.get("replicas", 1)),
        # The controller sees a new template before the pods of the old one have gone, and counts them for a moment.
        ready=min(int(status.get("readyReplicas", 0)), int(status.get("updatedReplicas", 0))),
        image=image,
        is_observed=int(status.get("observedGeneration", 0)) >= int(body["metadata"].get("generation", 0)),
        recovery=(body["metadata"].get("annotations") or {}).get(contract.ANNOTATION_RECOVERY, ""),
    )


def _claim(body: Mapping[str, Any]) -> ClaimState:
    spec, status = body["spec"], body.get("status") or {}
    annotations = body["metadata"].get("annotations") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions") or () if entry.get("status") == "True"}
    error = conditions.get("ControllerResizeError") or conditions.get("NodeResizeError") or {}
    return ClaimState(
        phase=status.get("phase", ""),
        requested=str(spec.get("resources", {}).get("requests", {}).get("storage", "")),
        capacity=str((status.get("capacity") or {}).get("storage", "")),
        storage_class=spec.get("storageClassName"),
        access_modes=tuple(spec.get("accessModes") or ()),
        annotations={name: value for name, value in annotations.items() if name.startswith(contract.GROUP)},
        resize=next((name for name in ("FileSystemResizePending", "Resizing") if name in conditions), ""),
        resize_error=str(error.get("message", ""))[:512],
        is_infeasible=str((status.get("allocatedResourceStatuses") or {}).get("storage", "")).endswith("Infeasible"),
    )


def version_of(body: Mapping[str, Any]) -> int:
    """Resource versions are comparable integers; the API server's own documentation has it so since 1.35."""
    value = str(body["metadata"].get("resourceVersion", ""))
    return int(value) if value.isdigit() else 0
