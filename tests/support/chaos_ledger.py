"""The ledger outside: what was published with a confirm, what came out, and the difference. It knows no journal."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aioboto3
import aiormq
import asyncpg

from eco_workers.broker.topology import TOPOLOGY, declare
from tests.support import chaos_tasks, producer

QUEUE: Final = "q.batch"
DEAD_LETTERS: Final = "q.dlq"
RETRY_S: Final = 0.3
PREFETCH_MESSAGES: Final = 500
CONNECT_TIMEOUT_S: Final = 5.0
PUBLISH_TIMEOUT_S: Final = 120.0
_ERRORS: Final = (aiormq.exceptions.AMQPError, OSError, TimeoutError, RuntimeError)
_SHARES: Final[tuple[tuple[str, float], ...]] = (
    ("message", 0.70),
    ("object", 0.12),
    ("flaky", 0.12),
    ("hopeless", 0.04),
    ("invalid", 0.02),
)


@dataclass(slots=True)
class Verdict:
    """The ledger closed: every list is empty when the promise was kept."""

    published: int
    lost: list[str] = field(default_factory=list)
    """Tasks without a row, without their message or object, or without their dead letter."""
    duplicates: list[str] = field(default_factory=list)
    """Effects that exist twice under different keys, rows or objects that nobody ordered."""
    wrong: list[str] = field(default_factory=list)
    """Rows that say something else than what the task was to do."""
    runs: int = 0
    repeated_runs: int = 0
    """Bodies begun again though they had no reason to fail: allowed, and told."""


class Ledger:
    """Publishes tasks, collects what comes out, compares."""

    def __init__(self, amqp_url: str, runs: Path, chance: random.Random) -> None:
        self._url = amqp_url
        self._runs = runs
        self._chance = chance
        self.kinds: dict[str, str] = {}
        """Kind of each task whose publishing was confirmed."""
        self.numbers: dict[str, int] = {}
        self.messages: dict[str, dict[str, Any]] = {}
        """What came out on the queue of results, by message id."""
        self.arrived_at: dict[str, float] = {}
        """When the first message of a task came out, by the monotonic clock."""
        self.dead: dict[str, str] = {}
        """Reason of each dead letter, by message id."""
        self._collecting: asyncio.Task[None] | None = None
        self._collector: aiormq.abc.AbstractChannel | None = None
        self._leaves_dead = False
        self._connection: aiormq.abc.AbstractConnection | None = None
        self._channel: aiormq.abc.AbstractChannel | None = None

    async def start(self) -> None:
        """Declare the queues and begin to collect."""
        connection, channel = await producer.open_channel(self._url)
        await declare(channel)
        await connection.close()
        self._collecting = asyncio.create_task(self._collect())

    async def close(self) -> None:
        """End collecting and publishing."""
        if self._collecting is not None:
            self._collecting.cancel()
            await asyncio.gather(self._collecting, return_exceptions=True)
        await self._disconnect()

    @contextlib.asynccontextmanager
    async def leaving_dead_letters(self) -> AsyncIterator[None]:
        """Read no dead letters for a while."""
        self._leaves_dead = True
        try:
            await self._collect_anew()
            yield
        finally:
            self._leaves_dead = False
            await self._collect_anew()

    async def _collect_anew(self) -> None:
        if self._collector is not None:
            with contextlib.suppress(*_ERRORS):
                await self._collector.close()

    async def publish(self, count: int, *, pause_s_max: float = 0.02, only: str = "") -> list[str]:
        """Publish tasks of all kinds, or of one; each counts from the moment of its confirm. Their ids."""
        made: list[tuple[str, int, producer.Message]] = []
        weights = [share for _, share in _SHARES]
        kinds = [only] * count if only else self._chance.choices([kind for kind, _ in _SHARES], weights, k=count)
        for kind in kinds:
            n = len(self.kinds) + len(made)
            identity = f"chaos-{n:06d}-{self._chance.getrandbits(32):08x}"
            payload = {"n": n, "kind": kind, "pause_s": round(self._chance.uniform(0, pause_s_max), 4)}
            name = "chaos.unheard-of" if kind == "invalid" else chaos_tasks.NAME
            made.append((kind, n, producer.plain(name, payload, identity)))
        await self._send([message for _, _, message in made])
        for kind, n, message in made:
            self.kinds[message.task_id] = kind
            self.numbers[message.task_id] = n
        return [message.task_id for _, _, message in made]

    async def _send(self, messages: Sequence[producer.Message]) -> None:
        deadline = time.monotonic() + PUBLISH_TIMEOUT_S
        left = {message.task_id: message for message in messages}
        while left:
            try:
                channel = await self._open()
                results = await asyncio.gather(
                    *(self._send_one(channel, message) for message in list(left.values())), return_exceptions=True
                )
                for message, result in zip(list(left.values()), results, strict=True):
                    if result is None:
                        del left[message.task_id]
            except _ERRORS:
                pass
            if left:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(left)} messages could not be published in {PUBLISH_TIMEOUT_S:.0f} s")
                await self._disconnect()
                await asyncio.sleep(RETRY_S)

    @staticmethod
    async def _send_one(channel: aiormq.abc.AbstractChannel, message: producer.Message) -> None:
        async with asyncio.timeout(30):
            await channel.basic_publish(message.body, routing_key=QUEUE, properties=message.properties, mandatory=True)

    async def _open(self) -> aiormq.abc.AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                self._connection, self._channel = await producer.open_channel(self._url)
        return self._channel

    async def _disconnect(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(*_ERRORS):
                async with asyncio.timeout(2):
                    await connection.close()

    async def _collect(self) -> None:
        while True:
            connection = None
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    connection = await aiormq.connect(self._url)
                    channel = await connection.channel(publisher_confirms=False)
                    await channel.basic_qos(prefetch_count=PREFETCH_MESSAGES)
                    await declare(channel, TOPOLOGY)
                    await channel.basic_consume(chaos_tasks.DONE_QUEUE, self._on_done)
                    if not self._leaves_dead:
                        await channel.basic_consume(DEAD_LETTERS, self._on_dead)
                self._collector = channel
                lost = asyncio.Event()
                channel.on_consumer_cancel_callbacks.add(lambda _, gone=lost: gone.set())  # type: ignore[misc]  # a set of callables
                waits = [asyncio.ensure_future(asyncio.shield(channel.closing)), asyncio.ensure_future(lost.wait())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for each in waits:
                    each.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            except _ERRORS:
                pass
            finally:
                if connection is not None:
                    with contextlib.suppress(*_ERRORS):
                        await connection.close()
            await asyncio.sleep(RETRY_S)

    async def _on_done(self, message: aiormq.abc.DeliveredMessage) -> None:
        identity = message.header.properties.message_id or ""
        body = json.loads(message.body)
        if identity not in self.messages:
            self.messages[identity] = body
            self.arrived_at.setdefault(str(body.get("task")), time.monotonic())
        await self._ack(message)

    async def _on_dead(self, message: aiormq.abc.DeliveredMessage) -> None:
        headers = message.header.properties.headers or {}
        identity = str(headers.get("x-eco-task-id") or headers.get("x-eco-message-id") or "")
        self.dead[identity or message.header.properties.message_id or ""] = str(headers.get("x-eco-reason"))
        await self._ack(message)

    @staticmethod
    async def _ack(message: aiormq.abc.DeliveredMessage) -> None:
        # Gone with its channel it comes again, under the same id.
        with contextlib.suppress(*_ERRORS):
            await message.channel.basic_ack(message.delivery_tag or 0, wait=False)

    # The difference

    def wanted(self, *kinds: str) -> set[str]:
        """Ids of the tasks of some kinds."""
        return {task_id for task_id, kind in self.kinds.items() if kind in kinds}

    async def close_books(self, postgres_dsn: str, s3_url: str, bucket: str) -> Verdict:
        """Compare what was ordered with what is there."""
        verdict = Verdict(published=len(self.kinds))
        await self._compare_rows(verdict, postgres_dsn)
        await self._compare_objects(verdict, s3_url, bucket)
        self._compare_messages(verdict)
        self._count_runs(verdict)
        return verdict

    async def _compare_rows(self, verdict: Verdict, dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            known = await connection.fetchval("SELECT to_regclass('task_results') IS NOT NULL")
            query = "SELECT task_id, state, result->>'n' AS n FROM task_results"
            found = await connection.fetch(query) if known else []
        finally:
            await connection.close()
        rows = {record["task_id"]: record for record in found}
        completed, failed = self.wanted("message", "object", "flaky"), self.wanted("hopeless")
        verdict.lost += [f"{task_id}: no row" for task_id in (completed | failed) - rows.keys()]
        verdict.duplicates += [f"{task_id}: a row nobody ordered" for task_id in rows.keys() - completed - failed]
        for task_id in rows.keys() & completed:
            record = rows[task_id]
            if record["state"] != "completed" or record["n"] != str(self.numbers[task_id]):
                verdict.wrong.append(f"{task_id}: {record['state']}, n={record['n']}")
        verdict.wrong += [
            f"{task_id}: {rows[task_id]['state']}, want failed"
            for task_id in rows.keys() & failed
            if rows[task_id]["state"] != "failed"
        ]

    async def _compare_objects(self, verdict: Verdict, url: str, bucket: str) -> None:
        found: dict[str, int] = {}
        session = aioboto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
        async with session.client("s3", endpoint_url=url) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=chaos_tasks.OBJECT_PREFIX)
            async for page in pages:
                found |= {
                    item["Key"].removeprefix(chaos_tasks.OBJECT_PREFIX): item["Size"]
                    for item in page.get("Contents", [])
                }
        wanted = self.wanted("object")
        verdict.lost += [f"{task_id}: no object" for task_id in wanted - found.keys()]
        verdict.duplicates += [f"{task_id}: an object nobody ordered" for task_id in found.keys() - wanted]
        verdict.wrong += [
            f"{task_id}: object of {found[task_id]} bytes"
            for task_id in wanted & found.keys()
            if found[task_id] != len(chaos_tasks.content(self.numbers[task_id]))
        ]

    def _compare_messages(self, verdict: Verdict) -> None:
        by_task = Counter(str(body.get("task")) for body in self.messages.values())
        wanted = self.wanted("message", "object", "flaky")
        verdict.lost += [f"{task_id}: no message came out" for task_id in wanted - by_task.keys()]
        verdict.duplicates += [f"{task_id}: {count} messages" for task_id, count in by_task.items() if count > 1]
        verdict.duplicates += [f"{task_id}: a message nobody ordered" for task_id in by_task.keys() - wanted]
        verdict.lost += [
            f"{task_id}: no dead letter" for task_id in self.wanted("hopeless", "invalid") - self.dead.keys()
        ]
        unasked = self.dead.keys() - self.wanted("hopeless", "invalid")
        verdict.wrong += [f"{task_id}: a dead letter nobody expected: {self.dead[task_id]}" for task_id in unasked]

    def _count_runs(self, verdict: Verdict) -> None:
        try:
            lines = self._runs.read_text().splitlines()
        except FileNotFoundError:
            return
        runs = Counter(line.split(" ", 1)[0] for line in lines)
        verdict.runs = len(lines)
        verdict.repeated_runs = sum(
            count - (2 if self.kinds.get(task_id) == "flaky" else 1) for task_id, count in runs.items()
        )
