"""Objects that Argo CD applies: through Applications, shard by shard, and from one hand into the other."""

from typing import Any

import pytest

from eco_crds import contract
from eco_crds.wal import JournalMode, WalVolume
from eco_operator import kinds
from eco_operator.errors import NOT_EXPANDABLE
from eco_operator.reconcile.plan import Outcome
from eco_operator.resources.application import FINALIZER
from tests.support.argocd import WITH_ARGOCD, DeliveredWorld
from tests.support.observed import NAMESPACE

DELIVERED = (kinds.DEPLOYMENT, kinds.CLAIM, kinds.SERVICE, kinds.BUDGET, kinds.CONFIG_MAP)
FIRST, SECOND = f"{NAMESPACE}.storage-0", f"{NAMESPACE}.storage-1"
FULL = WalVolume(total_bytes=10**10, used_bytes=9 * 10**9)
SHARED = f"{NAMESPACE}.storage.shared"


@pytest.fixture
def world() -> DeliveredWorld:
    return DeliveredWorld(policy=WITH_ARGOCD)


def settle(world: DeliveredWorld, rounds: int = 8) -> None:
    for _ in range(rounds):
        world.sync()
        if not world.act().steps:
            return
    raise AssertionError(f"not settled: {world.plan().steps[0]}")


def ready(world: DeliveredWorld, replicas: int = 2, **changes: Any) -> None:
    world.apply_worker(replicas=replicas, **{"delivery": "ArgoCD", **changes})
    settle(world)
    for index in range(replicas):
        world.run_shard(f"storage-{index}")
    settle(world)
    world.conclude()


def managers(world: DeliveredWorld) -> set[str]:
    return {
        entry["manager"]
        for (kind, _), body in world.bodies.items()
        if kind in {it.kind for it in DELIVERED}
        for entry in body["metadata"].get("managedFields") or ()
    }


def verdict(world: DeliveredWorld, type_: str = "Delivered", outcome: Outcome | None = None) -> tuple[str, str]:
    found = world.conclude(outcome or Outcome()).condition(type_)
    return (found.status, found.reason) if found is not None else ("", "")


def values(world: DeliveredWorld, name: str) -> dict[str, Any]:
    found: dict[str, Any] = world.applications()[name]["spec"]["source"]["helm"]["valuesObject"]
    return found


def pods_of(world: DeliveredWorld) -> dict[str, Any]:
    return {
        name: body["spec"]["template"] for (kind, name), body in world.bodies.items() if kind == kinds.DEPLOYMENT.kind
    }


def test_everything_comes_through_applications_but_the_token_and_the_memory(world: DeliveredWorld) -> None:
    ready(world)
    assert set(world.applications()) == {FIRST, SECOND, SHARED}
    assert managers(world) == {contract.ARGOCD_FIELD_MANAGER}
    assert any(kind == kinds.SECRET.kind for kind, _ in world.bodies)
    assert verdict(world) == ("True", "Synced")
    assert verdict(world, "Ready") == ("True", "AllShardsReady")
    assert not world.act().steps, "settled, and something is written all the same"


def test_no_application_is_made_before_a_decision_and_none_for_others(world: DeliveredWorld) -> None:
    world.ready(1)
    assert world.applications() == {}
    assert verdict(world) == ("", "")


def test_a_change_rolls_one_shard_after_the_other(world: DeliveredWorld) -> None:
    ready(world)
    world.apply_worker(concurrency=9)
    world.act()
    assert [values(world, name)["spec"].get("concurrency") for name in (FIRST, SECOND)] == [9, None]
    world.act()
    assert "concurrency" not in values(world, SECOND)["spec"], "before the first is ready again"
    assert verdict(world, "Ready")[0] == "False"
    settle(world)
    assert [values(world, name)["spec"].get("concurrency") for name in (FIRST, SECOND)] == [9, 9]


def test_a_shard_that_waits_for_its_turn_still_learns_whose_journal_it_has(world: DeliveredWorld) -> None:
    world.apply_worker(replicas=2, delivery="ArgoCD")
    settle(world)
    world.run_shard("storage-0")
    settle(world)
    world.apply_worker(concurrency=9)
    world.run_shard("storage-1", journal_uuid="known")
    world.act()
    held = values(world, SECOND) if "concurrency" not in values(world, SECOND)["spec"] else values(world, FIRST)
    assert "concurrency" not in held["spec"]
    assert values(world, SECOND)["shards"][0]["journalUuid"] == "known"


def test_hibernation_goes_by_the_values_and_no_claim_goes(world: DeliveredWorld) -> None:
    ready(world)
    world.annotate(hibernate="true")
    settle(world)
    assert [values(world, name)["shards"][0]["replicas"] for name in (FIRST, SECOND)] == [0, 0]
    world.annotate(hibernate=None)
    settle(world)
    assert [values(world, name)["shards"][0]["replicas"] for name in (FIRST, SECOND)] == [1, 1]


def test_a_shard_is_drained_before_its_application_goes(world: DeliveredWorld) -> None:
    ready(world)
    world.apply_worker(replicas=1)
    world.act()
    assert world.commands == ["drain storage-1"]
    assert SECOND in world.applications()
    world.report("storage-1", mode=JournalMode.DRAINING)
    world.act()
    assert SECOND not in world.applications()
    assert (kinds.DEPLOYMENT.kind, "storage-1") not in world.bodies
    assert (kinds.CLAIM.kind, "wal-storage-1") in world.bodies


def test_a_handover_to_argocd_changes_no_pod_and_leaves_one_owner(world: DeliveredWorld) -> None:
    world.ready(2)
    before = pods_of(world)
    world.apply_worker(delivery="ArgoCD")
    world.act()
    assert managers(world) == {contract.FIELD_MANAGER}, "given up before Argo CD had applied"
    settle(world)
    assert pods_of(world) == before
    assert managers(world) == {contract.ARGOCD_FIELD_MANAGER}


def test_a_handover_back_disarms_first_and_changes_no_pod(world: DeliveredWorld) -> None:
    ready(world)
    before = pods_of(world)
    world.apply_worker(delivery="Direct")
    world.act()
    assert all(FINALIZER not in it["metadata"].get("finalizers", ()) for it in world.applications().values())
    assert all("automated" not in it["spec"]["syncPolicy"] for it in world.applications().values())
    assert verdict(world) == ("False", "HandingOver")
    world.act()
    assert world.applications() == {}
    assert managers(world) == {contract.ARGOCD_FIELD_MANAGER}
    settle(world)
    assert pods_of(world) == before
    assert managers(world) == {contract.FIELD_MANAGER}
    assert verdict(world) == ("", "")


def test_without_an_argocd_nothing_is_taken_from_what_runs_and_it_is_said(world: DeliveredWorld) -> None:
    world.ready(1)
    world.policy = DeliveredWorld().policy
    world.apply_worker(delivery="ArgoCD", concurrency=9)
    assert not any(step for step in world.act().steps if getattr(step, "desired", {}).get("kind") == "Deployment")
    assert verdict(world, "Stalled") == ("True", "ArgoCDUnavailable")
    assert verdict(world) == ("False", "ArgoCDUnavailable")


def test_what_argocd_says_against_it_is_quoted(world: DeliveredWorld) -> None:
    ready(world, 1)
    broken = {"conditions": [{"type": "ComparisonError", "message": "no such chart"}], "sync": {"status": "Unknown"}}
    body = world.applications()[FIRST]
    world.put(kinds.APPLICATION, {**body, "status": broken})
    found = world.conclude().condition("Delivered")
    assert found is not None
    assert (found.status, found.reason) == ("False", "SyncFailed")
    assert "no such chart" in found.message


def test_a_volume_grows_by_the_values(world: DeliveredWorld) -> None:
    ready(world, 1, wal={"size": "10Gi", "growth": {"max": "40Gi"}})
    world.report("storage-0", volume=FULL)
    world.act()
    shard = values(world, FIRST)["shards"][0]
    assert (shard["size"], shard["grown"]) == ("15Gi", f"15Gi from {FULL.total_bytes}")
    assert verdict(world, "StorageGrowing") == ("True", "Resizing"), "nothing has failed yet"
    assert world.act().steps == (), "asked twice"
    settle(world)
    assert world.claim("storage-0")["spec"]["resources"]["requests"]["storage"] == "15Gi"
    assert "VolumeGrowing" in [it.reason for it in world.told]
    world.resize("storage-0")
    world.settle_events()
    assert values(world, FIRST)["shards"][0]["size"] == "15Gi", "grown again by the same report"


def test_a_size_that_the_api_server_refuses_argocd_is_taken_back_and_not_asked_again(world: DeliveredWorld) -> None:
    """Else every further sync of the shard would fail on it."""
    ready(world, 1, wal={"size": "10Gi", "storageClass": "rigid"})
    world.apply_worker(wal={"size": "20Gi"})
    world.act()
    assert values(world, FIRST)["shards"][0]["size"] == "20Gi"
    message = f"one or more objects failed to apply, reason: ... {NOT_EXPANDABLE} (retried 5 times)."
    status = {"sync": {"status": "OutOfSync"}, "operationState": {"phase": "Failed", "message": message}}
    world.put(kinds.APPLICATION, {**world.applications()[FIRST], "status": status})
    world.act()
    assert verdict(world, "StorageGrowing") == ("False", "NotExpandable")
    assert world.conclude().shards[0].growth_refused == "20Gi"
    assert values(world, FIRST)["shards"][0]["size"] == "10Gi"
    world.put(kinds.APPLICATION, {**world.applications()[FIRST], "status": {"sync": {"status": "Synced"}}})
    settle(world)
    assert values(world, FIRST)["shards"][0]["size"] == "10Gi"
    assert [it.reason for it in world.told].count("VolumeNotExpandable") == 1


def test_applications_of_a_worker_that_is_gone_go_and_its_claims_stay(world: DeliveredWorld) -> None:
    ready(world)
    world.remove(kinds.ECO_WORKER, "storage")
    world.act()
    assert world.applications() == {}
    assert (kinds.CLAIM.kind, "wal-storage-0") in world.bodies
