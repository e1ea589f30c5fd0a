"""The table of conditions and the operator's code know the same reasons."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from eco_crds.conditions import TABLE, ConditionType, Entry
from eco_crds.ecoworker_status import WalState
from eco_operator.reconcile import growth
from eco_operator.reconcile.recovery import Stage
from eco_operator.reconcile.scale_in import Hold
from eco_operator.reconcile.walsync import State

RECONCILE = Path(__file__).parents[2] / "operator" / "eco_operator" / "reconcile"
STATUS = {"_TRUE": "True", "_FALSE": "False", "_UNKNOWN": "Unknown"}
KINDS = {
    "ecoworker_status.py": "EcoWorker",
    "life_status.py": "EcoWorker",
    "delivery.py": "EcoWorker",
    "walsync.py": "WalSync",
}
# Reasons that the code computes, by condition: each of these has to be in the table.
COMPUTED = {
    ConditionType.RECOVERED: Stage,
    ConditionType.SCALE_IN_BLOCKED: Hold,
    ConditionType.STORAGE_GROWING: growth.Stage,
    ConditionType.WAL_HEALTHY: WalState,
}


def findings(module: str) -> Iterator[tuple[str, set[str], set[str]]]:
    """Of each `Finding(...)` in a module: type, and the statuses and reasons its source names."""
    for node in ast.walk(ast.parse((RECONCILE / module).read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding"):
            continue
        kind, status, reason = node.args[:3]
        assert isinstance(kind, ast.Attribute)
        statuses = {STATUS[it.id] for it in ast.walk(status) if isinstance(it, ast.Name) and it.id in STATUS}
        reasons = {it.value for it in ast.walk(reason) if isinstance(it, ast.Constant) and isinstance(it.value, str)}
        yield ConditionType[kind.attr], statuses, reasons


def strings(module: str) -> set[str]:
    tree = ast.parse((RECONCILE / module).read_text())
    return {it.value for it in ast.walk(tree) if isinstance(it, ast.Constant) and isinstance(it.value, str)}


@pytest.mark.parametrize("module", KINDS)
def test_every_reason_that_the_operator_gives_is_in_the_table(module: str) -> None:
    known = {(it.type, it.reason) for it in TABLE if it.kind == KINDS[module]}
    given = {(kind, reason) for kind, _, reasons in findings(module) for reason in reasons}
    assert given, "the operator's code has another shape than this test reads"
    assert given <= known


def test_every_state_of_a_sync_is_a_verdict_in_the_table() -> None:
    for kind in (ConditionType.READY, ConditionType.SYNCED):
        known = {it.reason for it in TABLE if it.kind == "WalSync" and it.type is kind}
        expected = set(State) - ({State.SYNCING} if kind is ConditionType.READY else set())
        assert {state.value for state in expected} <= known


@pytest.mark.parametrize("kind", COMPUTED)
def test_every_reason_that_is_computed_is_in_the_table(kind: ConditionType) -> None:
    known = {it.reason for it in TABLE if it.kind == "EcoWorker" and it.type is kind}
    assert {state.value for state in COMPUTED[kind] if state.value} <= known


@pytest.mark.parametrize("entry", TABLE, ids=lambda it: f"{it.kind}-{it.type}-{it.status}-{it.reason}")
def test_every_verdict_of_the_table_is_one_that_the_code_can_give(entry: Entry) -> None:
    """A reason in the documents that nothing ever reports would send a reader looking for it."""
    modules = [name for name, kind in KINDS.items() if kind == entry.kind]
    computed = {state.value for state in State} if entry.kind == "WalSync" else set()
    if entry.kind == "EcoWorker" and entry.type in COMPUTED:
        computed = {state.value for state in COMPUTED[entry.type]}
    assert entry.reason in computed | {text for module in modules for text in strings(module)}
    assert entry.type in {kind for module in modules for kind, _, _ in findings(module)}
