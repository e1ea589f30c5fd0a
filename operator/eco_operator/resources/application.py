"""The Argo CD Applications of an EcoWorker: one for each shard, and one for what the shards share.

Each points to the chart of workers, which renders exactly the objects that the operator would apply itself. What the
operator decides goes in as values, one shard at a time; claims are never pruned and never deleted with an Application.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.wal import SyncSettings
from eco_operator.resources.metadata import Manifest, shard_labels, with_hash, worker_labels

API_VERSION: Final = "argoproj.io/v1alpha1"
FINALIZER: Final = "resources-finalizer.argocd.argoproj.io"
"""Has Argo CD delete what an Application stands for along with it."""
_RETRY: Final[dict[str, Any]] = {
    "limit": 5,
    # Without it a failing sync retries its own values, and those that repair it wait.
    "refresh": True,
    "backoff": {"duration": "5s", "factor": 2, "maxDuration": "3m"},
}
# What the operator alone looks at.
_NOT_RENDERED: Final = {"delivery"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where Argo CD is and where it finds the chart: the operator's settings."""

    namespace: str
    """Namespace of the Applications."""
    repo_url: str
    chart: str
    """Name of the chart in a repository of charts; empty for one in Git."""
    path: str
    """Directory of the chart in a repository of Git."""
    revision: str
    """Version of the chart, or revision of Git."""
    project: str
    destination: str
    """URL of the API server that the workers are at, as Argo CD knows it."""


@dataclass(frozen=True, slots=True)
class ShardValues:
    """What differs from shard to shard, and from moment to moment."""

    replicas: int
    image: str
    size: str
    grown: str = ""
    journal_uuid: str = ""
    recovery: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """An earlier spec and the version of the chart that goes with it."""

    spec: Mapping[str, Any]
    revision: str


def name_of_shard(worker: EcoWorker, index: int) -> str:
    """Name of a shard's Application. A dot is in no other part of it, so two namespaces never meet."""
    return f"{worker.metadata.namespace}.{contract.shard_name(worker.metadata.name, index)}"


def name_of_shared(worker: EcoWorker) -> str:
    """Name of the Application of what the shards share."""
    return f"{worker.metadata.namespace}.{worker.metadata.name}.shared"


def of_shard(
    worker: EcoWorker, index: int, values: ShardValues, source: Source, *, held: Held | None = None
) -> Manifest:
    """The Application of shard `index`; `held` is what a shard is held to whose turn to roll has not come."""
    shard: Manifest = {"index": index, "replicas": values.replicas, "image": values.image, "size": values.size}
    if values.grown:
        shard["grown"] = values.grown
    if values.journal_uuid:
        shard["journalUuid"] = values.journal_uuid
    if values.recovery:
        shard["recovery"] = values.recovery
    spec = rendered_spec(worker) if held is None else held.spec
    revision = source.revision if held is None else held.revision
    given = {**_common(worker, spec), "shared": False, "shards": [shard]}
    labels = _labels(worker, shard_labels(worker, index))
    return _application(name_of_shard(worker, index), labels, given, source, revision=revision)


def of_shared(worker: EcoWorker, source: Source, *, settings: SyncSettings | None) -> Manifest:
    """The Application of the Service, the disruption budget and the sync settings."""
    given = {**_common(worker, rendered_spec(worker)), "shared": True, "shards": []}
    if settings is not None:
        given["sync"] = {
            "database": settings.target,
            "intervalSeconds": int(settings.interval_s),
            "batchSize": settings.batch_size,
            "maxAttempts": settings.max_attempts,
            "suspend": settings.suspended,
        }
    labels = _labels(worker, worker_labels(worker))
    return _application(name_of_shared(worker), labels, given, source, revision=source.revision)


def rendered_spec(worker: EcoWorker) -> Manifest:
    """The spec as the chart takes it."""
    return worker.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_NOT_RENDERED)


def let_go(name: str, labels: Mapping[str, str], values: Mapping[str, Any], revision: str, source: Source) -> Manifest:
    """An Application as it is, but it applies nothing by itself and may be deleted without its objects."""
    return _application(name, labels, values, source, revision=revision, is_armed=False)


def _labels(worker: EcoWorker, labels: Mapping[str, str]) -> dict[str, str]:
    """An owner in another namespace is none: the labels say whose an Application is."""
    return {**labels, contract.LABEL_NAMESPACE: worker.metadata.namespace}


def _common(worker: EcoWorker, spec: Mapping[str, Any]) -> Manifest:
    return {"name": worker.metadata.name, "spec": dict(spec), "owner": {"uid": worker.metadata.uid}}


def _application(
    name: str,
    labels: Mapping[str, str],
    values: Mapping[str, Any],
    source: Source,
    *,
    revision: str,
    is_armed: bool = True,
) -> Manifest:
    place = {"chart": source.chart} if source.chart else {"path": source.path}
    armed = {"automated": {"prune": True, "selfHeal": True}, "retry": _RETRY} if is_armed else {}
    return with_hash(
        {
            "apiVersion": API_VERSION,
            "kind": "Application",
            "metadata": {
                "name": name,
                "namespace": source.namespace,
                "labels": dict(labels),
                **({"finalizers": [FINALIZER]} if is_armed else {}),
            },
            "spec": {
                "project": source.project,
                "source": {
                    "repoURL": source.repo_url,
                    "targetRevision": revision,
                    **place,
                    "helm": {"releaseName": values["name"], "valuesObject": dict(values)},
                },
                "destination": {"server": source.destination, "namespace": labels[contract.LABEL_NAMESPACE]},
                "syncPolicy": {**armed, "syncOptions": ["ServerSideApply=true"]},
            },
        }
    )
