"""Eyes on a run: what each shard's journal says, several times a second, and what `kubectl get --watch` would show.

`Watch` keeps the newest sight of each shard; the story waits on it with a deadline and never sleeps for a fixed time.
`Columns` records every line that a person with `kubectl get ecoworkers --watch` would have seen, with its time.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from eco_crds.wal import WalReport
from eco_lab.demo.kubectl import ApiProxy, Kubectl, WorkerPod
from eco_lab.errors import NotReadyError

PERIOD_S: Final = 0.2


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
        counts = [sight.report.counts for sight in self.shards.values()]
        return sum(one.completed + one.failed + one.timeout for one in counts)

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
    """One line of `kubectl get --watch` with the moment it was printed."""

    at: float
    text: str


@dataclass
class Columns:
    """Lines of `kubectl get KIND --watch` since the start, the header first."""

    kind: str
    header: str = ""
    lines: list[Line] = field(default_factory=list)

    def since(self, moment: float) -> list[Line]:
        """Lines printed at or after a moment."""
        return [line for line in self.lines if line.at >= moment]

    def values(self, column: str, since: float = 0.0) -> list[str]:
        """What stood in a column, over time."""
        return [cell(self.header, line.text, column) for line in self.since(since)]

    def last(self) -> str:
        """The newest line below the header."""
        return f"{self.header}\n{self.lines[-1].text}" if self.lines else f"(no {self.kind} yet)"


def cell(header: str, line: str, column: str) -> str:
    """The value below a title. kubectl keeps two or more blanks between cells and only ever widens its columns.

    A cell that is empty leaves fewer cells than titles; then the position below the title decides.
    """
    titles = header.split()
    place = titles.index(column)
    cells = re.split(r" {2,}", line.strip())
    if len(cells) == len(titles):
        return cells[place]
    start = header.index(column)
    end = header.index(titles[place + 1], start + len(column)) if place + 1 < len(titles) else None
    return line[start:end].strip()


@asynccontextmanager
async def columns(kubectl: Kubectl, namespace: str, kind: str) -> AsyncIterator[Columns]:
    """Record `kubectl get KIND --watch` for as long as the body runs."""
    process = await asyncio.create_subprocess_exec(
        *kubectl.command("get", kind, "-n", namespace, "--watch"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    record = Columns(kind)
    reader = asyncio.create_task(_record(process, record), name=f"watch {kind}")
    try:
        yield record
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reader


async def _record(process: asyncio.subprocess.Process, record: Columns) -> None:
    if process.stdout is None:
        return
    async for raw in process.stdout:
        text = raw.decode().rstrip()
        if text.startswith("NAME "):
            record.header = text
        else:
            record.lines.append(Line(time.monotonic(), text))
