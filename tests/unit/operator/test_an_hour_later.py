"""What kept a worker from starting is set right an hour later: the verdict follows, and nothing stays of the trouble.

The clock is the in-memory world's. During that hour the operator looks as often as its resync has it do.
"""

from collections.abc import Callable
from typing import Final

import pytest

from eco_crds import contract
from eco_crds.ecoworker_status import EcoWorkerStatus
from eco_operator import kinds
from eco_operator.reconcile import ecoworker_status
from eco_operator.reconcile.findings import Urgency
from tests.support.cases import merge
from tests.support.observed import KEY, SILENT, InMemory

HOUR_S: Final = 3600
RESYNC_S: Final = 300
SHARDS: Final = ("storage-0", "storage-1")
BAD_IMAGE: Final = "registry.example/worker:no-such-tag"
GOOD_IMAGE: Final = "registry.example/worker:2"
PULL: Final = ("ImagePullBackOff", f'Back-off pulling image "{BAD_IMAGE}"')
SECRET: Final = ("CreateContainerConfigError", 'secret "broker" not found')


def waits(world: InMemory, shard: str, reason: str, message: str) -> None:
    """The shard's pod has a node, and its container cannot be started."""
    waiting = {"name": contract.CONTAINER_NAME, "state": {"waiting": {"reason": reason, "message": message}}}
    pod = {
        "metadata": {
            "name": f"{shard}-pod",
            "labels": {contract.LABEL_WORKER: KEY.name, contract.LABEL_SHARD: shard},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Pending", "podIP": "10.0.0.1", "containerStatuses": [waiting]},
    }
    world.put(kinds.POD, pod)
    deployment = world.bodies[(kinds.DEPLOYMENT.kind, shard)]
    status = {"readyReplicas": 0, "updatedReplicas": 1, "observedGeneration": 1}
    world.put(kinds.DEPLOYMENT, merge(deployment, {"status": status}))
    world.probes[shard] = SILENT


def pass_an_hour(world: InMemory) -> EcoWorkerStatus:
    """Nothing changes, so nothing is done and nothing is written; returns what is said all that time."""
    world.settle()
    said = world.conclude()
    for _ in range(HOUR_S // RESYNC_S):
        world.pass_time(RESYNC_S)
        assert world.plan().steps == ()
        assert world.conclude() == said
    return said


def assert_in_trouble(status: EcoWorkerStatus, reason: str, *shards: str) -> None:
    """The headline names the reason the kubelet gives, and those shards alone."""
    ready = status.condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "ShardsNotReady")
    assert reason in ready.message
    assert [it.name for it in status.shards if reason in (it.message or "")] == list(shards)


def assert_nothing_stays(world: InMemory, before: EcoWorkerStatus, reason: str) -> None:
    """All is well from this second on, for the present generation, and it is worth writing at once."""
    status = world.conclude()
    assert ecoworker_status.urgency(status, before) is Urgency.NEWS
    found = [(it.type, it.status, it.reason, it.observed_generation) for it in status.conditions]
    generation = status.observed_generation
    assert found == [
        ("Ready", "True", "AllShardsReady", generation),
        ("WALHealthy", "True", "Healthy", generation),
    ]
    assert generation == world.bodies[(kinds.ECO_WORKER.kind, KEY.name)]["metadata"]["generation"]
    changed = [it for it in before.conditions if it.status != "True" and it.type in {"Ready", "WALHealthy"}]
    assert {it.type for it in changed} == {"Ready", "WALHealthy"}
    assert {it.last_transition_time for it in status.conditions} == {world.now}
    assert reason not in status.model_dump_json()
    assert status.summary is not None
    assert (status.summary.ready, status.summary.wal, status.summary.message) == ("2/2", "Healthy", "")
    assert [it.last_report_time for it in status.shards] == [None, None]


def pushed(world: InMemory) -> None:
    """Somebody pushes the image; the kubelet tries again by itself."""


def edited(world: InMemory) -> None:
    """Somebody names an image that there is; the Deployments take it up although no shard is ready."""
    world.apply_worker(image=GOOD_IMAGE)
    world.settle()
    images = [
        world.bodies[(kinds.DEPLOYMENT.kind, shard)]["spec"]["template"]["spec"]["containers"][0]["image"]
        for shard in SHARDS
    ]
    assert images == [GOOD_IMAGE, GOOD_IMAGE]


@pytest.mark.parametrize("mend", [pushed, edited])
def test_an_image_that_can_be_pulled_an_hour_later_leaves_no_word_of_it(mend: Callable[[InMemory], None]) -> None:
    world = InMemory()
    world.apply_worker(replicas=2, image=BAD_IMAGE)
    world.settle()
    for shard in SHARDS:
        waits(world, shard, *PULL)
    said = pass_an_hour(world)
    assert_in_trouble(said, PULL[0], *SHARDS)
    mend(world)
    for shard in SHARDS:
        world.run_shard(shard)
    world.settle()
    assert_nothing_stays(world, said, PULL[0])


def test_an_image_that_stops_a_roll_harms_one_shard_and_the_next_edit_mends_it() -> None:
    """The shard that still runs is left as it is all that hour, and rolls once the other is ready again."""
    world = InMemory()
    world.ready(2, image="registry.example/worker:1")
    world.apply_worker(image=BAD_IMAGE)
    world.act()
    waits(world, "storage-0", *PULL)
    said = pass_an_hour(world)
    assert_in_trouble(said, PULL[0], "storage-0")
    assert said.summary is not None
    assert said.summary.ready == "1/2"
    world.apply_worker(image=GOOD_IMAGE)
    world.settle()
    assert [it.image for it in world.conclude().shards] == [GOOD_IMAGE, "registry.example/worker:1"]
    world.run_shard("storage-0")
    world.settle()
    world.run_shard("storage-1")
    world.settle()
    assert [it.image for it in world.conclude().shards] == [GOOD_IMAGE, GOOD_IMAGE]
    assert_nothing_stays(world, said, PULL[0])


def test_a_secret_that_appears_an_hour_later_leaves_no_word_of_its_absence() -> None:
    """It is the user's, so no event of it reaches the operator: the kubelet starts the worker, and that is seen."""
    world = InMemory()
    world.apply_worker(replicas=2)
    world.settle()
    for shard in SHARDS:
        waits(world, shard, *SECRET)
    said = pass_an_hour(world)
    assert_in_trouble(said, SECRET[0], *SHARDS)
    assert SECRET[1] in said.model_dump_json(by_alias=True).replace('\\"', '"')
    for shard in SHARDS:
        world.run_shard(shard)
    world.settle()
    assert_nothing_stays(world, said, SECRET[0])
