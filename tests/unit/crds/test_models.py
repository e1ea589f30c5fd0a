"""The models: what they understand of an object, and what they make of nothing given."""

from datetime import UTC, datetime
from typing import Any

import pytest

from eco_crds import contract
from eco_crds.conditions import TABLE, ConditionType, find
from eco_crds.ecoworker import RESERVED_ENV, EcoWorker
from eco_crds.ecoworker_status import EcoWorkerStatus, ShardStatus, WalState, worst
from eco_crds.fields import OwnerMetadata
from eco_crds.walsync import WalSync, WorkerSelector
from tests.support.cases import merge, valid


def worker(change: dict[str, Any] | None = None) -> EcoWorker:
    return EcoWorker.read(merge(valid("ecoworkers"), change or {}))


def test_queues_are_those_of_the_role_when_none_are_given() -> None:
    assert worker({"spec": {"queues": None}}).spec.effective_queues == ("q.batch",)
    assert worker({"spec": {"queues": ["q.api", "q.ai"]}}).spec.effective_queues == ("q.api", "q.ai")


def test_the_bound_on_unfinished_tasks_follows_concurrency_when_not_given() -> None:
    assert worker({"spec": {"concurrency": 10}}).spec.effective_max_unfinished == 266
    assert worker({"spec": {"maxUnfinished": 20}}).spec.effective_max_unfinished == 20


def test_a_database_is_found_by_its_name() -> None:
    found = worker().spec.database("results")
    assert found is not None
    assert found.port == 5432
    assert worker().spec.database("other") is None


@pytest.mark.parametrize(("value", "paused"), [("true", True), ("True", True), ("false", False), ("", False)])
def test_an_annotation_pauses(value: str, paused: bool) -> None:
    assert worker({"metadata": {"annotations": {contract.ANNOTATION_PAUSED: value}}}).paused is paused


def test_nothing_is_paused_without_the_annotation() -> None:
    assert not worker().paused


def test_a_walsync_tells_the_workers_what_it_was_told() -> None:
    given = merge(
        valid("walsyncs"), {"spec": {"intervalSeconds": 7, "batchSize": 9, "maxAttempts": 3, "suspend": True}}
    )
    settings = WalSync.read(given).spec.settings()
    assert (settings.target, settings.interval_s, settings.batch_size) == ("results", 7, 9)
    assert (settings.max_attempts, settings.suspended) == (3, True)


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({"names": ["storage"]}, True),
        ({"names": ["other"]}, False),
        ({"matchLabels": {"team": "pictures"}}, True),
        ({"matchLabels": {"team": "pictures", "stage": "prod"}}, False),
        ({"names": ["storage"], "matchLabels": {"team": "other"}}, False),
        ({"names": ["storage", "b"], "matchLabels": {"team": "pictures"}}, True),
    ],
)
def test_a_selector_means_all_that_it_says(selector: dict[str, Any], selected: bool) -> None:
    metadata = OwnerMetadata(name="storage", labels={"team": "pictures", "tier": "1"})
    assert WorkerSelector.model_validate(selector).matches(metadata) is selected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], "Disabled"),
        (["Healthy", "Healthy"], "Healthy"),
        (["Healthy", "Unknown"], "Unknown"),
        (["Unknown", "Stalled", "Lagging"], "Stalled"),
        (["Full", "Lost", "Corrupt"], "Corrupt"),
    ],
)
def test_of_several_journals_the_worst_counts(states: list[str], expected: str) -> None:
    assert worst(WalState(state) for state in states) == expected


def test_healthy_is_the_last_thing_a_shard_may_be_called() -> None:
    assert list(WalState)[-1] is WalState.HEALTHY
    assert ShardStatus(name="storage-0").wal is WalState.UNKNOWN


def test_a_moment_is_written_in_utc_and_whole_seconds() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    written = EcoWorkerStatus(oldest_pending_time=moment).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert written["oldestPendingTime"] == "2026-01-02T03:04:05Z"


def test_a_status_field_of_a_newer_operator_is_ignored() -> None:
    read = EcoWorkerStatus.model_validate({"replicas": 2, "fromTheFuture": {"a": 1}})
    assert read.replicas == 2


def test_every_variable_that_the_operator_sets_is_reserved() -> None:
    assert {"RABBITMQ_URL", "POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "WAL_DB_PATH"} <= set(RESERVED_ENV)


def test_a_verdict_stands_once_in_the_table() -> None:
    verdicts = [(it.kind, it.type, it.status, it.reason) for it in TABLE]
    assert len(verdicts) == len(set(verdicts))


def test_every_state_of_a_journal_that_can_be_reported_has_its_verdict() -> None:
    known = {it.reason for it in TABLE if it.type is ConditionType.WAL_HEALTHY}
    assert {state.value for state in WalState if state is not WalState.DISABLED} <= known


def test_unknown_is_never_a_good_verdict() -> None:
    silent = [it for it in TABLE if it.reason in {"Unknown", "ProbeUnavailable"} and it.status == "True"]
    # That something is blocked is no good verdict.
    assert [it.type for it in silent] == [ConditionType.SCALE_IN_BLOCKED]


def test_a_verdict_is_found_by_what_it_says() -> None:
    found = find("EcoWorker", "Ready", "False", "WALUnhealthy")
    assert found is not None
    assert found.meaning
    assert find("EcoWorker", "Ready", "True", "MadeUp") is None
