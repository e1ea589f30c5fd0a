"""What people ask for by annotation: fence, hibernate, send now. What the worker reports is brought in line with it."""

from typing import Any

import pytest

from eco_crds import contract
from eco_crds.jobs import JobName, JobReport
from eco_crds.wal import JournalMode, WalCounts
from eco_operator import kinds
from eco_operator.reconcile.plan import Outcome
from tests.support.observed import InMemory

JOB = "storage-0-sync"


@pytest.fixture
def world() -> InMemory:
    made = InMemory()
    made.ready(2)
    return made


def verdict(world: InMemory, type_: str, outcome: Outcome | None = None) -> tuple[str, str]:
    found = world.conclude(outcome or Outcome()).condition(type_)
    return (found.status, found.reason) if found is not None else ("", "")


def replicas(world: InMemory) -> set[int]:
    return {body["spec"]["replicas"] for (kind, _), body in world.bodies.items() if kind == kinds.DEPLOYMENT.kind}


def put_sync(world: InMemory, asked: str = "", **spec: Any) -> None:
    document = {
        "apiVersion": contract.API_VERSION,
        "kind": "WalSync",
        "metadata": {"name": "results", "annotations": {contract.ANNOTATION_SYNC_NOW: asked} if asked else {}},
        "spec": {"ecoWorkers": {"names": ["storage"]}, "database": "results", **spec},
    }
    world.put(kinds.WAL_SYNC, document)


@pytest.mark.parametrize(("asked", "told"), [("true", 2), ("storage-1", 1), ("storage-0,storage-1", 2), ("no", 0)])
def test_a_fence_is_for_all_or_for_named_shards(world: InMemory, asked: str, told: int) -> None:
    world.annotate(fence=asked)
    world.act()
    assert len(world.commands) == told
    assert verdict(world, "Fenced") == (("True", "Annotation") if told else ("", ""))


def test_a_fenced_worker_is_not_told_twice_and_goes_on_when_the_annotation_goes(world: InMemory) -> None:
    world.annotate(fence="storage-1")
    world.report("storage-1", mode=JournalMode.FENCED)
    assert world.plan().steps == ()
    assert verdict(world, "WALHealthy") == ("False", "Fenced")
    world.annotate(fence=None)
    world.act()
    assert world.commands == ["resume storage-1"]


def test_a_fence_that_a_restart_undid_is_put_up_again(world: InMemory) -> None:
    world.annotate(fence="true")
    for name in ("storage-0", "storage-1"):
        world.report(name, mode=JournalMode.FENCED)
    world.report("storage-0", incarnation="boot:2", mode=JournalMode.NORMAL)
    world.act()
    assert world.commands == ["fence storage-0"]


@pytest.mark.parametrize("mode", [JournalMode.QUARANTINED, JournalMode.LOST])
def test_a_worker_without_a_journal_is_told_nothing(world: InMemory, mode: JournalMode) -> None:
    world.annotate(fence="true")
    world.report("storage-0", mode=mode)
    world.report("storage-1", mode=JournalMode.FENCED)
    assert world.plan().steps == ()


def test_hibernation_stops_every_shard_and_keeps_everything(world: InMemory) -> None:
    world.report("storage-0", counts=WalCounts(due=4))
    world.annotate(hibernate="true")
    world.settle()
    assert replicas(world) == {0}
    assert verdict(world, "Reconciling") == ("True", "Progressing")
    for name in ("storage-0", "storage-1"):
        world.stop_shard(name)
    assert verdict(world, "Hibernated") == ("True", "Annotation")
    assert verdict(world, "Ready") == ("False", "Hibernated")
    assert verdict(world, "WALHealthy") == ("Unknown", "Disabled")
    assert verdict(world, "Reconciling") == ("", "")
    summary = world.conclude().summary
    assert summary is not None
    assert (summary.wal, summary.pending) == ("Disabled", "4"), "what waits in the journals is not forgotten"


def test_it_ends_with_the_annotation(world: InMemory) -> None:
    world.annotate(hibernate="true")
    world.settle()
    world.annotate(hibernate=None)
    world.settle()
    assert replicas(world) == {1}


def test_a_spec_that_changes_meanwhile_is_there_at_once(world: InMemory) -> None:
    world.annotate(hibernate="true")
    world.settle()
    world.apply_worker(image="registry.example/worker:9")
    world.settle()
    images = {
        body["spec"]["template"]["spec"]["containers"][0]["image"]
        for (kind, _), body in world.bodies.items()
        if kind == kinds.DEPLOYMENT.kind
    }
    assert images == {"registry.example/worker:9"}


def test_send_now_is_passed_on_once_for_each_value(world: InMemory) -> None:
    put_sync(world, "first")
    world.act()
    world.commands.clear()
    world.act()
    assert world.commands == ["sync storage-0", "sync storage-1"]
    world.conclude(Outcome(commanded=("sync storage-0", "sync storage-1")))
    assert world.plan().steps == ()
    put_sync(world, "second")
    assert len(world.plan().steps) == 2


def test_a_worker_that_could_not_be_told_is_told_again(world: InMemory) -> None:
    put_sync(world, "first")
    world.act()
    world.conclude(Outcome(commanded=("sync storage-0",), failed=("sync storage-1: HTTP 500",)))
    world.commands.clear()
    world.act()
    assert world.commands == ["sync storage-1"]


def test_a_suspended_sync_is_not_sent_now(world: InMemory) -> None:
    put_sync(world, "first", suspend=True)
    world.act()
    assert world.commands == []


def test_of_a_shard_that_is_stopped_a_job_sends(world: InMemory) -> None:
    put_sync(world)
    world.annotate(hibernate="true")
    world.settle()
    put_sync(world, "first")
    world.act()
    assert (kinds.JOB.kind, JOB) not in world.bodies, "the pod is still there"
    assert world.commands == [], "a worker on its way out was told"
    for name in ("storage-0", "storage-1"):
        world.stop_shard(name)
    world.settle()
    assert (kinds.JOB.kind, JOB) in world.bodies
    world.end_job(JOB, JobReport(job=JobName.SYNC, shard="storage-0", succeeded=True, synced=3))
    assert world.conclude().shards[0].sync_now == "first"


def test_a_shard_that_wakes_up_does_not_start_beside_that_job(world: InMemory) -> None:
    put_sync(world)
    world.annotate(hibernate="true")
    world.settle()
    for name in ("storage-0", "storage-1"):
        world.stop_shard(name)
    put_sync(world, "first")
    world.settle()
    world.start_job(JOB)
    world.annotate(hibernate=None)
    world.settle()
    shard = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]
    assert shard["spec"]["replicas"] == 0
    world.remove(kinds.POD, f"{JOB}-pod")
    world.settle()
    assert world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]["spec"]["replicas"] == 1


def test_a_second_request_is_not_taken_for_the_first_one_s_job(world: InMemory) -> None:
    put_sync(world)
    world.annotate(hibernate="true")
    world.settle()
    for name in ("storage-0", "storage-1"):
        world.stop_shard(name)
    put_sync(world, "first")
    world.settle()
    world.end_job(JOB, None, words="no database")
    assert world.conclude().shards[0].sync_now == "first"
    put_sync(world, "second")
    assert world.conclude().shards[0].sync_now == "first"
    world.act()
    assert (kinds.JOB.kind, JOB) not in world.bodies
    world.forget_job(JOB)
    world.act()
    assert world.bodies[(kinds.JOB.kind, JOB)]["metadata"]["annotations"][contract.ANNOTATION_SYNC_NOW] == "second"
