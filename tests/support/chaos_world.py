"""The small world of the chaos proof: a broker, a database, an object store, each behind a proxy, and two shards."""

import asyncio
import contextlib
import http.client
import json
import math
import random
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aioboto3
import aiormq

from eco_crds import contract
from eco_crds.ecoworker import AckPolicy
from eco_crds.wal import WalReport
from eco_workers.broker.topology import definitions
from tests.support import chaos_tasks
from tests.support.broker import Broker
from tests.support.chaos_ledger import Ledger, Verdict
from tests.support.objectstore import ObjectStore
from tests.support.postgres import Postgres
from tests.support.processes import ProcessError, scratch_directory
from tests.support.proxy import Proxy
from tests.support.worker_process import TOKEN, WorkerProcess, postgres_environment

POLICIES: Final = {policy.value.lower(): policy.value for policy in AckPolicy}
BUCKET: Final = "chaos"
HEARTBEAT_S: Final = 2
CONCURRENCY: Final = 16
SETTLE_TIMEOUT_S: Final = 180.0
POLL_S: Final = 0.2
QUIET_S: Final = 0.6
QUIET_COMPLETED_S: Final = 4.0
"""Longer than a retry of `chaos_tasks` is scheduled ahead, and than a lost delivery takes to come back."""
VOLUME_MIB: Final = 96


@dataclass(slots=True)
class World:
    """Everything that runs, and the ways to it."""

    directory: Path
    chance: random.Random
    small_volume: bool = False
    """The first shard keeps its journal on a small file system of its own, so that it can be filled."""
    modules: str = "tests.support.chaos_tasks"
    policy: str = "Journaled"
    """When the shards ack."""
    env: Mapping[str, str] = field(default_factory=dict)
    """More variables of the shards."""
    broker: Broker = field(init=False)
    database: Postgres = field(init=False)
    store: ObjectStore = field(init=False)
    to_broker: list[Proxy] = field(init=False, default_factory=list)
    to_database: Proxy = field(init=False)
    to_store: Proxy = field(init=False)
    shards: list[WorkerProcess] = field(init=False, default_factory=list)
    ledger: Ledger = field(init=False)
    exits: list[str] = field(init=False, default_factory=list)
    """Ends of a worker that nobody caused."""
    may_exit: set[int] = field(init=False, default_factory=set)
    """Shards that a fault has stopped on purpose; the keeper leaves them alone."""
    volume: Path | None = field(init=False, default=None)
    _keeper: asyncio.Task[None] | None = field(init=False, default=None)

    async def start(self) -> None:
        """Start servers, ledger and shards."""
        self.broker = Broker(self.directory / "broker")
        self.database = Postgres(self.directory / "postgres")
        self.store = ObjectStore(self.directory / "store")
        await asyncio.gather(*(asyncio.to_thread(part.start) for part in (self.broker, self.database, self.store)))
        # Limits are policies, set beside the declared queues: without them a broker's own defaults would apply.
        await asyncio.to_thread(self.broker.define, definitions())
        async with self._s3() as client:
            await client.create_bucket(Bucket=BUCKET)
        self.to_broker = [Proxy(self.broker.port), Proxy(self.broker.port)]
        self.to_database, self.to_store = Proxy(self.database.port), Proxy(self.store.port)
        runs = self.directory / "runs"
        self.ledger = Ledger(self.broker.url, runs, self.chance)
        await self.ledger.start()
        if self.small_volume:
            self.volume = await asyncio.to_thread(_make_volume, self.directory)
        for index, proxy in enumerate(self.to_broker):
            shard = self._shard(index, proxy, runs)
            shard.sync_to(interval_s=1, batch_size=200)
            self.shards.append(shard)
            await asyncio.to_thread(shard.start)
        await asyncio.gather(*(asyncio.to_thread(shard.wait_ready) for shard in self.shards))
        self._keeper = asyncio.create_task(self._keep())

    def _shard(self, index: int, proxy: Proxy, runs: Path) -> WorkerProcess:
        env = {
            chaos_tasks.RUNS_VARIABLE: str(runs),
            "ECO_CONCURRENCY": str(CONCURRENCY),
            contract.ENV_ACK_POLICY: self.policy,
            "ECO_GRACE_PERIOD_S": "30",
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{self.to_store.port}",
            "S3_BUCKET": BUCKET,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            **postgres_environment(self.database.dsn_at(self.to_database.port)),
            **self.env,
        }
        return WorkerProcess(
            self.directory / f"shard-{index}",
            # A short heartbeat, so that a half-open connection is found within seconds instead of a minute.
            f"amqp://guest:guest@127.0.0.1:{proxy.port}/?heartbeat={HEARTBEAT_S}",
            worker="chaos",
            index=index,
            modules=self.modules,
            env=env,
            volume=self.volume if index == 0 else None,
        )

    async def close(self) -> None:
        """Stop everything."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for shard in self.shards:
            await asyncio.to_thread(shard.kill)
        if hasattr(self, "ledger"):
            await self.ledger.close()
        for proxy in (
            *self.to_broker,
            *(getattr(self, name) for name in ("to_database", "to_store") if hasattr(self, name)),
        ):
            proxy.close()
        for part in ("broker", "store"):
            if hasattr(self, part):
                getattr(self, part).close()
        if hasattr(self, "database"):
            self.database.kill()
        if self.volume is not None:
            await asyncio.to_thread(subprocess.run, ["umount", str(self.volume)], check=False)
        await asyncio.to_thread(shutil.rmtree, self.directory, True)

    async def _keep(self) -> None:
        """Start again a shard that ended by itself, as a kubelet does, and note it."""
        while True:
            for index, shard in enumerate(self.shards):
                if index not in self.may_exit and not shard.is_running:
                    self.exits.append(f"{shard.name} ended with {shard.exit_code}: {shard.tail(3)}")
                    await asyncio.to_thread(shard.start)
            await asyncio.sleep(POLL_S)

    async def restart(self, index: int) -> None:
        """Start a shard again and let the keeper look after it."""
        shard = self.shards[index]
        if not shard.is_running:
            await asyncio.to_thread(shard.start)
        self.may_exit.discard(index)

    async def delivered(self, *, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """Wait until nothing waits in a queue: the shards hold all there is."""
        deadline = time.monotonic() + timeout_s
        while await self._ready():
            if time.monotonic() > deadline:
                raise ProcessError(f"{await self._ready()} messages are still in the queues after {timeout_s:.0f} s")
            await asyncio.sleep(POLL_S / 4)

    async def settle(self, *, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """Wait until nothing is under way: queues empty, journals empty, all synced. Raises ProcessError otherwise.

        Under `Completed` a row may wait a quarter of an hour for a redelivery that went to the other shard. It is left
        waiting, once nothing has moved for longer than a retry is ever scheduled ahead.
        """
        deadline = time.monotonic() + timeout_s
        quiet_since = math.inf
        while time.monotonic() - quiet_since < (QUIET_S if self.policy != "Completed" else QUIET_COMPLETED_S):
            reports = await asyncio.gather(*(asyncio.to_thread(shard.report) for shard in self.shards))
            idle = all(report is not None and is_empty(report, waits=self.policy == "Completed") for report in reports)
            if not idle or await self._ready():
                quiet_since = math.inf
            elif quiet_since == math.inf:
                quiet_since = time.monotonic()
            if time.monotonic() > deadline:
                left = [
                    report and (report.mode, report.counts, report.last_error, report.sync_error) for report in reports
                ]
                tails = "\n".join(f"{shard.name}:\n{shard.tail(12)}" for shard in self.shards)
                raise ProcessError(
                    f"still at work after {timeout_s:.0f} s, {await self._ready()} ready: {left}\n{tails}"
                )
            for shard, report in zip(self.shards, reports, strict=True):
                if report is not None and (report.counts.sync_parked or report.counts.outbox_parked):
                    await asyncio.to_thread(self.command, shard, "sync")
            await asyncio.sleep(POLL_S)

    async def _ready(self) -> int:
        try:
            async with asyncio.timeout(5):
                connection = await aiormq.connect(self.broker.url)
                try:
                    channel = await connection.channel(publisher_confirms=False)
                    counts = [
                        (await channel.queue_declare(queue, passive=True)).message_count or 0
                        for queue in ("q.batch", chaos_tasks.DONE_QUEUE, "q.dlq")
                    ]
                    return sum(counts)
                finally:
                    await connection.close()
        except (aiormq.exceptions.AMQPError, OSError, TimeoutError):
            return -1

    def command(self, shard: WorkerProcess, name: str) -> dict[str, Any]:
        """Ask a shard's admin surface; empty when it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", shard.port, timeout=30)
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("POST", f"/wal/{name}", headers={"Authorization": f"Bearer {TOKEN}"})
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        return {}

    async def close_books(self) -> Verdict:
        """The ledger's verdict, taken past the proxies."""
        return await self.ledger.close_books(self.database.dsn, self.store.url, BUCKET)

    def _s3(self) -> Any:
        session = aioboto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
        return session.client("s3", endpoint_url=self.store.url)


def is_empty(report: WalReport, *, waits: bool = False) -> bool:
    """Whether a journal owes nothing any more; with `waits` rows may wait."""
    counts = report.counts
    owed = counts.due + counts.running + counts.outbox_unsent + counts.outbox_parked
    owed += counts.unsynced + counts.sync_parked
    return not owed and (waits or not counts.waiting)


@contextlib.asynccontextmanager
async def world(
    chance: random.Random,
    *,
    parent: Path | None = None,
    small_volume: bool = False,
    sabotage: str = "",
    policy: str = "Journaled",
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[World]:
    """A world that is gone afterwards, whatever happened in it. `sabotage` names a module that breaks a promise."""
    made = World(scratch_directory(parent), chance, small_volume=small_volume, policy=policy, env=env or {})
    if sabotage:
        made.modules = f"{made.modules},{sabotage}"
    try:
        await made.start()
        yield made
    finally:
        await made.close()


def _make_volume(directory: Path) -> Path:
    """A small ext4 in a file, so that "disk full" is a real file system's word."""
    image, mount = directory / "volume.img", directory / "volume"
    with image.open("wb") as out:
        out.truncate(VOLUME_MIB * 1024 * 1024)
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True, capture_output=True)
    return mount
