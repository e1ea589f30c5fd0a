"""The kinds this operator reads and writes, and where the API server keeps them."""

from dataclasses import dataclass
from typing import Final

from eco_crds import contract


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of the API server; all but storage classes are namespaced."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Path of the collection (of one namespace or of all), of one object, or of its subresource."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [root + self.api_version]
        if namespace is not None:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        parts.extend(part for part in (name, subresource) if part is not None)
        return "/".join(parts)

    @property
    def group(self) -> str:
        """Group of the API, empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """Version within the group."""
        return self.api_version.rpartition("/")[2]


ECO_WORKER: Final = Kind(contract.API_VERSION, "EcoWorker", "ecoworkers")
WAL_SYNC: Final = Kind(contract.API_VERSION, "WalSync", "walsyncs")
DEPLOYMENT: Final = Kind("apps/v1", "Deployment", "deployments")
CLAIM: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
SERVICE: Final = Kind("v1", "Service", "services")
SECRET: Final = Kind("v1", "Secret", "secrets")
CONFIG_MAP: Final = Kind("v1", "ConfigMap", "configmaps")
BUDGET: Final = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
REVISION: Final = Kind("apps/v1", "ControllerRevision", "controllerrevisions")
JOB: Final = Kind("batch/v1", "Job", "jobs")
POD: Final = Kind("v1", "Pod", "pods")
EVENT: Final = Kind("v1", "Event", "events")
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
STORAGE_CLASS: Final = Kind("storage.k8s.io/v1", "StorageClass", "storageclasses")

APPLICATION: Final = Kind("argoproj.io/v1alpha1", "Application", "applications")
"""Argo CD's. Not watched: the kind may be missing, and it lies in a namespace that nothing else of ours is in."""

SERVICE_MONITOR: Final = Kind("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors")
"""The Prometheus operator's. Not watched either: where that is not installed the kind is missing."""

OWNED: Final = (ECO_WORKER, WAL_SYNC)
"""Our own kinds, watched whole."""
CHILDREN: Final = (REVISION, DEPLOYMENT, CLAIM, SERVICE, BUDGET, SECRET, CONFIG_MAP, JOB, POD)
"""What the operator builds, or what comes of it; watched by the label `managed-by` only."""
WATCHED: Final = OWNED + CHILDREN

BY_NAME: Final = {kind.kind: kind for kind in (*WATCHED, APPLICATION, SERVICE_MONITOR, EVENT, LEASE)}
