"""Argo CD's view of the two kinds: the cases in its own format, and statuses as the operator really writes them."""

import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from eco_crds import argocd, contract
from eco_crds.conditions import TABLE, ConditionType
from eco_crds.ecoworker import EcoWorker
from eco_crds.ecoworker_status import WalState
from eco_crds.fields import ConditionStatus
from eco_crds.schema import KINDS
from eco_crds.validation import validate
from eco_crds.wal import JournalMode, WalAges, WalCounts
from eco_crds.walsync import WalSync
from eco_operator import kinds
from tests.support import lua
from tests.support.observed import KEY, InMemory

SCRIPTS: Final = Path(__file__).parents[2] / "charts" / "eco-operator" / "argocd"
GROUP: Final = SCRIPTS / contract.GROUP
HEALTHY: Final = "Healthy"
ZERO_TIME: Final = "0001-01-01T00:00:00Z"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def health(kind: str, document: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = lua.run((GROUP / kind / "health.lua").read_text(), document)
    return found


def health_cases() -> list[tuple[str, dict[str, Any]]]:
    return [(kind.name, case) for kind in KINDS for case in read(GROUP / kind.name / "health_test.yaml")["tests"]]


@pytest.mark.parametrize(
    ("kind", "case"), health_cases(), ids=lambda it: it if isinstance(it, str) else it["inputPath"]
)
def test_health_is_as_the_case_says(kind: str, case: dict[str, Any]) -> None:
    document = read(GROUP / kind / case["inputPath"])
    assert health(kind, document) == case["healthStatus"]
    without_status = {key: value for key, value in document.items() if key != "status"}
    assert validate(without_status) == []


def test_every_case_file_is_used_and_every_health_has_a_case() -> None:
    for kind in KINDS:
        cases = [case for name, case in health_cases() if name == kind.name]
        files = {f"testdata/{path.name}" for path in (GROUP / kind.name / "testdata").iterdir()}
        assert {case["inputPath"] for case in cases} == files
        reached = {case["healthStatus"]["status"] for case in cases}
        assert reached == {HEALTHY, "Progressing", "Degraded", "Suspended", "Unknown"}


def test_cases_use_only_verdicts_that_the_operator_gives() -> None:
    known = {(it.kind, it.type, it.status, it.reason) for it in TABLE}
    for kind, case in health_cases():
        for it in read(GROUP / kind / case["inputPath"]).get("status", {}).get("conditions", []):
            assert (kind, it["type"], it["status"], it["reason"]) in known


def action_cases(which: str) -> list[tuple[str, dict[str, Any]]]:
    files = [(kind.name, read(GROUP / kind.name / "actions" / "action_test.yaml")) for kind in KINDS]
    return [(kind, case) for kind, cases in files for case in cases[which]]


@pytest.mark.parametrize(("kind", "case"), action_cases("discoveryTests"))
def test_actions_are_offered_as_the_case_says(kind: str, case: dict[str, Any]) -> None:
    directory = GROUP / kind / "actions"
    found = lua.run((directory / "discovery.lua").read_text(), read(directory / case["inputPath"]))
    offered = [{"name": name, **action} for name, action in found.items()]
    assert sorted(offered, key=lambda it: str(it["name"])) == sorted(case["result"], key=lambda it: str(it["name"]))
    assert set(found) == {path.parent.name for path in directory.glob("*/action.lua")}


@pytest.mark.parametrize(("kind", "case"), action_cases("actionTests"))
def test_an_action_changes_what_the_case_says_and_what_the_api_accepts(kind: str, case: dict[str, Any]) -> None:
    directory = GROUP / kind / "actions"
    before = read(directory / case["inputPath"])
    after = lua.run((directory / case["action"] / "action.lua").read_text(), copy.deepcopy(before), clock=True)
    assert without_clock(after) == read(directory / case["expectedOutputPath"])
    assert validate({key: value for key, value in after.items() if key != "status"}) == []


def without_clock(document: dict[str, Any]) -> dict[str, Any]:
    """With the zero time that Argo CD's own cases put in the place of what depends on the clock."""
    found = copy.deepcopy(document)
    annotations = found["metadata"].get("annotations", {})
    if contract.ANNOTATION_SYNC_NOW in annotations:
        told = datetime.strptime(annotations[contract.ANNOTATION_SYNC_NOW], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert told.year == 1 or abs(datetime.now(UTC) - told) < timedelta(minutes=1)
        annotations[contract.ANNOTATION_SYNC_NOW] = ZERO_TIME
    return found


def acted(kind: str, action: str, given: str) -> dict[str, Any]:
    directory = GROUP / kind / "actions"
    script = (directory / action / "action.lua").read_text()
    done: dict[str, Any] = lua.run(script, read(directory / "testdata" / f"{given}.yaml"), clock=True)
    return done


def test_the_operator_understands_what_an_action_writes() -> None:
    """A key or value that the API's models do not know would be a button that does nothing."""
    assert EcoWorker.read(acted("EcoWorker", "pause", "running")).paused
    assert EcoWorker.read(acted("EcoWorker", "drain", "running")).hibernated
    assert EcoWorker.read(acted("EcoWorker", "recover", "damaged")).asks_for_recovery
    resumed = EcoWorker.read(acted("EcoWorker", "resume", "pausedAndDrained"))
    assert not resumed.paused
    assert not resumed.hibernated
    assert WalSync.read(acted("WalSync", "suspend", "syncing")).spec.suspend
    assert not WalSync.read(acted("WalSync", "resume", "suspended")).spec.suspend
    assert WalSync.read(acted("WalSync", "sync-now", "syncing")).metadata.annotations[contract.ANNOTATION_SYNC_NOW]


def test_every_action_and_every_state_of_it_has_a_case() -> None:
    for kind in KINDS:
        directory = GROUP / kind.name / "actions"
        tested = {case["action"] for name, case in action_cases("actionTests") if name == kind.name}
        assert tested == {path.parent.name for path in directory.glob("*/action.lua")}
        offered = [it for name, case in action_cases("discoveryTests") if name == kind.name for it in case["result"]]
        for action in tested:
            assert {it["disabled"] for it in offered if it["name"] == action} == {True, False}


def document(seen: InMemory) -> dict[str, Any]:
    body: dict[str, Any] = seen.bodies[(kinds.ECO_WORKER.kind, KEY.name)]
    return body


DUE: Final = WalCounts(due=3)
# A report of one journal for each state that a journal can be found in.
REPORTS: Final[dict[WalState, dict[str, Any]]] = {
    WalState.STALLED: {"counts": DUE, "ages": WalAges(oldest_due_s=5_000, last_progress_s=4_000)},
    WalState.LAGGING: {"counts": DUE, "ages": WalAges(oldest_due_s=5_000, last_progress_s=1)},
    WalState.FULL: {"mode": JournalMode.READ_ONLY},
    WalState.CORRUPT: {"mode": JournalMode.QUARANTINED},
    WalState.LOST: {"mode": JournalMode.LOST},
    WalState.FENCED: {"mode": JournalMode.FENCED},
}


def test_a_fleet_that_the_operator_calls_well_is_healthy() -> None:
    seen = InMemory()
    seen.ready()
    assert health("EcoWorker", document(seen))["status"] == HEALTHY


@pytest.mark.parametrize("state", REPORTS)
def test_a_journal_that_is_not_well_is_degraded(state: WalState) -> None:
    seen = InMemory()
    seen.ready()
    seen.report("storage-1", **REPORTS[state])
    status = seen.conclude()
    assert status.summary is not None
    assert status.summary.wal == state
    found = health("EcoWorker", document(seen))
    assert found["status"] == "Degraded"
    assert found["message"].startswith(f"{state}: ")


def test_shards_that_are_not_heard_of_are_never_healthy() -> None:
    seen = InMemory()
    seen.ready()
    seen.probes.pop("storage-1")
    seen.conclude()
    assert health("EcoWorker", document(seen))["status"] == "Unknown"
    seen.probes.clear()
    seen.conclude()
    assert health("EcoWorker", document(seen))["status"] == "Unknown"


def test_a_new_ecoworker_is_progressing_until_the_operator_has_a_verdict() -> None:
    seen = InMemory()
    seen.apply_worker()
    assert health("EcoWorker", document(seen))["status"] == "Progressing"
    seen.settle()
    seen.conclude()
    assert health("EcoWorker", document(seen))["status"] == "Progressing"


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_one_bad_verdict_is_enough_to_be_not_healthy(kind: str) -> None:
    """Each verdict of the operator's table that is not good, put among good ones."""
    good = {"EcoWorker": "healthy", "WalSync": "synced"}[kind]
    base = read(GROUP / kind / "testdata" / f"{good}.yaml")
    assert health(kind, base)["status"] == HEALTHY
    fine = {it["type"] for it in base["status"]["conditions"]}
    judged = 0
    for entry in TABLE:
        decides = entry.type in {ConditionType.READY, ConditionType.WAL_HEALTHY}
        is_abnormal = entry.type in {ConditionType.STALLED, ConditionType.RECONCILING, ConditionType.PAUSED}
        if entry.kind != kind or not ((decides and entry.status is not ConditionStatus.TRUE) or is_abnormal):
            continue
        changed = copy.deepcopy(base)
        conditions = [it for it in changed["status"]["conditions"] if it["type"] != entry.type]
        told = {"type": entry.type.value, "status": entry.status.value, "reason": entry.reason, "message": "told"}
        changed["status"]["conditions"] = [*conditions, told]
        assert health(kind, changed)["status"] != HEALTHY, entry
        judged += 1
    assert judged > len(fine)


def test_the_patch_for_argo_cd_holds_the_scripts() -> None:
    text = (SCRIPTS / argocd.PATCH).read_text()
    assert text == argocd.patch(SCRIPTS)
    data = yaml.safe_load(text)["data"]
    for kind in KINDS:
        key = f"{contract.GROUP}_{kind.name}"
        assert data[f"resource.customizations.health.{key}"] == (GROUP / kind.name / "health.lua").read_text()
        actions = yaml.safe_load(data[f"resource.customizations.actions.{key}"])
        names = {path.parent.name for path in (GROUP / kind.name / "actions").glob("*/action.lua")}
        assert {it["name"] for it in actions["definitions"]} == names
