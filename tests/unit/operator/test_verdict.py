"""What an EcoWorker's status says, and when it is worth writing."""

from typing import Any

import pytest

from eco_crds.ecoworker_status import WalState
from eco_crds.wal import JournalMode, WalAges, WalCounts, WalReport, WalVolume
from eco_operator import kinds
from eco_operator.reconcile import ecoworker_status
from eco_operator.reconcile.findings import Urgency
from eco_operator.reconcile.health import Bounds, judge
from eco_operator.reconcile.plan import Outcome
from eco_operator.shards import Probe
from tests.support.cases import merge
from tests.support.observed import KEY, SILENT, InMemory

BOUNDS = Bounds(stall_after_s=300, lag_s=900, report_age_s=17)


@pytest.fixture
def world() -> InMemory:
    return InMemory()


def heard(age_s: float = 1.0, **changes: Any) -> Probe:
    report = WalReport(shard="s", journal_uuid="u", mode=JournalMode.NORMAL).model_copy(update=changes)
    return Probe(report=report, age_s=age_s, pod_uid="p", process="c", error="", failures=0, attempts=1)


def verdict(world: InMemory, type_: str, outcome: Outcome = Outcome()) -> tuple[str, str]:  # noqa: B008  # frozen
    found = world.conclude(outcome).condition(type_)
    return (found.status.value, found.reason) if found else ("", "")


@pytest.mark.parametrize(
    ("probe", "state"),
    [
        (SILENT, WalState.UNKNOWN),
        (heard(age_s=17.5), WalState.UNKNOWN),
        (heard(), WalState.HEALTHY),
        (heard(mode=JournalMode.QUARANTINED), WalState.CORRUPT),
        (heard(mode=JournalMode.LOST), WalState.LOST),
        (heard(mode=JournalMode.READ_ONLY), WalState.FULL),
        (heard(mode=JournalMode.FENCED), WalState.FENCED),
        (heard(mode=JournalMode.DRAINING), WalState.HEALTHY),
        (heard(journal_uuid="v"), WalState.LOST),
        (heard(journal_uuid=""), WalState.LOST),
        (heard(counts=WalCounts(due=1), ages=WalAges(last_progress_s=300)), WalState.STALLED),
        (heard(counts=WalCounts(running=1), ages=WalAges(last_progress_s=300)), WalState.STALLED),
        (heard(counts=WalCounts(due=1), ages=WalAges(last_progress_s=299)), WalState.HEALTHY),
        (heard(counts=WalCounts(waiting=1), ages=WalAges(last_progress_s=9999)), WalState.HEALTHY),
        (heard(ages=WalAges(last_progress_s=None, last_checkpoint_s=99_999)), WalState.HEALTHY),
        (heard(counts=WalCounts(due=1), ages=WalAges(oldest_due_s=901)), WalState.LAGGING),
        (heard(ages=WalAges(oldest_outbox_s=901)), WalState.LAGGING),
    ],
)
def test_a_journal_is_judged_by_the_work_that_waits(probe: Probe, state: WalState) -> None:
    assert judge(probe, BOUNDS, known_uuid="u").state is state


def test_of_several_troubles_the_worst_counts() -> None:
    probe = heard(
        mode=JournalMode.QUARANTINED, counts=WalCounts(due=9), ages=WalAges(oldest_due_s=5000, last_progress_s=5000)
    )
    assert judge(probe, BOUNDS, known_uuid="u").state is WalState.CORRUPT


def test_a_journal_seen_for_the_first_time_is_not_lost() -> None:
    assert judge(heard(), BOUNDS, known_uuid="").state is WalState.HEALTHY


def test_conditions_are_there_from_the_first_visit(world: InMemory) -> None:
    world.apply_worker()
    status = world.conclude()
    assert {it.type for it in status.conditions} >= {"Ready", "WALHealthy", "Reconciling"}
    assert status.observed_generation == 1
    assert status.summary is not None
    assert status.summary.wal == "Unknown"


def test_all_well_is_said_with_nothing_abnormal_beside_it(world: InMemory) -> None:
    world.ready(2)
    status = world.conclude()
    assert [(it.type, it.status.value) for it in status.conditions] == [("Ready", "True"), ("WALHealthy", "True")]
    assert status.summary is not None
    assert (status.summary.ready, status.summary.wal, status.summary.pending) == ("2/2", "Healthy", "0")


def test_an_idle_ecoworker_s_status_does_not_change_with_time(world: InMemory) -> None:
    world.ready(2)
    before = world.conclude()
    for _ in range(50):
        world.pass_time(30)
        for shard in ("storage-0", "storage-1"):
            world.report(shard, ages=WalAges(last_checkpoint_s=world.now.timestamp() % 900))
        assert world.conclude() == before


def test_a_volume_s_use_that_flickers_by_a_percent_is_no_change(world: InMemory) -> None:
    world.ready(1)
    before = world.conclude()
    world.report("storage-0", volume=WalVolume(total_bytes=100, used_bytes=11))
    assert world.conclude() == before
    world.report("storage-0", volume=WalVolume(total_bytes=100, used_bytes=12))
    assert world.conclude() != before


def test_work_that_waits_is_dated_once_and_the_date_stays(world: InMemory) -> None:
    world.ready(1)
    world.report("storage-0", counts=WalCounts(due=1), ages=WalAges(oldest_due_s=40.0, last_progress_s=1))
    first = world.conclude().oldest_pending_time
    world.pass_time(60)
    world.report("storage-0", counts=WalCounts(due=1), ages=WalAges(oldest_due_s=101.0, last_progress_s=1))
    assert world.conclude().oldest_pending_time == first
    assert first is not None


def test_health_is_news_zero_is_nearly_so_and_numbers_wait(world: InMemory) -> None:
    world.ready(1)
    before = world.conclude()
    world.report("storage-0", counts=WalCounts(due=5))
    busy = world.conclude()
    assert ecoworker_status.urgency(busy, before) is Urgency.TURN
    world.report("storage-0", counts=WalCounts(due=6))
    assert ecoworker_status.urgency(world.conclude(), busy) is Urgency.NUMBERS
    assert ecoworker_status.urgency(busy, busy) is Urgency.NONE
    world.report("storage-0", mode=JournalMode.READ_ONLY)
    assert ecoworker_status.urgency(world.conclude(), before) is Urgency.NEWS


def test_a_silent_shard_makes_sums_lower_bounds(world: InMemory) -> None:
    world.ready(2)
    world.report("storage-0", counts=WalCounts(due=5))
    world.conclude()
    world.probes["storage-1"] = SILENT
    summary = world.conclude().summary
    assert summary is not None
    assert summary.pending == ">=5"
    assert summary.wal == "Unknown"


def test_unknown_is_never_green(world: InMemory) -> None:
    world.ready(2)
    world.probes["storage-1"] = SILENT
    assert verdict(world, "WALHealthy") == ("Unknown", "Unknown")
    assert verdict(world, "Ready") == ("False", "WALUnhealthy")


def test_many_silent_shards_are_a_trouble_of_probing(world: InMemory) -> None:
    world.ready(3)
    for index in range(3):
        world.probes[f"storage-{index}"] = SILENT
    assert verdict(world, "Ready") == ("Unknown", "ProbeUnavailable")


def test_a_young_operator_repeats_what_was_known_instead_of_guessing(world: InMemory) -> None:
    """A restart must write nothing; by the end of the settling time every worker has been asked."""
    world.ready(2)
    before = world.conclude()
    world.probes.clear()
    world.is_settling = True
    assert world.conclude() == before
    world.is_settling = False
    assert world.conclude() != before


def test_a_verdict_is_about_the_generation_it_was_found_for(world: InMemory) -> None:
    world.ready(1)
    assert world.conclude().observed_generation == 1
    world.apply_worker(concurrency=6)
    status = world.conclude()
    assert status.observed_generation == 2
    assert verdict(world, "Reconciling") == ("True", "Progressing")


def test_a_template_that_the_controller_has_not_seen_is_not_ready_on_the_word_about_the_one_before(
    world: InMemory,
) -> None:
    world.ready(1)
    world.apply_worker(concurrency=9)
    world.act()
    body = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]
    world.put(kinds.DEPLOYMENT, merge(body, {"metadata": {"generation": 2}}))
    status = world.conclude()
    ready = status.condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "ShardsNotReady")
    assert status.observed_generation == 2
    assert status.summary is not None
    assert status.summary.ready == "0/1"


def test_shards_that_the_new_spec_has_not_reached_are_not_what_ready_means(world: InMemory) -> None:
    world.ready(1)
    world.apply_worker(concurrency=9)
    status = world.conclude(Outcome(failed=("storage-0: 500",)))
    assert [(it.type, it.status, it.reason) for it in status.conditions] == [
        ("Ready", "False", "ShardsNotReady"),
        ("Reconciling", "True", "Retrying"),
        ("WALHealthy", "True", "Healthy"),
    ]


def test_shards_of_an_ecoworker_of_that_name_that_is_gone_do_not_make_the_new_one_ready(world: InMemory) -> None:
    world.ready(1)
    world.remove(kinds.ECO_WORKER, KEY.name)
    world.settle()
    world.apply_worker(replicas=1)
    ready = world.conclude().condition("Ready")
    assert ready is not None
    assert ready.status == "False"


def test_the_time_of_a_condition_changes_with_its_status_only(world: InMemory) -> None:
    world.ready(1)
    before = world.conclude().condition("WALHealthy")
    world.pass_time(100)
    world.report("storage-0", mode=JournalMode.READ_ONLY)
    full = world.conclude().condition("WALHealthy")
    world.pass_time(100)
    world.report("storage-0", mode=JournalMode.QUARANTINED)
    corrupt = world.conclude().condition("WALHealthy")
    assert before is not None
    assert full is not None
    assert corrupt is not None
    assert before.last_transition_time < full.last_transition_time == corrupt.last_transition_time


def test_a_refused_spec_says_the_field_and_keeps_what_was_known(world: InMemory) -> None:
    world.ready(2)
    world.apply_worker(replicas=-1)
    status = world.conclude()
    stalled = status.condition("Stalled")
    assert stalled is not None
    assert stalled.reason == "InvalidSpec"
    assert "spec.replicas" in stalled.message
    assert len(status.shards) == 2
    assert status.summary is not None
    assert status.summary.ready == "2/2"


def test_what_runs_under_a_refused_spec_is_judged_on(world: InMemory) -> None:
    world.ready(1)
    world.apply_worker(replicas=-1)
    world.conclude()
    world.remove(kinds.POD, "storage-0-pod")
    status = world.conclude()
    health = status.condition("WALHealthy")
    assert health is not None
    assert (health.status, health.reason) == ("Unknown", "Unknown")
    assert status.summary is not None
    assert status.summary.wal == "Unknown"


@pytest.mark.parametrize(
    ("outcome", "type_", "expected"),
    [
        (Outcome(foreign=("Service/storage",)), "Stalled", ("True", "NameConflict")),
        (Outcome(foreign=("PersistentVolumeClaim/wal-storage-0",)), "Stalled", ("True", "ForeignClaim")),
        (Outcome(rejected=("storage-0: spec.x: no",)), "Stalled", ("True", "Rejected")),
        (Outcome(failed=("storage-0: quota",)), "Reconciling", ("True", "Retrying")),
        (Outcome(foreign=("Service/storage",)), "Ready", ("False", "Conflict")),
    ],
)
def test_what_stood_in_the_way_is_said(
    world: InMemory, outcome: Outcome, type_: str, expected: tuple[str, str]
) -> None:
    world.ready(1)
    assert verdict(world, type_, outcome) == expected


def test_what_the_kubelet_says_is_passed_on(world: InMemory) -> None:
    world.apply_worker(replicas=1)
    world.settle()
    world.run_shard("storage-0")
    world.probes["storage-0"] = SILENT
    pod = world.bodies[(kinds.POD.kind, "storage-0-pod")]
    waiting = {
        "name": "worker",
        "containerID": "",
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
    }
    world.put(kinds.POD, merge(pod, {"status": {"containerStatuses": [waiting]}}))
    deployment = world.bodies[(kinds.DEPLOYMENT.kind, "storage-0")]
    world.put(kinds.DEPLOYMENT, merge(deployment, {"status": {"readyReplicas": 0}}))
    shard = world.conclude().shards[0]
    assert "ImagePullBackOff: no such image" in shard.message


@pytest.mark.parametrize(
    "state",
    [
        {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "containerID": "c1"},
        {"state": {"terminated": {"reason": "Error"}}, "containerID": "c1"},
        {"state": {"running": {}}, "containerID": "c2"},
    ],
    ids=["waits", "ended", "another"],
)
def test_the_report_of_a_process_that_ended_says_nothing_of_the_next(world: InMemory, state: dict[str, Any]) -> None:
    world.ready(1)
    world.report("storage-0", counts=WalCounts(due=7))
    pod = world.bodies[(kinds.POD.kind, "storage-0-pod")]
    world.put(kinds.POD, merge(pod, {"status": {"containerStatuses": [{"name": "worker", **state}]}}))
    status = world.conclude()
    assert status.summary is not None
    assert (status.summary.wal, status.summary.pending) == ("Unknown", ">=7")


def test_without_a_pod_the_last_report_counts_for_nothing(world: InMemory) -> None:
    world.ready(2)
    world.remove(kinds.POD, "storage-1-pod")
    assert verdict(world, "WALHealthy") == ("Unknown", "Unknown")
    world.run_shard("storage-1")
    assert verdict(world, "WALHealthy") == ("True", "Healthy")


def test_a_young_operator_does_not_repeat_what_was_known_of_a_process_that_ended(world: InMemory) -> None:
    world.ready(1)
    world.probes.clear()
    world.is_settling = True
    world.remove(kinds.POD, "storage-0-pod")
    assert verdict(world, "WALHealthy") == ("Unknown", "Unknown")


def test_a_recovery_is_dated_and_told(world: InMemory) -> None:
    world.ready(1)
    world.report("storage-0", incarnation="boot:2", recovered=3, counts=WalCounts(due=3))
    assert verdict(world, "Recovered") == ("False", "Resuming")
    at = world.conclude().last_recovery_time
    world.pass_time(60)
    world.report("storage-0", incarnation="boot:2", recovered=3, resumed_after_s=0.4)
    assert verdict(world, "Recovered") == ("True", "Resumed")
    assert world.conclude().last_recovery_time == at


def test_no_shards_wanted_is_ready(world: InMemory) -> None:
    world.ready(0)
    assert verdict(world, "Ready") == ("True", "ScaledToZero")
    assert verdict(world, "WALHealthy") == ("True", "NoShards")


def test_a_status_that_somebody_else_scribbled_on_is_written_anew(world: InMemory) -> None:
    world.ready(1)
    before = world.conclude()
    body = world.bodies[(kinds.ECO_WORKER.kind, KEY.name)]
    world.put(kinds.ECO_WORKER, merge(body, {"status": {"shards": "nonsense"}}))
    assert world.observe().previous != before
    assert world.conclude().summary == before.summary
