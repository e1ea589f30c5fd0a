"""A stand-in for Argo CD's controller beside a bare API server.

It renders the real chart with the real Helm, applies under Argo CD's field manager and says so in the Application's
status; one that is deleted with the finalizer takes its objects along, but for those that ask to stay. The real one
runs in `tests.prove.gitops`.
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from eco_crds import contract
from eco_operator import errors, kinds
from eco_operator.cluster import Cluster
from eco_operator.resources.application import FINALIZER
from tests.support.charts import CHARTS, run

POLL_S: Final = 0.2
TRACKING: Final = "argocd.argoproj.io/tracking-id"
DEFINITION: Final[dict[str, Any]] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    # The group is protected for projects of Kubernetes alone; this one is not.
    "metadata": {"name": "applications.argoproj.io"},
    "spec": {
        "group": "argoproj.io",
        "names": {"kind": "Application", "plural": "applications", "singular": "application"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["metadata", "spec"],
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["destination", "project"],
                                "x-kubernetes-preserve-unknown-fields": True,
                            },
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}


@dataclass(slots=True)
class ArgoCd:
    """What it has done, and whether it does anything."""

    cluster: Cluster
    namespace: str
    is_stopped: bool = False
    fails_with: str = ""
    """What it says of every Application in place of applying it; empty: it applies."""
    applied: dict[str, str] = field(default_factory=dict)
    """By Application: the values it was last rendered with, as JSON."""
    last_error: str = ""

    async def step(self) -> None:
        """Bring every Application about, or take it down."""
        async for chunk, _ in self.cluster.list(kinds.APPLICATION, (self.namespace,)):
            for body in chunk:
                if "deletionTimestamp" in body["metadata"]:
                    await self._take_down(body)
                elif (body["spec"].get("syncPolicy") or {}).get("automated"):
                    await self._bring_about(body)

    async def run(self) -> None:
        """Step after step until cancelled."""
        while True:
            if not self.is_stopped:
                try:
                    await self.step()
                except errors.ConflictError:
                    pass  # the operator wrote between its look and its word: it looks again, as the real one does
                except errors.ApiError as error:
                    self.last_error = str(error)
            await asyncio.sleep(POLL_S)

    async def _bring_about(self, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        given = json.dumps(body["spec"]["source"]["helm"]["valuesObject"], sort_keys=True)
        if self.fails_with:
            broken = {"conditions": [{"type": "ComparisonError", "message": self.fails_with}]}
            await self._say(body, {**broken, "sync": {"status": "Unknown"}})
            return
        if self.applied.get(name) == given and (body.get("status") or {}).get("sync", {}).get("status") == "Synced":
            return
        for item in await asyncio.to_thread(render, body):
            tracked = {**item["metadata"].get("annotations", {}), TRACKING: name}
            await self._apply({**item, "metadata": {**item["metadata"], "annotations": tracked}})
        self.applied[name] = given
        await self._say(body, {"sync": {"status": "Synced"}, "health": {"status": "Healthy"}, "conditions": None})

    async def _take_down(self, body: dict[str, Any]) -> None:
        if FINALIZER not in body["metadata"].get("finalizers", ()):
            return
        for item in await asyncio.to_thread(render, body):
            if "Delete=false" in item["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-options", ""):
                continue
            kind, named = kinds.BY_NAME[item["kind"]], item["metadata"]["name"]
            with contextlib.suppress(errors.NotFoundError):
                found = await self.cluster.get(kind, self.namespace, named)
                await self.cluster.delete(kind, self.namespace, named, uid=found["metadata"]["uid"])
        free = {**body, "metadata": {**body["metadata"], "finalizers": []}}
        path = kinds.APPLICATION.path(self.namespace, body["metadata"]["name"])
        await self.cluster._request("replace", kinds.APPLICATION, path, body=free)

    async def _apply(self, item: dict[str, Any]) -> None:
        kind = kinds.BY_NAME[item["kind"]]
        query = {"fieldManager": contract.ARGOCD_FIELD_MANAGER, "force": "true"}
        path = kind.path(self.namespace, item["metadata"]["name"])
        await self.cluster._request("apply", kind, path, query=query, body=item)

    async def _say(self, body: dict[str, Any], status: dict[str, Any]) -> None:
        known = body.get("status") or {}
        wanted = {key: value for key, value in {**known, **status}.items() if value is not None}
        if wanted != known:
            path = kinds.APPLICATION.path(self.namespace, body["metadata"]["name"])
            await self.cluster._request("replace", kinds.APPLICATION, path, body={**body, "status": wanted})


def render(body: dict[str, Any]) -> list[dict[str, Any]]:
    """What Helm makes of an Application."""
    source = body["spec"]["source"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
        json.dump(source["helm"]["valuesObject"], values)
        values.flush()
        done = run(
            "template",
            source["helm"]["releaseName"],
            str(CHARTS / Path(source["path"]).name),
            f"--namespace={body['spec']['destination']['namespace']}",
            f"--values={values.name}",
        )
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


@asynccontextmanager
async def argocd(cluster: Cluster, namespace: str) -> AsyncIterator[ArgoCd]:
    """One that keeps up with a namespace by itself."""
    made = ArgoCd(cluster, namespace)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
