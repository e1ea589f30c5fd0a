"""What the operator itself says of objects that must not be accepted."""

from typing import Any

import pytest
import yaml

from eco_crds.ecoworker import EcoWorkerSpec
from eco_crds.validation import Problem, validate
from tests.support.cases import BadChange, BadObject, merge, valid

PLURALS = ("ecoworkers", "walsyncs")
BAD = [case for plural in PLURALS for case in BadObject.all(plural)]
CHANGES = BadChange.all("ecoworkers")


def test_there_are_at_least_fifteen_cases() -> None:
    assert len(BAD) + len(CHANGES) >= 15


@pytest.mark.parametrize("plural", PLURALS)
def test_the_object_that_all_cases_start_from_is_accepted(plural: str) -> None:
    assert validate(valid(plural)) == []


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_a_bad_object_is_named_by_field_and_reason(case: BadObject) -> None:
    problems = validate(case.document)
    assert [it.path for it in problems] == [case.field], problems
    assert case.operator in problems[0].message


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.name)
def test_a_forbidden_change_is_named_by_field_and_reason(case: BadChange) -> None:
    assert validate(case.before) == []
    assert validate(case.after) == []
    problems = validate(case.after, old=case.before)
    assert case.field in [it.path for it in problems]
    assert case.says in next(it.message for it in problems if it.path == case.field)


def test_a_change_that_is_allowed_is_accepted() -> None:
    before = valid("ecoworkers")
    after = merge(before, {"spec": {"replicas": 3, "wal": {"size": "20Gi"}, "concurrency": 8}})
    assert validate(after, old=before) == []


def test_the_role_cannot_change() -> None:
    [rule] = EcoWorkerSpec.transitions
    # Only one role exists as yet, so the second one is made up.
    storage = EcoWorkerSpec.model_validate(valid("ecoworkers")["spec"])
    other = storage.model_copy(update={"role": "other"})
    assert rule.holds(storage, storage)
    assert not rule.holds(other, storage)


def test_several_problems_are_told_at_once() -> None:
    document = merge(valid("ecoworkers"), {"spec": {"replicas": -1, "concurrency": 0, "nonsense": 1}})
    assert {it.path for it in validate(document)} == {"spec.replicas", "spec.concurrency", "spec.nonsense"}


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "EcoWorker"},
        {"kind": "EcoWorker", "metadata": None, "spec": None},
        {"kind": "EcoWorker", "metadata": {"name": "a"}, "spec": []},
        {"kind": "EcoWorker", "metadata": {"name": "a"}, "spec": {"wal": {"size": {"a": 1}}, "env": [None]}},
        {"kind": "WalSync", "metadata": {"name": "a"}, "spec": {"ecoWorkers": 5}},
    ],
)
def test_no_object_is_too_strange_to_be_judged(document: dict[str, Any]) -> None:
    assert validate(document)


def test_what_a_server_adds_to_metadata_and_status_is_no_problem() -> None:
    served = """
    metadata: {managedFields: [{manager: kubectl}], resourceVersion: "5", creationTimestamp: "2026-01-01T00:00:00Z"}
    status: {anything: [1, 2], summary: {wal: 5}}
    """
    assert validate(merge(valid("ecoworkers"), yaml.safe_load(served))) == []


def test_a_problem_reads_as_field_and_message() -> None:
    assert str(Problem("spec.replicas", "too many")) == "spec.replicas: too many"


def test_replicated_wants_a_bucket_whatever_the_role() -> None:
    """The only role of today needs one anyway, so the rule never speaks alone."""
    document = merge(valid("ecoworkers"), {"spec": {"objectStore": None, "wal": {"ackPolicy": "Replicated"}}})
    assert [it.path for it in validate(document)] == ["spec.objectStore", "spec.wal.ackPolicy"]
    document = merge(valid("ecoworkers"), {"spec": {"wal": {"ackPolicy": "Replicated"}}})
    assert validate(document, old=valid("ecoworkers")) == []
