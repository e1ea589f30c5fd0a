"""Whatever happens in whatever order: one writer a volume, no claim deleted that may hold something, an end at last.

Random walks through the life of an EcoWorker. Its people edit, annotate, delete and make it anew; its nodes start pods
or lose them; its workers obey and report; its jobs end well or badly; the operator mostly looks, and sometimes is late.
What must never happen is checked before each of its steps. `ECO_WALK_SEED` gives one walk again by its number, and
`ECO_WALKS` another count of them (150 of 120 steps take two and a half minutes of a core).
"""

import os
import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from eco_crds import contract
from eco_crds.jobs import JobName, JobReport
from eco_crds.wal import JournalMode, WalCounts
from eco_operator import kinds
from eco_operator.reconcile.plan import Apply, Command, Delete, Step
from tests.support.observed import KEY, InMemory

WALKS: Final = int(os.environ.get("ECO_WALKS", "6"))
STEPS: Final = 90
SHARDS: Final = ("storage-0", "storage-1")
GRAVE: Final = (JournalMode.QUARANTINED, JournalMode.LOST)
COUNTS: Final = (WalCounts(), WalCounts(due=1), WalCounts(running=1), WalCounts(unsynced=2), WalCounts(outbox_unsent=1))
SEEDS: Final = [int(os.environ["ECO_WALK_SEED"])] if "ECO_WALK_SEED" in os.environ else list(range(WALKS))


class Walk:
    """One EcoWorker, its shards and everything around them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # a walk, no secret
        self.world = InMemory()
        self.world.ready(2)
        self.empty: set[str] = set()
        """Uids of jobs that have found their journal empty."""
        self.happened: set[str] = set()

    def step(self) -> None:
        """Something happens, and mostly the operator looks."""
        events: list[tuple[int, Callable[[str], None]]] = [
            (3, self.people_edit),
            (2, self.people_annotate),
            (1, self.people_delete_or_make),
            (6, self.a_pod_starts_or_ends),
            (1, self.a_node_is_lost_or_back),
            (5, self.a_worker_reports),
            (1, self.a_worker_falls_silent),
            (6, self.a_job_goes_on),
            (2, self.time_passes),
        ]
        weights = [weight for weight, _ in events]
        [(_, event)] = self.random.choices(events, weights)
        event(self.random.choice(SHARDS))
        while self.random.random() < 0.7:
            self.look()

    def people_edit(self, _: str) -> None:
        pick = self.random.choice
        policy = {"reclaimPolicy": pick(["Retain", "Delete"])}
        mode = {"mode": pick(["Automatic", "Automatic", "Manual"])}
        if self.has(kinds.ECO_WORKER, KEY.name):
            self.world.apply_worker(replicas=pick([0, 1, 1, 2]), wal=policy, recovery=mode)

    def people_annotate(self, _: str) -> None:
        name = self.random.choice(["hibernate", "fence", "recover", "paused"])
        if self.has(kinds.ECO_WORKER, KEY.name):
            self.world.annotate(**{name: self.random.choice(["true", "dry-run", None, None])})

    def people_delete_or_make(self, _: str) -> None:
        """The garbage collector takes all that the EcoWorker owns; the kubelet is later."""
        if not self.has(kinds.ECO_WORKER, KEY.name):
            self.world.apply_worker(replicas=2)
            return
        for kind, name in list(self.world.bodies):
            if kind not in {kinds.CLAIM.kind, kinds.JOB.kind, kinds.POD.kind}:
                self.world.remove(kinds.BY_NAME[kind], name)

    def a_pod_starts_or_ends(self, shard: str) -> None:
        if self.replicas(shard):
            if not self.pods(shard) and self.has(kinds.CLAIM, f"wal-{shard}"):
                self.world.run_shard(shard)
        elif f"{shard}-pod" in self.pods(shard):
            self.world.stop_shard(shard)

    def a_node_is_lost_or_back(self, shard: str) -> None:
        if f"{shard}-pod" in self.pods(shard):
            self.world.cut_off(shard)

    def a_worker_reports(self, shard: str) -> None:
        pick = self.random.choice
        mode = pick([*JournalMode, JournalMode.NORMAL, JournalMode.DRAINING, *GRAVE])
        if f"{shard}-pod" in self.pods(shard):
            self.world.report(shard, mode=mode, counts=pick(COUNTS), times=pick([1, 2, 2]))

    def a_worker_falls_silent(self, shard: str) -> None:
        self.world.probes.pop(shard, None)

    def a_job_goes_on(self, shard: str) -> None:
        """Its pod starts, or ends, or goes after the job; or an hour has passed and the job goes."""
        for job in [f"{shard}-{name}" for name in JobName]:
            is_there, has_pod = self.has(kinds.JOB, job), self.has(kinds.POD, f"{job}-pod")
            if has_pod and not is_there:
                self.world.remove(kinds.POD, f"{job}-pod")
            elif is_there and not has_pod and not self.pods(shard):
                self.world.start_job(job)
            elif is_there and has_pod and self.world.bodies[(kinds.JOB.kind, job)].get("status"):
                self.world.forget_job(job)
            elif is_there and has_pod:
                self.end(shard, job)

    def end(self, shard: str, job: str) -> None:
        well, empty = self.random.random() < 0.7, self.random.random() < 0.6
        name = JobName(job.rpartition("-")[2])
        dry = (
            "--dry-run" in self.world.bodies[(kinds.JOB.kind, job)]["spec"]["template"]["spec"]["containers"][0]["args"]
        )
        uuid = f"uuid-{shard}"
        report = JobReport(job=name, shard=shard, succeeded=well, empty=empty, dry_run=dry, journal_uuid=uuid)
        self.world.end_job(job, report)
        self.happened.add(f"{name} ended {'well' if well else 'badly'}")
        if well and empty and name is JobName.DRAIN:
            self.empty.add(self.world.bodies[(kinds.JOB.kind, job)]["metadata"]["uid"])

    def time_passes(self, _: str) -> None:
        self.world.pass_time(self.random.choice([1, 20, 700, 1000]))

    def look(self) -> None:
        """One look of the operator: what it is about to do is checked, then done."""
        for step in self.world.plan().steps:
            self.check(step)
        self.world.act()
        for about in self.world.commands:
            command, _, shard = about.partition(" ")
            self.happened.add(command)
            modes = {"drain": JournalMode.DRAINING, "fence": JournalMode.FENCED, "resume": JournalMode.NORMAL}
            self.world.report(shard, mode=modes[command], counts=self.random.choice(COUNTS))
        self.world.commands.clear()
        if self.has(kinds.ECO_WORKER, KEY.name):
            self.world.conclude()

    def check(self, step: Step) -> None:
        if isinstance(step, Apply):
            self.check_apply(step.desired["kind"], dict(step.desired))
        elif isinstance(step, Delete):
            self.check_delete(step)
        elif isinstance(step, Command):
            assert f"{step.target.shard.shard}-pod" in self.pods(step.target.shard.shard)

    def check_apply(self, kind: str, desired: dict[str, Any]) -> None:
        shard = desired["metadata"]["labels"].get(contract.LABEL_SHARD, "")
        if kind == kinds.JOB.kind:
            self.happened.add(f"made {desired['metadata']['name'].rpartition('-')[2]}")
            assert self.pods(shard) == [], "a job beside a pod"
            assert self.replicas(shard) == 0, "a job beside a Deployment that makes pods"
            assert self.jobs(shard) == [], "two jobs on a volume"
        elif kind == kinds.DEPLOYMENT.kind and desired["spec"]["replicas"] and not self.replicas(shard):
            assert self.jobs(shard) == [], "a worker beside a job"
            assert [pod for pod in self.pods(shard) if pod != f"{shard}-pod"] == [], "a worker beside a job's pod"

    def check_delete(self, step: Delete) -> None:
        child = step.child
        self.happened.add(f"deleted {child.kind}")
        if child.kind == kinds.CLAIM.kind:
            note = self.world.bodies[(child.kind, child.name)]["metadata"]["annotations"][contract.ANNOTATION_LEFT]
            assert any(uid in note for uid in self.empty), "a claim goes that no job has found empty"
            assert self.pods(child.shard) == [], "a claim goes that a pod has"
        elif child.kind == kinds.DEPLOYMENT.kind:
            self.check_shard_goes(child.name)

    def check_shard_goes(self, shard: str) -> None:
        wanted = self.world.bodies[(kinds.ECO_WORKER.kind, KEY.name)]["spec"]["replicas"]
        assert int(shard.rpartition("-")[2]) >= wanted, "a shard goes that is wanted"
        found = next(it for it in self.world.observe().shards if it.name == shard).report
        if found is not None:
            counts = found.counts
            assert found.mode is JournalMode.DRAINING
            assert counts.due + counts.waiting + counts.running + counts.outbox_unsent == 0, "a shard goes with tasks"

    def has(self, kind: kinds.Kind, name: str) -> bool:
        return (kind.kind, name) in self.world.bodies

    def pods(self, shard: str) -> list[str]:
        return [name for kind, name in self.world.bodies if kind == kinds.POD.kind and name.startswith(f"{shard}-")]

    def jobs(self, shard: str) -> list[str]:
        return [name for kind, name in self.world.bodies if kind == kinds.JOB.kind and name.startswith(f"{shard}-")]

    def replicas(self, shard: str) -> int:
        body = self.world.bodies.get((kinds.DEPLOYMENT.kind, shard))
        return int(body["spec"]["replicas"]) if body else 0


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_must_never_happen_happens(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
    for _ in range(20):
        walk.look()
        if not [it for it in walk.world.plan().steps if not isinstance(it, Command)]:
            return
    raise AssertionError(f"the operator does not come to rest: {walk.world.plan().steps[0]}")


def test_the_walks_come_to_all_that_is_dangerous() -> None:
    """Else they would prove nothing."""
    dangerous = {"made drain", "made recover", "deleted PersistentVolumeClaim", "deleted Deployment", "deleted Job"}
    dangerous |= {"drain", "fence", "resume", "drain ended badly", "recover ended well"}
    for seed in range(40):
        walk = Walk(seed)
        for _ in range(STEPS):
            walk.step()
        dangerous -= walk.happened
        if not dangerous:
            return
    raise AssertionError(f"never happened: {dangerous}")
