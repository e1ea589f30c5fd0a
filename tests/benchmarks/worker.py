"""How fast the worker is beside its peers, on one machine in one run: `python -m tests.benchmarks.worker [--quick]`.

Everybody gets the same messages from the same quorum queue of the same broker, and runs the same no-op: it notes the
time in a file mapped into memory. Contenders take turns, round after round; of each the best round counts, because what
else happens on a machine only ever slows one down. The worker's time ends when its journal holds every result, so both
transitions of every task are durable (fsync) within it; its peers make nothing durable.

Celery gets literally the same messages (its protocol 2) as the worker it is compared with. The bare clients and the
worker beside them get the plain form.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eco_workers.broker.topology import declare
from tests.benchmarks.peers import marks, sync_speed
from tests.support import figures, producer
from tests.support.broker import Broker
from tests.support.processes import Program, free_port, scratch_directory
from tests.support.worker_process import ROOT, WorkerProcess

QUEUE: Final = "q.sched"
TASK: Final = "bench.noop"
PREFETCH_MESSAGES: Final = 512
CONCURRENCY: Final = 256
PAD: Final = "x" * 160
RUN_TIMEOUT_S: Final = 180.0
WARM_UP_MESSAGES: Final = 200
WARM_UP_SHARE: Final = 0.2


@dataclass(slots=True)
class Contender:
    """One consumer: how it is started, which form of message it gets, what it achieved."""

    name: str
    make: Callable[[Path, str], "Program | WorkerProcess"]
    message: Callable[..., producer.Message]
    rates_per_s: list[float] = field(default_factory=list)
    latencies_s: list[dict[float, float]] = field(default_factory=list)

    @property
    def best_per_s(self) -> float:
        """Tasks per second of the best round."""
        return max(self.rates_per_s, default=0.0)


def _env(directory: Path, url: str) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(directory),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "ECO_BENCH_AMQP_URL": url,
        marks.DIRECTORY_VARIABLE: str(directory / "marks"),
    }


def _bare(which: str) -> Callable[[Path, str], Program]:
    def make(directory: Path, url: str) -> Program:
        argv = [sys.executable, "-m", "tests.benchmarks.peers.bare", which, url, QUEUE, str(PREFETCH_MESSAGES)]
        return Program(which, argv, directory / "peer.log", _env(directory, url), directory=ROOT)

    return make


def _celery(pool: str, concurrency: int) -> Callable[[Path, str], Program]:
    def make(directory: Path, url: str) -> Program:
        argv = [
            sys.executable, "-m", "celery", "-A", "tests.benchmarks.peers.celery_app", "worker", "-P", pool,
            "-c", str(concurrency), "-l", "ERROR", "-n", f"{pool}@localhost",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        ]  # fmt: skip
        env = _env(directory, url) | {"ECO_BENCH_PREFETCH_MULTIPLIER": str(PREFETCH_MESSAGES // concurrency)}
        return Program(f"celery {pool}", argv, directory / "peer.log", env, directory=ROOT)

    return make


def _worker(directory: Path, url: str) -> WorkerProcess:
    env = {
        marks.DIRECTORY_VARIABLE: str(directory / "marks"),
        "ECO_CONCURRENCY": str(CONCURRENCY),
        "ECO_PREFETCH_MESSAGES": str(PREFETCH_MESSAGES),
        "ECO_MAX_UNFINISHED": str(CONCURRENCY + PREFETCH_MESSAGES),
    }
    modules = "tests.benchmarks.peers.noop"
    return WorkerProcess(directory, url, worker="bench", queues=QUEUE, modules=modules, env=env, port=free_port())


class Bench:
    """One broker, one queue, contenders in turns."""

    def __init__(self, broker: Broker, scratch: Path) -> None:
        self.broker = broker
        self._scratch = scratch
        self._round = 0

    async def throughput(self, contender: Contender, messages: int) -> float:
        """Tasks per second through a full queue."""
        directory = self._fresh_directory(contender)
        connection, channel = await producer.open_channel(self.broker.url)
        try:
            await declare(channel)
            await producer.purge(channel, [QUEUE])
            made = (contender.message(TASK, {"n": n, "sent": 0.0, "pad": PAD}) for n in range(messages))
            await producer.publish(channel, QUEUE, made)
        finally:
            await connection.close()
        program = contender.make(directory, self.broker.url)
        program.start()
        try:
            await self._wait_for_marks(program, directory, messages)
            ended_at = await _wait_durable(program, messages)
        finally:
            _end(program)
        found = marks.read(directory / "marks")
        if len(found) != messages:
            raise RuntimeError(f"{contender.name}: {len(found)} tasks ran, {messages} were sent")
        # What came with the first moment (a whole prefetch for some) was not worked on within the time measured.
        rate = (messages - 1) / (max(ended_at or 0.0, found[-1].done_at) - found[0].done_at)
        contender.rates_per_s.append(rate)
        return rate

    async def latency(self, contender: Contender, rate_per_s: float, messages: int) -> dict[float, float]:
        """Quantiles of the time from publishing to the end of the task's body, at a steady rate."""
        directory = self._fresh_directory(contender)
        connection, channel = await producer.open_channel(self.broker.url)
        program = contender.make(directory, self.broker.url)
        try:
            await declare(channel)
            await producer.purge(channel, [QUEUE])
            program.start()

            def make(number: int) -> producer.Message:
                return contender.message(TASK, {"n": number, "sent": time.monotonic(), "pad": PAD})

            await producer.publish(channel, QUEUE, [make(-1) for _ in range(WARM_UP_MESSAGES)])
            await self._wait_for_marks(program, directory, WARM_UP_MESSAGES)
            await producer.publish_steadily(channel, QUEUE, make, rate_per_s=rate_per_s, count=messages)
            await self._wait_for_marks(program, directory, WARM_UP_MESSAGES + messages)
        finally:
            _end(program)
            await connection.close()
        found = sorted(marks.read(directory / "marks"), key=lambda each: each.sent_at)
        steady = found[WARM_UP_MESSAGES + int(messages * WARM_UP_SHARE) :]
        delays = sorted(each.done_at - each.sent_at for each in steady)
        quantiles = {q: delays[min(len(delays) - 1, int(len(delays) * q))] for q in (0.5, 0.9, 0.99, 0.999)}
        contender.latencies_s.append(quantiles)
        return quantiles

    async def _wait_for_marks(self, program: Program | WorkerProcess, directory: Path, wanted: int) -> None:
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while marks.count(directory / "marks") < wanted:
            if not program.is_running:
                raise RuntimeError(f"{directory.name} ended with {program.exit_code}:\n{program.tail()}")
            if time.monotonic() > deadline:
                found = marks.count(directory / "marks")
                raise RuntimeError(
                    f"{directory.name}: {found} of {wanted} tasks after {RUN_TIMEOUT_S:.0f} s\n{program.tail()}"
                )
            await asyncio.sleep(0.02)

    def _fresh_directory(self, contender: Contender) -> Path:
        self._round += 1
        directory = self._scratch / f"{self._round:03d}-{contender.name.replace(' ', '-')}"
        (directory / "marks").mkdir(parents=True)
        return directory


async def _wait_durable(program: Program | WorkerProcess, messages: int) -> float | None:
    """When the worker's journal held every result; None for a peer, which has none."""
    if not isinstance(program, WorkerProcess):
        return None
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while time.monotonic() < deadline:
        report = await asyncio.to_thread(program.report)
        if report is not None and report.counts.completed >= messages:
            return time.monotonic()
        await asyncio.sleep(0.005)
    raise RuntimeError(f"the journal never held {messages} results: {program.report()}")


def _end(program: Program | WorkerProcess) -> None:
    if isinstance(program, WorkerProcess):
        program.terminate(timeout_s=15)
        shutil.rmtree(program.directory / "volume", ignore_errors=True)
    else:
        program.stop(signal.SIGTERM, timeout_s=10)


async def run(arguments: argparse.Namespace) -> None:
    """All comparisons, with what was found as they come."""
    scratch = scratch_directory(arguments.scratch)
    messages = arguments.messages or (8_000 if arguments.quick else 30_000)
    rounds = arguments.rounds or (2 if arguments.quick else 4)
    wanted = set(arguments.part)
    try:
        if wanted & {"speed", "latency"}:
            await _against_peers(scratch, messages, rounds, latency="latency" in wanted)
        if "sync" in wanted:
            await sync_speed.measure(scratch, rows=5_000 if arguments.quick else 30_000, rounds=rounds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print()
    print(figures.table())


async def _against_peers(scratch: Path, messages: int, rounds: int, *, latency: bool) -> None:
    celeries = [
        Contender("celery solo", _celery("solo", 1), producer.celery),
        Contender("celery prefork", _celery("prefork", 2), producer.celery),
        Contender("celery threads", _celery("threads", 2), producer.celery),
    ]
    pika = Contender("aio-pika", _bare("aio-pika"), producer.plain)
    aiormq = Contender("aiormq", _bare("aiormq"), producer.plain)
    as_celery = Contender("worker, celery messages", _worker, producer.celery)
    as_plain = Contender("worker, plain messages", _worker, producer.plain)
    everybody = [as_plain, pika, as_celery, *celeries, aiormq]
    broker = Broker(scratch / "broker")
    broker.start()
    print(f"RabbitMQ {broker.version()}, {messages} messages a round, {rounds} rounds, {os.cpu_count()} cores")
    try:
        bench = Bench(broker, scratch)
        for turn in range(rounds):
            for contender in everybody:
                rate = await bench.throughput(contender, messages)
                print(f"  round {turn + 1}  {contender.name:<24} {rate:>9,.0f} tasks/s", flush=True)
        best = max(celeries, key=lambda each: each.best_per_s)
        _record_rates(as_celery, as_plain, best, pika, aiormq)
        for each in celeries:
            figures.record(f"worker.peer_{each.name.replace(' ', '_')}_per_s", each.best_per_s, "tasks/s")
        if latency:
            await _latency(bench, as_celery, best, rounds)
    finally:
        broker.close()


def _record_rates(
    as_celery: Contender, as_plain: Contender, best: Contender, pika: Contender, aiormq: Contender
) -> None:
    rows = (
        ("worker.vs_celery_best", as_celery, best, ">= 2"),
        ("worker.vs_bare", as_plain, pika, ">= 1"),
        ("worker.vs_aiormq", as_plain, aiormq, ">= 0.6"),
    )
    for name, mine, peer, target in rows:
        text = f"{mine.best_per_s:,.0f} tasks/s against {peer.name} {peer.best_per_s:,.0f}"
        figures.record(name, mine.best_per_s / peer.best_per_s, "ratio", target, peer=text)


async def _latency(bench: Bench, mine: Contender, peer: Contender, rounds: int) -> None:
    rate = peer.best_per_s / 2
    count = int(rate * 8)
    for turn in range(rounds):
        for contender in (mine, peer):
            found = await bench.latency(contender, rate, count)
            text = "  ".join(f"p{100 * q:g} {1000 * value:.1f} ms" for q, value in found.items())
            print(f"  round {turn + 1}  {contender.name:<24} at {rate:,.0f}/s: {text}", flush=True)
    mine_s, peer_s = (min(each[0.99] for each in contender.latencies_s) for contender in (mine, peer))
    text = f"p99 {1000 * mine_s:.1f} ms against {peer.name} {1000 * peer_s:.1f} ms, both at {rate:,.0f}/s"
    figures.record("worker.latency_p99_vs_celery", mine_s / peer_s, "ratio", "<= 1", peer=text)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description="The worker beside Celery, bare clients and a bare COPY.")
    parser.add_argument("--quick", action="store_true", help="fewer messages and rounds, about two minutes")
    parser.add_argument("--messages", type=int, help="messages a round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--part", nargs="*", choices=("speed", "latency", "sync"), default=("speed", "latency", "sync"))
    parser.add_argument("--scratch", type=Path, default=None, help="directory for broker, database and journals")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
