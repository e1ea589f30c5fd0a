"""The verdict on a WalSync that selects more EcoWorkers than its status can name."""

import copy
from datetime import UTC, datetime

from eco_crds import contract
from eco_crds.walsync import WORKERS_SHOWN_MAX
from eco_operator import kinds
from eco_operator.cache import Key
from eco_operator.reconcile import walsync
from eco_operator.shards import Probe, ShardKey
from tests.support.cases import merge, valid
from tests.support.observed import NAMESPACE, POLICY, SILENT, InMemory

SYNC = Key(kinds.WAL_SYNC.kind, NAMESPACE, "results")


def test_of_more_ecoworkers_than_fit_the_worst_are_shown_and_all_count() -> None:
    world = InMemory()
    for number in range(WORKERS_SHOWN_MAX + 44):
        made = merge(valid("ecoworkers"), {"metadata": {"name": f"w{number}", "labels": {"team": "x"}}})
        made["spec"]["replicas"] = 1 if number == 299 else 0
        world.put(kinds.ECO_WORKER, copy.deepcopy(made))
    spec = {"ecoWorkers": {"matchLabels": {"team": "x"}}, "database": "results"}
    metadata = {"name": "results", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}
    world.put(
        kinds.WAL_SYNC, {"apiVersion": contract.API_VERSION, "kind": "WalSync", "metadata": metadata, "spec": spec}
    )
    seen = walsync.observe(
        SYNC, cache=world.cache, probe=_silent, policy=POLICY, now=datetime(2026, 1, 1, tzinfo=UTC), is_settling=False
    )
    assert seen is not None
    assert len(seen.selected) == WORKERS_SHOWN_MAX + 44
    status = walsync.conclude(seen)
    assert status is not None
    assert len(status.workers) == WORKERS_SHOWN_MAX
    assert status.summary is not None
    assert status.summary.state == "Unknown"
    assert {worker.name: worker.state for worker in status.workers}["w299"] == "Unknown"


def _silent(_: ShardKey) -> Probe:
    return SILENT
