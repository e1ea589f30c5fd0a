"""States of EcoWorkers and WalSyncs as metrics, read from what was last written into their status.

Only what no worker can say of itself, since a silent one says nothing: verdicts, wanted and ready shards, the health of
each journal. Exact counts come from the workers' own `/metrics`. A number that is not known has no sample: it is never
shown as zero.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from prometheus_client.metrics_core import GaugeMetricFamily

from eco_crds.quantity import parse
from eco_operator import kinds
from eco_operator.cache import Owned

_OBJECT: Final = ("namespace", "name")
_CONDITION: Final = (*_OBJECT, "type", "status", "reason")


def families(owned: Iterable[Owned]) -> Iterator[GaugeMetricFamily]:
    """Every metric of every object, sorted by namespace and name."""
    listed = sorted(owned, key=lambda it: (it.key.namespace, it.key.name))
    yield from _of_workers([it for it in listed if it.key.kind == kinds.ECO_WORKER.kind])
    yield from _of_syncs([it for it in listed if it.key.kind == kinds.WAL_SYNC.kind])


def _of_workers(listed: list[Owned]) -> Iterator[GaugeMetricFamily]:
    conditions = _family("eco_ecoworker_condition", "Verdicts on an EcoWorker; 1 for the present status.", _CONDITION)
    current = _family("eco_ecoworker_verdict_is_current", "1 when the verdict is about the present generation.")
    wanted = _family("eco_ecoworker_shards_wanted", "Shards that the spec asks for.")
    ready = _family("eco_ecoworker_shards_ready", "Shards whose worker is ready.")
    oldest = _family("eco_ecoworker_oldest_pending_timestamp_seconds", "Since when the oldest pending task is due.")
    recovery = _family(
        "eco_ecoworker_last_recovery_timestamp_seconds", "When a shard last started with unfinished tasks."
    )
    wal = _family(
        "eco_shard_wal", "Health of a shard's journal; 1 for the present state.", (*_OBJECT, "shard", "state")
    )
    shard_labels = (*_OBJECT, "shard")
    used = _family("eco_shard_volume_used_ratio", "Use of a shard's volume, true to two hundredths.", shard_labels)
    size = _family("eco_shard_volume_size_bytes", "Size of a shard's volume as its claim has it.", shard_labels)
    for it in listed:
        labels = [it.key.namespace, it.key.name]
        status = _status(it)
        _add_conditions(conditions, labels, status)
        current.add_metric(labels, float(status.get("observedGeneration") == it.generation))
        _add_number(wanted, labels, (it.body.get("spec") or {}).get("replicas"))
        _add_number(ready, labels, status.get("readyReplicas"))
        _add_moment(oldest, labels, status.get("oldestPendingTime"))
        _add_moment(recovery, labels, status.get("lastRecoveryTime"))
        for shard in status.get("shards") or ():
            named = [*labels, str(shard.get("name", ""))]
            wal.add_metric([*named, str(shard.get("wal", "Unknown"))], 1.0)
            _add_number(used, named, shard.get("diskPercent"), per=100)
            _add_amount(size, named, shard.get("volumeSize"))
    yield from (conditions, current, wanted, ready, oldest, recovery, wal, used, size)


def _of_syncs(listed: list[Owned]) -> Iterator[GaugeMetricFamily]:
    conditions = _family("eco_walsync_condition", "Verdicts on a WalSync; 1 for the present status.", _CONDITION)
    oldest = _family("eco_walsync_oldest_unsynced_timestamp_seconds", "Since when the oldest result waits.")
    last = _family("eco_walsync_last_sync_timestamp_seconds", "When a pass of every shard last ended well.")
    for it in listed:
        labels = [it.key.namespace, it.key.name]
        status = _status(it)
        _add_conditions(conditions, labels, status)
        _add_moment(oldest, labels, status.get("oldestUnsyncedTime"))
        _add_moment(last, labels, status.get("lastSyncTime"))
    yield from (conditions, oldest, last)


def _family(name: str, text: str, labels: tuple[str, ...] = _OBJECT) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _status(owned: Owned) -> Mapping[str, Any]:
    return owned.body.get("status") or {}


def _add_conditions(family: GaugeMetricFamily, labels: list[str], status: Mapping[str, Any]) -> None:
    for it in status.get("conditions") or ():
        family.add_metric([*labels, str(it.get("type")), str(it.get("status")), str(it.get("reason"))], 1.0)


def _add_number(family: GaugeMetricFamily, labels: list[str], value: object, *, per: int = 1) -> None:
    # A spec that is refused may hold anything.
    if isinstance(value, int) and not isinstance(value, bool):
        family.add_metric(labels, value / per)


def _add_amount(family: GaugeMetricFamily, labels: list[str], written: object) -> None:
    try:
        family.add_metric(labels, float(parse(str(written))))
    except ValueError:
        return


def _add_moment(family: GaugeMetricFamily, labels: list[str], written: object) -> None:
    try:
        moment = datetime.fromisoformat(str(written))
    except ValueError:
        return
    if moment.tzinfo is not None:
        family.add_metric(labels, moment.timestamp())
