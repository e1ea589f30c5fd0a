"""Random EcoWorkers and WalSyncs, valid and not, and random edits of them, against an operator on a real API server.

The server's definitions admit any spec, as an older release's or a future one's may: so what the rules would refuse at
the door reaches the operator, which has to say what is wrong with it. The schema of the status stays as it is.
"""

import asyncio
import copy
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from hypothesis import HealthCheck, Phase, given
from hypothesis import seed as seeded
from hypothesis import settings as hypothesis_settings

from eco_crds import contract
from eco_crds.schema import KINDS, structural_schema
from eco_crds.validation import validate
from eco_operator import cluster as operator_cluster
from eco_operator import errors, kinds
from eco_operator.cluster import Cluster
from tests.support.api import ROOT
from tests.support.apiserver import ApiServer, bare_api_server
from tests.support.fault_runs import SETTINGS, UNEXPECTED
from tests.support.operator_world import environment_with, kubectl, operator_program
from tests.support.processes import Program
from tests.support.spec_mutations import STRANGE, mutated
from tests.support.specs import SPECS, values

BATCH_OBJECTS: Final = 25
EDITS_EACH: Final = 3
VERDICT_WITHIN_S: Final = 40.0
LOOK_S: Final = 0.2
EDIT_ATTEMPTS_MAX: Final = 10
VALID_SHARE: Final = 0.6
SYNC_SHARE: Final = 0.2
FOREIGN_SHARE: Final = 0.3
NAME_LENGTHS: Final = (0, 0, 0, 0, 30, 60, 200)
ANNOTATIONS: Final = (
    contract.ANNOTATION_PAUSED,
    contract.ANNOTATION_HIBERNATE,
    contract.ANNOTATION_FENCE,
    contract.ANNOTATION_RECOVER,
    contract.ANNOTATION_SYNC_NOW,
)
FOREIGN_KINDS: Final[dict[kinds.Kind, dict[str, Any]]] = {
    kinds.SERVICE: {"spec": {"ports": [{"port": 80}]}},
    kinds.SECRET: {"stringData": {"theirs": "yes"}},
    kinds.CONFIG_MAP: {"data": {"theirs": "yes"}},
    kinds.CLAIM: {
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    },
}

Document = dict[str, Any]
_SYNC_SPECS: Final = values(structural_schema(KINDS[1])["properties"]["spec"], "walsync")


@dataclass(slots=True)
class Tally:
    """What was tried and what came of it."""

    objects: int = 0
    edits: int = 0
    invalid: int = 0
    """Objects and edits that the rules refuse."""
    refused: int = 0
    """What even this server does not take: it reads the number of replicas."""
    foreign: int = 0
    """Objects of somebody else's that had a name the operator wanted."""
    crashes: list[str] = field(default_factory=list)
    without_verdict: list[str] = field(default_factory=list)
    wrong_verdicts: list[str] = field(default_factory=list)
    wrong_deletions: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """Everything that should not have happened."""
        return [
            *(f"crash: {it}" for it in self.crashes),
            *(f"no verdict: {it}" for it in self.without_verdict),
            *(f"wrong verdict: {it}" for it in self.wrong_verdicts),
            *(f"wrong deletion: {it}" for it in self.wrong_deletions),
        ]


@contextmanager
def permissive_server() -> Iterator[ApiServer]:
    """A bare API server whose definitions of our kinds admit any spec."""
    with bare_api_server() as server:
        for manifest in sorted((ROOT / "crds/manifests").iterdir()):
            kubectl(
                server, "apply", "--server-side", "-f", "-", given=_permissive(yaml.safe_load(manifest.read_text()))
            )
        kubectl(server, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield server


def _permissive(definition: Document) -> Document:
    for version in definition["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        schema.pop("x-kubernetes-validations", None)
        schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return definition


def draw(strategy: Any, number: int, seed: int) -> list[Document]:
    """So many values of a strategy, the same ones for the same seed."""
    found: list[Document] = []

    @seeded(seed)
    @hypothesis_settings(
        max_examples=number,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Document) -> None:
        found.append(value)

    collect()
    return found


@dataclass(slots=True)
class Fuzz:
    """One batch of objects in a namespace, edited again and again."""

    cluster: Cluster
    namespace: str
    rng: random.Random
    specs: list[Document]
    sync_specs: list[Document]
    tally: Tally
    claims: dict[str, str] = field(default_factory=dict)
    foreign: dict[tuple[kinds.Kind, str], str] = field(default_factory=dict)
    """Version of each object of somebody else's."""

    async def run(self, number: int) -> None:
        """Make `number` objects, edit each, and hold the operator to its verdicts."""
        made = []
        for index in range(number):
            while (one := await self._create(index)) is None:
                self.tally.refused += 1
            made.append(one)
        await self._judge(made)
        for _ in range(EDITS_EACH):
            await self._witness()
            steady = {name: await self._steady(name) for kind, name in made if kind == kinds.ECO_WORKER}
            for kind, name in made:
                await self._edit(kind, name)
            await self._judge(made)
            for kind, name in made:
                if kind == kinds.ECO_WORKER:
                    await self._hold_invalid(name, steady[name])
        await self._check_deletions()

    async def _create(self, index: int) -> tuple[kinds.Kind, str] | None:
        """One object, or None when even this server refuses it."""
        kind = kinds.WAL_SYNC if self.rng.random() < SYNC_SHARE else kinds.ECO_WORKER
        stem = f"f{index}"
        name = stem + "-" + "n" * length if (length := self.rng.choice(NAME_LENGTHS)) else stem
        if kind == kinds.ECO_WORKER and self.rng.random() < FOREIGN_SHARE:
            await self._put_in_the_way(name)
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": self._spec(kind),
        }
        try:
            await self.cluster._request("create", kind, kind.path(self.namespace), body=body)
        except errors.RejectedError:
            return None
        self.tally.objects += 1
        self.tally.invalid += bool(validate(body))
        return kind, name

    async def _put_in_the_way(self, name: str) -> None:
        """Somebody else's object with a name that the operator wants."""
        kind = self.rng.choice(list(FOREIGN_KINDS))
        taken = {
            kinds.SERVICE: name,
            kinds.SECRET: contract.token_secret_name(name),
            kinds.CONFIG_MAP: f"{name}-0-journal",
            kinds.CLAIM: contract.claim_name(name, 0),
        }[kind]
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": taken, "namespace": self.namespace},
            **copy.deepcopy(FOREIGN_KINDS[kind]),
        }
        # Nothing is in the way when the name is too long for this kind, or when something is there already.
        with suppress(errors.RejectedError, errors.ConflictError):
            made = await self.cluster._request("create", kind, kind.path(self.namespace), body=body)
            self.foreign[kind, taken] = made["metadata"]["resourceVersion"]
            self.tally.foreign += 1

    def _spec(self, kind: kinds.Kind) -> Document:
        spec = copy.deepcopy(self.rng.choice(self.specs if kind == kinds.ECO_WORKER else self.sync_specs))
        return spec if self.rng.random() < VALID_SHARE else mutated(spec, self.rng)

    async def _edit(self, kind: kinds.Kind, name: str) -> None:
        change = self._change(kind, name)
        for attempt in range(1, EDIT_ATTEMPTS_MAX + 1):
            found = await self.cluster.get(kind, self.namespace, name)
            change(found)
            try:
                await self.cluster._request("replace", kind, kind.path(self.namespace, name), body=found)
            except errors.ConflictError:
                if attempt == EDIT_ATTEMPTS_MAX:
                    raise
            except errors.RejectedError:
                self.tally.refused += 1
                return
            else:
                break
        self.tally.edits += 1
        self.tally.invalid += bool(validate(found))

    def _change(self, kind: kinds.Kind, name: str) -> Callable[[Document], None]:
        """A change that does the same to whatever version of the object it meets."""
        choice, number = self.rng.randrange(6), self.rng.randrange(5)
        spec, strange, broken_by = self._spec(kind), self.rng.choice(STRANGE), self.rng.random()
        wish = self.rng.choice(["true", "false", "", "dry-run", f"{name}-0", "?"])
        annotation = self.rng.choice(ANNOTATIONS)

        def change(found: Document) -> None:
            match choice:
                case 0 if kind == kinds.ECO_WORKER:
                    found["spec"]["replicas"] = number
                case 1:
                    found["metadata"].setdefault("annotations", {})[annotation] = wish
                case 2 if found["spec"]:
                    names = sorted(found["spec"])
                    found["spec"][names[number % len(names)]] = strange
                case 3:
                    found["spec"] = mutated(found["spec"], random.Random(broken_by))
                case _:
                    found["spec"] = spec

        return change

    async def _judge(self, made: list[tuple[kinds.Kind, str]]) -> None:
        """Wait until each has a verdict on what it is now; what has none in time is told."""
        deadline = time.monotonic() + VERDICT_WITHIN_S
        waiting = dict.fromkeys(made)
        while waiting and time.monotonic() < deadline:
            for kind in kinds.OWNED:
                for found in await self._items(kind):
                    if _has_verdict(found) and waiting.pop((kind, found["metadata"]["name"]), self) is None:
                        self._judge_one(found)
            await asyncio.sleep(LOOK_S)
        self.tally.without_verdict += [f"{kind.kind}/{self.namespace}/{name}" for kind, name in waiting]

    def _judge_one(self, found: Document) -> None:
        """Hold the verdict against the rules: an invalid object is Stalled with the path of the field."""
        problems = validate(found)
        stalled = _condition(found, "Stalled")
        if problems and (stalled.get("status") != "True" or problems[0].path[:40] not in stalled.get("message", "")):
            name = f"{found['kind']}/{self.namespace}/{found['metadata']['name']}"
            self.tally.wrong_verdicts.append(f"{name}: {problems[0]} but Stalled says {stalled}"[:500])

    async def _hold_invalid(self, name: str, before: dict[str, str]) -> None:
        """The running shards of an object that has become invalid are left alone."""
        found = await self.cluster.get(kinds.ECO_WORKER, self.namespace, name)
        if not validate(found):
            return
        gone = before.items() - (await self._deployments(name)).items()
        self.tally.wrong_deletions += [f"Deployment {it} of an invalid EcoWorker" for it, _ in gone]

    async def _witness(self) -> None:
        for claim in await self._items(kinds.CLAIM):
            self.claims[claim["metadata"]["name"]] = claim["metadata"]["uid"]

    async def _check_deletions(self) -> None:
        """No journal is ever deleted here, since none was ever said to be empty; and nothing of somebody else's."""
        claims = {it["metadata"]["name"]: it["metadata"] for it in await self._items(kinds.CLAIM)}
        for name, uid in self.claims.items():
            if claims.get(name, {}).get("uid") != uid or "deletionTimestamp" in claims[name]:
                self.tally.wrong_deletions.append(f"claim {self.namespace}/{name}")
        for (kind, name), version in self.foreign.items():
            try:
                found = await self.cluster.get(kind, self.namespace, name)
            except errors.NotFoundError:
                found = {"metadata": {"resourceVersion": "gone"}}
            if found["metadata"]["resourceVersion"] != version:
                self.tally.wrong_deletions.append(f"{kind.kind} {self.namespace}/{name}, which is somebody else's")

    async def _steady(self, name: str) -> dict[str, str]:
        """Deployments that must stay should the object become invalid now: one that is scaled in may be on its way."""
        found = await self.cluster.get(kinds.ECO_WORKER, self.namespace, name)
        there = await self._deployments(name)
        if validate(found):
            return there
        replicas = int(found["spec"].get("replicas", 1))
        return {shard: uid for shard, uid in there.items() if int(shard.rpartition("-")[2]) < replicas}

    async def _deployments(self, name: str) -> dict[str, str]:
        return {
            it["metadata"]["name"]: it["metadata"]["uid"]
            for it in await self._items(kinds.DEPLOYMENT)
            if (it["metadata"].get("labels") or {}).get(contract.LABEL_WORKER) == name
        }

    async def _items(self, kind: kinds.Kind) -> list[Document]:
        found: list[Document] = []
        async for chunk, _ in self.cluster.list(kind, (self.namespace,)):
            found.extend({"kind": kind.kind, "apiVersion": kind.api_version, **item} for item in chunk)
        return found


async def fuzz(server: ApiServer, place: Path, *, objects: int, seed: int, module: str = "eco_operator") -> Tally:
    """Try so many objects, `BATCH_OBJECTS` at a time, each batch with an operator of its own."""
    tally, rng = Tally(), random.Random(seed)
    specs, sync_specs = draw(SPECS, objects, seed), draw(_SYNC_SPECS, objects // 4, seed)
    with environment_with("KUBECONFIG", str(server.kubeconfig)):
        connected = await operator_cluster.connect()
    async with connected as cluster:
        cluster._client.user_agent = "stand-in"
        for number, first in enumerate(range(0, objects, BATCH_OBJECTS)):
            namespace = f"fuzz-{seed}-{number}"
            await asyncio.to_thread(kubectl, server, "create", "namespace", namespace)
            settings = SETTINGS | {"ECO_OPERATOR_NAMESPACES": namespace, "ECO_OPERATOR_STATUS_INTERVAL_S": "1"}
            operator, _ = operator_program(server, namespace, place, **settings)
            operator.argv = [operator.argv[0], "-m", module, "run"]
            operator.start()
            try:
                batch = Fuzz(cluster, namespace, rng, specs, sync_specs, tally)
                await batch.run(min(BATCH_OBJECTS, objects - first))
            finally:
                tally.crashes += _crashes(operator)
                operator.stop()
    return tally


def _crashes(operator: Program) -> list[str]:
    ended = [] if operator.is_running else [f"the operator ended with {operator.exit_code}"]
    lines = operator.log.read_text(errors="replace").splitlines()
    operator.log.unlink()
    return ended + [line[-1500:] for line in lines if UNEXPECTED in line]


def _has_verdict(found: Document) -> bool:
    generation = found["metadata"]["generation"]
    return bool(
        found.get("status", {}).get("observedGeneration") == generation
        and _condition(found, "Ready").get("observedGeneration") == generation
    )


def _condition(found: Document, type_: str) -> Document:
    conditions: list[Document] = found.get("status", {}).get("conditions", [])
    return next((it for it in conditions if it["type"] == type_), {})
