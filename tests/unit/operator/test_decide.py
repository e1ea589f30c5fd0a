"""What is done about an EcoWorker, decided from what is seen and nothing else."""

import itertools
from typing import Any

import pytest

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.wal import JournalMode, WalCounts
from eco_operator import kinds
from eco_operator.reconcile.plan import Announce, Apply, Delete, EventType, MarkClaim, Plan
from eco_operator.resources import controller_revision
from tests.support.cases import merge
from tests.support.observed import KEY, POLICY, InMemory


@pytest.fixture
def world() -> InMemory:
    return InMemory()


def applied(plan: Plan) -> list[str]:
    return [f"{it.desired['kind']}/{it.desired['metadata']['name']}" for it in plan.steps if isinstance(it, Apply)]


def test_a_new_ecoworker_gets_every_object_in_one_go(world: InMemory) -> None:
    world.apply_worker(replicas=2)
    revision = controller_revision.build(worker_of(world), number=1, image="registry.example/worker:1")
    assert applied(world.plan()) == [
        "Secret/storage-admin-token",
        "Service/storage",
        "PodDisruptionBudget/storage",
        f"ControllerRevision/{revision['metadata']['name']}",
        "PersistentVolumeClaim/wal-storage-0",
        "Deployment/storage-0",
        "PersistentVolumeClaim/wal-storage-1",
        "Deployment/storage-1",
    ]


def test_a_second_look_at_the_same_world_does_nothing(world: InMemory) -> None:
    world.apply_worker(replicas=3)
    assert world.settle() == 1


def test_everything_but_claims_goes_with_its_ecoworker_by_owner(world: InMemory) -> None:
    world.ready()
    uid = world.bodies[(kinds.ECO_WORKER.kind, KEY.name)]["metadata"]["uid"]
    for (kind, _), body in world.bodies.items():
        owners = [it["uid"] for it in body["metadata"].get("ownerReferences", ())]
        if kind not in {kinds.ECO_WORKER.kind, kinds.POD.kind}:
            assert owners == ([] if kind == kinds.CLAIM.kind else [uid]), kind
        assert "finalizers" not in body["metadata"]


def test_a_deployment_must_not_be_made_without_its_claim(world: InMemory) -> None:
    world.apply_worker(replicas=1)
    step = next(it for it in world.plan().steps if isinstance(it, Apply) and it.desired["kind"] == "Deployment")
    assert step.requires == "PersistentVolumeClaim/wal-storage-0"


@pytest.mark.parametrize("kind", [kinds.DEPLOYMENT, kinds.SERVICE, kinds.SECRET, kinds.CLAIM, kinds.CONFIG_MAP])
def test_whatever_is_deleted_by_hand_is_made_again(world: InMemory, kind: kinds.Kind) -> None:
    world.ready(1)
    name = next(name for found, name in world.bodies if found == kind.kind)
    world.remove(kind, name)
    assert applied(world.plan()) == [f"{kind.kind}/{name}"]


def test_a_field_taken_by_somebody_else_is_taken_back(world: InMemory) -> None:
    world.ready(1)
    body = world.bodies[(kinds.SERVICE.kind, "storage")]
    fields = body["metadata"]["managedFields"][0]["fieldsV1"]
    del fields["f:spec"]["f:clusterIP"]
    world.put(kinds.SERVICE, body)
    (step,) = world.plan().steps
    assert isinstance(step, Apply)
    assert step.why == "spec.clusterIP is not ours"


def test_what_others_add_is_none_of_our_business(world: InMemory) -> None:
    world.ready(1)
    body = merge(
        world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")], {"metadata": {"annotations": {"example.org/x": "1"}}}
    )
    world.put(kinds.DEPLOYMENT, body)
    assert world.plan().steps == ()


def test_the_time_of_our_entry_is_no_drift(world: InMemory) -> None:
    world.ready(1)
    body = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]
    body["metadata"]["managedFields"][0]["time"] = "2030-01-01T00:00:00Z"
    world.put(kinds.DEPLOYMENT, body)
    assert world.plan().steps == ()


def test_an_object_that_is_being_deleted_is_waited_for(world: InMemory) -> None:
    world.ready(1)
    body = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]
    world.put(kinds.DEPLOYMENT, merge(body, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))
    plan = world.plan()
    assert plan.steps == ()
    assert plan.look_again_s is not None


def test_an_object_of_an_earlier_ecoworker_of_that_name_is_waited_for(world: InMemory) -> None:
    world.ready(1)
    worker = world.bodies[(kinds.ECO_WORKER.kind, KEY.name)]
    world.remove(kinds.ECO_WORKER, KEY.name)
    del worker["metadata"]["uid"]
    world.put(kinds.ECO_WORKER, worker)
    plan = world.plan()
    # Claims have no owner and a revision has a name of its own; everything else waits.
    assert {name.partition("/")[0] for name in applied(plan)} == {"PersistentVolumeClaim", "ControllerRevision"}
    assert plan.look_again_s is not None


def test_a_deleted_claim_is_not_mounted_while_it_goes(world: InMemory) -> None:
    world.ready(1)
    world.remove(kinds.DEPLOYMENT, "storage-0")
    claim = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]
    world.put(kinds.CLAIM, merge(claim, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))
    assert applied(world.plan()) == []


def test_the_journal_s_identity_is_written_down_with_the_first_report(world: InMemory) -> None:
    world.apply_worker(replicas=1)
    world.settle()
    assert (kinds.CONFIG_MAP.kind, "storage-0-journal") not in world.bodies
    world.run_shard("storage-0")
    world.settle()
    told = world.bodies[(kinds.CONFIG_MAP.kind, "storage-0-journal")]
    assert told["data"][contract.JOURNAL_UUID_KEY] == "uuid-storage-0"
    claim = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]
    assert claim["metadata"]["annotations"][contract.ANNOTATION_JOURNAL] == "uuid-storage-0"


def test_a_known_identity_is_never_replaced_by_a_reported_one(world: InMemory) -> None:
    world.ready(1)
    world.report("storage-0", journal_uuid="another")
    assert world.plan().steps == ()


def test_a_lost_journal_s_identity_is_not_learned(world: InMemory) -> None:
    world.apply_worker(replicas=1)
    world.settle()
    world.run_shard("storage-0", mode=JournalMode.LOST)
    assert world.plan().steps == ()


def test_a_report_of_another_pod_is_not_learned_from(world: InMemory) -> None:
    """Addresses are given out again: the pod that answered must be the one that is there."""
    world.apply_worker(replicas=1)
    world.settle()
    world.run_shard("storage-0")
    world.remove(kinds.POD, "storage-0-pod")
    assert world.plan().steps == ()
    earlier = world.probes["storage-0"]
    world.run_shard("storage-0")
    world.probes["storage-0"] = earlier
    assert world.plan().steps == ()
    world.report("storage-0")
    assert applied(world.plan()) == ["PersistentVolumeClaim/wal-storage-0", "ConfigMap/storage-0-journal"]


def test_a_paused_ecoworker_is_left_alone(world: InMemory) -> None:
    world.ready(1)
    worker = world.bodies[(kinds.ECO_WORKER.kind, KEY.name)]
    world.put(kinds.ECO_WORKER, merge(worker, {"metadata": {"annotations": {contract.ANNOTATION_PAUSED: "true"}}}))
    world.remove(kinds.DEPLOYMENT, "storage-0")
    assert world.plan().steps == ()


def test_an_invalid_spec_touches_nothing(world: InMemory) -> None:
    world.ready(2)
    world.apply_worker(replicas=-4)
    assert world.plan().steps == ()


def test_without_any_image_nothing_is_started(world: InMemory) -> None:
    world.policy = type(POLICY)(default_image="", report_age_s=17, status_interval_s=30)
    world.apply_worker(image=None)
    assert world.plan().steps == ()


def test_a_newer_default_image_restarts_nothing_until_the_spec_changes(world: InMemory) -> None:
    world.ready(1, image=None)
    world.policy = type(POLICY)(default_image="registry.example/worker:2", report_age_s=17, status_interval_s=30)
    assert world.plan().steps == ()
    world.apply_worker(concurrency=7)
    world.settle()
    containers = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]["spec"]["template"]["spec"]["containers"]
    assert containers[0]["image"] == "registry.example/worker:2"


def test_ready_shards_roll_one_after_the_other(world: InMemory) -> None:
    world.ready(3)
    world.apply_worker(concurrency=9)
    rolled = [name for name in applied(world.plan()) if name.startswith("Deployment/")]
    assert rolled == ["Deployment/storage-0"]


def test_a_shard_whose_old_pod_is_still_counted_as_ready_holds_the_others(world: InMemory) -> None:
    world.ready(2)
    world.apply_worker(concurrency=9)
    world.act()
    # What the deployment controller writes between seeing the new template and the end of the old pod.
    status = {"observedGeneration": 2, "readyReplicas": 1, "updatedReplicas": 0}
    body = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]
    world.put(kinds.DEPLOYMENT, merge(body, {"metadata": {"generation": 2}, "status": status}))
    assert "Deployment/storage-1" not in applied(world.plan())


def test_a_shard_that_is_down_rolls_at_once_and_holds_the_others(world: InMemory) -> None:
    world.ready(3)
    body = world.bodies[(kinds.DEPLOYMENT.kind, "storage-1")]
    world.put(kinds.DEPLOYMENT, merge(body, {"status": {"readyReplicas": 0}}))
    world.apply_worker(concurrency=9)
    rolled = [name for name in applied(world.plan()) if name.startswith("Deployment/")]
    assert rolled == ["Deployment/storage-1"]


def test_a_change_that_breaks_the_first_shard_stops_there_and_the_fix_gets_in(world: InMemory) -> None:
    world.ready(3)
    world.apply_worker(image="registry.example/broken:1")
    world.act()
    body = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]
    world.put(kinds.DEPLOYMENT, merge(body, {"status": {"readyReplicas": 0}}))
    assert [name for name in applied(world.plan()) if name.startswith("Deployment/")] == []
    world.apply_worker(image="registry.example/fixed:1")
    assert "Deployment/storage-0" in applied(world.plan())


def test_fewer_replicas_remove_the_highest_deployments_and_keep_every_claim(world: InMemory) -> None:
    world.ready(3)
    world.apply_worker(replicas=1)
    for name in ("storage-1", "storage-2"):
        world.report(name, mode=JournalMode.DRAINING, counts=WalCounts(unsynced=4))
    deleted = [it for it in world.plan().steps if isinstance(it, Delete)]
    assert [it.child.name for it in deleted] == ["storage-1", "storage-2"]
    assert deleted[1].announce is not None
    assert deleted[1].announce.type is EventType.WARNING
    assert "4 unsynced" in deleted[1].announce.message
    world.settle()
    assert (kinds.CLAIM.kind, "wal-storage-2") in world.bodies
    assert (kinds.CONFIG_MAP.kind, "storage-2-journal") in world.bodies


def test_claims_of_an_ecoworker_that_is_gone_are_marked_and_told_of_once(world: InMemory) -> None:
    world.ready(2)
    world.report("storage-0", counts=WalCounts(due=3, running=1, unsynced=2))
    world.remove(kinds.ECO_WORKER, KEY.name)
    plan = world.act()
    told = [it for it in plan.steps if isinstance(it, Announce)]
    assert [it.reason for it in told] == ["ClaimsKept", "ClaimKept", "ClaimKept"]
    assert told[0].type is EventType.WARNING
    assert "4 unfinished tasks, 2 unsynced results" in told[0].message
    assert [it.claim.name for it in plan.steps if isinstance(it, MarkClaim)] == ["wal-storage-0", "wal-storage-1"]
    assert all(it.once for it in told), "a repetition after a crash must be the same event"
    assert world.plan().steps == ()


def test_nothing_of_an_ecoworker_that_is_gone_is_ever_deleted(world: InMemory) -> None:
    world.ready(2)
    world.remove(kinds.ECO_WORKER, KEY.name)
    assert not [it for it in world.plan().steps if isinstance(it, Delete | Apply)]


def test_a_new_ecoworker_of_that_name_adopts_the_claims(world: InMemory) -> None:
    world.ready(1)
    world.remove(kinds.ECO_WORKER, KEY.name)
    world.settle()
    for kind, name in list(world.bodies):
        if kind != kinds.CLAIM.kind:
            world.remove(kinds.BY_NAME[kind], name)
    claim = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]["metadata"]["uid"]
    world.apply_worker(replicas=1)
    world.settle()
    adopted = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]["metadata"]
    worker = world.bodies[(kinds.ECO_WORKER.kind, KEY.name)]["metadata"]
    assert adopted["uid"] == claim
    assert adopted["labels"][contract.LABEL_WORKER_UID] == worker["uid"]
    assert contract.ANNOTATION_ORPHANED not in adopted["annotations"]
    assert "ClaimAdopted" in [it.reason for it in world.told]
    told = world.bodies[(kinds.CONFIG_MAP.kind, "storage-0-journal")]
    assert told["data"][contract.JOURNAL_UUID_KEY] == "uuid-storage-0", "an adopted journal must be the known one"


def test_a_claim_on_its_way_out_is_waited_for_and_not_adopted(world: InMemory) -> None:
    world.ready(1)
    world.remove(kinds.ECO_WORKER, KEY.name)
    world.settle()
    for kind, name in list(world.bodies):
        if kind != kinds.CLAIM.kind:
            world.remove(kinds.BY_NAME[kind], name)
    claim = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]
    world.put(kinds.CLAIM, merge(claim, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))
    world.told.clear()
    world.apply_worker(replicas=1)
    world.settle()
    assert "ClaimAdopted" not in [it.reason for it in world.told]
    assert (kinds.DEPLOYMENT.kind, "storage-0") not in world.bodies
    assert world.plan().look_again_s is not None


def test_an_adopted_claim_that_is_larger_is_kept_so(world: InMemory) -> None:
    world.ready(1)
    claim = world.bodies[(kinds.CLAIM.kind, "wal-storage-0")]
    world.put(kinds.CLAIM, merge(claim, {"spec": {"resources": {"requests": {"storage": "20Ti"}}}}))
    world.apply_worker(image="registry.example/worker:7")  # noted on the claim for a later drain
    steps = [it for it in world.plan().steps if isinstance(it, Apply) and it.desired["kind"] == kinds.CLAIM.kind]
    assert [it.desired["spec"]["resources"]["requests"]["storage"] for it in steps] == ["20Ti"]


def test_the_sync_settings_come_and_go_with_the_walsync(world: InMemory) -> None:
    world.ready(1)
    world.put(kinds.WAL_SYNC, walsync("results"))
    assert applied(world.plan()) == ["ConfigMap/storage-sync"]
    world.settle()
    world.remove(kinds.WAL_SYNC, "results")
    (step,) = world.plan().steps
    assert isinstance(step, Delete)
    assert step.child.name == "storage-sync"


def test_the_older_of_two_walsyncs_governs(world: InMemory) -> None:
    world.ready(1)
    world.put(kinds.WAL_SYNC, walsync("b-older", created="2026-01-01T00:00:00Z", intervalSeconds=11))
    world.put(kinds.WAL_SYNC, walsync("a-younger", created="2026-01-02T00:00:00Z", intervalSeconds=22))
    world.settle()
    told = world.bodies[(kinds.CONFIG_MAP.kind, "storage-sync")]["data"][contract.SYNC_SETTINGS_KEY]
    assert '"interval_s":11' in told


@pytest.mark.parametrize("order", list(itertools.permutations(["deployment", "claim", "spec"])))
def test_whatever_order_things_happen_in_the_end_is_the_same(order: tuple[str, ...]) -> None:
    world = InMemory()
    world.ready(2)
    for what in order:
        if what == "deployment":
            world.remove(kinds.DEPLOYMENT, "storage-0")
        elif what == "claim":
            world.remove(kinds.CLAIM, "wal-storage-1")
        else:
            world.apply_worker(maxUnfinished=99)
        world.act()
    for _ in range(3):
        world.settle()
        for index in range(2):
            world.run_shard(contract.shard_name(KEY.name, index))
    world.settle()
    variables = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": contract.ENV_MAX_UNFINISHED, "value": "99"} in variables
    assert {name for kind, name in world.bodies if kind == kinds.CLAIM.kind} == {"wal-storage-0", "wal-storage-1"}


def worker_of(world: InMemory) -> EcoWorker:
    return EcoWorker.read({**world.bodies[(kinds.ECO_WORKER.kind, KEY.name)], "status": {}})


def walsync(name: str, *, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": contract.API_VERSION,
        "kind": "WalSync",
        "metadata": {"name": name, "creationTimestamp": created, "generation": 1},
        "spec": {"ecoWorkers": {"names": [KEY.name]}, "database": "results", **spec},
    }
