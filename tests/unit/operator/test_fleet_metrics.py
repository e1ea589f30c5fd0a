"""States of the fleet as Prometheus reads them."""

from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from eco_operator import fleet_metrics, kinds, metrics, web
from eco_operator.cache import Owned
from eco_operator.cluster import Cluster
from eco_operator.kinds import Kind
from eco_operator.loop import Loop
from eco_operator.objects import own
from eco_operator.settings import Settings

READY = {"type": "Ready", "status": "False", "reason": "WALUnhealthy"}
STATUS = {
    "observedGeneration": 3,
    "readyReplicas": 1,
    "oldestPendingTime": "2026-11-27T12:00:00Z",
    "conditions": [READY],
    "shards": [
        {"name": "storage-0", "wal": "Full", "diskPercent": 97, "volumeSize": "10Gi"},
        {"name": "storage-1", "wal": "Healthy", "volumeSize": "ten"},
    ],
}


def an_object(kind: Kind, *, spec: Any = None, status: Any = None, name: str = "storage") -> Owned:
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": "7", "generation": 3}
    body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec, "status": status}
    return own(kind, body)


def scraped(*owned: Owned) -> list[str]:
    registry = CollectorRegistry()
    registry.register(metrics.States([], lambda: list(fleet_metrics.families(owned))))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_verdicts_shards_and_journals_of_an_ecoworker_are_shown() -> None:
    found = scraped(an_object(kinds.ECO_WORKER, spec={"replicas": 2}, status=STATUS))
    labels = 'name="storage",namespace="shop"'
    assert found == [
        f'eco_ecoworker_condition{{{labels},reason="WALUnhealthy",status="False",type="Ready"}} 1.0',
        f"eco_ecoworker_verdict_is_current{{{labels}}} 1.0",
        f"eco_ecoworker_shards_wanted{{{labels}}} 2.0",
        f"eco_ecoworker_shards_ready{{{labels}}} 1.0",
        f"eco_ecoworker_oldest_pending_timestamp_seconds{{{labels}}} 1.7957808e+09",
        f'eco_shard_wal{{{labels},shard="storage-0",state="Full"}} 1.0',
        f'eco_shard_wal{{{labels},shard="storage-1",state="Healthy"}} 1.0',
        f'eco_shard_volume_used_ratio{{{labels},shard="storage-0"}} 0.97',
        f'eco_shard_volume_size_bytes{{{labels},shard="storage-0"}} 1.073741824e+10',
    ]


def test_a_walsync_shows_its_verdict_and_its_moments() -> None:
    status = {"conditions": [{**READY, "reason": "Parked"}], "lastSyncTime": "2026-11-27T12:00:00Z"}
    found = scraped(an_object(kinds.WAL_SYNC, status=status))
    assert [line.partition("{")[0] for line in found] == [
        "eco_walsync_condition",
        "eco_walsync_last_sync_timestamp_seconds",
    ]


@pytest.mark.parametrize("replicas", [None, "many", True])
def test_what_is_not_known_has_no_sample(replicas: object) -> None:
    found = scraped(an_object(kinds.ECO_WORKER, spec={"replicas": replicas}))
    assert found == ['eco_ecoworker_verdict_is_current{name="storage",namespace="shop"} 0.0']


def test_an_old_verdict_is_told_from_a_present_one() -> None:
    found = scraped(an_object(kinds.ECO_WORKER, status={"observedGeneration": 2}))
    assert found == ['eco_ecoworker_verdict_is_current{name="storage",namespace="shop"} 0.0']


async def test_the_page_of_the_operator_has_them() -> None:
    loop = Loop(cast("Cluster", None), Settings())
    loop.see(kinds.ECO_WORKER, None, an_object(kinds.ECO_WORKER, status=STATUS).body)
    names = {family.name for family in web._labelled(web.Health(loop.settings, None, loop))}
    assert {"eco_operator_shards", "eco_shard_wal", "eco_walsync_condition"} <= names


def test_every_metric_says_what_it_means() -> None:
    for family in fleet_metrics.families([]):
        assert family.documentation.endswith("."), family.name
