"""Argo CD in the cluster in memory: it applies what an Application stands for, and takes it along when that goes."""

import copy
from dataclasses import replace
from typing import Any, Final

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.wal import SyncSettings
from eco_operator import kinds
from eco_operator.reconcile.plan import Apply
from eco_operator.resources import budget, claim, deployment, service, shard_config, sync_config
from eco_operator.resources.application import FINALIZER, Source
from tests.support.cases import merge
from tests.support.observed import KEY, NAMESPACE, POLICY, InMemory, fields_of

SOURCE: Final = Source(
    namespace="argocd",
    repo_url="https://git.example/eco.git",
    chart="",
    path="charts/eco-worker",
    revision="v1",
    project="default",
    destination="https://kubernetes.default.svc",
)
WITH_ARGOCD: Final = replace(POLICY, argocd=SOURCE)


class DeliveredWorld(InMemory):
    """A cluster with an Argo CD, which does something when `sync` is called."""

    def applications(self) -> dict[str, dict[str, Any]]:
        """Every Application by name."""
        return {name: body for (kind, name), body in self.bodies.items() if kind == kinds.APPLICATION.kind}

    def sync(self) -> None:
        """Apply what every Application stands for, and say so in its status."""
        for name, body in self.applications().items():
            if not body["spec"]["syncPolicy"].get("automated"):
                continue
            for desired in rendered(body["spec"]["source"]["helm"]["valuesObject"]):
                self._apply_as_argocd(desired)
            known = self.bodies[(kinds.APPLICATION.kind, name)]
            self.put(kinds.APPLICATION, merge(known, {"status": {"sync": {"status": "Synced"}}}))

    def remove(self, kind: kinds.Kind, name: str) -> None:
        """With an Application that has the finalizer go its objects, but never a claim."""
        body = self.bodies[(kind.kind, name)]
        super().remove(kind, name)
        if kind == kinds.APPLICATION and FINALIZER in body["metadata"].get("finalizers", ()):
            for desired in rendered(body["spec"]["source"]["helm"]["valuesObject"]):
                other = kinds.BY_NAME[desired["kind"]]
                if other != kinds.CLAIM and (other.kind, desired["metadata"]["name"]) in self.bodies:
                    super().remove(other, desired["metadata"]["name"])

    def _apply(self, step: Apply) -> None:
        """Of an Application what is applied no more goes: all of it is the operator's."""
        super()._apply(step)
        if step.desired["kind"] == kinds.APPLICATION.kind:
            body = copy.deepcopy(self.bodies[(kinds.APPLICATION.kind, step.desired["metadata"]["name"])])
            body["spec"] = copy.deepcopy(step.desired["spec"])
            body["metadata"]["finalizers"] = list(step.desired["metadata"].get("finalizers", ()))
            self.put(kinds.APPLICATION, body)

    def _apply_as_argocd(self, desired: dict[str, Any]) -> None:
        kind = kinds.BY_NAME[desired["kind"]]
        known = self.bodies.get((kind.kind, desired["metadata"]["name"]), {})
        owned = fields_of({key: value for key, value in desired.items() if key not in {"apiVersion", "kind"}})
        mine = {"manager": contract.ARGOCD_FIELD_MANAGER, "operation": "Apply", "fieldsV1": owned}
        entries = known.get("metadata", {}).get("managedFields") or []
        others = [it for it in entries if it["manager"] != contract.ARGOCD_FIELD_MANAGER]
        body = merge(known, copy.deepcopy(desired))
        self.put(kind, {**body, "metadata": {**body["metadata"], "managedFields": [*others, mine]}})


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """What the chart makes of an Application's values; that it does is proved elsewhere, for any values."""
    metadata = {"name": KEY.name, "namespace": NAMESPACE, "uid": values["owner"]["uid"]}
    worker = EcoWorker.read({"metadata": metadata, "spec": values["spec"]})
    found = [service.build(worker), budget.build(worker)] if values["shared"] else []
    if "sync" in values:
        given = values["sync"]
        settings = SyncSettings(
            target=given["database"],
            interval_s=given["intervalSeconds"],
            batch_size=given["batchSize"],
            max_attempts=given["maxAttempts"],
            suspended=given["suspend"],
        )
        found.append(sync_config.build(worker, settings=settings))
    for shard in values["shards"]:
        index, uuid = shard["index"], shard.get("journalUuid", "")
        sized = {"size": shard["size"], "grown": shard.get("grown", "")}
        found.append(claim.build(worker, index, image=shard["image"], journal_uuid=uuid, **sized))
        found.append(
            deployment.build(
                worker,
                index,
                image=shard["image"],
                replicas=shard["replicas"],
                recovery=shard.get("recovery", ""),
            )
        )
        if uuid:
            found.append(shard_config.build(worker, index, journal_uuid=uuid))
    return found
