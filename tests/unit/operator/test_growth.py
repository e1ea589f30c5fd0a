"""Volumes grow as they fill and as the spec asks, once for each filling, never beyond their bound and never back."""

from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_crds import contract
from eco_crds.conditions import ConditionType
from eco_crds.quantity import parse
from eco_crds.wal import JournalMode, WalVolume
from eco_operator import kinds
from eco_operator.reconcile import ecoworker_status, growth
from eco_operator.reconcile.findings import Urgency
from eco_operator.reconcile.plan import Announce, Apply, EventType, Outcome
from tests.support.observed import InMemory

GI: Final = 2**30
SHARD: Final = "storage-0"
CLAIM: Final = "PersistentVolumeClaim/wal-storage-0"
RULE: Final = {"size": "10Gi", "storageClass": "fast", "growth": {"at": 80, "max": "40Gi"}}


def volume(gi: float, percent: int, *, short: float = 0.95) -> WalVolume:
    """A volume as its worker sees it: the file system takes a part of what the claim has."""
    total = int(gi * short * GI)
    return WalVolume(total_bytes=total, used_bytes=-(-total * percent // 100))


def a_world(**wal: Any) -> InMemory:
    world = InMemory()
    world.ready(1, wal={**RULE, **wal})
    world.report(SHARD, volume=volume(10, 10))
    world.settle()
    world.conclude()
    world.told.clear()
    return world


@pytest.fixture
def world() -> InMemory:
    return a_world()


def requested(world: InMemory) -> str:
    return str(world.claim(SHARD)["spec"]["resources"]["requests"]["storage"])


def verdict(world: InMemory, outcome: Outcome = Outcome()) -> tuple[str, str]:  # noqa: B008  # frozen
    found = world.conclude(outcome).condition(ConditionType.STORAGE_GROWING)
    return (found.status.value, found.reason) if found else ("", "")


def told(world: InMemory) -> list[str]:
    return [it.reason for it in world.told]


def grow(world: InMemory, gi: float, percent: int) -> None:
    """The storage has done what was asked, and the worker sees it."""
    world.resize(SHARD)
    world.report(SHARD, volume=volume(gi, percent))


def under_a_new_operator(world: InMemory) -> InMemory:
    """The same cluster, with nothing remembered but what stands in it."""
    return InMemory(cache=world.cache, bodies=world.bodies, probes=world.probes, _version=world._version)


def test_a_volume_below_the_bound_is_left_alone(world: InMemory) -> None:
    world.report(SHARD, volume=volume(10, 79))
    assert world.settle() == 0
    assert verdict(world) == ("", "")


def test_a_volume_that_fills_grows_by_half_and_says_so_until_it_has(world: InMemory) -> None:
    world.report(SHARD, volume=volume(10, 80))
    world.settle()
    assert requested(world) == "15Gi"
    assert verdict(world) == ("True", "Resizing")
    world.resize(
        SHARD, capacity={"storage": "10Gi"}, conditions=[{"type": "FileSystemResizePending", "status": "True"}]
    )
    assert verdict(world) == ("True", "FileSystemResizePending")
    grow(world, 15, 53)
    world.settle_events()
    assert verdict(world) == ("", "")
    assert told(world) == ["VolumeGrowing", "VolumeGrown"]
    assert world.conclude().shards[0].volume_size == "15Gi"
    assert world.settle() == 0


def test_a_full_journal_is_helped_where_it_cannot_take_up_work_again_by_itself() -> None:
    world = a_world(growth={"at": 95, "max": "40Gi"})
    world.report(SHARD, volume=volume(10, 85))
    assert world.settle() == 0
    world.report(SHARD, mode=JournalMode.READ_ONLY, volume=volume(10, 85))
    world.settle()
    assert requested(world) == "15Gi"


def test_a_journal_that_is_read_only_with_room_on_its_volume_is_not_helped_by_more(world: InMemory) -> None:
    """A log that a long reader keeps makes a journal read-only as well."""
    world.report(SHARD, mode=JournalMode.READ_ONLY, volume=volume(10, 40))
    assert world.settle() == 0


def test_one_filling_is_one_growth_however_old_the_report(world: InMemory) -> None:
    world.report(SHARD, volume=volume(10, 99))
    world.settle()
    world.resize(SHARD)
    world.settle_events()
    assert requested(world) == "15Gi", "grown again by the report that it grew for"
    assert verdict(world) == ("True", "NotSeen")
    world.report(SHARD, volume=volume(15, 90))
    world.settle()
    assert requested(world) == "23Gi"


def test_a_new_operator_does_not_grow_it_again(world: InMemory) -> None:
    world.report(SHARD, volume=volume(10, 99))
    world.settle()
    world.resize(SHARD)
    world.settle_events()
    assert under_a_new_operator(world).plan().steps == ()


def test_a_volume_without_a_size_of_its_own_grows_once_and_then_waits() -> None:
    """A directory shows the node's disk: a claim that grows changes nothing about it."""
    world = a_world()
    for _ in range(5):
        world.report(SHARD, volume=volume(500, 90))
        world.settle_events()
        world.resize(SHARD)
    assert requested(world) == "15Gi"
    assert verdict(world) == ("True", "NotSeen")


def test_a_claim_that_people_made_larger_is_not_grown_by_an_old_report(world: InMemory) -> None:
    world.report(SHARD, volume=volume(10, 90))
    body = world.claim(SHARD)
    body["spec"]["resources"]["requests"]["storage"] = "12Gi"
    world.put(kinds.CLAIM, body)
    world.settle()
    assert requested(world) == "12Gi"
    world.resize(SHARD)
    world.settle_events()
    assert requested(world) == "12Gi"
    world.report(SHARD, volume=volume(12, 90))
    world.settle()
    assert requested(world) == "18Gi"


def test_at_its_bound_it_stays_and_says_so_once(world: InMemory) -> None:
    for _ in range(6):
        grow(world, parse_gi(requested(world)), 90)
        world.settle_events()
    assert requested(world) == "40Gi"
    assert verdict(world) == ("False", "MaxReached")
    assert world.settle() == 0
    assert told(world).count("VolumeMaxReached") == 1
    assert next(it for it in world.told if it.reason == "VolumeMaxReached").type is EventType.WARNING
    assert "wal.growth.max" in (world.conclude().summary or pytest.fail("no summary")).message


def test_at_the_bound_a_use_that_wavers_writes_nothing() -> None:
    world = a_world(growth={"at": 80, "max": "10Gi"})
    world.report(SHARD, volume=volume(10, 80))
    assert verdict(world) == ("False", "MaxReached")
    for percent in (79, 80, 78, 80):
        world.report(SHARD, volume=volume(10, percent))
        assert verdict(world) == ("False", "MaxReached")
    world.report(SHARD, volume=volume(10, 76))
    assert verdict(world) == ("", "")


def parse_gi(size: str) -> float:
    return float(parse(size) / GI)


def test_a_volume_that_came_larger_than_asked_grows_from_what_there_is(world: InMemory) -> None:
    world.resize(SHARD, capacity={"storage": "16Gi"})
    world.report(SHARD, volume=volume(16, 90))
    world.settle()
    assert requested(world) == "24Gi"


def test_a_larger_size_in_the_spec_is_asked_for_with_or_without_a_rule() -> None:
    for wal in ({}, {"growth": None}):
        world = a_world(**wal)
        world.apply_worker(wal={"size": "12Gi"})
        world.settle()
        assert requested(world) == "12Gi"
        assert told(world) == ["VolumeGrowing"]


def test_a_size_that_was_asked_for_unheard_is_told_from_an_old_report_all_the_same(world: InMemory) -> None:
    """As after a restart of the operator: the first report may be from before there was more room."""
    old = world.probes.pop(SHARD)
    world.apply_worker(wal={"size": "12Gi"})
    world.settle()
    world.resize(SHARD, capacity={"storage": "10Gi"})
    world.probes[SHARD] = old
    world.report(SHARD, volume=volume(10, 90))
    world.settle()
    world.resize(SHARD)
    world.settle_events()
    assert requested(world) == "12Gi"
    assert verdict(world) == ("True", "NotSeen")


def test_a_larger_size_while_it_grows_is_asked_for_at_once(world: InMemory) -> None:
    world.report(SHARD, volume=volume(10, 90))
    world.settle()
    world.apply_worker(wal={"size": "30Gi"})
    world.settle()
    assert requested(world) == "30Gi"


def test_a_claim_that_is_larger_than_asked_is_never_shrunk() -> None:
    world = a_world()
    world.apply_worker(wal={"size": "12Gi"})
    world.settle()
    world.resize(SHARD)
    world.settle_events()
    # As after a deletion: a new EcoWorker of the name asks for less and takes the claim over.
    world.apply_worker(wal={"size": "1Gi"})
    world.settle()
    assert requested(world) == "12Gi"


def test_a_claim_without_a_volume_grows_when_it_has_one() -> None:
    world = InMemory()
    world.apply_worker(replicas=1, wal=RULE)
    world.settle()
    world.apply_worker(wal={"size": "20Gi"})
    assert world.settle() == 0
    assert requested(world) == "10Gi", "the API server would refuse it"
    assert verdict(world) == ("True", "NotBound")
    world.resize(SHARD)
    world.settle()
    assert requested(world) == "20Gi"


def test_a_paused_ecoworker_s_volumes_are_left_alone(world: InMemory) -> None:
    world.annotate(paused="true")
    world.report(SHARD, volume=volume(10, 99))
    assert world.plan().steps == ()
    assert verdict(world) == ("", "")


def test_a_silent_worker_s_volume_is_left_alone(world: InMemory) -> None:
    world.report(SHARD, volume=volume(10, 99))
    probe = world.probes[SHARD]
    world.probes[SHARD] = type(probe)(**{name: getattr(probe, name) for name in probe.__slots__} | {"age_s": 60.0})
    assert world.settle() == 0


def test_of_a_class_that_is_known_to_let_none_grow_nothing_is_asked(world: InMemory) -> None:
    world.classes["fast"] = False
    world.apply_worker(wal={"size": "20Gi"})
    world.settle_events()
    assert requested(world) == "10Gi"
    assert verdict(world) == ("False", "NotExpandable")
    assert told(world) == ["VolumeNotExpandable"]
    world.classes["fast"] = True
    world.settle()
    assert requested(world) == "20Gi"


def test_that_a_rule_is_of_no_use_is_said_before_the_volume_is_full(world: InMemory) -> None:
    world.classes["fast"] = False
    assert verdict(world) == ("False", "NotExpandable")
    world.classes["fast"] = True
    assert verdict(world) == ("", "")


def test_what_the_server_refuses_is_not_asked_again_before_the_spec_changes(world: InMemory) -> None:
    world.apply_worker(wal={"size": "20Gi"})
    assert asked(world) == ["20Gi"]
    assert verdict(world, Outcome(unexpandable=(CLAIM,))) == ("False", "NotExpandable")
    assert world.conclude().shards[0].growth_refused == "20Gi"
    assert asked(world) == []
    world.is_settling = True
    world.probes.clear()
    assert verdict(world) == ("False", "NotExpandable"), "a new operator has to find it in the status"
    assert asked(world) == []
    world.apply_worker(concurrency=7)
    assert asked(world) == ["20Gi"]


def test_a_refusal_keeps_back_no_other_change_of_the_shard(world: InMemory) -> None:
    world.apply_worker(wal={"size": "20Gi"}, concurrency=9)
    steps = [it for it in world.plan().steps if isinstance(it, Apply)]
    kinds_in_order = [it.desired["kind"] for it in steps]
    assert kinds_in_order == ["ControllerRevision", "Deployment", "PersistentVolumeClaim"]
    assert steps[-1].refused is not None


def test_what_else_changes_of_a_claim_is_there_before_its_size(world: InMemory) -> None:
    """In one piece with a size that is refused it would never come."""
    world.apply_worker(wal={"size": "20Gi", "reclaimPolicy": "Delete"})
    claims = [it for it in world.plan().steps if isinstance(it, Apply) and it.desired["kind"] == kinds.CLAIM.kind]
    assert [it.desired["spec"]["resources"]["requests"]["storage"] for it in claims] == ["10Gi"]
    world.settle()
    assert requested(world) == "20Gi"


def test_a_server_that_is_late_to_know_its_class_is_asked_again(world: InMemory) -> None:
    world.classes["fast"] = True
    world.apply_worker(wal={"size": "20Gi"})
    assert verdict(world, Outcome(unexpandable=(CLAIM,))) == ("False", "Retrying")
    assert asked(world) == ["20Gi"]


def test_a_size_that_a_quota_keeps_back_is_tried_again(world: InMemory) -> None:
    world.apply_worker(wal={"size": "20Gi"})
    assert verdict(world, Outcome(failed=("wal-storage-0: exceeded quota",))) == ("False", "Retrying")
    assert asked(world) == ["20Gi"]


def test_a_size_that_the_storage_cannot_make_is_said(world: InMemory) -> None:
    world.report(SHARD, volume=volume(10, 90))
    world.settle()
    no = {"type": "ControllerResizeError", "status": "True", "message": "no space in the pool"}
    states = {"storage": "ControllerResizeInfeasible"}
    world.resize(SHARD, capacity={"storage": "10Gi"}, conditions=[no], allocatedResourceStatuses=states)
    world.settle_events()
    status = world.conclude()
    found = status.condition(ConditionType.STORAGE_GROWING)
    assert found is not None
    assert (found.reason, found.message) == ("Infeasible", "storage-0: from 10Gi to 15Gi: no space in the pool")
    assert told(world) == ["VolumeGrowing", "VolumeInfeasible"]


def test_a_new_size_of_a_volume_is_news(world: InMemory) -> None:
    before = world.conclude()
    after = before.model_copy(update={"shards": [before.shards[0].model_copy(update={"volume_size": "15Gi"})]})
    assert ecoworker_status.urgency(after, before) is Urgency.NEWS


def test_only_classes_that_matter_are_looked_up() -> None:
    assert growth.classes_in_question(a_world().observe()) == {"fast"}
    world = a_world(growth=None)
    assert growth.classes_in_question(world.observe()) == set()
    world.apply_worker(wal={"size": "20Gi"})
    assert growth.classes_in_question(world.observe()) == {"fast"}
    world.annotate(paused="true")
    assert growth.classes_in_question(world.observe()) == set()
    assert growth.classes_in_question(InMemory().observe()) == set()


def asked(world: InMemory) -> list[str]:
    """Sizes that the claim would be asked for now, other than the one it has."""
    claims = [it for it in world.plan().steps if isinstance(it, Apply) and it.desired["kind"] == kinds.CLAIM.kind]
    sizes = [str(it.desired["spec"]["resources"]["requests"]["storage"]) for it in claims]
    return [size for size in sizes if size != requested(world)]


SIZES: Final = st.builds(lambda number, unit: f"{number}{unit}", st.integers(64, 9000), st.sampled_from(["Mi", "Gi"]))


@given(SIZES, SIZES)
def test_a_step_is_larger_by_half_within_the_bound_and_in_the_server_s_own_words(present: str, most: str) -> None:
    before, bound = parse(present), parse(most)
    if bound <= before:
        return
    written = growth.next_size(before, most)
    size = parse(written)
    assert before < size <= bound
    assert size == bound or before * Decimal("1.5") <= size <= before * 2 + 2**20
    assert written == most or not (written.endswith("Mi") and int(written[:-2]) % 1024 == 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["fill", "full", "stale", "resize", "edit", "empty", "silent", "restart", "refuse"]),
        max_size=25,
    )
)
def test_whatever_happens_a_claim_grows_in_few_steps_up_to_its_bound_and_never_back(events: list[str]) -> None:
    world = a_world()
    sizes, seen_gi, edits = [requested(world)], 10.0, 0
    for event in events:
        match event:
            case "fill" | "full" | "empty":
                mode = JournalMode.READ_ONLY if event == "full" else JournalMode.NORMAL
                seen_gi = parse_gi(world.claim(SHARD)["status"]["capacity"]["storage"])
                world.report(SHARD, mode=mode, volume=volume(seen_gi, 20 if event == "empty" else 93))
            case "stale":
                world.report(SHARD, volume=volume(seen_gi, 93))
            case "resize":
                world.resize(SHARD)
            case "edit" if edits < 2:
                edits += 1
                world.apply_worker(wal={"size": f"{10 + 7 * edits}Gi"})
            case "silent":
                world.probes.pop(SHARD, None)
            case "restart":
                world = under_a_new_operator(world)
            case "refuse":
                world.conclude(Outcome(unexpandable=(CLAIM,)))
        world.settle_events()
        world.conclude()
        if requested(world) != sizes[-1]:
            sizes.append(requested(world))
    amounts = [parse(size) for size in sizes]
    assert amounts == sorted(amounts)
    assert amounts[-1] <= parse("40Gi")
    # 10, 15, 23, 35, 40, and two sizes of people in between.
    assert len(sizes) <= 7
    notes = world.claim(SHARD)["metadata"]["annotations"]
    assert contract.ANNOTATION_GROWN in notes or not any(Decimal(it) > parse("10Gi") for it in amounts[1:2])
    assert not [it for it in world.plan().steps if not isinstance(it, Announce)]


def test_a_look_before_the_status_of_the_last_one_is_there_tells_nothing_anew(world: InMemory) -> None:
    """The API server has one event of a name, and the name is made of what is to be told once."""
    world.classes["fast"] = False
    world.apply_worker(wal={"size": "20Gi"})
    first, again = ([it for it in world.plan().steps if isinstance(it, Announce)] for _ in range(2))
    assert [it.reason for it in first] == ["VolumeNotExpandable"]
    assert first[0].once
    assert again == first
