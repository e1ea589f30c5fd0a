"""Eyes on a run: what each shard's journal says, several times a second, and what `kubectl get --watch` would show.

`Watch` keeps the newest sight of each shard; the story waits on it with a deadline and never sleeps for a fixed time.
`Columns` records every row that a person with `kubectl get ecoworkers --watch` would have seen, with its time.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from eco_crds.contract import API_VERSION
from eco_crds.wal import WalReport
from eco_lab.demo.kubectl import ApiProxy, WorkerPod
from eco_lab.errors import NotReadyError

PERIOD_S: Final = 0.2
TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"


def done(report: WalReport) -> int:
    """Tasks that have an end, by one report."""
    return report.counts.completed + report.counts.failed + report.counts.timeout


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of one shard at one moment."""

    at: float
    pod: WorkerPod
    report: WalReport


@dataclass
class Watch:
    """The newest sight of each shard of a namespace."""

    proxy: ApiProxy
    namespace: str
    shards: dict[str, Sight] = field(default_factory=dict)
    pods: list[WorkerPod] = field(default_factory=list)

    async def look(self) -> None:
        """Ask the API server for the pods and every running pod for its journal."""
        self.pods = await self.proxy.worker_pods(self.namespace)
        running = [pod for pod in self.pods if pod.running]
        reports = await asyncio.gather(*(self.proxy.wal(self.namespace, pod.name) for pod in running))
        at = time.monotonic()
        for pod, report in zip(running, reports, strict=True):
            if report is not None and not self._older(pod, report):
                self.shards[pod.shard] = Sight(at, pod, report)

    def _older(self, pod: WorkerPod, report: WalReport) -> bool:
        """Whether a report comes from a predecessor that has not ended yet while its successor already answers."""
        known = self.shards.get(pod.shard)
        return known is not None and report.epoch < known.report.epoch

    @property
    def ended(self) -> int:
        """Tasks that have an end, as the journals last told."""
        return sum(done(sight.report) for sight in self.shards.values())

    @property
    def owed(self) -> int:
        """What the journals still have to do: rows to run, messages to send, results to sync."""
        counts = [sight.report.counts for sight in self.shards.values()]
        return sum(
            one.due + one.waiting + one.running + one.outbox_unsent + one.outbox_parked + one.unsynced + one.sync_parked
            for one in counts
        )

    async def until(self, what: str, true: Callable[[], bool], *, within_s: float) -> float:
        """Look until `true()`; seconds it took. NotReadyError with the last reports when the time is over."""
        begun = time.monotonic()
        while True:
            await self.look()
            if true():
                return time.monotonic() - begun
            if time.monotonic() - begun > within_s:
                raise NotReadyError(f"wait until {what}", f"not within {within_s:.0f} s; last seen: {self.summary()}")
            await asyncio.sleep(PERIOD_S)

    def summary(self) -> str:
        """The newest sights in one line."""
        told = [
            f"{shard}: {sight.report.mode} due {(one := sight.report.counts).due} waiting {one.waiting} "
            f"running {one.running} completed {one.completed} failed {one.failed} "
            f"outbox {one.outbox_unsent}+{one.outbox_parked} unsynced {one.unsynced}+{one.sync_parked}"
            for shard, sight in sorted(self.shards.items())
        ]
        return "; ".join(told) or "no shard has reported yet"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table at one moment."""

    at: float
    cells: tuple[str, ...]


@dataclass
class Columns:
    """The rows that `kubectl get KIND --watch` prints, since the start.

    They come from the same request that kubectl makes (the API server computes the columns). kubectl's own output would
    have to be taken apart again, and cannot be: an empty cell is blank there, and columns widen as it goes.
    """

    kind: str
    titles: tuple[str, ...] = ()
    lines: list[Line] = field(default_factory=list)

    def since(self, moment: float, until: float = math.inf) -> list[Line]:
        """Rows printed at or after a moment, and not after another."""
        return [line for line in self.lines if moment <= line.at <= until]

    def values(self, title: str, since: float = 0.0, until: float = math.inf) -> list[str]:
        """What stood in a column, over time."""
        place = self.titles.index(title)
        return [line.cells[place] for line in self.since(since, until)]

    def shows(self, wanted: Mapping[str, str]) -> bool:
        """Whether the newest row has these values in these columns."""
        return bool(self.lines) and all(self.values(title)[-1] == value for title, value in wanted.items())

    def text(self, since: float = 0.0) -> str:
        """Header and rows, aligned as kubectl aligns them, with the seconds since the moment behind."""
        lines = self.since(since)
        rows = [self.titles, *(line.cells for line in lines)]
        widths = [max(len(row[place]) for row in rows) + 3 for place in range(len(self.titles))]
        notes = ["", *(f"+{line.at - since:.1f} s" if since else "" for line in lines)]
        padded = ("".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(f"{text}{note}".rstrip() for text, note in zip(padded, notes, strict=True))


@asynccontextmanager
async def columns(proxy: ApiProxy, namespace: str, kind: str) -> AsyncIterator[Columns]:
    """Record the rows of one of our kinds for as long as the body runs."""
    record = Columns(kind)
    reader = asyncio.create_task(_record(proxy, namespace, record), name=f"watch {kind}")
    try:
        yield record
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _record(proxy: ApiProxy, namespace: str, record: Columns) -> None:
    path = f"/apis/{API_VERSION}/namespaces/{namespace}/{record.kind}?watch=true"
    async for event in proxy.stream(path, accept=TABLE):
        table = event.get("object", {})
        definitions = table.get("columnDefinitions")
        if definitions:
            shown = [place for place, column in enumerate(definitions) if column.get("priority", 0) == 0]
            record.titles = tuple(definitions[place]["name"].upper() for place in shown)
        for row in table.get("rows", []):
            cells = tuple("" if row["cells"][place] is None else str(row["cells"][place]) for place in shown)
            record.lines.append(Line(time.monotonic(), cells))
