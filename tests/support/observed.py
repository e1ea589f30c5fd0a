"""A cluster in memory for the operator's pure half: what it decides is done at once, as an API server would do it.

No server-side semantics beyond what decisions rest on: resource versions, uids, and the managed fields of a create and
of an apply.
"""

import copy
import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from eco_crds import contract
from eco_crds.ecoworker_status import EcoWorkerStatus
from eco_crds.jobs import JobReport
from eco_crds.wal import JournalMode, WalReport, WalVolume
from eco_operator import kinds
from eco_operator.cache import Cache, Key
from eco_operator.reconcile import ecoworker, ecoworker_status
from eco_operator.reconcile.observation import Observation, Policy, observe
from eco_operator.reconcile.plan import Announce, Apply, Command, Delete, MarkClaim, Outcome, Plan, Release
from eco_operator.shards import Probe, ShardKey
from tests.support.cases import merge, valid

POLICY = Policy(default_image="registry.example/worker:1", report_age_s=17.0, status_interval_s=30.0)
NAMESPACE = "shop"
KEY = Key(kinds.ECO_WORKER.kind, NAMESPACE, "storage")
MARKS = (contract.ANNOTATION_ORPHANED, contract.ANNOTATION_SCALED_IN, contract.ANNOTATION_LEFT)
SILENT = Probe(report=None, age_s=None, pod_uid="", process="", error="", failures=0, attempts=0)


def fields_of(value: Any) -> dict[str, Any]:
    """The `fieldsV1` set of an applied object, lists being atomic but for those of named items and of uids."""
    return {f"f:{name}": _below(below) for name, below in value.items()}


def _annotations_of(body: dict[str, Any]) -> set[str]:
    """Annotations of an object that an earlier apply brought."""
    entries = body.get("metadata", {}).get("managedFields") or [{"fieldsV1": {}}]
    owned = entries[0]["fieldsV1"].get("f:metadata", {}).get("f:annotations", {})
    return {name.removeprefix("f:") for name in owned}


def _managed(body: dict[str, Any]) -> list[dict[str, Any]]:
    return list(body.get("metadata", {}).get("managedFields") or ())


def _below(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return fields_of(value)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for key in ("uid", "name"):
            if all(key in item for item in value):
                return {
                    f"k:{json.dumps({key: item[key]}, separators=(',', ':'))}": {".": {}, **fields_of(item)}
                    for item in value
                }
    return {}


@dataclass(slots=True)
class InMemory:
    """One namespace, one EcoWorker called `storage`, and what the operator makes of it."""

    cache: Cache = field(default_factory=Cache)
    probes: dict[str, Probe] = field(default_factory=dict)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    policy: Policy = POLICY
    is_settling: bool = False
    classes: dict[str, bool] = field(default_factory=dict)
    told: list[Announce] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    bodies: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _version: Any = field(default_factory=lambda: itertools.count(1))

    def put(self, kind: kinds.Kind, body: dict[str, Any]) -> None:
        """Have the API server hold an object, and the watch say so."""
        body = copy.deepcopy(body)
        metadata = body["metadata"]
        known = self.bodies.get((kind.kind, metadata["name"]))
        number = next(self._version)
        metadata.setdefault("namespace", NAMESPACE)
        metadata.setdefault("uid", known["metadata"]["uid"] if known else f"uid-{number}")
        metadata["resourceVersion"] = str(number)
        self.bodies[(kind.kind, metadata["name"])] = body
        self.cache.see(kind, "MODIFIED", body)

    def remove(self, kind: kinds.Kind, name: str) -> None:
        """Have it deleted."""
        body = self.bodies.pop((kind.kind, name))
        body["metadata"]["resourceVersion"] = str(next(self._version))
        self.cache.see(kind, "DELETED", body)

    def apply_worker(self, **changes: Any) -> None:
        """Create or change the EcoWorker; `changes` go into its spec, and an edit raises the generation."""
        known = self.bodies.get((kinds.ECO_WORKER.kind, KEY.name))
        document = copy.deepcopy(known) if known else merge(valid("ecoworkers"), {"metadata": {"name": KEY.name}})
        document["spec"] = merge(document["spec"], changes)
        document["metadata"]["namespace"] = NAMESPACE
        document["metadata"]["generation"] = document["metadata"].get("generation", 0) + 1
        self.put(kinds.ECO_WORKER, document)

    def observe(self) -> Observation:
        """What the operator sees of the EcoWorker."""
        return observe(
            KEY,
            cache=self.cache,
            probe=self._probe,
            policy=self.policy,
            now=self.now,
            is_settling=self.is_settling,
            classes=self.classes,
        )

    def plan(self) -> Plan:
        """What it would do."""
        return ecoworker.decide(self.observe())

    def act(self) -> Plan:
        """Do it; returns what was done."""
        plan = self.plan()
        for step in plan.steps:
            told = step if isinstance(step, Announce) else step.announce
            match step:
                case Apply():
                    self._apply(step)
                case Delete():
                    self.remove(kinds.BY_NAME[step.child.kind], step.child.name)
                case MarkClaim():
                    body = copy.deepcopy(self.bodies[(kinds.CLAIM.kind, step.claim.name)])
                    marks: dict[str, str | None] = dict.fromkeys(MARKS)
                    self.put(kinds.CLAIM, merge(body, {"metadata": {"annotations": {**marks, **step.marks}}}))
                case Release():
                    self._release(step)
                case Command():
                    self.commands.append(step.about)
            if told is not None:
                self.told.append(told)
        return plan

    def settle(self, rounds_max: int = 5) -> int:
        """Act until nothing is left to do; returns how many rounds that took."""
        for number in range(rounds_max):
            if not self.act().steps:
                return number
        raise AssertionError(f"not settled after {rounds_max} rounds: {self.plan().steps[0]}")

    def settle_events(self) -> None:
        """Act until nothing but telling is left, and write the verdict, by which nothing is told twice."""
        for _ in range(5):
            steps = self.act().steps
            self.conclude()
            if not steps:
                return
        raise AssertionError(f"not settled: {self.plan().steps[0]}")

    def conclude(self, outcome: Outcome = Outcome()) -> EcoWorkerStatus:  # noqa: B008  # frozen
        """The verdict, written into the object as it would be."""
        seen = self.observe()
        status = ecoworker_status.conclude(seen, outcome)
        body = copy.deepcopy(self.bodies[(kinds.ECO_WORKER.kind, KEY.name)])
        body["status"] = ecoworker_status.body(seen, status)["status"]
        self.put(kinds.ECO_WORKER, body)
        return status

    def run_shard(self, name: str, **report: Any) -> None:
        """A pod that is ready and reports."""
        pod = {
            "metadata": {
                "name": f"{name}-pod",
                "labels": {contract.LABEL_WORKER: KEY.name, contract.LABEL_SHARD: name},
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"nodeName": "n1"},
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "containerStatuses": [{"name": contract.CONTAINER_NAME, "state": {"running": {}}, "containerID": "c1"}],
            },
        }
        self.put(kinds.POD, pod)
        deployment = self.bodies[(kinds.DEPLOYMENT.kind, name)]
        status = {"readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": 1}
        self.put(kinds.DEPLOYMENT, merge(deployment, {"status": status}))
        if not self.claim(name).get("status"):
            self.resize(name)
        self.report(name, **report)

    def claim(self, shard: str) -> dict[str, Any]:
        """The claim of a shard as it is."""
        return self.bodies[(kinds.CLAIM.kind, f"wal-{shard}")]

    def resize(self, shard: str, **status: Any) -> None:
        """The claim is bound to a volume that is as large as it asks; `status` says otherwise."""
        body = self.claim(shard)
        now = {"phase": "Bound", "capacity": dict(body["spec"]["resources"]["requests"]), **status}
        self.put(kinds.CLAIM, {**body, "status": now})

    def stop_shard(self, name: str) -> None:
        """Its pod object is gone, as after its Deployment was deleted or went to none."""
        self.remove(kinds.POD, f"{name}-pod")

    def cut_off(self, name: str) -> None:
        """Its node has been silent for so long that the pod is to go, and nobody there does it."""
        pod = self.bodies[(kinds.POD.kind, f"{name}-pod")]
        lost = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        going = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"conditions": [lost]}}
        self.put(kinds.POD, merge(pod, going))
        self.probes.pop(name, None)

    def annotate(self, **annotations: str | None) -> None:
        """Put annotations of ours on the EcoWorker, or take them off; an underscore stands for a dash."""
        named = {f"{contract.GROUP}/{name.replace('_', '-')}": value for name, value in annotations.items()}
        worker = self.bodies[(kinds.ECO_WORKER.kind, KEY.name)]
        self.put(kinds.ECO_WORKER, merge(worker, {"metadata": {"annotations": named}}))

    def start_job(self, name: str) -> None:
        """The job controller has made a pod, and it runs."""
        job = self.bodies[(kinds.JOB.kind, name)]
        pod = {
            "metadata": {
                "name": f"{name}-pod",
                "labels": job["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [{"uid": job["metadata"]["uid"]}],
            },
            "spec": {"nodeName": "n1"},
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.9",
                "containerStatuses": [{"name": contract.JOB_CONTAINER_NAME, "state": {"running": {}}}],
            },
        }
        self.put(kinds.POD, pod)

    def end_job(self, name: str, report: JobReport | None, *, words: str = "") -> None:
        """It has ended, with a report or other last words in its pod."""
        self.start_job(name)
        said = {"terminated": {"message": report.model_dump_json() if report is not None else words}}
        container = {"name": contract.JOB_CONTAINER_NAME, "state": said}
        pod = self.bodies[(kinds.POD.kind, f"{name}-pod")]
        self.put(kinds.POD, {**pod, "status": {"phase": "Succeeded", "containerStatuses": [container]}})
        succeeded = report is not None and report.succeeded
        condition = {
            "type": "Complete" if succeeded else "Failed",
            "status": "True",
            "message": "" if succeeded else "BackoffLimitExceeded",
            "lastTransitionTime": self.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        job = self.bodies[(kinds.JOB.kind, name)]
        self.put(kinds.JOB, {**job, "status": {"conditions": [condition]}})

    def forget_job(self, name: str) -> None:
        """Job and pod are gone."""
        for kind, gone in ((kinds.JOB, name), (kinds.POD, f"{name}-pod")):
            if (kind.kind, gone) in self.bodies:
                self.remove(kind, gone)

    def report(self, name: str, *, times: int = 1, **changes: Any) -> None:
        """A fresh answer to the probe, the last of so many in which the journal was in the same mode."""
        base = WalReport(
            shard=name,
            journal_uuid=f"uuid-{name}",
            incarnation="boot:1",
            mode=JournalMode.NORMAL,
            volume=WalVolume(total_bytes=100, used_bytes=10),
        )
        pod = self.bodies.get((kinds.POD.kind, f"{name}-pod"), {"metadata": {"uid": ""}})
        self.probes[name] = Probe(
            report=base.model_copy(update=changes),
            age_s=1.0,
            pod_uid=pod["metadata"]["uid"],
            process="c1",
            error="",
            failures=0,
            attempts=1,
            same_mode=times,
        )

    def ready(self, replicas: int = 2, **changes: Any) -> None:
        """An EcoWorker all of whose shards are ready and well, with its verdict written."""
        self.apply_worker(replicas=replicas, **changes)
        self.settle()
        for index in range(replicas):
            self.run_shard(contract.shard_name(KEY.name, index))
        self.settle()
        self.conclude()

    def pass_time(self, seconds: float) -> None:
        """Let the clock go on."""
        self.now += timedelta(seconds=seconds)

    def _probe(self, shard: ShardKey) -> Probe:
        return self.probes.get(shard.shard, SILENT)

    def _apply(self, step: Apply) -> None:
        desired: dict[str, Any] = copy.deepcopy(dict(step.desired))
        owned = fields_of({key: value for key, value in desired.items() if key not in {"apiVersion", "kind"}})
        kind = kinds.BY_NAME[desired["kind"]]
        known = self.bodies.get((kind.kind, desired["metadata"]["name"]), {})
        gone = dict.fromkeys(_annotations_of(known) - set(desired["metadata"].get("annotations", {})))
        body = merge(known, desired)
        # An annotation that is applied no more goes; of the other fields none of ours is ever left out.
        body = merge(body, {"metadata": {"annotations": gone}})
        others = [it for it in _managed(known) if it["manager"] != contract.FIELD_MANAGER]
        body["metadata"]["managedFields"] = [
            {"manager": contract.FIELD_MANAGER, "operation": "Apply" if known else "Update", "fieldsV1": owned},
            *others,
        ]
        self.put(kind, body)

    def _release(self, step: Release) -> None:
        """The manager owns nothing any more. What nobody else owns would go: here somebody always does."""
        body = copy.deepcopy(self.bodies[(step.child.kind, step.child.name)])
        kept = [it for it in _managed(body) if it["manager"] != step.manager]
        assert kept, f"{step.child.name}: nobody would own it"
        body["metadata"]["managedFields"] = kept
        self.put(kinds.BY_NAME[step.child.kind], body)
