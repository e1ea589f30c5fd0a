"""What can go wrong around two shards, each as one function that causes it and puts it right again.

A fault must leave the world able to go on; what it cost is the ledger's business. Nothing here waits for time to pass
where a state can be waited for, but many faults are an absence that lasts: its length is in the name of a constant.
"""

import asyncio
import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

import aiormq
import asyncpg

from eco_workers.broker.topology import TOPOLOGY
from tests.support.chaos_ledger import QUEUE
from tests.support.chaos_world import HEARTBEAT_S, World
from tests.support.proxy import Mode
from tests.support.worker_process import WorkerProcess

Fault = Callable[[World], Awaitable[None]]
SHORT_S: Final = 2.5
STOPPED_S: Final = HEARTBEAT_S * 4.0
DATABASE_DOWN_S: Final = 8.0
TWIN_WATCH_S: Final = 5.0
CLOCK_JUMP_S: Final = 3600.0
DEAD_LETTERS_MAX: Final = 5
"""So many has q.dlq room for while it is meant to be full."""
DRAINED_TIMEOUT_S: Final = 60.0
NAMES_SETTLE_S: Final = 0.5
"""Within it every declaration of a deleted queue has come."""
NAMES_WRITTEN_S_MAX: Final = 10.0
SLOW_DOWN: Final = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 59\r\nConnection: close\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>busy</Message></Error>"
)
PRECONDITION: Final = (
    b"HTTP/1.1 412 Precondition Failed\r\nContent-Type: application/xml\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)
_ACK_METHOD: Final = b"\x00\x3c\x00\x50"


async def worker_sigkill(world: World) -> None:
    """A worker is killed and comes back."""
    index = world.chance.randrange(2)
    world.may_exit.add(index)
    await asyncio.to_thread(world.shards[index].kill)
    await asyncio.sleep(world.chance.uniform(0, 1))
    await world.restart(index)


async def worker_stopped(world: World) -> None:
    """A worker stands still for longer than the broker's patience, then goes on as if nothing had happened."""
    shard = world.chance.choice(world.shards)
    shard.send(signal.SIGSTOP)
    await asyncio.sleep(STOPPED_S)
    shard.send(signal.SIGCONT)


async def worker_sigterm(world: World) -> None:
    """A rolling update: SIGTERM under load, then a new process on the same volume."""
    index = world.chance.randrange(2)
    world.may_exit.add(index)
    code = await asyncio.to_thread(world.shards[index].terminate, timeout_s=45)
    if code != 0:
        world.exits.append(f"{world.shards[index].name} ended with {code} after SIGTERM: {world.shards[index].tail(5)}")
    await world.restart(index)


async def both_workers_sigkill(world: World) -> None:
    """Nobody is left for a moment."""
    world.may_exit |= {0, 1}
    await asyncio.gather(*(asyncio.to_thread(shard.kill) for shard in world.shards))
    for index in range(2):
        await world.restart(index)


async def broker_restart(world: World) -> None:
    """The broker is stopped in order and started again."""
    await asyncio.to_thread(world.broker.stop)
    await asyncio.to_thread(world.broker.start)


async def broker_sigkill(world: World) -> None:
    """The broker is killed and started again."""
    await asyncio.to_thread(world.broker.kill)
    await asyncio.to_thread(world.broker.start)


async def broker_memory_alarm(world: World) -> None:
    """The broker blocks everybody who publishes."""
    await asyncio.to_thread(world.broker.raise_memory_alarm)
    await asyncio.sleep(SHORT_S)
    await asyncio.to_thread(world.broker.clear_memory_alarm)


async def queue_deleted(world: World) -> None:
    """The queue is deleted under its consumers and declared again; the publisher pauses, and nothing is in it."""
    await _wait_queue_empty(world, QUEUE)
    connection = await aiormq.connect(world.broker.url)
    try:
        channel = await connection.channel()
        await channel.queue_delete(QUEUE)
        deleted_at = time.time()
        await asyncio.sleep(world.chance.uniform(0, 0.5))
        arguments = next(queue.arguments for queue in TOPOLOGY.queues if queue.name == QUEUE)
        # The workers declare it too; of two that do so at once RabbitMQ 4.0 may answer one with an internal error.
        with contextlib.suppress(aiormq.exceptions.ConnectionInternalError):
            await channel.queue_declare(QUEUE, durable=True, arguments=arguments)
        # Killed before it has written the names of its queues down, RabbitMQ 4.0 comes back with a queue that says it
        # runs and takes nothing ("configured member was not found on this node").
        await _until(lambda: world.broker.names_written_at() > deleted_at + NAMES_SETTLE_S, NAMES_WRITTEN_S_MAX)
    finally:
        await connection.close()


async def network_cut(world: World) -> None:
    """Connections to the broker are reset, three times."""
    for _ in range(3):
        world.chance.choice(world.to_broker).cut()
        await asyncio.sleep(world.chance.uniform(0.1, 1.0))


async def network_half_open(world: World) -> None:
    """No byte moves and nobody is told, until heartbeats are missed."""
    proxy = world.chance.choice(world.to_broker)
    proxy.set(Mode.HANG)
    await asyncio.sleep(STOPPED_S)
    proxy.set(Mode.PASS)


async def network_slow(world: World) -> None:
    """Every chunk between worker and broker takes its time."""
    proxy = world.chance.choice(world.to_broker)
    proxy.set(Mode.PASS, delay_s=0.15)
    await asyncio.sleep(SHORT_S)
    proxy.set(Mode.PASS)


async def cut_before_ack(world: World) -> None:
    """The connection is reset after the journal's fsync, just as the ack leaves."""
    proxy = world.chance.choice(world.to_broker)
    proxy.cut_when(lambda chunk: _ACK_METHOD in chunk)
    await _until(lambda: not proxy.is_armed, SHORT_S * 2)


async def acks_lost(world: World) -> None:
    """The broker hears nothing of a worker, though the worker hears the broker; then the connection goes."""
    proxy = world.chance.choice(world.to_broker)
    proxy.set(Mode.DEAF)
    await asyncio.sleep(world.chance.uniform(0.5, SHORT_S))
    proxy.cut()
    proxy.set(Mode.PASS)


async def database_down(world: World) -> None:
    """PostgreSQL is away for longer than a pass tries."""
    await asyncio.to_thread(world.database.stop)
    await asyncio.sleep(DATABASE_DOWN_S)
    await asyncio.to_thread(world.database.start)


async def database_killed(world: World) -> None:
    """PostgreSQL dies with a transaction open, and recovers."""
    await asyncio.to_thread(world.database.kill)
    await asyncio.to_thread(world.database.start)


async def database_hangs(world: World) -> None:
    """PostgreSQL stands still: connections hang, none is refused."""
    await asyncio.to_thread(world.database.pause)
    await asyncio.sleep(DATABASE_DOWN_S)
    await asyncio.to_thread(world.database.go_on)


async def database_cut(world: World) -> None:
    """The connection goes just as COMMIT does: nobody knows the outcome."""
    world.to_database.cut_when(lambda chunk: b"COMMIT" in chunk)
    await _until(lambda: not world.to_database.is_armed, SHORT_S * 2)


async def database_crowded(world: World) -> None:
    """All connections are taken by others."""
    held: list[asyncpg.Connection] = []
    try:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while len(held) < world.database.connections_max:
                held.append(await asyncpg.connect(world.database.dsn))
        superuser = await asyncpg.connect(world.database.superuser_dsn)
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'eco-worker'"
        )
        await superuser.close()
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while len(held) < world.database.connections_max:
                held.append(await asyncpg.connect(world.database.dsn))
        await asyncio.sleep(SHORT_S)
    finally:
        await asyncio.gather(*(connection.close() for connection in held), return_exceptions=True)


async def database_refuses_rows(world: World) -> None:
    """Some rows are refused, as by a constraint of somebody else's; then it is mended."""
    connection = await asyncpg.connect(world.database.dsn)
    try:
        if await connection.fetchval("SELECT to_regclass('task_results')") is None:
            return
        digit = world.chance.choice("0123456789abcdef")
        await connection.execute(
            f"ALTER TABLE task_results ADD CONSTRAINT odd CHECK (right(task_id, 1) <> '{digit}') NOT VALID"
        )
        await asyncio.sleep(SHORT_S * 2)
        await connection.execute("ALTER TABLE task_results DROP CONSTRAINT odd")
    finally:
        await connection.close()


async def database_slow(world: World) -> None:
    """Every word to and from PostgreSQL takes its time."""
    world.to_database.set(Mode.PASS, delay_s=0.4)
    await asyncio.sleep(DATABASE_DOWN_S)
    world.to_database.set(Mode.PASS)


async def store_down(world: World) -> None:
    """The object store is not to be reached."""
    world.to_store.set(Mode.REFUSE)
    world.to_store.cut()
    await asyncio.sleep(SHORT_S)
    world.to_store.set(Mode.PASS)


async def store_slow(world: World) -> None:
    """The object store takes its time."""
    world.to_store.set(Mode.PASS, delay_s=0.4)
    await asyncio.sleep(SHORT_S)
    world.to_store.set(Mode.PASS)


async def store_503(world: World) -> None:
    """The object store asks for mercy."""
    world.to_store.set(Mode.ANSWER, trigger=b"PUT ", answer=SLOW_DOWN)
    await asyncio.sleep(SHORT_S)
    world.to_store.set(Mode.PASS)


async def store_412(world: World) -> None:
    """The object store says that everything exists already; the worker must look before it believes."""
    world.to_store.set(Mode.ANSWER, trigger=b"PUT ", answer=PRECONDITION)
    await asyncio.sleep(SHORT_S)
    world.to_store.set(Mode.PASS)


async def store_answer_lost(world: World) -> None:
    """Objects are stored, but the answer never arrives: the connections go just behind a PUT."""
    for _ in range(3):
        world.to_store.set(Mode.PASS, delay_s=0.05)
        await asyncio.sleep(0.3)
        world.to_store.cut()
    world.to_store.set(Mode.PASS)


async def disk_full(world: World) -> None:
    """The volume of the first shard is filled to the last byte by somebody else."""
    if world.volume is None:
        return
    filler = world.volume / "filler"
    await asyncio.to_thread(_fill, filler)
    await asyncio.sleep(SHORT_S * 2)
    filler.unlink()


async def twin(world: World) -> None:
    """A second process is started on a volume that has an owner: it must not work."""
    index = world.chance.randrange(2)
    first = world.shards[index]
    second = WorkerProcess(
        first.directory.with_name(f"{first.directory.name}-twin"),
        first.amqp_url,
        worker=first.worker,
        index=index,
        modules=first.modules,
        env=first.env,
        volume=first.journal.parent,
    )
    await asyncio.to_thread(second.start)
    try:
        deadline = time.monotonic() + TWIN_WATCH_S
        while time.monotonic() < deadline and second.is_running:
            report = await asyncio.to_thread(second.report)
            if report is not None and report.consuming:
                world.exits.append(f"the twin of {first.name} consumes beside it")
                return
            await asyncio.sleep(0.2)
    finally:
        await asyncio.to_thread(second.kill)


async def dead_letter_queue_missing(world: World) -> None:
    """Somebody deletes q.dlq, with nothing in it: dead letters wait, parked if need be, until it is there again."""
    await _wait_queue_empty(world, "q.dlq")
    connection = await aiormq.connect(world.broker.url)
    try:
        channel = await connection.channel()
        await channel.queue_delete("q.dlq")
    finally:
        await connection.close()
    # The ledger's own consumer is cancelled by it and declares the queue again, as an operator would.


async def dead_letter_queue_full(world: World) -> None:
    """Nobody reads q.dlq and it takes no more: what ends badly waits in the journals and at its own queue."""
    limit = json.dumps({"max-length": DEAD_LETTERS_MAX, "overflow": "reject-publish", "delivery-limit": 1_000_000})
    await asyncio.to_thread(
        world.broker.control, "set_policy", "full", r"^q\.dlq$", limit, "--apply-to", "queues", "--priority", "9"
    )
    try:
        async with world.ledger.leaving_dead_letters():
            await world.ledger.publish(DEAD_LETTERS_MAX * 4, only="hopeless")
            await world.ledger.publish(DEAD_LETTERS_MAX * 4, only="invalid")
            await asyncio.sleep(SHORT_S)
    finally:
        await asyncio.to_thread(world.broker.control, "clear_policy", "full")


async def clock_jump(world: World) -> None:
    """The clock of a worker's machine is set by up to an hour, forward or back, and later set right."""
    shard = world.chance.choice(world.shards)
    shard.set_clock(world.chance.choice((-1, 1)) * world.chance.uniform(60, CLOCK_JUMP_S))
    await asyncio.sleep(SHORT_S)
    shard.set_clock(0.0)


FAULTS: Final[dict[str, Fault]] = {
    fault.__name__: fault
    for fault in (
        worker_sigkill, worker_stopped, worker_sigterm, both_workers_sigkill,
        broker_restart, broker_sigkill, broker_memory_alarm, queue_deleted,
        network_cut, network_half_open, network_slow, cut_before_ack, acks_lost,
        database_down, database_killed, database_hangs, database_slow, database_cut, database_crowded,
        database_refuses_rows, store_down, store_slow, store_503, store_412, store_answer_lost,
        disk_full, twin, clock_jump, dead_letter_queue_missing, dead_letter_queue_full,
    )
}  # fmt: skip
QUIET: Final = frozenset({"queue_deleted", "dead_letter_queue_missing"})
"""Faults for which the publisher pauses, as the promise is made without them."""


async def _until(holds: Callable[[], bool], timeout_s: float) -> None:
    """Look until something holds, at most for a time: a fault that finds no occasion is no failure."""
    deadline = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < deadline:  # noqa: ASYNC110  # another thread's state has no event here
        await asyncio.sleep(0.02)


async def _wait_queue_empty(world: World, queue: str) -> None:
    """Wait until nothing is ready and nothing is un-acked in a queue."""
    deadline = time.monotonic() + DRAINED_TIMEOUT_S
    while time.monotonic() < deadline:
        lines = await asyncio.to_thread(world.broker.control, "list_queues", "name", "messages")
        counts = dict(line.split("\t")[:2] for line in lines.splitlines() if "\t" in line)
        if counts.get(queue) == "0":
            return
        await asyncio.sleep(0.2)
    raise TimeoutError(f"{queue} did not empty within {DRAINED_TIMEOUT_S:.0f} s")


def _fill(path: os.PathLike[str]) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        for size in (1 << 20, 1 << 16, 1 << 12, 1):
            while True:
                try:
                    os.write(file, b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
    finally:
        os.close(file)
