"""A shard that is not wanted any more goes when its journal has given back what it held, and not before."""

from typing import Any

import pytest

from eco_crds import contract
from eco_crds.jobs import JobName, JobReport
from eco_crds.wal import JournalMode, WalCounts
from eco_operator import kinds
from eco_operator.reconcile.plan import Apply, Delete, Plan
from tests.support.cases import merge
from tests.support.observed import SILENT, InMemory

DRAINING = JournalMode.DRAINING
JOB = "storage-1-drain"


@pytest.fixture
def world() -> InMemory:
    made = InMemory()
    made.ready(2)
    made.apply_worker(replicas=1)
    made.act()
    made.conclude()
    return made


def deleted(plan: Plan) -> list[str]:
    return [f"{it.child.kind}/{it.child.name}" for it in plan.steps if isinstance(it, Delete)]


def blocked(world: InMemory) -> str:
    found = world.conclude().condition("ScaleInBlocked")
    return found.reason if found is not None else ""


def retire(world: InMemory) -> None:
    """Have the shard drained, its Deployment removed and its pod gone."""
    world.report("storage-1", mode=DRAINING)
    world.act()
    world.stop_shard("storage-1")
    world.act()


def report(**changes: Any) -> JobReport:
    given = {"journal_uuid": "uuid-storage-1", "succeeded": True, **changes}
    return JobReport(job=JobName.DRAIN, shard="storage-1", **given)


def test_the_worker_is_told_to_drain_before_anything_is_removed(world: InMemory) -> None:
    assert world.commands == ["drain storage-1"]
    assert (kinds.DEPLOYMENT.kind, "storage-1") in world.bodies
    assert "ShardDraining" in [it.reason for it in world.told]


@pytest.mark.parametrize(
    "counts",
    [WalCounts(due=1), WalCounts(waiting=1), WalCounts(running=1), WalCounts(outbox_unsent=1)],
    ids=lambda it: it.model_dump_json(exclude_defaults=True),
)
def test_what_is_unfinished_or_unsent_holds_the_shard(world: InMemory, counts: WalCounts) -> None:
    world.report("storage-1", mode=DRAINING, counts=counts)
    assert world.plan().steps == ()


@pytest.mark.parametrize(
    "counts",
    [WalCounts(), WalCounts(unsynced=9), WalCounts(sync_parked=1), WalCounts(outbox_parked=2)],
    ids=lambda it: it.model_dump_json(exclude_defaults=True) or "empty",
)
def test_what_a_job_can_send_later_does_not_hold_it(world: InMemory, counts: WalCounts) -> None:
    world.report("storage-1", mode=DRAINING, counts=counts)
    assert deleted(world.plan()) == ["Deployment/storage-1"]


def test_a_journal_that_is_empty_but_not_draining_may_still_take_tasks(world: InMemory) -> None:
    world.report("storage-1", mode=JournalMode.NORMAL)
    assert deleted(world.plan()) == []


def test_past_the_deadline_a_condition_says_why_and_it_is_still_waited_for(world: InMemory) -> None:
    world.report("storage-1", mode=DRAINING, counts=WalCounts(running=1))
    assert blocked(world) == ""
    world.pass_time(600)
    world.report("storage-1", mode=DRAINING, counts=WalCounts(running=1))
    assert blocked(world) == "TasksLeft"
    assert deleted(world.plan()) == []
    world.report("storage-1", mode=DRAINING)
    assert deleted(world.plan()) == ["Deployment/storage-1"]


def test_the_deadline_is_an_appointment(world: InMemory) -> None:
    world.report("storage-1", mode=DRAINING, counts=WalCounts(running=1))
    world.pass_time(100)
    wait_s = world.plan().look_again_s
    assert wait_s is not None
    assert 500 <= wait_s <= 502


def test_the_shard_stays_in_the_status_with_its_work_until_it_is_gone(world: InMemory) -> None:
    world.report("storage-1", mode=DRAINING, counts=WalCounts(running=3))
    status = world.conclude()
    assert [it.name for it in status.shards] == ["storage-0", "storage-1"]
    assert status.summary is not None
    assert (status.summary.ready, status.summary.pending) == ("1/1", "3")
    assert status.condition("Reconciling") is not None
    began = status.shards[1].draining_since
    world.pass_time(60)
    assert world.conclude().shards[1].draining_since == began
    retire(world)
    assert [it.name for it in world.conclude().shards] == ["storage-0"]


def test_silence_is_believed_only_after_a_while_and_then_a_job_drains(world: InMemory) -> None:
    world.probes["storage-1"] = SILENT
    assert deleted(world.plan()) == []
    world.pass_time(18)
    assert deleted(world.act()) == ["Deployment/storage-1"]
    world.act()
    assert (kinds.JOB.kind, JOB) not in world.bodies, "the pod is still there"
    world.stop_shard("storage-1")
    world.act()
    assert (kinds.JOB.kind, JOB) in world.bodies


def test_a_young_operator_takes_no_silence_for_an_answer(world: InMemory) -> None:
    world.pass_time(1000)
    del world.probes["storage-1"]
    world.is_settling = True
    assert deleted(world.plan()) == []
    world.is_settling = False
    assert deleted(world.plan()) == ["Deployment/storage-1"]


def test_when_nobody_answers_no_shard_is_taken_for_unreachable() -> None:
    world = InMemory()
    world.ready(3)
    world.apply_worker(replicas=1)
    world.conclude()
    world.probes.clear()
    world.pass_time(1000)
    assert deleted(world.plan()) == []
    assert blocked(world) == "ProbeUnavailable"


def test_a_pod_on_a_lost_node_is_waited_for_and_said(world: InMemory) -> None:
    world.cut_off("storage-1")
    world.pass_time(1000)
    assert world.act().steps == ()
    assert blocked(world) == "NodeLost"


def test_a_damaged_journal_is_set_right_before_it_is_drained(world: InMemory) -> None:
    world.report("storage-1", mode=JournalMode.QUARANTINED, times=2)
    world.act()
    deployment = world.bodies[(kinds.DEPLOYMENT.kind, "storage-1")]
    assert deployment["spec"]["replicas"] == 0
    world.stop_shard("storage-1")
    world.act()
    assert (kinds.JOB.kind, "storage-1-recover") in world.bodies
    assert (kinds.JOB.kind, JOB) not in world.bodies


def test_a_fenced_shard_is_let_go_on_unless_people_asked_for_the_fence(world: InMemory) -> None:
    world.report("storage-1", mode=JournalMode.FENCED)
    world.commands.clear()
    world.act()
    assert world.commands == ["resume storage-1"]
    world.commands.clear()
    world.annotate(fence="storage-1")
    world.act()
    assert world.commands == []


def test_the_claim_is_marked_and_a_job_empties_it_once_the_pod_is_gone(world: InMemory) -> None:
    retire(world)
    marks = world.bodies[(kinds.CLAIM.kind, "wal-storage-1")]["metadata"]["annotations"]
    assert marks[contract.ANNOTATION_SCALED_IN]
    job = world.bodies[(kinds.JOB.kind, JOB)]
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["job", "drain"]


def test_a_volume_that_was_never_there_needs_no_job() -> None:
    world = InMemory()
    world.apply_worker(replicas=1)
    world.settle()
    world.apply_worker(replicas=0)
    world.conclude()
    world.pass_time(100)
    world.settle()
    assert [kind for kind, _ in world.bodies if kind == kinds.JOB.kind] == []


def test_an_emptied_claim_is_kept_by_default_and_no_second_job_comes(world: InMemory) -> None:
    retire(world)
    world.end_job(JOB, report(empty=True))
    world.settle()
    world.forget_job(JOB)
    assert world.plan().steps == ()
    assert (kinds.CLAIM.kind, "wal-storage-1") in world.bodies
    assert "ClaimDrained" in [it.reason for it in world.told]


def test_a_claim_that_still_holds_something_is_tried_again_when_the_job_is_gone(world: InMemory) -> None:
    retire(world)
    world.end_job(JOB, report(empty=False, unsynced=3))
    world.settle()
    assert "3 unsynced results" in next(it.message for it in world.told if it.reason == "ClaimHolds")
    assert world.plan().steps == ()
    world.forget_job(JOB)
    world.act()
    assert (kinds.JOB.kind, JOB) in world.bodies


@pytest.mark.parametrize(
    ("end", "goes"),
    [
        (report(empty=True), True),
        (report(empty=False, unsent=1), False),
        (report(empty=True, journal_uuid="another"), False),
        (report(empty=True, succeeded=False, error="x"), False),
        (None, False),
    ],
    ids=["empty", "holds", "another journal", "failed", "no words"],
)
def test_a_claim_is_deleted_only_if_the_policy_says_so_and_a_job_found_it_empty(
    world: InMemory, end: JobReport | None, goes: bool
) -> None:
    world.apply_worker(wal={"reclaimPolicy": "Delete"})
    retire(world)
    world.end_job(JOB, end, words="boom")
    for _ in range(4):
        world.act()
        assert ((kinds.CLAIM.kind, "wal-storage-1") in world.bodies) or (kinds.JOB.kind, JOB) not in world.bodies
        if (kinds.JOB.kind, JOB) not in world.bodies and (kinds.POD.kind, f"{JOB}-pod") in world.bodies:
            world.act()
            assert (kinds.CLAIM.kind, "wal-storage-1") in world.bodies, "a pod of the job still has the volume"
            world.forget_job(JOB)
    assert ((kinds.CLAIM.kind, "wal-storage-1") not in world.bodies) is goes


def test_what_the_worker_said_before_it_ended_is_no_reason_to_delete(world: InMemory) -> None:
    world.apply_worker(wal={"reclaimPolicy": "Delete"})
    world.report("storage-1", mode=DRAINING)
    world.act()
    world.stop_shard("storage-1")
    assert "PersistentVolumeClaim/wal-storage-1" not in deleted(world.plan())


def test_a_job_that_ended_without_a_word_is_done_again_after_a_while(world: InMemory) -> None:
    retire(world)
    world.end_job(JOB, report(empty=True))
    world.remove(kinds.POD, f"{JOB}-pod")
    assert world.plan().steps == (), "its pod may be known a moment later"
    assert world.plan().look_again_s is not None
    world.pass_time(61)
    assert deleted(world.plan()) == [f"Job/{JOB}"]


def test_a_scale_up_removes_the_job_and_never_starts_beside_its_pod(world: InMemory) -> None:
    retire(world)
    world.start_job(JOB)
    world.apply_worker(replicas=2)
    world.act()
    assert (kinds.JOB.kind, JOB) not in world.bodies
    world.settle()
    assert (kinds.DEPLOYMENT.kind, "storage-1") not in world.bodies
    world.remove(kinds.POD, f"{JOB}-pod")
    world.settle()
    assert (kinds.DEPLOYMENT.kind, "storage-1") in world.bodies
    marks = world.bodies[(kinds.CLAIM.kind, "wal-storage-1")]["metadata"]["annotations"]
    assert contract.ANNOTATION_SCALED_IN not in marks


def test_a_shard_that_is_wanted_again_takes_up_its_work(world: InMemory) -> None:
    world.report("storage-1", mode=DRAINING, counts=WalCounts(running=1))
    world.apply_worker(replicas=2)
    world.commands.clear()
    world.act()
    assert world.commands == ["resume storage-1"]
    assert (kinds.DEPLOYMENT.kind, "storage-1") in world.bodies


def test_a_job_s_pod_is_never_taken_for_a_worker(world: InMemory) -> None:
    retire(world)
    world.start_job(JOB)
    assert [child.name for child in world.cache.pods()] == ["storage-0-pod"]
    shard = next(it for it in world.observe().shards if it.name == "storage-1")
    assert (shard.pods, len(shard.job_pods)) == ((), 1)


def test_a_paused_ecoworker_drains_nothing(world: InMemory) -> None:
    world.report("storage-1", mode=DRAINING)
    world.annotate(paused="true")
    assert world.plan().steps == ()


def test_jobs_are_never_applied_to_what_is_there(world: InMemory) -> None:
    retire(world)
    world.start_job(JOB)
    world.apply_worker(concurrency=9)
    assert not [it for it in world.plan().steps if isinstance(it, Apply) and it.desired["kind"] == "Job"]


def test_a_pod_that_should_be_gone_by_now_is_its_node_s_fault(world: InMemory) -> None:
    world.report("storage-1", mode=DRAINING)
    world.act()
    pod = world.bodies[(kinds.POD.kind, "storage-1-pod")]
    going = world.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    world.put(kinds.POD, merge(pod, {"metadata": {"deletionTimestamp": going}}))
    world.conclude()
    world.pass_time(600)
    assert blocked(world) == "NodeLost"
    world.settle()
    assert (kinds.JOB.kind, JOB) not in world.bodies


def test_zero_is_not_reached_before_the_last_shard_is_gone(world: InMemory) -> None:
    world.apply_worker(replicas=0)
    for name in ("storage-0", "storage-1"):
        world.report(name, mode=DRAINING, counts=WalCounts(running=1))
    ready = world.conclude().condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "ShardsNotReady")
    for name in ("storage-0", "storage-1"):
        world.report(name, mode=DRAINING)
    world.act()
    for name in ("storage-0", "storage-1"):
        world.stop_shard(name)
    ready = world.conclude().condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("True", "ScaledToZero")
