"""Six stretches of an EcoWorker's life, each with what is done, when it is over, and what must be there then.

Each runs in a namespace of its own. The end is a snapshot of everything in there without what differs from run to run
(uids, versions, times); a run under faults must come to the very snapshot that a run without them came to.
"""

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from eco_crds import contract
from eco_crds.wal import JournalMode
from eco_operator import errors, kinds
from eco_operator.cluster import Cluster
from tests.support.apiserver import ApiServer
from tests.support.fleet import Fleet, fleet
from tests.support.operator_world import example, kubectl
from tests.support.waiting import until

NAME: Final = "storage"
CLAIMS: Final = ("wal-storage-0", "wal-storage-1")
LONG_AGO: Final = "2020-01-01T00:00:00Z"
EDIT_ATTEMPTS_MAX: Final = 20
END_WITHIN_S: Final = 60.0
ELASTIC: Final = "elastic"
GROWN: Final = "15Gi"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_VOLATILE: Final = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "deletionTimestamp")
_COMPARED: Final = (
    kinds.ECO_WORKER,
    kinds.REVISION,
    kinds.DEPLOYMENT,
    kinds.CLAIM,
    kinds.SERVICE,
    kinds.BUDGET,
    kinds.SECRET,
    kinds.CONFIG_MAP,
    kinds.JOB,
)

Snapshot = dict[str, Any]


@dataclass(slots=True)
class Place:
    """A namespace in which one scenario is played."""

    namespace: str
    cluster: Cluster
    fleet: Fleet
    claims: dict[str, str] = field(default_factory=dict)
    """Name and uid of every claim that was ever seen in here."""
    tokens: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)
    """Shards that were seen with two pods at once."""

    async def items(self, kind: kinds.Kind) -> list[dict[str, Any]]:
        """Every object of a kind, whoever made it."""
        found: list[dict[str, Any]] = []
        async for chunk, _ in self.cluster.list(kind, (self.namespace,)):
            found.extend(chunk)
        return found

    async def create(self, document: dict[str, Any]) -> None:
        """Create an object of the user's."""
        kind = kinds.BY_NAME[document["kind"]]
        await self.cluster._request("create", kind, kind.path(self.namespace), body=document)

    async def edit(self, kind: kinds.Kind, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Read, change, replace, as a user's editor does; somebody else's write in between is no failure."""
        for attempt in range(1, EDIT_ATTEMPTS_MAX + 1):
            found = await self.cluster.get(kind, self.namespace, name)
            change(found)
            try:
                await self.cluster._request("replace", kind, kind.path(self.namespace, name), body=found)
            except errors.ConflictError:
                if attempt == EDIT_ATTEMPTS_MAX:
                    raise
            else:
                return

    async def edit_spec(self, **changes: Any) -> None:
        """Change the EcoWorker's spec."""
        await self.edit(kinds.ECO_WORKER, NAME, lambda found: found["spec"].update(changes))

    async def worker(self) -> dict[str, Any]:
        """The EcoWorker, empty when it is gone."""
        try:
            return await self.cluster.get(kinds.ECO_WORKER, self.namespace, NAME)
        except errors.NotFoundError:
            return {}

    async def condition(self, type_: str) -> tuple[str, str]:
        """Status and reason of a condition that was said of the present generation."""
        found = await self.worker()
        for it in found.get("status", {}).get("conditions", []):
            if it["type"] == type_ and it["observedGeneration"] == found["metadata"]["generation"]:
                return it["status"], it["reason"]
        return "", ""

    async def is_ready(self) -> bool:
        """Whether all is well."""
        return await self.condition("Ready") == ("True", "AllShardsReady")

    async def left(self, claim: str) -> bool:
        """Whether a claim carries word of what is left in its journal."""
        return contract.ANNOTATION_LEFT in await self._annotations(claim)

    async def size(self, claim: str) -> str:
        """How large the volume of a claim is; empty when there is none."""
        with contextlib.suppress(errors.NotFoundError):
            found = await self.cluster.get(kinds.CLAIM, self.namespace, claim)
            return str(found.get("status", {}).get("capacity", {}).get("storage", ""))
        return ""

    async def _annotations(self, claim: str) -> dict[str, str]:
        with contextlib.suppress(errors.NotFoundError):
            found = await self.cluster.get(kinds.CLAIM, self.namespace, claim)
            return dict(found["metadata"].get("annotations", {}))
        return {}

    async def snapshot(self) -> Snapshot:
        """Everything in here that must be the same in every run."""
        found: Snapshot = {}
        for kind in _COMPARED:
            for item in await self.items(kind):
                self._witness(kind, item)
                found[f"{kind.kind}/{item['metadata']['name']}"] = _plain(kind, item)
        shards = [(it["metadata"]["labels"] or {}).get(contract.LABEL_SHARD, "") for it in await self.items(kinds.POD)]
        self.twice |= {shard for shard, count in Counter(shards).items() if count > 1}
        found["pods"] = sorted(shards)
        found["jobs run"] = sorted(self.fleet.jobs_run)
        text = _TIME.sub("TIME", self._without_ids(json.dumps(found, sort_keys=True)))
        # A revision's name has the uid of its owner in it; its number has not.
        for name, item in found.items():
            if name.startswith(kinds.REVISION.kind):
                text = text.replace(item["metadata"]["name"], f"revision-{item['revision']}")
        plain: Snapshot = json.loads(text)
        return plain

    def _without_ids(self, text: str) -> str:
        uuids = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
        return re.sub(uuids, "UID", text.replace(self.namespace, "NAMESPACE"))

    def _witness(self, kind: kinds.Kind, item: dict[str, Any]) -> None:
        metadata = item["metadata"]
        if kind == kinds.CLAIM:
            self.claims.setdefault(metadata["name"], metadata["uid"])
            if self.claims[metadata["name"]] != metadata["uid"]:
                self.claims[f"{metadata['name']} again"] = metadata["uid"]
        if kind == kinds.SECRET:
            self.tokens.add(item["data"][contract.TOKEN_KEY])

    async def lost(self) -> list[str]:
        """What was there once and must not have gone: claims by their uid, and the workers' token."""
        there = {item["metadata"]["uid"] for item in await self.items(kinds.CLAIM)}
        gone = [f"claim {name}" for name, uid in self.claims.items() if uid not in there]
        return gone + (["the token"] if len(self.tokens) > 1 else [])


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that happens to an EcoWorker."""

    name: str
    act: Callable[[Place], Awaitable[None]]
    is_over: Callable[[Place], Awaitable[bool]]
    needs_base: bool = True
    """Begins with an EcoWorker that is ready."""
    document: Callable[[], dict[str, Any]] = example
    """That EcoWorker."""


async def _apply(place: Place) -> None:
    await place.create(example())


async def _roll(place: Place) -> None:
    await place.edit_spec(concurrency=9)


async def _scale_in(place: Place) -> None:
    await place.edit_spec(replicas=1)


async def _is_scaled_in(place: Place) -> bool:
    return await place.is_ready() and await place.left("wal-storage-1")


def _elastic() -> dict[str, Any]:
    """An EcoWorker whose volumes may grow."""
    return example(wal={"size": "10Gi", "storageClass": ELASTIC, "growth": {"max": "40Gi"}})


async def _growth(place: Place) -> None:
    """One volume fills up, the spec asks for a larger size of both a moment later."""
    place.fleet.workers["storage-0"].fills(90)

    async def has_grown() -> bool:
        return await place.size("wal-storage-0") == GROWN

    await until("the volume has grown", has_grown, within_s=END_WITHIN_S)
    await place.edit(kinds.ECO_WORKER, NAME, lambda found: found["spec"]["wal"].update(size="12Gi"))


async def _is_grown(place: Place) -> bool:
    sizes = [await place.size(claim) for claim in ("wal-storage-0", "wal-storage-1")]
    return sizes == [GROWN, "12Gi"] and await place.is_ready() and await place.condition("StorageGrowing") == ("", "")


async def _recovery(place: Place) -> None:
    place.fleet.workers["storage-1"].says(mode=JournalMode.QUARANTINED, last_error="page 7")


async def _is_recovered(place: Place) -> bool:
    return await place.condition("Recovered") == ("True", "Repaired") and await place.is_ready()


async def _delete(place: Place) -> None:
    """Delete the EcoWorker and let the quarter of an hour pass after which its claims are emptied."""
    found = await place.worker()
    await place.cluster.delete(kinds.ECO_WORKER, place.namespace, NAME, uid=found["metadata"]["uid"])
    for claim in CLAIMS:

        async def is_marked(claim: str = claim) -> bool:
            return contract.ANNOTATION_ORPHANED in await place._annotations(claim)

        await until(f"{claim} is marked", is_marked, within_s=END_WITHIN_S)
        await _let_time_pass(place, claim)


async def _let_time_pass(place: Place, claim: str) -> None:
    """Have a claim be marked since long ago."""
    mark = (await place._annotations(claim)).get(contract.ANNOTATION_ORPHANED, LONG_AGO)
    if mark != LONG_AGO:
        change = {contract.ANNOTATION_ORPHANED: LONG_AGO}
        await place.edit(kinds.CLAIM, claim, lambda it: it["metadata"]["annotations"].update(change))


async def _is_deleted(place: Place) -> bool:
    for claim in CLAIMS:
        # An operator that does not know yet that it has marked a claim marks it again, as of now.
        await _let_time_pass(place, claim)
    return not await place.worker() and all([await place.left(claim) for claim in CLAIMS])


SCENARIOS: Final = (
    Scenario("apply", _apply, Place.is_ready, needs_base=False),
    Scenario("roll", _roll, Place.is_ready),
    Scenario("scale-in", _scale_in, _is_scaled_in),
    Scenario("growth", _growth, _is_grown, document=_elastic),
    Scenario("recovery", _recovery, _is_recovered),
    Scenario("delete", _delete, _is_deleted),
)


@asynccontextmanager
async def places(
    server: ApiServer, cluster: Cluster, scenarios: Sequence[Scenario], run: str
) -> AsyncIterator[dict[str, Place]]:
    """A namespace with its fleet for each scenario; emptied afterwards."""
    made: dict[str, Place] = {}
    expands = {"provisioner": "stand-in.example", "allowVolumeExpansion": True, "metadata": {"name": ELASTIC}}
    about = {"apiVersion": kinds.STORAGE_CLASS.api_version, "kind": kinds.STORAGE_CLASS.kind}
    await asyncio.to_thread(kubectl, server, "apply", "-f", "-", given={**about, **expands})
    async with AsyncExitStack() as stack:
        for scenario in scenarios:
            namespace = f"{scenario.name}-{run}"
            await asyncio.to_thread(kubectl, server, "create", "namespace", namespace)
            simulated = await stack.enter_async_context(fleet(cluster, namespace))
            made[scenario.name] = Place(namespace, cluster, simulated)
        yield made
    await asyncio.gather(*(empty(place) for place in made.values()))


async def empty(place: Place) -> None:
    """Remove everything, so that the operator has nothing left to do in here."""
    for kind in (*kinds.OWNED, *kinds.CHILDREN):
        for item in await place.items(kind):
            metadata = item["metadata"]
            with contextlib.suppress(errors.ApiError):
                if metadata.get("finalizers"):
                    path = kind.path(place.namespace, metadata["name"])
                    free = {**item, "metadata": {**metadata, "finalizers": []}}
                    await place.cluster._request("replace", kind, path, body=free)
                await place.cluster.delete(kind, place.namespace, metadata["name"], uid=metadata["uid"])


def _plain(kind: kinds.Kind, item: dict[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in item["metadata"].items() if name not in _VOLATILE}
    if contract.ANNOTATION_HASH in metadata.get("annotations", {}):
        metadata["annotations"] = {**metadata["annotations"], contract.ANNOTATION_HASH: "HASH"}
    plain = {**item, "metadata": metadata}
    if kind == kinds.CLAIM and contract.ANNOTATION_GROWN in metadata.get("annotations", {}):
        # What the worker saw before is not known to an operator that has just started.
        size = metadata["annotations"][contract.ANNOTATION_GROWN].partition(" from ")[0]
        metadata["annotations"] = {**metadata["annotations"], contract.ANNOTATION_GROWN: size}
    if kind == kinds.SERVICE:
        own = {name: value for name, value in item["spec"].items() if not name.startswith("clusterIP")}
        plain["spec"] = own
    if kind == kinds.SECRET:
        plain["data"] = sorted(item["data"])
    if kind == kinds.ECO_WORKER:
        plain["status"] = _plain_status(item)
    elif kind != kinds.JOB:
        plain.pop("status", None)  # The stand-ins wrote it.
    return plain


def _plain_status(item: dict[str, Any]) -> dict[str, Any]:
    status = item.get("status", {})
    generation = item["metadata"]["generation"]
    return {
        "is about this generation": status.get("observedGeneration") == generation,
        "conditions": sorted(
            (it["type"], it["status"], it["reason"], it["observedGeneration"] == generation)
            for it in status.get("conditions", [])
        ),
        "shards": [
            {name: shard.get(name) for name in ("name", "wal", "revision", "journalUuid")}
            for shard in status.get("shards", [])
        ],
    }
