"""The operator as a process of its own against a real API server; only nodes, controllers and workers are stand-ins."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.wal import JournalMode, WalAges, WalCounts
from eco_crds.walsync import WalSync
from eco_operator import errors, kinds
from eco_operator.resources import budget, controller_revision, deployment, service, sync_config
from tests.support.apiserver import ApiServer
from tests.support.fleet import uuid_of
from tests.support.operator_world import (
    IMAGE,
    World,
    example,
    operator_program,
    operator_world,
    sync,
    until_quiet,
    writes_during,
)
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


async def test_an_ecoworker_gets_its_objects_and_becomes_ready(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_ready()
    for shard in ("storage-0", "storage-1"):
        assert await world.exists(kinds.DEPLOYMENT, shard)
        assert await world.exists(kinds.CLAIM, f"wal-{shard}")
        told = await world.cluster.get(kinds.CONFIG_MAP, world.namespace, f"{shard}-journal")
        assert told["data"][contract.JOURNAL_UUID_KEY] == uuid_of(shard)
    assert await world.exists(kinds.SERVICE, "storage")
    line = world.kubectl("get", "ecoworker", "storage", "--no-headers").split()
    assert line[1:3] == ["2/2", "Healthy"]
    found = await world.worker()
    assert "finalizers" not in found["metadata"]
    assert not [name for name in found["metadata"].get("annotations", {}) if "kopf" in name]
    assert ("Created", "EcoWorker") in await world.events()


async def test_a_converged_fleet_causes_no_write_not_even_after_a_restart(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example())
    world.kubectl("apply", "-f", "-", given=sync())
    await world.until_ready()
    await until_quiet(world, for_s=2)
    written = await writes_during(world, for_s=5)  # three resyncs and a dozen rounds of probes
    assert written == []
    log = world.server.audit()
    world.restart_operator()
    await world.until_operator_ready()
    await asyncio.sleep(5)  # the measurement itself: nothing may be written in this time
    assert world.server.operator_writes(log) == []


async def test_a_deployment_deleted_by_hand_is_back_within_ten_seconds(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_ready()
    before = (await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-1"))["metadata"]["uid"]
    world.kubectl("delete", "deployment", "storage-1", "--wait=false")

    async def back() -> bool:
        if not await world.exists(kinds.DEPLOYMENT, "storage-1"):
            return False
        found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-1")
        return bool(found["metadata"]["uid"] != before)

    assert await until("storage-1 is back", back, within_s=10) < 10


async def test_a_field_that_somebody_else_changed_is_set_back(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    await world.until_ready()
    world.kubectl("set", "image", "deployment/storage-0", "worker=evil:1")

    async def mended() -> bool:
        found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-0")
        return bool(found["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE)

    await until("the image is ours again", mended, within_s=10)


async def test_a_field_that_we_do_not_own_is_left_alone(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    await world.until_ready()
    await until_quiet(world, for_s=1)
    log = world.server.audit()
    world.kubectl("annotate", "deployment/storage-0", "example.org/theirs=yes")
    await asyncio.sleep(3)  # the measurement itself: longer than a resync
    found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-0")
    assert found["metadata"]["annotations"]["example.org/theirs"] == "yes"
    # An annotation raises a Deployment's generation, so the status may pass through Reconciling; the object stays.
    assert not [write for write in world.server.operator_writes(log) if "deployments" in write]


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"mode": JournalMode.QUARANTINED, "last_error": "page 7"}, "False", "Corrupt"),
        ({"mode": JournalMode.READ_ONLY}, "False", "Full"),
        ({"mode": JournalMode.LOST}, "False", "Lost"),
        ({"journal_uuid": "another"}, "False", "Lost"),
        ({"counts": WalCounts(due=3), "ages": WalAges(last_progress_s=301)}, "False", "Stalled"),
        ({"counts": WalCounts(due=3), "ages": WalAges(oldest_due_s=901, last_progress_s=1)}, "False", "Lagging"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
async def test_what_a_worker_reports_is_in_the_condition_within_fifteen_seconds(
    world: World, changes: dict[str, Any], status: str, reason: str
) -> None:
    world.kubectl("apply", "-f", "-", given=example(recovery={"mode": "Manual"}))
    await world.until_ready()
    well = world.fleet.workers["storage-1"].report
    world.fleet.workers["storage-1"].says(**changes)
    await world.until_condition("WALHealthy", status, reason)
    assert await world.condition("Ready") == ("False", "WALUnhealthy")
    assert world.kubectl("get", "ecoworker", "storage", "--no-headers").split()[2] == reason
    world.fleet.workers["storage-1"].report = well
    await world.until_ready()


async def test_a_silent_worker_is_unknown_and_never_green(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_ready()
    world.fleet.workers["storage-0"].is_silent = True
    await world.until_condition("WALHealthy", "Unknown", "Unknown")
    assert (await world.condition("Ready"))[0] != "True"
    found = await world.worker()
    shard = next(it for it in found["status"]["shards"] if it["name"] == "storage-0")
    assert shard["lastReportTime"]
    assert found["status"]["summary"]["pending"].startswith(">=")


async def test_when_nobody_answers_the_headline_is_unknown_and_nothing_is_touched(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=3))
    await world.until_ready()
    for worker in world.fleet.workers.values():
        worker.is_silent = True
    await world.until_condition("Ready", "Unknown", "ProbeUnavailable")
    for index in range(3):
        found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, f"storage-{index}")
        assert found["spec"]["replicas"] == 1


async def test_pending_work_is_counted_and_dated(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_ready()
    world.fleet.workers["storage-0"].says(
        counts=WalCounts(due=5, running=2, unsynced=4), ages=WalAges(oldest_due_s=42, last_progress_s=1)
    )

    async def shown() -> bool:
        summary = (await world.worker())["status"]["summary"]
        return bool(summary["pending"] == "7" and summary["unsynced"] == "4")

    # Written at once after a quiet time, else within the interval of coarse numbers.
    await until("the numbers are shown", shown, within_s=10)
    assert (await world.worker())["status"]["oldestPendingTime"]


async def test_claims_outlive_their_ecoworker_and_the_next_of_that_name_goes_on_with_them(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_ready()
    world.fleet.workers["storage-0"].says(counts=WalCounts(due=9), ages=WalAges(last_progress_s=1))
    old = (await world.cluster.get(kinds.CLAIM, world.namespace, "wal-storage-0"))["metadata"]["uid"]
    world.kubectl("delete", "ecoworker", "storage", "--timeout=10s")

    async def told() -> bool:
        claim = await world.cluster.get(kinds.CLAIM, world.namespace, "wal-storage-0")
        marked = contract.ANNOTATION_ORPHANED in claim["metadata"]["annotations"]
        return marked and {("ClaimsKept", "EcoWorker"), ("ClaimKept", "PersistentVolumeClaim")} <= set(
            await world.events()
        )

    await until("claims are marked and an event says so", told, within_s=15)
    messages = world.kubectl("get", "events", "-o", "jsonpath={.items[?(@.reason=='ClaimsKept')].message}")
    assert "9 unfinished tasks" in messages

    async def cleared() -> bool:
        return not await world.exists(kinds.DEPLOYMENT, "storage-0")

    await until("the deployments are gone", cleared, within_s=10)
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_ready()
    claim = await world.cluster.get(kinds.CLAIM, world.namespace, "wal-storage-0")
    assert claim["metadata"]["uid"] == old
    assert claim["metadata"]["labels"][contract.LABEL_WORKER_UID] == (await world.worker())["metadata"]["uid"]

    async def unmarked() -> bool:
        found = await world.cluster.get(kinds.CLAIM, world.namespace, "wal-storage-0")
        return contract.ANNOTATION_ORPHANED not in found["metadata"]["annotations"]

    await until("the mark is gone", unmarked, within_s=10)
    assert ("ClaimAdopted", "EcoWorker") in await world.events()


async def test_an_object_of_a_needed_name_that_is_not_ours_is_left_alone_and_reported(world: World) -> None:
    world.kubectl("create", "service", "clusterip", "storage", "--tcp=80")
    before = await world.cluster.get(kinds.SERVICE, world.namespace, "storage")
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    await world.until_condition("Stalled", "True", "NameConflict")
    after = await world.cluster.get(kinds.SERVICE, world.namespace, "storage")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_no_object_of_any_kind_is_taken_over(world: World) -> None:
    paused = example(replicas=1)
    paused["metadata"]["annotations"] = {contract.ANNOTATION_PAUSED: "true"}
    world.kubectl("apply", "-f", "-", given=paused)
    world.kubectl("apply", "-f", "-", given=sync())
    worker = EcoWorker.read(await world.worker())
    synced = WalSync.read(await world.cluster.get(kinds.WAL_SYNC, world.namespace, sync()["metadata"]["name"]))
    wanted = (
        service.build(worker),
        budget.build(worker),
        sync_config.build(worker, settings=synced.spec.settings()),
        controller_revision.build(worker, number=1, image=IMAGE),
        deployment.build(worker, 0, image=IMAGE),
    )
    theirs = [{**it, "metadata": {"name": it["metadata"]["name"]}} for it in wanted]
    before = {}
    for it in theirs:
        world.kubectl("create", "-f", "-", given=it)
        kind, name = kinds.BY_NAME[it["kind"]], it["metadata"]["name"]
        before[kind, name] = (await world.cluster.get(kind, world.namespace, name))["metadata"]["resourceVersion"]
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_PAUSED}-")
    await world.until_condition("Stalled", "True", "NameConflict")
    conditions = (await world.worker())["status"]["conditions"]
    message = next(it["message"] for it in conditions if it["type"] == "Stalled")
    for (kind, name), version in before.items():
        found = await world.cluster.get(kind, world.namespace, name)
        assert found["metadata"]["resourceVersion"] == version
        assert f"{kind.kind}/{name}" in message


async def test_a_claim_that_is_not_ours_keeps_the_shard_from_starting(world: World) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "wal-storage-0"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    world.kubectl("create", "-f", "-", given=theirs)
    world.kubectl("apply", "-f", "-", given=example())
    await world.until_condition("Stalled", "True", "ForeignClaim")
    assert not await world.exists(kinds.DEPLOYMENT, "storage-0")
    assert await world.exists(kinds.DEPLOYMENT, "storage-1")


async def test_a_paused_ecoworker_is_watched_and_not_touched(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    await world.until_ready()
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_PAUSED}=true")
    await world.until_condition("Paused", "True", "Annotation")
    world.kubectl("delete", "deployment", "storage-0", "--wait=false")
    await world.until_condition("Ready", "False", "ShardsNotReady")
    assert not await world.exists(kinds.DEPLOYMENT, "storage-0")
    world.kubectl("annotate", "ecoworker/storage", f"{contract.ANNOTATION_PAUSED}-")
    await world.until_ready()
    assert await world.condition("Paused") == ("", "")


async def test_fewer_replicas_remove_the_highest_shards_and_keep_their_claims(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=3))
    await world.until_ready()
    world.kubectl("scale", "ecoworker/storage", "--replicas=1")

    async def scaled() -> bool:
        found = await world.worker()
        return bool(found["status"]["replicas"] == 1) and not await world.exists(kinds.DEPLOYMENT, "storage-2")

    await until("one shard is left", scaled, within_s=15)
    assert await world.exists(kinds.CLAIM, "wal-storage-2")
    assert await world.exists(kinds.DEPLOYMENT, "storage-0")


async def test_the_token_outlives_a_change_of_its_secret(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    await world.until_ready()
    before = (await world.cluster.get(kinds.SECRET, world.namespace, "storage-admin-token"))["data"]
    world.kubectl("label", "secret/storage-admin-token", f"{contract.LABEL_PART_OF}=theirs", "--overwrite")

    async def mended() -> bool:
        found = await world.cluster.get(kinds.SECRET, world.namespace, "storage-admin-token")
        return bool(found["metadata"]["labels"][contract.LABEL_PART_OF] == contract.PART_OF)

    await until("the label is ours again", mended, within_s=10)
    assert (await world.cluster.get(kinds.SECRET, world.namespace, "storage-admin-token"))["data"] == before
    assert before["token"] not in world.operator.log.read_text()


async def test_a_walsync_reaches_the_workers_and_its_end_too(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    world.kubectl("apply", "-f", "-", given=sync())
    await world.until_ready()

    async def told() -> bool:
        return await world.exists(kinds.CONFIG_MAP, "storage-sync")

    await until("the settings are handed over", told, within_s=10)
    world.fleet.workers["storage-0"].says(sync_target="results", last_sync_s=1.0)

    async def synced() -> bool:
        return world.kubectl("get", "walsync", "storage", "--no-headers").split()[1:3] == ["True", "Synced"]

    await until("the WalSync is Synced", synced, within_s=15)
    world.kubectl("delete", "walsync", "storage")

    async def gone() -> bool:
        return not await told()

    await until("the settings are gone", gone, within_s=10)


async def test_of_two_walsyncs_on_one_ecoworker_the_younger_is_stalled(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    older = sync()
    world.kubectl("apply", "-f", "-", given=older)
    younger = {**older, "metadata": {"name": "a-younger-one"}}
    await asyncio.sleep(1.1)  # creation times have whole seconds
    world.kubectl("apply", "-f", "-", given=younger)

    async def overruled() -> bool:
        found = await world.cluster.get(kinds.WAL_SYNC, world.namespace, "a-younger-one")
        conditions = {it["type"]: it["reason"] for it in found.get("status", {}).get("conditions", ())}
        return conditions.get("Stalled") == "Overruled"

    await until("the younger is overruled", overruled, within_s=10)


async def test_the_operator_ends_well_on_sigterm_and_gives_the_lease_back(world: World) -> None:
    async def leads() -> bool:
        return bool(await asyncio.to_thread(world.is_leading))

    await until("it leads", leads, within_s=30)
    assert world.operator.stop() == 0
    lease = await world.cluster.get(kinds.LEASE, world.namespace, "eco-operator")
    assert not lease["spec"]["holderIdentity"]


async def test_a_standby_takes_over_when_the_leader_is_killed(server: ApiServer, tmp_path: Path) -> None:
    async with operator_world(server, tmp_path) as world:
        times = {
            "ECO_OPERATOR_LEASE_DURATION_S": "3",
            "ECO_OPERATOR_RENEW_DEADLINE_S": "2",
            "ECO_OPERATOR_RETRY_PERIOD_S": "0.5",
        }
        world.operator.stop()
        place = tmp_path / "second"
        first, _ = operator_program(server, world.namespace, tmp_path, ECO_OPERATOR_IDENTITY="first", **times)
        second, _ = operator_program(server, world.namespace, place, ECO_OPERATOR_IDENTITY="second", **times)

        async def holder() -> str:
            try:
                lease = await world.cluster.get(kinds.LEASE, world.namespace, "eco-operator")
            except errors.NotFoundError:  # nobody has led yet
                return ""
            return str(lease["spec"]["holderIdentity"])

        async def leads(who: str) -> bool:
            return await holder() == who

        try:
            first.start()
            await until("the first leads", lambda: leads("first"), within_s=15)
            second.start()
            first.kill()
            await until("the second leads", lambda: leads("second"), within_s=10)
            world.kubectl("apply", "-f", "-", given=example())
            await world.until_ready()
        finally:
            first.kill()
            second.stop()


async def test_an_object_written_by_a_newer_api_does_not_stop_the_others(world: World) -> None:
    """A spec that this operator refuses is told so, with the field, while others go on."""
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    await world.until_ready()
    other = example(replicas=1)
    other["metadata"]["name"] = "other"
    other["spec"].pop("databases")
    world.kubectl("apply", "-f", "-", given=other)
    await until("both are ready", lambda: _ready(world, "other"), within_s=15)


async def _ready(world: World, name: str) -> bool:
    return await world.condition("Ready", name) == ("True", "AllShardsReady")
