"""How states look on a terminal. Colours only where the output is one; words say the same without them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from eco_crds import contract
from eco_crds.ecoworker_status import WalState
from eco_crds.jobs import Left

_COLOURS: Final = {
    WalState.HEALTHY: "green",
    WalState.DISABLED: "dim",
    WalState.LAGGING: "yellow",
    WalState.UNKNOWN: "yellow",
    WalState.FENCED: "magenta",
}
_UNWELL: Final = "bold red"
NOT_KNOWN: Final = "?"
Document = Mapping[str, Any]


def wal(state: str) -> Text:
    """The health of a journal."""
    known = {it.value: colour for it, colour in _COLOURS.items()}
    return Text(state or NOT_KNOWN, style=known.get(state, _UNWELL))


def age(moment: str | None, now: datetime) -> str:
    """How long ago a moment was, as kubectl has it."""
    if not moment:
        return ""
    seconds = max(0, int((now - datetime.fromisoformat(moment)).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def tree(worker: Document, syncs: Iterable[Document], now: datetime) -> Tree:
    """One EcoWorker with its conditions, shards and syncs."""
    status = worker.get("status") or {}
    summary = status.get("summary") or {}
    head = Text.assemble((_name(worker), "bold"), "  ", summary.get("ready") or NOT_KNOWN, " ready  WAL ")
    found = Tree(head.append_text(wal(summary.get("wal", ""))))
    if status.get("observedGeneration") != worker["metadata"].get("generation"):
        found.add(Text("the operator has not looked at the present spec yet", style="yellow"))
    for condition in status.get("conditions") or ():
        if condition["type"] not in _CALM or condition["status"] != "True":
            found.add(_condition(condition))
    for shard in status.get("shards") or ():
        found.add(_shard(shard, now))
    for sync in syncs:
        found.add(_sync(worker, sync, now))
    return found


_CALM: Final = frozenset({"Ready", "WALHealthy", "Recovered", "Synced"})
"""Conditions that are no news while they are true."""


def shards_table(workers: Iterable[Document], now: datetime) -> Table:
    """The journal of every shard, a line each."""
    columns = ("SHARD", "WAL", "PENDING", "WAITING", "OLDEST", "UNSYNCED", "PARKED", "DISK%", "JOURNAL", "MESSAGE")
    found = _table(*columns)
    for worker in workers:
        for shard in (worker.get("status") or {}).get("shards") or ():
            numbers = [_number(shard, key) for key in ("pending", "waiting")]
            owed = [_number(shard, key) for key in ("unsynced", "parked", "diskPercent")]
            oldest = age(shard.get("oldestPendingTime"), now)
            last = (shard.get("journalUuid") or "")[:8], shard.get("message", "")
            found.add_row(shard["name"], wal(shard.get("wal", "")), *numbers, oldest, *owed, *last)
    return found


def orphans_table(claims: Iterable[Document], now: datetime) -> Table:
    """Claims that no shard uses, with what their journals still hold as far as is known."""
    found = _table("NAMESPACE", "CLAIM", "ECOWORKER", "UNUSED", "WHY", "LEFT")
    for claim in claims:
        metadata = claim["metadata"]
        marks = metadata.get("annotations") or {}
        gone = marks.get(contract.ANNOTATION_ORPHANED)
        why = "its EcoWorker is gone" if gone else "scaled in"
        since = gone or marks.get(contract.ANNOTATION_SCALED_IN)
        worker = (metadata.get("labels") or {}).get(contract.LABEL_WORKER, "")
        row = (metadata["namespace"], metadata["name"], worker, age(since, now), why)
        found.add_row(*row, _left(marks.get(contract.ANNOTATION_LEFT)))
    return found


def now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


def _condition(condition: Document) -> Text:
    head = f"{condition['type']}={condition['status']} {condition['reason']}"
    told = condition.get("message", "")
    is_good = condition["type"] in _CALM and condition["status"] == "True"
    return Text(f"{head}: {told}" if told else head, style="green" if is_good else "yellow")


def _shard(shard: Document, now: datetime) -> Text:
    line = Text.assemble((shard["name"], "bold"), "  ")
    line.append_text(wal(shard.get("wal", "")))
    line.append("  ready" if shard.get("ready") else "  not ready")
    line.append(f"  pending {_number(shard, 'pending')}  unsynced {_number(shard, 'unsynced')}")
    line.append(f"  volume {_number(shard, 'diskPercent')} % of {shard.get('claim') or 'no claim'}")
    recovery = shard.get("lastRecovery")
    if recovery:
        how = "done" if recovery.get("succeeded") else "failed"
        line.append(f"  recovery {how} {age(recovery.get('time'), now)} ago ({recovery.get('action') or 'none'})")
    if shard.get("message"):
        line.append(f"  {shard['message']}", style="yellow")
    return line


def _sync(worker: Document, sync: Document, now: datetime) -> Text:
    name = worker["metadata"]["name"]
    entry = next(it for it in sync["status"]["workers"] if it["name"] == name)
    line = Text.assemble("sync ", (sync["metadata"]["name"], "bold"), f"  {entry['state']}")
    line.append(f"  unsynced {_number(entry, 'unsynced')}  parked {_number(entry, 'parked')}")
    last = age(entry.get("lastSyncTime"), now)
    return line.append(f"  last {last} ago" if last else "  never yet")


def _left(written: str | None) -> str:
    if not written:
        return "no job has looked yet"
    try:
        return str(Left.model_validate_json(written))
    except ValidationError:
        return f"not readable: {written}"


def _number(entry: Document, key: str) -> str:
    """A number as it is known; one that is not known is never shown as zero."""
    return str(entry[key]) if entry.get(key) is not None else NOT_KNOWN


def _name(item: Document) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _table(*columns: str) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        found.add_column(column, overflow="fold")
    return found
