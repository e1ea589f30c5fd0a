"""A journal that its worker calls damaged or lost is set right in one order, and never on silence."""

from typing import Any

import pytest

from eco_crds import contract
from eco_crds.jobs import JobName, JobReport
from eco_crds.wal import JournalMode
from eco_operator import kinds
from eco_operator.reconcile.plan import Apply
from tests.support.cases import merge
from tests.support.observed import SILENT, InMemory

JOB = "storage-0-recover"


@pytest.fixture
def world() -> InMemory:
    made = InMemory()
    made.ready(2)
    return made


def damage(world: InMemory, name: str = "storage-0", mode: JournalMode = JournalMode.QUARANTINED) -> None:
    world.report(name, mode=mode, times=2)


def replicas(world: InMemory, name: str = "storage-0") -> int:
    return int(world.bodies[(kinds.DEPLOYMENT.kind, name)]["spec"]["replicas"])


def has_job(world: InMemory, name: str = JOB) -> bool:
    return (kinds.JOB.kind, name) in world.bodies


def stage(world: InMemory) -> str:
    found = world.conclude().condition("Recovered")
    return found.reason if found is not None else ""


def fence(world: InMemory) -> None:
    damage(world)
    world.act()
    world.stop_shard("storage-0")


def report(**changes: Any) -> JobReport:
    given = {"succeeded": True, "action": "rebuilt", "took_s": 4.2, "salvaged": 7, **changes}
    return JobReport(job=JobName.RECOVER, shard="storage-0", **given)


@pytest.mark.parametrize("mode", [JournalMode.QUARANTINED, JournalMode.LOST])
def test_one_report_is_no_reason_and_two_are(world: InMemory, mode: JournalMode) -> None:
    world.report("storage-0", mode=mode, times=1)
    assert world.plan().steps == ()
    world.report("storage-0", mode=mode, times=2)
    world.act()
    assert replicas(world) == 0
    assert replicas(world, "storage-1") == 1


def test_the_last_words_of_a_process_count_too(world: InMemory) -> None:
    ended = {
        "name": contract.CONTAINER_NAME,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"message": "Corrupt: page 7"}},
    }
    pod = world.bodies[(kinds.POD.kind, "storage-0-pod")]
    world.put(kinds.POD, merge(pod, {"status": {"containerStatuses": [ended]}}))
    world.act()
    assert replicas(world) == 0


@pytest.mark.parametrize("words", ["", "Error", "killed by signal 9", "corrupt picture: x"])
def test_any_other_end_of_a_process_does_not(world: InMemory, words: str) -> None:
    ended = {
        "name": contract.CONTAINER_NAME,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"message": words}},
    }
    pod = world.bodies[(kinds.POD.kind, "storage-0-pod")]
    world.put(kinds.POD, merge(pod, {"status": {"containerStatuses": [ended]}}))
    world.pass_time(3600)
    world.act()
    assert replicas(world) == 1


def test_silence_never_fences_however_long(world: InMemory) -> None:
    world.probes["storage-0"] = SILENT
    world.pass_time(86_400)
    assert world.plan().steps == ()
    world.probes.clear()
    assert world.plan().steps == ()


def test_an_old_report_of_damage_is_silence(world: InMemory) -> None:
    damage(world)
    probe = world.probes["storage-0"]
    world.probes["storage-0"] = type(probe)(probe.report, 18.0, probe.pod_uid, probe.process, "", 3, 9, 2)
    assert world.plan().steps == ()


def test_an_identity_that_only_the_operator_finds_wrong_is_no_reason(world: InMemory) -> None:
    world.report("storage-0", journal_uuid="another", times=9)
    assert world.plan().steps == ()


def test_the_order_is_fence_then_job_then_worker_each_after_the_pod_object_before_it(world: InMemory) -> None:
    damage(world)
    world.act()
    assert (replicas(world), has_job(world), stage(world)) == (0, False, "Fencing")
    world.settle()
    assert not has_job(world), "the worker's pod object is still there"
    world.stop_shard("storage-0")
    world.settle()
    assert (replicas(world), has_job(world), stage(world)) == (0, True, "Recovering")
    world.end_job(JOB, report())
    world.act()
    assert replicas(world) == 0
    world.conclude()  # the end is in the status, so the job may go
    world.settle()
    assert not has_job(world)
    assert (replicas(world), stage(world)) == (0, "Ending"), "the job's pod object is still there"
    world.remove(kinds.POD, f"{JOB}-pod")
    world.settle()
    assert replicas(world) == 1
    annotations = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]["metadata"]["annotations"]
    assert contract.ANNOTATION_RECOVERY not in annotations
    world.run_shard("storage-0")
    assert stage(world) == "Repaired"


def test_the_cause_is_written_on_the_deployment_and_outlives_the_operator(world: InMemory) -> None:
    fence(world)
    fresh = InMemory(cache=world.cache, bodies=world.bodies, now=world.now)
    fresh._version = world._version
    fresh.settle()
    assert has_job(fresh)
    assert fresh.conclude().shards[0].wal == "Fenced"


def test_the_result_is_in_the_status_with_counts_and_seconds(world: InMemory) -> None:
    fence(world)
    world.settle()
    world.end_job(JOB, report(republished=3, synced=2, unreadable=1, distrusted=4, problems=["page 7"]))
    last = world.conclude().shards[0].last_recovery
    assert last is not None
    assert (last.succeeded, last.cause, last.action, last.seconds) == (True, "Corrupt", "rebuilt", 4)
    assert (last.salvaged, last.republished, last.synced, last.unreadable, last.distrusted) == (7, 3, 2, 1, 4)
    assert last.message == "page 7"
    assert world.conclude().shards[0].last_recovery == last, "noted once"


def test_the_job_is_not_removed_before_its_end_is_written_down(world: InMemory) -> None:
    fence(world)
    world.settle()
    world.end_job(JOB, report())
    for _ in range(3):
        world.act()
    assert has_job(world)


def test_a_failed_job_leaves_the_shard_fenced_until_the_job_is_gone(world: InMemory) -> None:
    fence(world)
    world.settle()
    world.end_job(JOB, JobReport(job=JobName.RECOVER, shard="storage-0", succeeded=False, error="no backup"))
    assert world.conclude().shards[0].wal == "Fenced"
    world.settle()
    status = world.conclude()
    found = status.condition("Recovered")
    assert found is not None
    assert (found.reason, "no backup" in found.message) == ("RecoveryFailed", True)
    assert (replicas(world), has_job(world)) == (0, True)
    world.forget_job(JOB)
    world.settle()
    assert has_job(world), "its going is the sign to try again"


def test_a_failed_job_holds_up_neither_another_shard_s_recovery_nor_the_roll(world: InMemory) -> None:
    fence(world)
    world.settle()
    world.end_job(JOB, None, words="boom")
    world.conclude()
    damage(world, "storage-1")
    world.act()
    world.stop_shard("storage-1")
    world.settle()
    assert has_job(world, "storage-1-recover")


def test_one_shard_is_set_right_at_a_time(world: InMemory) -> None:
    for name in ("storage-0", "storage-1"):
        damage(world, name)
    world.act()
    for name in ("storage-0", "storage-1"):
        world.stop_shard(name)
    world.settle()
    assert (has_job(world), has_job(world, "storage-1-recover")) == (True, False)
    world.end_job(JOB, report())
    world.conclude()
    world.act()
    assert has_job(world, "storage-1-recover")


def test_on_a_lost_node_no_job_starts_and_the_condition_says_why(world: InMemory) -> None:
    damage(world)
    world.act()
    world.cut_off("storage-0")
    world.pass_time(86_400)
    world.settle()
    assert (replicas(world), has_job(world), stage(world)) == (0, False, "NodeLost")


def test_manual_waits_for_the_annotation() -> None:
    world = InMemory()
    world.ready(1, recovery={"mode": "Manual"})
    damage(world)
    assert world.plan().steps == ()
    assert stage(world) == "ApprovalNeeded"
    world.annotate(recover="true")
    world.act()
    assert replicas(world) == 0


def test_a_dry_run_changes_nothing_and_is_done_once(world: InMemory) -> None:
    world.annotate(recover="dry-run")
    fence(world)
    world.settle()
    [container] = world.bodies[(kinds.JOB.kind, JOB)]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["job", "recover", "--dry-run"]
    world.end_job(JOB, report(dry_run=True))
    world.conclude()
    world.settle()
    world.forget_job(JOB)
    world.settle()
    assert (replicas(world), has_job(world), stage(world)) == (0, False, "DryRunDone")
    world.annotate(recover="true")
    world.settle()
    [container] = world.bodies[(kinds.JOB.kind, JOB)]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["job", "recover"]


def test_a_shard_that_people_do_not_want_recovered_gets_its_worker_back(world: InMemory) -> None:
    fence(world)
    world.apply_worker(recovery={"mode": "Manual"})
    world.settle()
    assert (replicas(world), has_job(world)) == (1, False)


def test_a_stopped_shard_takes_the_image_that_mends_it_and_holds_nobody_up(world: InMemory) -> None:
    fence(world)
    world.settle()
    world.apply_worker(image="registry.example/fixed:1")
    names = [it.desired["metadata"]["name"] for it in world.act().steps if isinstance(it, Apply)]
    assert {"storage-0", "storage-1"} <= set(names)
    assert replicas(world) == 0


def test_each_step_is_told_once(world: InMemory) -> None:
    fence(world)
    world.settle()
    world.end_job(JOB, report())
    world.act()
    world.conclude()
    world.settle()
    world.forget_job(JOB)
    world.settle()
    told = [it.reason for it in world.told if it.about.kind == kinds.ECO_WORKER.kind]
    for reason in ("ShardFenced", "RecoveryStarted", "RecoveryDone", "ShardStarted"):
        assert told.count(reason) == 1, reason
