"""What the demo reads off kubectl and the journals."""

import asyncio
from dataclasses import replace

import pytest

from eco_crds.wal import JournalMode, WalCounts, WalReport
from eco_lab.demo.kubectl import WorkerPod
from eco_lab.demo.narration import Narrator
from eco_lab.demo.trouble import strike
from eco_lab.demo.watch import Columns, Line, Sight, Watch
from eco_lab.errors import NotReadyError

POD = WorkerPod("storage-0-a", "u1", "storage-0", "n1", running=True, ready=True, terminating=False, restarts=0)


def report(epoch: int = 1, resumed_s: float | None = None, **counts: int) -> WalReport:
    return WalReport(
        shard="storage-0",
        incarnation=f"boot:{epoch}",
        epoch=epoch,
        mode=JournalMode.NORMAL,
        counts=WalCounts(**counts),
        resumed_after_s=resumed_s,
        recovered=0 if resumed_s is None else 3,
    )


class Cluster:
    """Stands in for the proxy: gives the next of the reports it was made with, then the last one for ever."""

    def __init__(self, *reports: WalReport | None) -> None:
        self.reports = list(reports)
        self.pods = [POD]

    async def worker_pods(self, _: str) -> list[WorkerPod]:
        return self.pods

    async def wal(self, _: str, __: str) -> WalReport | None:
        return self.reports.pop(0) if len(self.reports) > 1 else self.reports[0]


def watch(*reports: WalReport | None) -> Watch:
    return Watch(Cluster(*reports), "demo")  # type: ignore[arg-type]  # the two methods it calls are there


def test_rows_are_told_apart_by_their_titles_and_aligned_below_them() -> None:
    seen = Columns("ecoworkers", ("NAME", "READY", "OLDEST", "AGE"))
    seen.lines = [Line(10.0, ("storage", "2/2", "", "5m")), Line(12.5, ("storage", "1/2", "4s", "5m"))]
    assert seen.values("READY") == ["2/2", "1/2"]
    assert seen.values("READY", since=11.0) == ["1/2"]
    assert seen.text(since=10.0).splitlines() == [
        "NAME      READY   OLDEST   AGE",
        "storage   2/2              5m    +0.0 s",
        "storage   1/2     4s       5m    +2.5 s",
    ]


async def test_what_is_owed_counts_rows_messages_and_results() -> None:
    eyes = watch(report(due=1, waiting=2, running=4, outbox_unsent=8, unsynced=16, sync_parked=32, outbox_parked=64))
    await eyes.look()
    assert eyes.owed == 127
    assert eyes.ended == 0


async def test_a_predecessor_that_still_answers_does_not_hide_its_successor() -> None:
    eyes = watch(report(epoch=2, completed=5), report(epoch=1, completed=4))
    await eyes.look()
    await eyes.look()
    assert eyes.shards["storage-0"].report.epoch == 2


async def test_a_wait_that_ends_in_vain_says_what_was_last_seen() -> None:
    with pytest.raises(NotReadyError, match="storage-0: normal due 7"):
        await watch(report(due=7)).until("nothing is due", lambda: False, within_s=0)


async def test_a_shard_that_is_silent_keeps_its_last_report() -> None:
    eyes = watch(report(completed=5), None)
    await eyes.look()
    await eyes.look()
    assert eyes.ended == 5


async def test_a_blow_is_over_when_the_successor_has_taken_up_a_task() -> None:
    struck: list[str] = []

    async def kill(sight: Sight) -> None:
        struck.append(sight.pod.name)

    eyes = watch(report(due=9), report(running=4), report(running=4), None, report(epoch=2), report(2, 0.5, running=1))
    blow = await asyncio.wait_for(strike(eyes, "storage-0", "a test", kill), 30)
    assert struck == ["storage-0-a"]
    assert (blow.running, blow.recovered, blow.process_s) == (4, 3, 0.5)


def test_a_pod_without_a_started_container_is_neither_running_nor_ready() -> None:
    waiting = {"state": {"waiting": {"reason": "ContainerCreating"}}, "ready": False, "restartCount": 2}
    item = {
        "metadata": {"name": "p", "uid": "u", "labels": {"eco.growbin.app/shard": "storage-1"}},
        "status": {"containerStatuses": [waiting]},
    }
    pod = WorkerPod.of(item)
    assert pod == replace(POD, name="p", uid="u", shard="storage-1", node="", running=False, ready=False, restarts=2)


def test_a_chapter_keeps_its_seconds_when_it_fails() -> None:
    now = iter([0.0, 1.0, 3.5])
    narrator = Narrator(sink=lambda _: None, clock=lambda: next(now))

    def chapter() -> None:
        with narrator.chapter("one"):
            raise ValueError("in mid-chapter")

    with pytest.raises(ValueError, match="in mid-chapter"):
        chapter()
    assert narrator.chapters == {"one": 2.5}
