"""Claims whose EcoWorker is gone wait a while for one of the same name, and are then emptied on their own word."""

import pytest

from eco_crds import contract
from eco_crds.jobs import JobName, JobReport
from eco_crds.wal import JournalMode
from eco_operator import kinds
from eco_operator.reconcile import kept_claims
from eco_operator.reconcile.plan import Delete
from tests.support.cases import merge
from tests.support.observed import KEY, InMemory

JOB = "storage-0-drain"
QUARTER_S = 15 * 60
EMPTY = JobReport(job=JobName.DRAIN, shard="storage-0", succeeded=True, empty=True, journal_uuid="uuid-storage-0")


def orphaned(**changes: object) -> InMemory:
    world = InMemory()
    world.ready(1, **changes)
    world.remove(kinds.ECO_WORKER, KEY.name)
    world.settle()
    for kind, name in list(world.bodies):
        if kind != kinds.CLAIM.kind:
            world.remove(kinds.BY_NAME[kind], name)
    return world


def has_job(world: InMemory) -> bool:
    return (kinds.JOB.kind, JOB) in world.bodies


def has_claim(world: InMemory) -> bool:
    return (kinds.CLAIM.kind, "wal-storage-0") in world.bodies


@pytest.fixture
def world() -> InMemory:
    return orphaned()


def test_for_a_quarter_of_an_hour_nothing_happens_and_then_a_job_drains(world: InMemory) -> None:
    world.pass_time(QUARTER_S - 1)
    plan = world.plan()
    assert (plan.steps, plan.look_again_s) == ((), 1.0)
    world.pass_time(1)
    world.act()
    assert has_job(world)


def test_the_job_knows_broker_and_database_from_the_claim_alone(world: InMemory) -> None:
    world.pass_time(QUARTER_S)
    world.act()
    job = world.bodies[(kinds.JOB.kind, JOB)]
    [container] = job["spec"]["template"]["spec"]["containers"]
    variables = {it["name"] for it in container["env"]}
    assert {contract.ENV_RABBITMQ_URL, contract.ENV_POSTGRES_HOST, contract.ENV_WAL_DB_PATH} <= variables
    [owner] = job["metadata"]["ownerReferences"]
    assert owner["kind"] == "PersistentVolumeClaim"
    assert owner["uid"] == world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]["metadata"]["uid"]


def test_a_worker_s_pod_that_is_still_there_is_waited_for() -> None:
    world = InMemory()
    world.ready(1)
    world.remove(kinds.ECO_WORKER, KEY.name)
    world.settle()
    world.pass_time(QUARTER_S)
    world.act()
    assert not has_job(world)


@pytest.mark.parametrize(("policy", "goes"), [("Retain", False), ("Delete", True)])
def test_the_policy_comes_with_the_claim(policy: str, goes: bool) -> None:
    world = orphaned(wal={"reclaimPolicy": policy})
    world.pass_time(QUARTER_S)
    world.act()
    world.end_job(JOB, EMPTY)
    world.settle()
    world.forget_job(JOB)
    world.settle()
    assert has_claim(world) is not goes


def test_a_claim_that_holds_something_is_kept_whatever_the_policy_and_told_of() -> None:
    world = orphaned(wal={"reclaimPolicy": "Delete"})
    world.pass_time(QUARTER_S)
    world.act()
    world.end_job(JOB, EMPTY.model_copy(update={"empty": False, "unfinished": 2}))
    world.settle()
    assert has_claim(world)
    assert "2 unfinished tasks" in next(it.message for it in world.told if it.reason == "ClaimHolds")


def test_a_failed_drain_is_told_and_tried_again_when_its_job_is_gone(world: InMemory) -> None:
    world.pass_time(QUARTER_S)
    world.act()
    world.end_job(JOB, None, words="no broker")
    world.settle()
    assert "no broker" in next(it.message for it in world.told if it.reason == "DrainFailed")
    assert world.plan().steps == ()
    world.forget_job(JOB)
    world.act()
    assert has_job(world)


def test_a_claim_that_nobody_can_read_is_told_of_once_and_kept() -> None:
    world = orphaned(wal={"reclaimPolicy": "Delete"})
    claim = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]
    world.put(kinds.CLAIM, merge(claim, {"metadata": {"annotations": {contract.ANNOTATION_DRAIN: "{"}}}))
    world.pass_time(QUARTER_S)
    world.settle()
    assert [it.reason for it in world.told].count("DrainFailed") == 1
    assert has_claim(world)
    assert not has_job(world)


def test_an_adoption_first_removes_the_job_and_waits_for_its_pod(world: InMemory) -> None:
    world.pass_time(QUARTER_S)
    world.act()
    world.start_job(JOB)
    world.apply_worker(replicas=1)
    world.settle()
    assert not has_job(world)
    assert (kinds.DEPLOYMENT.kind, "storage-0") not in world.bodies
    world.remove(kinds.POD, f"{JOB}-pod")
    world.settle()
    assert (kinds.DEPLOYMENT.kind, "storage-0") in world.bodies
    marks = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]["metadata"]["annotations"]
    assert contract.ANNOTATION_ORPHANED not in marks


def test_the_mark_survives_the_note_of_what_is_left(world: InMemory) -> None:
    before = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]["metadata"]["annotations"][contract.ANNOTATION_ORPHANED]
    world.pass_time(QUARTER_S)
    world.act()
    world.end_job(JOB, EMPTY)
    world.settle()
    marks = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]["metadata"]["annotations"]
    assert marks[contract.ANNOTATION_ORPHANED] == before
    assert contract.ANNOTATION_LEFT in marks


def test_nothing_is_deleted_while_a_mark_is_young(world: InMemory) -> None:
    assert not [it for it in world.plan().steps if isinstance(it, Delete)]


def test_a_recovery_that_is_under_way_comes_to_its_end_first() -> None:
    world = InMemory()
    world.ready(1)
    world.report("storage-0", mode=JournalMode.QUARANTINED, times=2)
    world.act()
    world.stop_shard("storage-0")
    world.settle()
    world.start_job("storage-0-recover")
    world.remove(kinds.ECO_WORKER, KEY.name)
    world.remove(kinds.DEPLOYMENT, "storage-0")
    world.settle()
    world.pass_time(QUARTER_S)
    world.settle()
    assert (kinds.JOB.kind, "storage-0-recover") in world.bodies
    report = JobReport(job=JobName.RECOVER, shard="storage-0", succeeded=True, action="rebuilt")
    world.end_job("storage-0-recover", report)
    world.settle()
    world.forget_job("storage-0-recover")
    world.settle()
    assert has_job(world)


def test_kept_claims_are_counted_by_what_they_hold(world: InMemory) -> None:
    def counted() -> list[tuple[str, str] | None]:
        return [kept_claims.describe(claim) for claim in world.cache.claims()]

    assert counted() == [("orphaned", "unknown")]
    world.pass_time(QUARTER_S)
    world.act()
    world.end_job(JOB, EMPTY)
    world.settle()
    assert counted() == [("orphaned", "empty")]
    used = InMemory()
    used.ready(1)
    assert [kept_claims.describe(claim) for claim in used.cache.claims()] == [None]
