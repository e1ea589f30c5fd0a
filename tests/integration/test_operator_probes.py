"""Probing over real HTTP: what counts as an answer, what as news, and what never gets through."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from eco_crds.wal import JournalMode, WalAges, WalCounts, WalReport, WalVolume
from eco_operator.probes import REPORT_BYTES_MAX, Prober
from eco_operator.shards import ShardKey, Target
from tests.support.waiting import until

SHARD = ShardKey("shop", "storage", "storage-0")
REPORT = WalReport(shard="storage-0", journal_uuid="u", mode=JournalMode.NORMAL)


@dataclass(slots=True)
class Answering:
    """A worker whose answer the test chooses."""

    answer: Callable[[], web.Response]
    port: int = 0
    asked: int = 0
    delay_s: float = 0.0
    changes: list[ShardKey] = field(default_factory=list)

    async def respond(self, _: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        return self.answer()


def said(report: WalReport) -> Callable[[], web.Response]:
    return lambda: web.Response(text=report.model_dump_json(), content_type="application/json")


def with_age(age: str) -> Callable[[], web.Response]:
    whole = REPORT.model_copy(update={"ages": WalAges(oldest_due_s=7777.0)}).model_dump_json()
    return lambda: web.Response(text=whole.replace("7777.0", age), content_type="application/json")


@asynccontextmanager
async def probing(
    answer: Callable[[], web.Response], *, interval_s: float = 0.1
) -> AsyncIterator[tuple[Prober, Answering]]:
    worker = Answering(answer)
    server = web.Application()
    server.router.add_get("/wal", worker.respond)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    worker.port = runner.addresses[0][1]
    prober = Prober(
        targets=lambda: [Target(SHARD, "pod-1", "c1", "127.0.0.1")],
        is_wanted=lambda _: True,
        on_change=worker.changes.append,
        interval_s=interval_s,
        timeout_s=0.5,
        port=worker.port,
    )
    running = asyncio.create_task(prober.run())
    try:
        yield prober, worker
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await runner.cleanup()


async def asked(worker: Answering, times: int) -> None:
    target = worker.asked + times

    async def enough() -> bool:
        return worker.asked >= target

    await until(f"asked {times} times more", enough, within_s=10)


async def test_a_report_is_kept_with_its_age_and_its_pod() -> None:
    async with probing(said(REPORT)) as (prober, worker):
        await asked(worker, 2)
        probe = prober.probe(SHARD)
        assert probe.report == REPORT
        assert probe.pod_uid == "pod-1"
        assert probe.age_s is not None
        assert probe.age_s < 5


async def test_ages_that_merely_grow_are_no_news() -> None:
    async with probing(said(REPORT)) as (_, worker):
        await asked(worker, 2)
        news = len(worker.changes)
        for number in range(5):
            idle = REPORT.model_copy(
                update={"ages": WalAges(last_checkpoint_s=number * 7.0), "last_sync_s": number * 3.0}
            )
            worker.answer = said(idle)
            await asked(worker, 1)
        assert len(worker.changes) == news == 1


@pytest.mark.parametrize(
    "change",
    [
        {"mode": JournalMode.READ_ONLY},
        {"counts": WalCounts(due=1)},
        {"last_error": "disk"},
        {"journal_uuid": "v"},
        {"ages": WalAges(oldest_due_s=120.0)},
        {"volume": WalVolume(total_bytes=100, used_bytes=80)},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_what_may_change_a_verdict_is_news(change: dict[str, object]) -> None:
    async with probing(said(REPORT)) as (_, worker):
        await asked(worker, 2)
        news = len(worker.changes)
        worker.answer = said(REPORT.model_copy(update=change))
        await asked(worker, 3)
        assert len(worker.changes) == news + 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda: web.Response(status=500), "HTTP 500"),
        (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "HTTP 302"),
        (lambda: web.Response(text="hello"), "not a report"),
        (said(REPORT.model_copy(update={"shard": "storage-7"})), "answered for shard 'storage-7'"),
        (lambda: web.Response(text="x" * (REPORT_BYTES_MAX + 10)), "more than"),
        (with_age("NaN"), "not a report: 1 fields wrong"),
        (with_age("1e300"), "not a report: 1 fields wrong"),
        (said(REPORT.model_copy(update={"incarnation": "x" * 200})), "not a report: 1 fields wrong"),
    ],
    ids=["failure", "redirect", "no-report", "another-shard", "too-large", "no-number", "no-age", "long-name"],
)
async def test_what_is_no_report_of_this_shard_is_no_answer(answer: Callable[[], web.Response], why: str) -> None:
    async with probing(answer) as (prober, worker):
        await asked(worker, 3)
        probe = prober.probe(SHARD)
        assert probe.report is None
        assert why in probe.error
        assert probe.failures >= 2


async def test_a_worker_that_hangs_is_given_up_after_the_time_limit() -> None:
    async with probing(said(REPORT)) as (prober, worker):
        worker.delay_s = 30

        async def given_up() -> bool:
            return "in time" in prober.probe(SHARD).error

        await until("given up", given_up, within_s=5)


async def test_the_last_report_outlives_a_silence_and_the_silence_is_news() -> None:
    async with probing(said(REPORT)) as (prober, worker):
        await asked(worker, 2)
        news = len(worker.changes)
        worker.answer = lambda: web.Response(status=503)
        await asked(worker, 5)
        assert prober.probe(SHARD).report == REPORT
        assert len(worker.changes) == news + 2  # at the first failure, and when it counts as unknown
        worker.answer = said(REPORT)
        await asked(worker, 2)
        assert len(worker.changes) == news + 3


async def test_a_pod_in_a_hurry_does_not_wait_for_the_next_round() -> None:
    async with probing(said(REPORT), interval_s=60) as (prober, worker):
        await asked(worker, 1)
        prober.hurry(Target(SHARD, "pod-2", "c1", "127.0.0.1"))

        async def met() -> bool:
            return prober.probe(SHARD).pod_uid == "pod-2"

        await until("the new pod was asked", met, within_s=5)
