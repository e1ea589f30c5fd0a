"""What is known about one EcoWorker at one moment, put together from caches and probes; decisions see nothing else."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from pydantic import ValidationError

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.ecoworker_status import EcoWorkerStatus, ShardStatus
from eco_crds.validation import Problem, read
from eco_crds.wal import WalReport
from eco_crds.walsync import WalSync
from eco_operator import kinds
from eco_operator.cache import Cache, Child, Key, Owned
from eco_operator.resources.application import Source
from eco_operator.shards import Probe, ShardKey, Target

READ_MAX: Final = 64
"""So many objects are kept as read: one look reads its object three times, and a namespace's WalSyncs each time."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator's settings have to say about verdicts."""

    default_image: str
    report_age_s: float
    """A report older than this (three periods of the probe) says nothing any more."""
    status_interval_s: float
    argocd: Source | None = None
    """The Argo CD that may deliver; None where the operator knows of none."""
    monitor_labels: Mapping[str, str] | None = None
    """Of the ServiceMonitors; None where none are wanted, or the cluster does not know their kind."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard, wanted or left over."""

    index: int
    name: str
    deployment: Child | None
    claim: Child | None
    config: Child | None
    pods: tuple[Child, ...]
    """The worker's, oldest first."""
    jobs: tuple[Child, ...]
    """What runs or ran on the volume while no worker did."""
    job_pods: tuple[Child, ...]
    """Oldest first."""
    probe: Probe
    previous: ShardStatus | None

    @property
    def known_uuid(self) -> str:
        """Identity of the journal from the first report on: what the worker is told, else what the claim says."""
        told = self.config.data.get(contract.JOURNAL_UUID_KEY, "") if self.config is not None else ""
        noted = ""
        if self.claim is not None and self.claim.claim is not None:
            noted = self.claim.claim.annotations.get(contract.ANNOTATION_JOURNAL, "")
        return told or noted

    @property
    def pod(self) -> Child | None:
        """The pod that counts: the newest that is not on its way out, else the newest."""
        staying = [pod for pod in self.pods if not pod.is_deleting] or list(self.pods)
        return staying[-1] if staying else None

    @property
    def target(self) -> Target | None:
        """The process to talk to; None when none runs."""
        pod = self.pod
        if pod is None or pod.pod is None or not pod.pod.ip or not pod.pod.process:
            return None
        return Target(ShardKey(pod.namespace, pod.worker, self.name), pod.uid, pod.pod.process, pod.pod.ip)

    @property
    def report(self) -> WalReport | None:
        """The last report of the process that runs now; None when it has given none."""
        target = self.target
        if target is None or (self.probe.pod_uid, self.probe.process) != (target.pod_uid, target.process):
            return None
        return self.probe.report


@dataclass(frozen=True, slots=True)
class Observation:
    """All there is to know about one EcoWorker."""

    key: Key
    now: datetime
    policy: Policy
    owned: Owned | None
    worker: EcoWorker | None
    """The object, when it is there and valid."""
    problems: tuple[Problem, ...]
    previous: EcoWorkerStatus
    children: tuple[Child, ...]
    shards: tuple[Shard, ...]
    """Wanted ones first by index, then what is left of others."""
    sync: WalSync | None
    """The WalSync that governs it, if any: the oldest that selects it and names a database it has."""
    is_settling: bool
    """The operator has just started and cannot have heard of every worker yet."""
    classes: Mapping[str, bool]
    """Storage classes of which it is known whether their volumes may grow."""

    def leaves(self, child: Child) -> bool:
        """Whether it is on its way out: being deleted, or owned by an EcoWorker of this name that is gone."""
        ours = self.owned.uid if self.owned is not None else ""
        is_of_another = bool(child.owner_uids) and ours not in child.owner_uids
        # A pod is a ReplicaSet's or a job's, a job is its claim's: their owners are none of ours.
        return child.is_deleting or (is_of_another and child.kind not in {kinds.POD.kind, kinds.JOB.kind})

    def child(self, kind: kinds.Kind, name: str) -> Child | None:
        """What it has of that kind and name."""
        return next((child for child in self.children if child.kind == kind.kind and child.name == name), None)


def observe(  # each argument is one source
    key: Key,
    *,
    cache: Cache,
    probe: Callable[[ShardKey], Probe],
    policy: Policy,
    now: datetime,
    is_settling: bool,
    classes: Mapping[str, bool],
) -> Observation:
    """Everything known about the EcoWorker of that key, existing or gone."""
    owned = cache.owned(key)
    children = tuple(sorted(cache.children(key.namespace, key.name), key=lambda child: (child.kind, child.name)))
    worker, problems, previous = read_worker(owned) if owned is not None else (None, (), EcoWorkerStatus())
    return Observation(
        key=key,
        now=now,
        policy=policy,
        owned=owned,
        worker=worker,
        problems=problems,
        previous=previous,
        children=children,
        shards=tuple(_shards(key, worker, children, probe, previous)),
        sync=governing_sync(worker, cache) if worker is not None else None,
        is_settling=is_settling,
        classes=classes,
    )


@lru_cache(maxsize=READ_MAX)
def read_worker(owned: Owned) -> tuple[EcoWorker | None, tuple[Problem, ...], EcoWorkerStatus]:
    """The EcoWorker if it is valid, what is wrong with it if not, and its status as last written."""
    found, problems = read(owned.body)
    worker = found if isinstance(found, EcoWorker) and not problems else None
    return worker, tuple(problems), read_status(EcoWorkerStatus, owned.body)


@lru_cache(maxsize=READ_MAX)
def read_sync(owned: Owned) -> tuple[WalSync | None, tuple[Problem, ...]]:
    """The WalSync if it is valid, and what is wrong with it if not."""
    found, problems = read(owned.body)
    return found if isinstance(found, WalSync) and not problems else None, tuple(problems)


StatusT = Any


def read_status(model: type[StatusT], body: Mapping[str, Any]) -> StatusT:
    """The status as last written; one that cannot be read (somebody else wrote it) counts as none."""
    try:
        return model.model_validate(body.get("status") or {})
    except ValidationError:
        return model()


def valid_syncs(cache: Cache, namespace: str) -> list[WalSync]:
    """Every valid WalSync of a namespace that stays, the oldest first."""
    found = [
        sync
        for owned in cache.all_owned(kinds.WAL_SYNC, namespace)
        if not owned.is_deleting and (sync := read_sync(owned)[0]) is not None
    ]
    return sorted(found, key=lambda sync: (str(sync.metadata.creation_timestamp), sync.metadata.name))


def governing_sync(worker: EcoWorker, cache: Cache) -> WalSync | None:
    """Of the WalSyncs that select the EcoWorker the oldest, unless it names a database that is not there."""
    selecting = [
        sync for sync in valid_syncs(cache, worker.metadata.namespace) if sync.spec.eco_workers.matches(worker.metadata)
    ]
    if not selecting or worker.spec.database(selecting[0].spec.database) is None:
        return None
    return selecting[0]


def _shards(
    key: Key,
    worker: EcoWorker | None,
    children: Iterable[Child],
    probe: Callable[[ShardKey], Probe],
    previous: EcoWorkerStatus,
) -> Iterable[Shard]:
    by_shard: dict[int, list[Child]] = {}
    for child in children:
        index = shard_index(key.name, child.shard)
        if index is not None:
            by_shard.setdefault(index, []).append(child)
    wanted = range(worker.spec.replicas) if worker is not None else range(0)
    before = {shard.name: shard for shard in previous.shards}
    for index in [*wanted, *sorted(set(by_shard) - set(wanted))]:
        name = contract.shard_name(key.name, index)
        mine = by_shard.get(index, [])
        of_kind = {kind.kind: [child for child in mine if child.kind == kind.kind] for kind in kinds.CHILDREN}
        pods = sorted(of_kind[kinds.POD.kind], key=lambda pod: pod.pod.created if pod.pod else "")
        yield Shard(
            index=index,
            name=name,
            deployment=_named(of_kind[kinds.DEPLOYMENT.kind], name),
            claim=_named(of_kind[kinds.CLAIM.kind], contract.claim_name(key.name, index)),
            config=_named(of_kind[kinds.CONFIG_MAP.kind], contract.shard_config_name(key.name, index)),
            pods=tuple(pod for pod in pods if not pod.is_of_job),
            jobs=tuple(of_kind[kinds.JOB.kind]),
            job_pods=tuple(pod for pod in pods if pod.is_of_job),
            probe=probe(ShardKey(key.namespace, key.name, name)),
            previous=before.get(name),
        )


def _named(children: Iterable[Child], name: str) -> Child | None:
    return next((child for child in children if child.name == name), None)


def shard_index(worker: str, shard: str) -> int | None:
    """The number of a shard from its name; None for a name that is no shard of that worker."""
    prefix, _, number = shard.rpartition("-")
    return int(number) if prefix == worker and number.isdigit() else None
