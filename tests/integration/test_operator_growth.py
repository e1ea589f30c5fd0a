"""Volumes that grow, and volumes that may not, by the word of a real API server.

The stand-in for the storage (`tests.support.fleet`) makes a volume as large as its claim asks. Whether a claim may ask
is the API server's own decision, by the storage class.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from eco_crds import contract
from eco_crds.quantity import parse
from eco_crds.wal import JournalMode
from eco_operator import errors, kinds
from tests.support.apiserver import ApiServer
from tests.support.operator_world import (
    World,
    example,
    kubectl,
    server_with_kinds,
    until_quiet,
    writes_during,
)
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

CLASSES: Final = {"elastic": True, "rigid": False}
RULE: Final = {"at": 80, "max": "20Gi"}
CLAIM: Final = "wal-storage-0"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with server_with_kinds() as running:
        for name, expands in CLASSES.items():
            kubectl(running, "apply", "-f", "-", given=storage_class(name, expands=expands))
        yield running


def storage_class(name: str, *, expands: bool) -> dict[str, Any]:
    return {
        "apiVersion": kinds.STORAGE_CLASS.api_version,
        "kind": kinds.STORAGE_CLASS.kind,
        "metadata": {"name": name},
        "provisioner": "stand-in.example",
        "allowVolumeExpansion": expands,
    }


def an_ecoworker(**wal: Any) -> dict[str, Any]:
    document = example(replicas=1)
    document["spec"]["wal"] = {"size": "10Gi", "storageClass": "elastic", **wal}
    return document


async def start(world: World, **wal: Any) -> None:
    world.kubectl("apply", "-f", "-", given=an_ecoworker(**wal))
    await world.until_ready()

    async def is_known() -> bool:
        return (await shard(world)).get("volumeSize") is not None

    await until("the size of the volume is known", is_known, within_s=10)


async def shard(world: World) -> dict[str, Any]:
    found = (await world.worker())["status"]["shards"]
    return dict(found[0]) if found else {}


async def requested(world: World) -> str:
    claim = await world.cluster.get(kinds.CLAIM, world.namespace, CLAIM)
    return str(claim["spec"]["resources"]["requests"]["storage"])


async def until_requested(world: World, size: str) -> None:
    async def is_asked_for() -> bool:
        return await requested(world) == size

    await until(f"the claim asks for {size}", is_asked_for, within_s=15)


async def until_grown(world: World, size: str) -> None:
    """Wait until the claim has it, and the worker sees it."""
    worker, room = world.fleet.workers["storage-0"], int(parse(size) * 9 / 10)

    async def is_there() -> bool:
        return (await shard(world)).get("volumeSize") == size and worker.report.volume.total_bytes > room

    await until(f"the volume has {size}", is_there, within_s=15)
    await until_nothing_grows(world)


async def until_nothing_grows(world: World) -> None:
    async def is_over() -> bool:
        return await world.condition("StorageGrowing") == ("", "")

    await until("nothing grows", is_over, within_s=15)


async def told(world: World, prefix: str = "Volume") -> list[str]:
    return sorted(reason for reason, _ in await world.events() if reason.startswith(prefix))


def attempts(world: World, since: int) -> list[int]:
    """What the API server has answered to the operator's changes of the claim."""
    with world.server.audit_log.open("rb") as lines:
        lines.seek(since)
        events = [json.loads(line) for line in lines]
    return [
        it["responseStatus"]["code"]
        for it in events
        if it.get("userAgent") == contract.FIELD_MANAGER
        and it["verb"] == "patch"
        and it["objectRef"].get("resource") == kinds.CLAIM.plural
        and it["objectRef"].get("namespace") == world.namespace
    ]


async def test_the_volume_of_a_full_journal_grows_without_a_hand(world: World) -> None:
    await start(world, growth=RULE)
    world.fleet.holds_volumes = True
    worker = world.fleet.workers["storage-0"]
    worker.fills(96)
    worker.says(mode=JournalMode.READ_ONLY)
    await until_requested(world, "15Gi")
    await world.until_condition("WALHealthy", "False", "Full")
    await world.until_condition("StorageGrowing", "True", "Resizing")
    await until_quiet(world, for_s=2)
    assert await requested(world) == "15Gi", "asked again before there was room"
    world.fleet.holds_volumes = False
    await until_grown(world, "15Gi")
    worker.says(mode=JournalMode.NORMAL)
    await world.until_ready()
    assert await told(world) == ["VolumeGrowing", "VolumeGrown"]
    await until_quiet(world, for_s=2)
    assert await writes_during(world, for_s=4) == []


async def test_at_its_bound_a_volume_stays_and_the_status_says_why(world: World) -> None:
    await start(world, growth=RULE)
    worker = world.fleet.workers["storage-0"]
    for size in ("15Gi", "20Gi"):
        worker.fills(90)
        await until_grown(world, size)
    worker.fills(90)
    await world.until_condition("StorageGrowing", "False", "MaxReached")
    assert (await world.worker())["status"]["summary"]["message"].startswith("storage-0: 90 % full")
    await until_quiet(world, for_s=2)
    assert await writes_during(world, for_s=4) == []
    assert await requested(world) == "20Gi"
    assert (await told(world)).count("VolumeMaxReached") == 1
    world.kubectl("patch", "ecoworker/storage", "--type=merge", "-p", '{"spec":{"wal":{"growth":{"max":"40Gi"}}}}')
    await until_requested(world, "30Gi")


async def test_the_same_filling_grows_nothing_twice_under_the_next_operator(world: World) -> None:
    await start(world, growth=RULE)
    worker = world.fleet.workers["storage-0"]
    worker.fills(90)
    old = worker.report.volume
    world.fleet.holds_volumes = True
    await until_requested(world, "15Gi")
    world.operator.stop()
    world.fleet.holds_volumes = False

    async def has_room() -> bool:
        return worker.report.volume.total_bytes > old.total_bytes

    await until("there is room", has_room, within_s=10)
    worker.says(volume=old)
    world.operator.start()
    await world.until_operator_ready()
    await world.until_condition("StorageGrowing", "True", "NotSeen", within_s=20)
    await until_quiet(world, for_s=2)
    assert await requested(world) == "15Gi"


async def test_an_edit_alone_makes_a_volume_larger_and_one_that_would_shrink_it_is_refused(world: World) -> None:
    await start(world)
    world.kubectl("patch", "ecoworker/storage", "--type=merge", "-p", '{"spec":{"wal":{"size":"12Gi"}}}')
    await until_grown(world, "12Gi")
    with pytest.raises(AssertionError, match="a volume cannot shrink"):
        world.kubectl("patch", "ecoworker/storage", "--type=merge", "-p", '{"spec":{"wal":{"size":"11Gi"}}}')


async def test_a_larger_claim_is_taken_over_as_it_is(world: World) -> None:
    """A new EcoWorker of the name asks for less than the claim of the one before has."""
    await start(world, size="30Gi")
    world.kubectl("delete", "ecoworker", "storage", "--timeout=10s")
    world.kubectl("apply", "-f", "-", given=an_ecoworker(size="10Gi"))
    await world.until_ready()
    await until_quiet(world, for_s=2)
    assert await requested(world) == "30Gi"
    assert (await shard(world))["volumeSize"] == "30Gi"
    assert await writes_during(world, for_s=4) == []


async def test_a_class_that_lets_no_volume_grow_is_asked_once_and_keeps_nothing_else_back(world: World) -> None:
    """The operator serves listed namespaces, so it may not look at the class: the answer to the attempt has to do."""
    await start(world, storageClass="rigid")
    since = world.server.audit_log.stat().st_size
    change = {"spec": {"concurrency": 9, "wal": {"size": "20Gi"}}}
    world.kubectl("patch", "ecoworker/storage", "--type=merge", "-p", json.dumps(change))
    await world.until_condition("StorageGrowing", "False", "NotExpandable")

    async def rolled() -> bool:
        found = await world.cluster.get(kinds.DEPLOYMENT, world.namespace, "storage-0")
        listed = found["spec"]["template"]["spec"]["containers"][0]["env"]
        return {"name": contract.ENV_CONCURRENCY, "value": "9"} in listed

    await until("the rest of the change is there", rolled, within_s=15)
    await world.until_ready()
    world.restart_operator()
    await world.until_operator_ready()
    await until_quiet(world, for_s=2)
    assert await writes_during(world, for_s=4) == []
    assert [code for code in attempts(world, since) if code >= 400] == [403]
    assert await world.condition("StorageGrowing") == ("False", "NotExpandable")
    assert await told(world) == ["VolumeNotExpandable"]
    assert await requested(world) == "10Gi"
    assert (await shard(world))["growthRefused"] == "20Gi"
    world.kubectl("patch", "ecoworker/storage", "--type=merge", "-p", '{"spec":{"wal":{"size":"21Gi"}}}')

    async def is_asked_again() -> bool:
        return [code for code in attempts(world, since) if code >= 400] == [403, 403]

    await until("a change of the spec has it asked once more", is_asked_again, within_s=15)


async def test_a_quota_that_keeps_a_size_back_is_no_final_word(world: World) -> None:
    """It answers 403 as well, and may be raised: so that is tried again."""
    await start(world)
    hard = {"requests.storage": "15Gi"}
    quota: dict[str, Any] = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "room"}}
    world.kubectl("apply", "-f", "-", given={**quota, "spec": {"hard": hard}})
    # No controller counts here; what it would have counted is written by hand.
    status = {"status": {"hard": hard, "used": {"requests.storage": "10Gi"}}}
    world.kubectl("patch", "resourcequota/room", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    world.kubectl("patch", "ecoworker/storage", "--type=merge", "-p", '{"spec":{"wal":{"size":"20Gi"}}}')
    await world.until_condition("StorageGrowing", "False", "Retrying")
    await world.until_condition("Reconciling", "True", "Retrying")
    world.kubectl("delete", "resourcequota", "room")
    await until_grown(world, "20Gi")


async def test_another_volume_in_the_place_of_a_lost_one_is_seen_by_its_identity(world: World) -> None:
    """The claim goes with its volume and is made again, empty; which journal has to be there is known all the same."""
    await start(world)
    before = await world.cluster.get(kinds.CLAIM, world.namespace, CLAIM)
    known = before["metadata"]["annotations"][contract.ANNOTATION_JOURNAL]
    worker = world.fleet.workers["storage-0"]
    body = {**before, "metadata": {**before["metadata"], "finalizers": []}}
    path = kinds.CLAIM.path(world.namespace, CLAIM)
    world.fleet.holds_jobs = True
    await world.cluster._request("replace", kinds.CLAIM, path, body={**body, "metadata": without_version(body)})
    await world.cluster.delete(kinds.CLAIM, world.namespace, CLAIM, uid=before["metadata"]["uid"])

    async def is_made_again() -> bool:
        try:
            found = await world.cluster.get(kinds.CLAIM, world.namespace, CLAIM)
        except errors.NotFoundError:
            return False
        return bool(found["metadata"]["uid"] != before["metadata"]["uid"])

    await until("the claim is made again", is_made_again, within_s=15)
    worker.says(journal_uuid="uuid-of-another")
    await world.until_condition("WALHealthy", "False", "Lost")
    for kind, name, where in (
        (kinds.CLAIM, CLAIM, ("metadata", "annotations", contract.ANNOTATION_JOURNAL)),
        (kinds.CONFIG_MAP, "storage-0-journal", ("data", contract.JOURNAL_UUID_KEY)),
    ):
        found: Any = await world.cluster.get(kind, world.namespace, name)
        for part in where:
            found = found[part]
        assert found == known, "the known identity was replaced by the one that was found"


def without_version(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body["metadata"].items() if name != "resourceVersion"}
