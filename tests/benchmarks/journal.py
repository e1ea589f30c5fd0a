"""Speed and size of the journal, each figure beside a peer or a limit of the same run: `make bench-journal`.

The work is one task a round: accept, claim, complete, each acknowledged after its commit, by many writers at once. The
peers do the same work on the same disk: the journal with `synchronous=NORMAL`, plain aiosqlite with one transaction an
operation, and a bare fdatasync of as many bytes, as often as the journal commits. That last one runs as a process
beside the journal, so that both meet the same disk and the same machine; what an idle disk would say is told as well.
Runs are interleaved and the middle one of several counts, since disks and machines have moods. `--part speed|size` runs
one half.
"""

import argparse
import asyncio
import gc
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiosqlite

from eco_workers.journal import Identity, Limits, NewTask, SqliteJournal
from eco_workers.journal.opening import PRAGMAS, Plan
from eco_workers.journal.queries import SCHEMA
from tests.support import figures

IDENTITY: Final = Identity("bench", "storage", "storage-0")
NAME: Final = "resize"
NAMES: Final = frozenset({NAME})
PAYLOAD: Final = json.dumps({"object": "photos/2026/11/21/0123456789abcdef.jpg", "width": 1024, "height": 768}).encode()
RESULT: Final = json.dumps({"object": "photos/2026/11/21/0123456789abcdef-small.jpg", "bytes": 48213}).encode()
ROUNDS: Final = 3
SECONDS: Final = 3.0
MIB: Final = 1024 * 1024
ROWS: Final = 1_000_000
UNFINISHED: Final = 10_000
BARE_APPENDS: Final = 32
"""Appends of the bare sync before it begins its file anew: about the journal's log between two checkpoints."""


@dataclass(slots=True)
class Measured:
    """What a number of writers got done in a while."""

    seconds: float = 0.0
    operations: int = 0
    commits: int = 0
    bytes_written: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.operations / self.seconds

    @property
    def p99_s(self) -> float:
        return statistics.quantiles(self.latencies_s, n=100)[98]


@contextmanager
def directory() -> Iterator[Path]:
    """A directory on a real disk; `ECO_BENCH_DIR` names another place than the tree's `build`."""
    base = Path(os.environ.get("ECO_BENCH_DIR", figures.FILE.parent))
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base) as name:
        yield Path(name)


async def journal_work(
    path: Path, *, writers: int, synchronous: str, seconds: float, one_row: bool = False
) -> Measured:
    """The work on the journal."""
    limits = Limits(group_operations_max=1) if one_row else Limits()
    plan = Plan(path, IDENTITY, limits=limits, pragmas={**PRAGMAS, "synchronous": synchronous})
    measured = Measured()
    async with await SqliteJournal.open(path, identity=IDENTITY, plan=plan) as journal:

        async def timed(operation: Any) -> Any:
            begun = time.perf_counter()
            value = await operation
            measured.latencies_s.append(time.perf_counter() - begun)
            return value

        async def writer(number: int) -> None:
            count = 0
            while time.perf_counter() < until:
                count += 1
                await timed(journal.accept([NewTask(f"task-{number}-{count}", NAME, PAYLOAD, "q.batch")]))
                for running in await timed(journal.claim(1, names=NAMES)):
                    await timed(journal.complete(running.task_id, RESULT))

        written, commits = bytes_written(), (await journal.statistics()).commits
        begun = time.perf_counter()
        until = begun + seconds
        await asyncio.gather(*(writer(number) for number in range(writers)))
        measured.seconds = time.perf_counter() - begun
        measured.operations = len(measured.latencies_s)
        measured.commits = (await journal.statistics()).commits - commits
        measured.bytes_written = bytes_written() - written
    return measured


async def aiosqlite_work(path: Path, *, writers: int, seconds: float) -> Measured:
    """The same work as people write it with aiosqlite: same tables, one connection, one transaction an operation."""
    measured = Measured()
    async with aiosqlite.connect(path, isolation_level=None) as database:
        await database.execute("PRAGMA journal_mode = wal")
        await database.execute("PRAGMA synchronous = NORMAL")
        await database.executescript(SCHEMA)
        turn = asyncio.Lock()

        async def transaction(sql: str, values: tuple[object, ...]) -> Any:
            begun = time.perf_counter()
            async with turn:
                await database.execute("BEGIN IMMEDIATE")
                async with database.execute(sql, values) as cursor:
                    row = await cursor.fetchone()
                await database.execute("COMMIT")
            measured.latencies_s.append(time.perf_counter() - begun)
            return row

        async def writer(number: int) -> None:
            count = 0
            while time.perf_counter() < until:
                count += 1
                now = time.time()
                values = (f"task-{number}-{count}", NAME, PAYLOAD, now, now, now)
                await transaction(PEER_ACCEPT, values)
                row = await transaction(PEER_CLAIM, (now, now, now, NAME))
                await transaction(PEER_COMPLETE, (RESULT, now, now, row[0]))

        begun = time.perf_counter()
        until = begun + seconds
        await asyncio.gather(*(writer(number) for number in range(writers)))
        measured.seconds = time.perf_counter() - begun
        measured.operations = len(measured.latencies_s)
    return measured


PEER_ACCEPT: Final = """
INSERT INTO task_wal (task_id, task_name, payload, queue, headers, state, owner, generation, attempts, version, due_at,
  created_at, last_activity, checksum)
VALUES (?, ?, ?, 'q.batch', '{}', 'pending', 'journal', 0, 0, 1, ?, ?, ?, 0) RETURNING task_id"""
PEER_CLAIM: Final = """
UPDATE task_wal SET state = 'running', attempts = attempts + 1, started_at = ?, last_activity = ?, version = version + 1
WHERE id = (SELECT id FROM task_wal WHERE state = 'pending' AND due_at <= ? AND task_name = ? ORDER BY due_at LIMIT 1)
RETURNING task_id"""
PEER_COMPLETE: Final = """
UPDATE task_wal SET state = 'completed', result = ?, ended_at = ?, last_activity = ?, due_at = NULL,
  version = version + 1 WHERE task_id = ? RETURNING task_id"""


def bare_fdatasync(path: Path, *, size_bytes: int, per_second: float, seconds: float) -> list[float]:
    """Seconds of each append and sync of so many bytes to a file, so many times a second."""
    data = os.urandom(size_bytes)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    took_s: list[float] = []
    end = due = time.perf_counter()
    end += seconds
    try:
        while (begun := time.perf_counter()) < end:
            if len(took_s) % BARE_APPENDS == 0:
                os.lseek(descriptor, 0, os.SEEK_SET)  # over its own blocks again, as a log that was moved is
            os.write(descriptor, data)
            os.fdatasync(descriptor)
            now = time.perf_counter()
            took_s.append(now - begun)
            due = max(due + 1 / per_second, now)
            time.sleep(due - now)
    finally:
        os.close(descriptor)
    return took_s


def fdatasync_beside(path: Path, *, size_bytes: int, per_second: float, seconds: float) -> subprocess.Popen[str]:
    """The same in a process of its own, beside whatever runs meanwhile; it prints its seconds as JSON."""
    arguments = (path, "--bytes", size_bytes, "--per-second", per_second, "--seconds", seconds)
    command = [sys.executable, "-m", "tests.benchmarks.journal", "--sync", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def bytes_written() -> int:
    """Bytes that this process has handed to the kernel for files."""
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "wchar":
            return int(value)
    return 0


def middle(values: list[float]) -> float:
    """The value in the middle."""
    return statistics.median(values)


@dataclass(frozen=True, slots=True)
class Tail:
    """The slowest hundredth of the journal's operations, and of bare syncs of as many bytes."""

    journal_p99_s: float
    beside_p99_s: float
    idle_p99_s: float
    group_bytes: int

    @property
    def beside(self) -> float:
        return self.journal_p99_s / self.beside_p99_s

    @property
    def on_idle_disk(self) -> float:
        return self.journal_p99_s / self.idle_p99_s

    def __str__(self) -> str:
        return (
            f"p99 {self.journal_p99_s * 1000:.1f} ms, of a bare fdatasync of {self.group_bytes:,} bytes beside it"
            f" {self.beside_p99_s * 1000:.1f} ms, of one on an idle disk {self.idle_p99_s * 1000:.1f} ms"
        )


def measure_tail(base: Path, before: Measured, seconds: float) -> Tail:
    """Run the work once more, with bare syncs beside it of the size and at the rate that it had before."""
    group_bytes, per_second = before.bytes_written // max(1, before.commits), before.commits / before.seconds
    syncs = fdatasync_beside(base / "beside", size_bytes=group_bytes, per_second=per_second, seconds=seconds)
    measured = asyncio.run(journal_work(base / "tail.db", writers=64, synchronous="FULL", seconds=seconds))
    beside = json.loads(syncs.communicate(timeout=seconds + 60)[0])
    idle = bare_fdatasync(base / "idle", size_bytes=group_bytes, per_second=per_second, seconds=seconds / 2)
    return Tail(measured.p99_s, _p99(beside), _p99(idle), group_bytes)


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def measure_speed(seconds: float) -> None:
    """Operations a second against peers of the same run."""
    full, ratios, against_peer, commits = [], [], [], []
    tails: list[Tail] = []
    for number in range(ROUNDS):
        with directory() as base:
            gc.collect()
            normal = asyncio.run(journal_work(base / "normal.db", writers=64, synchronous="NORMAL", seconds=seconds))
            safe = asyncio.run(journal_work(base / "full.db", writers=64, synchronous="FULL", seconds=seconds))
            peer = asyncio.run(aiosqlite_work(base / "peer.db", writers=64, seconds=seconds))
            tails.append(measure_tail(base, safe, seconds))
        full.append(safe.per_second)
        commits.append(safe.commits / safe.seconds)
        ratios.append(safe.per_second / normal.per_second)
        against_peer.append(normal.per_second / peer.per_second)
        print(
            f"  round {number + 1}: FULL {safe.per_second:,.0f}/s, NORMAL {normal.per_second:,.0f}/s, aiosqlite"
            f" {peer.per_second:,.0f}/s; {safe.commits / safe.seconds:,.0f} groups/s of"
            f" {safe.operations / max(1, safe.commits):.0f}; {tails[-1]}",
            flush=True,
        )
    figures.record("journal.full_vs_normal_64", middle(ratios), "ratio", ">= 0.75", peer="synchronous=NORMAL")
    figures.record("journal.vs_aiosqlite_64", middle(against_peer), "ratio", ">= 3", peer="aiosqlite, NORMAL")
    beside, idle = middle([tail.beside for tail in tails]), middle([tail.on_idle_disk for tail in tails])
    peer_name = "bare fdatasync beside it, as many bytes as often"
    figures.record("journal.p99_vs_fdatasync_64", beside, "ratio", "<= 3", peer=peer_name)
    figures.record("journal.p99_vs_idle_fdatasync_64", idle, "ratio", peer="the same on a disk that does nothing else")
    figures.record("journal.p99_ms_64", middle([tail.journal_p99_s * 1000 for tail in tails]), "ms")
    figures.record("journal.commits_per_s_64", middle(full), "operations/s")
    figures.record("journal.groups_per_s_64", middle(commits), "transactions/s")
    with directory() as base:
        for writers in (1, 16, 256):
            path = base / f"{writers}.db"
            some = asyncio.run(journal_work(path, writers=writers, synchronous="FULL", seconds=seconds))
            figures.record(f"journal.commits_per_s_{writers}", some.per_second, "operations/s")
        path = base / "single.db"
        single = asyncio.run(journal_work(path, writers=64, synchronous="FULL", seconds=seconds, one_row=True))
        figures.record("journal.commits_per_s_one_row_a_commit", single.per_second, "operations/s")


async def measure_bytes() -> None:
    """Bytes on disk for a completed task, and bytes written for it, log and checkpoint together."""
    tasks = 10_000
    with directory() as base:
        path = base / "bytes.db"
        async with await SqliteJournal.open(path, identity=IDENTITY) as journal:
            empty, written = path.stat().st_size, bytes_written()
            for start in range(0, tasks, 100):
                ids = [f"task-{number}" for number in range(start, start + 100)]
                await journal.accept([NewTask(task_id, NAME, PAYLOAD, "q.batch") for task_id in ids])
                claimed = await journal.claim(100, names=NAMES)
                await asyncio.gather(*(journal.complete(running.task_id, RESULT) for running in claimed))
            await journal.checkpoint()
            figures.record(
                "journal.bytes_per_task",
                (path.stat().st_size - empty) / tasks,
                "bytes",
                peer=f"payload {len(PAYLOAD)}, result {len(RESULT)}",
            )
            figures.record("journal.bytes_written_per_task", (bytes_written() - written) / tasks, "bytes")


# -- a journal with a million rows ------------------------------------------------------------------------------------


async def fill(path: Path, rows: int, unfinished: int) -> None:
    """Make a large journal: ended rows written in bulk, unfinished ones by the journal; ends as a killed process."""
    journal = await SqliteJournal.open(path, identity=IDENTITY)
    slice_rows = 5_000
    for start in range(0, rows - unfinished, slice_rows):
        numbers = range(start, min(start + slice_rows, rows - unfinished))
        tasks = [NewTask(f"ended-{number:07d}", NAME, PAYLOAD, "q.batch") for number in numbers]
        await journal._writer.run(partial(end_at_once, tasks=tasks))
    for start in range(0, unfinished, 1_000):
        await journal.accept(
            [NewTask(f"due-{number}", NAME, PAYLOAD, "q.batch") for number in range(start, start + 1_000)]
        )
    await journal.claim(unfinished // 10, names=NAMES)
    os._exit(0)


def end_at_once(operations: Any, tasks: list[NewTask]) -> None:
    """Insert rows that look like completed ones: what they hold is what a worker would have left."""
    from eco_workers.journal.model import Owner  # noqa: PLC0415  # used in a child only

    now = time.time()
    new = [operations._new_row(task, Owner.JOURNAL, now) for task in tasks]
    operations.rows.insert(
        [
            row._replace(
                state="completed", result=RESULT, ended_at=now, started_at=now, attempts=1, version=3, due_at=None,
                salvaged=1, sync_status="synced",
            ).sealed()
            for row in new
        ]
    )  # fmt: skip


async def open_large(path: Path, tasks: int) -> None:
    """Open, take the first unfinished row, work a while, print what that took; ends as a killed process."""
    begun = time.perf_counter()
    journal = await SqliteJournal.open(path, identity=IDENTITY)
    opened_s = time.perf_counter() - begun
    (first,) = await journal.claim(1, names=NAMES)
    first_s = time.perf_counter() - begun
    await journal.release([first.task_id])
    for start in range(0, tasks, 100):
        await journal.accept(
            [NewTask(f"{begun}-{number}", NAME, PAYLOAD, "q.batch") for number in range(start, start + 100)]
        )
        for running in await journal.claim(100, names=NAMES):
            await journal.complete(running.task_id, RESULT)
    counts = (await journal.statistics()).counts
    print(json.dumps({"opened_s": opened_s, "first_s": first_s, "rss": rss_bytes(), "completed": counts.completed}))
    sys.stdout.flush()
    os._exit(0)


def rss_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _child(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.benchmarks.journal", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=900).stdout


def measure_size(rows: int) -> None:
    """Start time and memory with a million rows, after a kill."""
    with directory() as base:
        path = base / "large.db"
        begun = time.perf_counter()
        _child("--fill", str(path), "--rows", str(rows))
        print(f"  {rows:,} rows in {time.perf_counter() - begun:.0f} s, {path.stat().st_size / MIB:,.0f} MiB")
        runs = []
        for _ in range(ROUNDS):
            runs.append(json.loads(_child("--open", str(path))))
            print(f"  {runs[-1]}", flush=True)
        shutil.rmtree(base, ignore_errors=True)
    figures.record("journal.open_1m_s", middle([run["first_s"] for run in runs]), "s", "<= 0.5")
    figures.record("journal.rss_1m_mib", max(run["rss"] for run in runs) / MIB, "MiB", "<= 110")


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Benchmarks of the journal.")
    parser.add_argument("--part", action="append", choices=["speed", "bytes", "size"])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the large journal")
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sync", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bytes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--per-second", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sync:
        took_s = bare_fdatasync(given.sync, size_bytes=given.bytes, per_second=given.per_second, seconds=given.seconds)
        print(json.dumps(took_s))
        return 0
    if given.fill:
        asyncio.run(fill(given.fill, given.rows, min(UNFINISHED, given.rows // 10)))
    if given.open:
        asyncio.run(open_large(given.open, 1_000))
    parts = given.part or ["speed", "bytes", "size"]
    print(f"SQLite of aiosqlite {sqlite3.sqlite_version}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if "speed" in parts:
        measure_speed(given.seconds)
    if "bytes" in parts:
        asyncio.run(measure_bytes())
    if "size" in parts:
        measure_size(given.rows)
    print(figures.table())
    return 1 if figures.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
