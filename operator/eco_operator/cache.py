"""What the operator remembers of the cluster: our own objects whole, everything else as a small projection.

Two sources feed it: the watch, event by event, and the resync, list by list. Whatever is newer by resource version
wins, so a late event never undoes a list, nor a stale list an event. Only a list can tell that an object is gone whose
deletion the watch never mentioned (after a 410, say), so it drops what it does not name.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eco_crds import contract
from eco_crds.jobs import DRY_RUN, TERMINATION_LOG_BYTES_MAX
from eco_operator import kinds
from eco_operator.kinds import Kind


class Key(NamedTuple):
    """One of our own objects, existing or gone."""

    kind: str
    namespace: str
    name: str


class Identity(NamedTuple):
    """An object by kind and name; another of the same name later has the same."""

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
    """The `fieldsV1` of our own managed-fields entry as JSON, or empty when we own nothing. Never its time."""
    owner_uids: tuple[str, ...]
    is_deleting: bool
    pod: PodState | None = None
    deployment: DeploymentState | None = None
    claim: ClaimState | None = None
    job: JobState | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    """Of a ConfigMap: all of it. Of a ControllerRevision: its number and, as JSON, its data. Of a Secret: nothing."""

    @property
    def worker(self) -> str:
        """Name of the EcoWorker it belongs to, or empty."""
        return self.labels.get(contract.LABEL_WORKER, "")

    @property
    def shard(self) -> str:
        """Name of the shard it belongs to, or empty."""
        return self.labels.get(contract.LABEL_SHARD, "")

    @property
    def is_of_job(self) -> bool:
        """Whether it is the pod of a job, and no worker's."""
        return self.labels.get(contract.LABEL_SHORT_COMPONENT) == contract.COMPONENT_JOB


@dataclass(frozen=True, slots=True)
class Owned:
    """An EcoWorker or a WalSync, whole but for its managed fields."""

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


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """How much is remembered, and how far the watch is behind the lists."""

    objects: Mapping[str, int]
    unwatched: int
    """Objects whose last known version came from a list, and the watch has not said so yet."""


@dataclass(slots=True)
class Cache:
    """Everything known of the cluster."""

    _owned: dict[Key, Owned] = field(default_factory=dict)
    _children: dict[Identity, Child] = field(default_factory=dict)
    _by_worker: dict[tuple[str, str], dict[Identity, Child]] = field(default_factory=dict)
    _watched: dict[Identity, int] = field(default_factory=dict)
    _tombstones: dict[Identity, int] | None = None

    def owned(self, key: Key) -> Owned | None:
        """The EcoWorker or WalSync of that key."""
        return self._owned.get(key)

    def all_owned(self, kind: Kind, namespace: str | None = None) -> list[Owned]:
        """Every object of one of our kinds, of one namespace or all."""
        return [
            owned
            for key, owned in self._owned.items()
            if key.kind == kind.kind and (namespace is None or key.namespace == namespace)
        ]

    def children(self, namespace: str, worker: str, kind: Kind | None = None) -> list[Child]:
        """What carries the label of that EcoWorker."""
        found = self._by_worker.get((namespace, worker), {}).values()
        return [child for child in found if kind is None or child.kind == kind.kind]

    def pods(self) -> list[Child]:
        """Every pod of every worker; those of jobs are none."""
        found = self._children.values()
        return [child for child in found if child.pod is not None and child.worker and not child.is_of_job]

    def child_uids(self) -> set[str]:
        """The uid of everything that is not of our own kinds."""
        return {child.uid for child in self._children.values()}

    def all_keys(self) -> set[Key]:
        """Everything there is to look at, with the names of EcoWorkers that are gone and left something behind."""
        left = {Key(kinds.ECO_WORKER.kind, namespace, worker) for namespace, worker in self._by_worker}
        return left | set(self._owned)

    def see(self, kind: Kind, event_type: str | None, body: Mapping[str, Any]) -> set[Key]:
        """Take in one event of the watch; returns the keys it concerns, none when it told nothing new."""
        identity, version = _identity(kind, body), _version(body)
        self._watched[identity] = max(version, self._watched.get(identity, 0))
        known = self._known(identity)
        if known is not None and (version < known.version or (version == known.version and event_type != "DELETED")):
            return set()
        if event_type == "DELETED":
            self._watched.pop(identity, None)
            if self._tombstones is not None:
                self._tombstones[identity] = version
            concerned = self._concerned(kind, self._project(kind, body))
            self._drop(identity)
            return concerned
        return self._put(kind, identity, body)

    def begin_list(self) -> None:
        """Remember deletions from now on, so that a list begun now cannot bring back what goes meanwhile."""
        self._tombstones = {}

    def end_list(self) -> None:
        """Stop remembering deletions."""
        self._tombstones = None

    def take_list(self, kind: Kind, bodies: Iterable[Mapping[str, Any]]) -> set[Identity]:
        """Take in one chunk of a list; returns what it named."""
        named = set()
        for body in bodies:
            identity, version = _identity(kind, body), _version(body)
            named.add(identity)
            known = self._known(identity)
            gone = (self._tombstones or {}).get(identity, -1)
            if version > gone and (known is None or version > known.version):
                self._put(kind, identity, body)
        return named

    def forget_unnamed(self, kind: Kind, named: set[Identity], list_version: int) -> int:
        """Drop what a whole list did not name and is not newer than it; returns how many."""
        candidates = [*self._owned, *self._children]
        gone = [
            identity
            for identity in (Identity(*candidate) for candidate in candidates)
            if identity.kind == kind.kind and identity not in named
        ]
        dropped = 0
        for identity in gone:
            known = self._known(identity)
            if known is not None and known.version <= list_version:
                self._drop(identity)
                self._watched.pop(identity, None)
                dropped += 1
        return dropped

    def put_written(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Take in the answer to a write of ours, ahead of the watch."""
        identity = _identity(kind, body)
        known = self._known(identity)
        if known is None or _version(body) > known.version:
            self._put(kind, identity, body)

    def drop_deleted(self, child: Child) -> None:
        """Forget what we deleted ourselves, ahead of the watch; another object of that name stays."""
        identity = Identity(child.kind, child.namespace, child.name)
        known = self._children.get(identity)
        if known is not None and known.uid == child.uid:
            self._drop(identity)

    def unwatched(self) -> dict[Identity, int]:
        """Every object whose known version the watch has not mentioned yet, with that version."""
        versions = {Identity(*key): entry.version for key, entry in self._owned.items()}
        versions |= {identity: child.version for identity, child in self._children.items()}
        return {identity: version for identity, version in versions.items() if self._watched.get(identity, 0) < version}

    def still_unwatched(self, before: Mapping[Identity, int]) -> int:
        """How many of the versions that `unwatched` named a while ago the watch still has not mentioned.

        What was written since does not count: of a busy fleet there is always something that the watch is about to say.
        """
        return sum(
            self._known(identity) is not None and self._watched.get(identity, 0) < version
            for identity, version in before.items()
        )

    def statistics(self) -> CacheStatistics:
        """How much is remembered."""
        counts = Counter(key.kind for key in self._owned)
        counts.update(identity.kind for identity in self._children)
        return CacheStatistics(objects=counts, unwatched=len(self.unwatched()))

    def _known(self, identity: Identity) -> Owned | Child | None:
        return self._owned.get(Key(*identity)) or self._children.get(identity)

    def _put(self, kind: Kind, identity: Identity, body: Mapping[str, Any]) -> set[Key]:
        entry = self._project(kind, body)
        if isinstance(entry, Owned):
            self._owned[entry.key] = entry
            return self._concerned(kind, entry)
        before = self._children.get(identity)
        concerned = self._concerned(kind, entry)
        if before is not None and before.worker != entry.worker:
            concerned |= self._concerned(kind, before)
            self._unindex(before, identity)
        self._children[identity] = entry
        if entry.worker:
            self._by_worker.setdefault((entry.namespace, entry.worker), {})[identity] = entry
        return concerned

    def _drop(self, identity: Identity) -> None:
        self._owned.pop(Key(*identity), None)
        child = self._children.pop(identity, None)
        if child is not None:
            self._unindex(child, identity)

    def _unindex(self, child: Child, identity: Identity) -> None:
        siblings = self._by_worker.get((child.namespace, child.worker))
        if siblings is not None:
            siblings.pop(identity, None)
            if not siblings:
                del self._by_worker[(child.namespace, child.worker)]

    def _project(self, kind: Kind, body: Mapping[str, Any]) -> Owned | Child:
        return own(kind, body) if kind in kinds.OWNED else project(kind, body)

    def _concerned(self, kind: Kind, entry: Owned | Child) -> set[Key]:
        if isinstance(entry, Child):
            return {Key(kinds.ECO_WORKER.kind, entry.namespace, entry.worker)} if entry.worker else set()
        keys = {entry.key}
        # A WalSync tells EcoWorkers how to sync; an EcoWorker's state is what a WalSync shows.
        other = kinds.WAL_SYNC if kind == kinds.ECO_WORKER else kinds.ECO_WORKER
        keys.update(owned.key for owned in self.all_owned(other, entry.key.namespace))
        return keys


def own(kind: Kind, body: Mapping[str, Any]) -> Owned:
    """Keep one of our own objects whole but for its managed fields."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    key = Key(kind.kind, metadata["namespace"], metadata["name"])
    return Owned(key, metadata["uid"], _version(body), {**body, "metadata": metadata})


def project(kind: Kind, body: Mapping[str, Any]) -> Child:
    """Keep of a child what decisions need."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    return Child(
        kind=kind.kind,
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=_version(body),
        labels={sys.intern(name): sys.intern(value) for name, value in (metadata.get("labels") or {}).items()},
        desired_hash=annotations.get(contract.ANNOTATION_HASH, ""),
        owned_fields=_owned_fields(metadata),
        owner_uids=tuple(owner["uid"] for owner in metadata.get("ownerReferences") or ()),
        is_deleting="deletionTimestamp" in metadata,
        pod=_pod(body) if kind == kinds.POD else None,
        deployment=_deployment(body) if kind == kinds.DEPLOYMENT else None,
        claim=_claim(body) if kind == kinds.CLAIM else None,
        job=_job(body) if kind == kinds.JOB else None,
        data=_data(kind, body),
    )


def _data(kind: Kind, body: Mapping[str, Any]) -> dict[str, str]:
    if kind == kinds.CONFIG_MAP:
        return dict(body.get("data") or {})
    if kind == kinds.REVISION:
        # As text, a tenth of the size of the objects it stands for.
        return {"data": json.dumps(body.get("data"), separators=(",", ":")), "revision": str(body.get("revision", 0))}
    return {}


def _owned_fields(metadata: Mapping[str, Any]) -> str:
    for entry in metadata.get("managedFields") or ():
        if (
            entry.get("manager") == contract.FIELD_MANAGER
            and entry.get("operation") == "Apply"
            and not entry.get("subresource")
        ):
            # The same for every shard of every worker, so one string serves them all.
            return sys.intern(json.dumps(entry.get("fieldsV1") or {}, sort_keys=True, separators=(",", ":")))
    return ""


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
    return ClaimState(
        phase=status.get("phase", ""),
        requested=str(spec.get("resources", {}).get("requests", {}).get("storage", "")),
        capacity=str((status.get("capacity") or {}).get("storage", "")),
        storage_class=spec.get("storageClassName"),
        access_modes=tuple(spec.get("accessModes") or ()),
        annotations={name: value for name, value in annotations.items() if name.startswith(contract.GROUP)},
    )


def _identity(kind: Kind, body: Mapping[str, Any]) -> Identity:
    return Identity(kind.kind, body["metadata"]["namespace"], body["metadata"]["name"])


def _version(body: Mapping[str, Any]) -> int:
    """Resource versions are comparable integers; the API server's own documentation has it so since 1.35."""
    value = str(body["metadata"].get("resourceVersion", ""))
    return int(value) if value.isdigit() else 0
