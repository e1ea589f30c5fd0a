"""The life of shards against a real API server: scale-in, jobs on volumes, recovery, wishes by annotation, upgrades.

Controllers, kubelet and workers are stand-ins (`tests.support.fleet`); what is proved here is the operator's order of
things and that a converged state, whichever it is, causes no write.
"""

import json
import signal
import sys
from typing import Any

import pytest

from eco_crds import contract
from eco_crds.jobs import JobName, JobReport, Left
from eco_crds.wal import JournalMode, WalAges, WalCounts
from eco_operator import kinds
from tests.support import newer_operator
from tests.support.operator_world import (
    World,
    example,
    sync,
    until_quiet,
    writes_during,
)
from tests.support.processes import Program
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

BUSY = {"counts": WalCounts(due=5, running=1), "ages": WalAges(last_progress_s=1)}
LONG_AGO = "2020-01-01T00:00:00Z"


async def start(world: World, **changes: Any) -> None:
    world.kubectl("apply", "-f", "-", given=example(**changes))
    await world.until_ready()


async def gone(world: World, kind: kinds.Kind, name: str, *, within_s: float = 15) -> None:
    async def is_gone() -> bool:
        return not await world.exists(kind, name)

    await until(f"{kind.kind} {name} is gone", is_gone, within_s=within_s)


async def there(world: World, kind: kinds.Kind, name: str, *, within_s: float = 15) -> None:
    async def is_there() -> bool:
        return await world.exists(kind, name)

    await until(f"{kind.kind} {name} is there", is_there, within_s=within_s)


async def replicas(world: World, name: str) -> int:
    return int((await world.cluster.get(kinds.DEPLOYMENT, world.namespace, name))["spec"]["replicas"])


async def until_replicas(world: World, name: str, wanted: int) -> None:
    async def has_them() -> bool:
        return await replicas(world, name) == wanted

    await until(f"{name} has {wanted} replicas", has_them, within_s=15)


async def left_on(world: World, claim: str) -> Left | None:
    found = await world.cluster.get(kinds.CLAIM, world.namespace, claim)
    written = found["metadata"]["annotations"].get(contract.ANNOTATION_LEFT)
    return Left.model_validate_json(written) if written else None


async def until_noted(world: World, claim: str) -> Left:
    async def is_noted() -> bool:
        return await left_on(world, claim) is not None

    await until(f"what is left on {claim} is noted", is_noted, within_s=20)
    found = await left_on(world, claim)
    assert found is not None
    return found


async def test_a_scale_in_waits_for_the_journal_then_empties_the_claim_by_a_job(world: World) -> None:
    await start(world)
    worker = world.fleet.workers["storage-1"]
    worker.is_busy = True
    worker.says(**BUSY)
    world.kubectl("scale", "ecoworker/storage", "--replicas=1")

    async def drains() -> bool:
        return "drain" in worker.told

    await until("the worker is told to drain", drains, within_s=10)
    await until_quiet(world, for_s=2)
    assert await replicas(world, "storage-1") == 1, "removed with tasks in its journal"
    shard = (await world.worker())["status"]["shards"][1]
    assert (shard["name"], shard["pending"]) == ("storage-1", 6)
    worker.says(counts=WalCounts(unsynced=2))
    await gone(world, kinds.DEPLOYMENT, "storage-1")
    assert (await until_noted(world, "wal-storage-1")).empty
    assert world.fleet.jobs_run == ["storage-1-drain"]
    await world.until_ready()
    await until_quiet(world, for_s=2)
    assert await writes_during(world, for_s=4) == []
    assert await world.exists(kinds.CLAIM, "wal-storage-1")
    told = {reason for reason, _ in await world.events()}
    assert {"ShardDraining", "ShardRemoved", "DrainStarted", "ClaimDrained"} <= told


async def test_past_its_deadline_a_scale_in_says_what_it_waits_for(world: World) -> None:
    await start(world, drainDeadlineSeconds=10)
    worker = world.fleet.workers["storage-1"]
    worker.is_busy = True
    worker.says(**BUSY)
    world.kubectl("scale", "ecoworker/storage", "--replicas=1")
    took_s = await world.until_condition("ScaleInBlocked", "True", "TasksLeft", within_s=25)
    assert took_s >= 8
    worker.says(counts=WalCounts())
    await gone(world, kinds.DEPLOYMENT, "storage-1")

    async def unblocked() -> bool:
        return await world.condition("ScaleInBlocked") == ("", "")

    await until("it is not blocked any more", unblocked, within_s=10)


async def test_an_emptied_claim_goes_where_the_policy_says_so(world: World) -> None:
    document = example()
    document["spec"]["wal"]["reclaimPolicy"] = "Delete"
    world.kubectl("apply", "-f", "-", given=document)
    await world.until_ready()
    left = JobReport(job=JobName.DRAIN, shard="storage-1", succeeded=False, error="no database", unsynced=3)
    world.fleet.job_reports["storage-1-drain"] = left
    world.kubectl("scale", "ecoworker/storage", "--replicas=1")
    noted = await until_noted(world, "wal-storage-1")
    assert (noted.empty, noted.error, noted.unsynced) == (False, "no database", 3)
    assert await world.exists(kinds.CLAIM, "wal-storage-1")
    del world.fleet.job_reports["storage-1-drain"]
    world.kubectl("delete", "job", "storage-1-drain", "--wait=false")  # as its time to live does an hour later
    await gone(world, kinds.CLAIM, "wal-storage-1", within_s=25)
    assert await world.exists(kinds.CLAIM, "wal-storage-0")
    assert ("ClaimDeleted", "PersistentVolumeClaim") in await world.events()


async def test_a_scale_up_never_starts_beside_the_job_and_takes_the_journal_up_again(world: World) -> None:
    await start(world)
    world.fleet.holds_jobs = True
    world.kubectl("scale", "ecoworker/storage", "--replicas=1")

    async def has_job_pods() -> bool:
        return bool(json.loads(world.kubectl("get", "pods", "-l", "component=job", "-o", "json"))["items"])

    await until("the job's pod runs", has_job_pods, within_s=15)
    claim = (await world.cluster.get(kinds.CLAIM, world.namespace, "wal-storage-1"))["metadata"]["uid"]
    world.kubectl("scale", "ecoworker/storage", "--replicas=2")
    await gone(world, kinds.JOB, "storage-1-drain")
    await there(world, kinds.DEPLOYMENT, "storage-1")
    assert not await has_job_pods(), "the shard was started beside the pod of its job"
    await world.until_ready()
    found = await world.cluster.get(kinds.CLAIM, world.namespace, "wal-storage-1")
    assert found["metadata"]["uid"] == claim
    assert contract.ANNOTATION_SCALED_IN not in found["metadata"]["annotations"]


async def test_a_drain_that_is_taken_back_is_resumed(world: World) -> None:
    await start(world)
    worker = world.fleet.workers["storage-1"]
    worker.is_busy = True
    worker.says(**BUSY)
    world.kubectl("scale", "ecoworker/storage", "--replicas=1")

    async def told(command: str) -> bool:
        return command in worker.told

    await until("it drains", lambda: told("drain"), within_s=10)
    world.kubectl("scale", "ecoworker/storage", "--replicas=2")
    await until("it goes on", lambda: told("resume"), within_s=10)
    await world.until_ready()
    assert world.fleet.workers["storage-1"] is worker, "the worker was replaced"


async def test_claims_of_an_ecoworker_that_is_gone_are_emptied_and_deleted_by_policy(world: World) -> None:
    document = example(replicas=1)
    document["spec"]["wal"]["reclaimPolicy"] = "Delete"
    world.kubectl("apply", "-f", "-", given=document)
    await world.until_ready()
    world.kubectl("delete", "ecoworker", "storage", "--timeout=10s")

    async def is_marked() -> bool:
        found = await world.cluster.get(kinds.CLAIM, world.namespace, "wal-storage-0")
        return contract.ANNOTATION_ORPHANED in found["metadata"]["annotations"]

    await until("the claim is marked", is_marked, within_s=15)
    await until_quiet(world, for_s=2)
    assert world.fleet.jobs_run == [], "a quarter of an hour is not over"
    world.kubectl("annotate", "--overwrite", "pvc/wal-storage-0", f"{contract.ANNOTATION_ORPHANED}={LONG_AGO}")
    await gone(world, kinds.CLAIM, "wal-storage-0", within_s=25)
    assert world.fleet.jobs_run == ["storage-0-drain"]


@pytest.mark.parametrize("mode", [JournalMode.QUARANTINED, JournalMode.LOST])
async def test_a_damaged_journal_is_set_right_without_a_hand(world: World, mode: JournalMode) -> None:
    await start(world)
    world.fleet.holds_jobs = True
    report = JobReport(job=JobName.RECOVER, shard="storage-1", succeeded=True, action="rebuilt", salvaged=7, took_s=2.0)
    world.fleet.job_reports["storage-1-recover"] = report
    world.fleet.workers["storage-1"].says(mode=mode, last_error="page 7")
    await there(world, kinds.JOB, "storage-1-recover")
    assert await replicas(world, "storage-1") == 0
    assert "storage-1" not in world.fleet.workers, "the job was started beside the worker's pod"
    await world.until_condition("Recovered", "False", "Recovering")
    await world.until_condition("WALHealthy", "False", "Fenced")
    assert await replicas(world, "storage-0") == 1
    world.fleet.holds_jobs = False
    await world.until_condition("Recovered", "True", "Repaired", within_s=25)
    await world.until_ready()
    last = (await world.worker())["status"]["shards"][1]["lastRecovery"]
    assert (last["succeeded"], last["action"], last["salvaged"], last["seconds"]) == (True, "rebuilt", 7, 2)
    assert last["cause"] == {"quarantined": "Corrupt", "lost": "Lost"}[mode.value]
    assert world.fleet.jobs_run == ["storage-1-recover"]
    told = [reason for reason, _ in await world.events()]
    for reason in ("ShardFenced", "RecoveryStarted", "RecoveryDone", "ShardStarted"):
        assert told.count(reason) == 1, reason
    await until_quiet(world, for_s=2)
    assert await writes_during(world, for_s=4) == []


async def test_a_recovery_that_fails_leaves_the_shard_fenced_and_is_repeated_when_its_job_goes(world: World) -> None:
    await start(world, replicas=1)
    failed = JobReport(job=JobName.RECOVER, shard="storage-0", succeeded=False, error="nothing to restore from")
    world.fleet.job_reports["storage-0-recover"] = failed
    world.fleet.workers["storage-0"].says(mode=JournalMode.QUARANTINED)
    await world.until_condition("Recovered", "False", "RecoveryFailed", within_s=25)
    assert await replicas(world, "storage-0") == 0
    await until_quiet(world, for_s=2)
    assert await writes_during(world, for_s=4) == []
    del world.fleet.job_reports["storage-0-recover"]
    world.kubectl("delete", "job", "storage-0-recover", "--wait=false")
    await world.until_ready()
    assert world.fleet.jobs_run == ["storage-0-recover", "storage-0-recover"]


async def test_a_recovery_goes_on_under_the_next_operator(world: World) -> None:
    await start(world, replicas=1)
    world.fleet.holds_jobs = True
    world.fleet.workers["storage-0"].says(mode=JournalMode.LOST)
    await there(world, kinds.JOB, "storage-0-recover")
    world.restart_operator(signal.SIGKILL)
    world.fleet.holds_jobs = False
    await world.until_condition("Recovered", "True", "Repaired", within_s=60)
    assert await replicas(world, "storage-0") == 1
    assert world.fleet.jobs_run == ["storage-0-recover"]


async def test_a_manual_recovery_waits_and_a_dry_run_only_looks(world: World) -> None:
    await start(world, replicas=1, recovery={"mode": "Manual"})
    world.fleet.workers["storage-0"].says(mode=JournalMode.QUARANTINED)
    await world.until_condition("Recovered", "False", "ApprovalNeeded")
    assert await replicas(world, "storage-0") == 1
    looked = JobReport(job=JobName.RECOVER, shard="storage-0", succeeded=True, dry_run=True, action="rebuilt")
    world.fleet.job_reports["storage-0-recover"] = looked
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_RECOVER}=dry-run")
    await world.until_condition("Recovered", "False", "DryRunDone", within_s=25)
    assert await replicas(world, "storage-0") == 0
    del world.fleet.job_reports["storage-0-recover"]
    world.kubectl("annotate", "--overwrite", "ecoworker/storage", f"{contract.ANNOTATION_RECOVER}=true")
    await world.until_condition("Recovered", "True", "Repaired", within_s=25)
    await world.until_ready()


async def test_a_fence_and_its_end_reach_the_worker(world: World) -> None:
    await start(world)
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_FENCE}=storage-1")
    await world.until_condition("Fenced", "True", "Annotation")
    await world.until_condition("WALHealthy", "False", "Fenced")
    assert [world.fleet.workers[name].told for name in ("storage-0", "storage-1")] == [[], ["fence"]]
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_FENCE}-")
    await world.until_ready()
    assert world.fleet.workers["storage-1"].told == ["fence", "resume"]


async def test_hibernation_stops_all_and_ends_with_the_annotation(world: World) -> None:
    await start(world)
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_HIBERNATE}=true")
    await world.until_condition("Ready", "False", "Hibernated")
    await world.until_condition("WALHealthy", "Unknown", "Disabled")
    assert await replicas(world, "storage-0") == 0
    await until_quiet(world, for_s=2)
    assert await writes_during(world, for_s=4) == []
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_HIBERNATE}-")
    await world.until_ready()


async def test_send_now_reaches_every_worker_once_and_a_stopped_one_by_a_job(world: World) -> None:
    await start(world)
    world.kubectl("apply", "-f", "-", given=sync())
    world.kubectl("annotate", "walsync/storage", f"{contract.ANNOTATION_SYNC_NOW}=first")

    async def told() -> bool:
        return all(worker.told == ["sync"] for worker in world.fleet.workers.values())

    await until("each is told once", told, within_s=15)
    await until_quiet(world, for_s=2)
    assert await told(), "told again without being asked"
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_HIBERNATE}=true")
    await world.until_condition("WALHealthy", "Unknown", "Disabled")
    world.kubectl("annotate", "--overwrite", "walsync/storage", f"{contract.ANNOTATION_SYNC_NOW}=second")

    async def by_jobs() -> bool:
        return sorted(world.fleet.jobs_run) == ["storage-0-sync", "storage-1-sync"]

    await until("jobs send", by_jobs, within_s=15)
    await until_quiet(world, for_s=2)
    assert await by_jobs()


async def test_a_job_of_that_name_which_is_not_ours_is_left_alone(world: World) -> None:
    await start(world)
    world.kubectl("apply", "-f", "-", given=sync())
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_HIBERNATE}=true")
    await world.until_condition("WALHealthy", "Unknown", "Disabled")
    pod = {"restartPolicy": "Never", "containers": [{"name": "theirs", "image": "none"}]}
    theirs = {"apiVersion": kinds.JOB.api_version, "kind": kinds.JOB.kind, "metadata": {"name": "storage-0-sync"}}
    world.kubectl("create", "-f", "-", given={**theirs, "spec": {"suspend": True, "template": {"spec": pod}}})
    before = await world.cluster.get(kinds.JOB, world.namespace, "storage-0-sync")
    world.kubectl("annotate", "walsync/storage", f"{contract.ANNOTATION_SYNC_NOW}=now")
    await world.until_condition("Stalled", "True", "NameConflict")
    assert await world.cluster.get(kinds.JOB, world.namespace, "storage-0-sync") == before


async def test_an_upgrade_of_the_operator_restarts_no_worker(world: World) -> None:
    await start(world)
    before = {name: await generation(world, name) for name in ("storage-0", "storage-1")}
    world.operator.stop()
    old = world.operator
    world.operator = Program(
        "newer-operator",
        [sys.executable, "-m", "tests.support.newer_operator", "run"],
        old.log.with_name("newer.log"),
        old.env,
    )
    world.operator.start()
    await world.until_operator_ready()
    world.kubectl("scale", "ecoworker/storage", "--replicas=3")
    await there(world, kinds.DEPLOYMENT, "storage-2")
    await world.until_ready()
    after = {name: await generation(world, name) for name in before}
    assert after == before, "operator.upgrade_restarts is not 0"
    assert newer_operator.MARK not in await variables(world, "storage-2")
    world.kubectl("patch", "ecoworker/storage", "--type=merge", "-p", '{"spec":{"concurrency":9}}')

    async def rolled() -> bool:
        return all([newer_operator.MARK in await variables(world, f"storage-{index}") for index in range(3)])

    await until("a change of the spec brings the newer pods", rolled, within_s=30)


async def generation(world: World, name: str) -> int:
    return int((await world.cluster.get(kinds.DEPLOYMENT, world.namespace, name))["metadata"]["generation"])


async def variables(world: World, name: str) -> list[dict[str, Any]]:
    found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, name)
    listed: list[dict[str, Any]] = found["spec"]["template"]["spec"]["containers"][0]["env"]
    return listed
