"""One shard: puts the parts together, starts them in order, and stops them without losing anything.

Start: admin surface, journal (lock, replay, recovery), executor and relay, then the consumer: what is unfinished runs
before anything new is taken. Stop: consumer, running tasks, outbox, a last sync, journal, each within its share of the
grace period. A journal that is corrupt or lost keeps the process alive and not ready; one that may not be durable any
more ends it at once, with nothing acked.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eco_crds.contract import JOURNAL_UUID_KEY
from eco_crds.jobs import TERMINATION_LOG_BYTES_MAX
from eco_crds.wal import LAST_WORDS, JournalMode, WalReport
from eco_workers import logs
from eco_workers import metrics as metric
from eco_workers.admin.server import AdminServer
from eco_workers.broker.consumer import Consumer
from eco_workers.broker.publisher import Publisher
from eco_workers.errors import (
    EcoWorkerError,
    JournalCorruptError,
    JournalError,
    JournalFatalError,
    JournalLostError,
    JournalRefusedError,
    SyncUnavailableError,
)
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import Identity, TaskJournal
from eco_workers.runtime import health
from eco_workers.runtime.bound import Bound
from eco_workers.runtime.executor import Executor, describe
from eco_workers.runtime.holding import Holding, check_time_limits
from eco_workers.runtime.relay import Relay
from eco_workers.runtime.replication import Replication
from eco_workers.runtime.supervisor import FATAL, Supervisor
from eco_workers.runtime.syncing import Syncing, on_synced
from eco_workers.runtime.taking import taking
from eco_workers.settings import Settings
from eco_workers.sync.rows import Address, Origin, Row
from eco_workers.sync.writer import Writer
from eco_workers.tasks.registry import ROLE_MODULES, Registry, collect
from eco_workers.tasks.resources import Resources, address_of

if TYPE_CHECKING:
    from eco_workers.sync.database import Database

log = logs.get(__name__)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_SETTINGS: Final = 2
EXIT_JOURNAL: Final = 70
"""The journal may not be durable any more, or must not be opened here."""
HOUSEKEEPING_PERIOD_S: Final = 60.0
PARKED_RETRY_ROUNDS: Final = 60
PRUNE_SEGMENTS_ROUNDS: Final = 60
PRUNE_ROWS: Final = 1000
PRUNE_PASSES_MAX: Final = 500
PRUNE_PAUSE_S: Final = 0.05
DRAIN_PERIOD_S: Final = 0.2
LAG_PERIOD_S: Final = 0.5
FENCE_GRACE_S: Final = 10.0
STOP_CONSUMER_S: Final = 10.0

OpenJournal = Callable[[Settings, Limits, str | None], Awaitable[TaskJournal]]


async def open_sqlite(settings: Settings, limits: Limits, known_uuid: str | None) -> TaskJournal:
    """Open the journal on this shard's volume."""
    # Deferred: a test with the in-memory twin needs no SQLite.
    from eco_workers.journal.sqlite import SqliteJournal  # noqa: PLC0415  # see above

    return await SqliteJournal.open(
        settings.wal_db_path,
        identity=Identity(settings.namespace, settings.worker, settings.shard),
        known_uuid=known_uuid,
        limits=limits,
    )


def registry_of(settings: Settings) -> Registry:
    """The tasks of a role and of the modules that the settings name."""
    return collect((*ROLE_MODULES[settings.role], *settings.task_modules))


class LateDatabase:
    """A database whose client is imported with the first row: it is no part of the time to the first task."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._database: Database | None = None

    async def write(self, rows: Sequence[Row], origin: Origin) -> None:
        """Merge a batch; see `Database`."""
        if self._database is None:
            from eco_workers.sync.database import Database  # noqa: PLC0415  # see above

            self._database = Database(self._address)
        await self._database.write(rows, origin)

    async def close(self) -> None:
        """Close what was opened."""
        if self._database is not None:
            await self._database.close()


class Worker:
    """One shard's process."""

    def __init__(self, settings: Settings, *, open_journal: OpenJournal | None = None) -> None:
        self.settings = settings
        self._replication = Replication(settings) if settings.ack_policy == "Replicated" else None
        self._open_journal = open_journal or (self._replication.open if self._replication else open_sqlite)
        self.metrics = metric.Metrics()
        self.supervisor = Supervisor(on_restart=lambda name: self.metrics.restarts.labels(name).inc())
        self.registry = registry_of(settings)
        if settings.ack_policy == "Completed":
            check_time_limits(self.registry)
        self.resources = Resources(settings)
        self.journal: TaskJournal | None = None
        self.consumer: Consumer | None = None
        self.executor: Executor | None = None
        self.relay: Relay | None = None
        self.syncing: Syncing | None = None
        self._bound: Bound | None = None
        self._publisher: Publisher | None = None
        self._database: LateDatabase | None = None
        self.holding: Holding | None = None
        self._mode: JournalMode | None = None
        """Set while there is no journal to work with: quarantined or lost."""
        self._error = ""
        self._fenced = False
        self._stop = asyncio.Event()
        self.admin = AdminServer(
            self, host=settings.admin_host, port=settings.admin_port, token_file=settings.token_file
        )

    def stop(self) -> None:
        """Begin the orderly end; `run` returns when it is done."""
        self._stop.set()

    async def run(self) -> int:
        """Work until stopped; the exit code."""
        await self.admin.start()
        try:
            return await self._run()
        finally:
            await self.supervisor.stop()
            await self.admin.close()
            if self._replication is not None:
                await self._replication.close()

    async def _run(self) -> int:
        limits = Limits(payload_bytes_max=self.settings.message_bytes_max)
        try:
            self.journal = await self._open_journal(self.settings, limits, known_uuid(self.settings))
        except (JournalCorruptError, JournalLostError) as error:
            await self._stand_still(error)
            return EXIT_OK
        except JournalError as error:
            log.error("journal cannot be opened", error=describe(error))  # noqa: TRY400  # the trace says no more
            return EXIT_JOURNAL
        self._assemble(self.journal, limits)
        await self._begin(self.journal)
        failed = asyncio.create_task(self.supervisor.failed())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                return await self._end_by(failed.result())
            await self._drain(self.journal)
        finally:
            failed.cancel()
            stopped.cancel()
        return EXIT_OK

    def _assemble(self, journal: TaskJournal, limits: Limits) -> None:
        settings = self.settings
        name = f"{settings.namespace}/{settings.shard}"
        url = settings.amqp_url
        self._publisher = Publisher(url, name=name)
        self.relay = Relay(journal, self._publisher, self.metrics)
        self.executor = Executor(
            journal,
            self.registry,
            self.resources,
            self.metrics,
            self.supervisor,
            concurrency=settings.concurrency,
            process_started_at=process_started_at(),
        )
        way_in = taking(
            settings,
            journal,
            self.registry.names(),
            limits,
            self.metrics,
            on_accepted=self._accepted,
            on_full=self._full,
        )
        self.consumer, self.holding = way_in.consumer, way_in.holding
        self._bound = Bound(journal, self.consumer, settings.max_unfinished, settings.max_waiting)
        self.syncing = Syncing(journal, self._writer(journal), settings.sync_settings_dir)

    def _writer(self, journal: TaskJournal) -> Writer | None:
        settings = self.settings
        if not settings.postgres_host:
            return None
        self._database = LateDatabase(address_of(settings))
        return Writer(
            journal,
            self._database,
            Origin(settings.namespace, settings.worker, settings.shard),
            on_synced=on_synced(self.metrics.observe_synced, time.time),
            on_refused=self.metrics.sync_rows.labels("refused").inc,
        )

    async def _begin(self, journal: TaskJournal) -> None:
        assert self.executor and self.relay and self.consumer and self._bound and self.syncing  # noqa: S101, PT018  # _assemble made them
        found = await journal.statistics()
        log.info(
            "journal open",
            uuid=found.journal_uuid,
            epoch=found.epoch,
            recovered=found.recovered,
            draining=found.draining,
        )
        if found.draining:
            await self._hold()
            self.supervisor.start("drain", self._give_back)
        self.supervisor.start("executor", self.executor.run)
        self.supervisor.start("relay", self.relay.run)
        self.supervisor.start("sync", self.syncing.run)
        self.supervisor.start("consumer", self.consumer.run)
        self.supervisor.start("bound", self._bound.run)
        if self.holding is not None:
            self.supervisor.start("holding", self.holding.run)
        if self._replication is not None:
            self.supervisor.start("replica", self._replication.watch)
        self.supervisor.start("housekeeping", self._keep_house)
        self.supervisor.start("lag", self._measure_lag)

    async def _accepted(self, rows: int) -> None:
        if self._bound is not None:
            await self._bound.accepted(rows)

    async def _full(self) -> None:
        if self._bound is not None:
            await self._bound.full()

    # Ends

    async def _drain(self, journal: TaskJournal) -> None:
        """Stop in order, within the grace period."""
        assert self.executor and self.relay and self.consumer and self.syncing  # noqa: S101, PT018  # _assemble made them
        began = time.monotonic()
        # The kubelet kills at the end of the period: what is left must fit before it.
        budget_s = self.settings.grace_period_s * 0.9
        log.info("stopping", grace_s=self.settings.grace_period_s)
        self.executor.pause()
        await self.supervisor.stop("bound")
        if self.holding is None:
            await self._stop_consumer(self.consumer, budget_s)
        else:
            # What runs can still be acked: its channel stays open until it has ended.
            await self.consumer.pause()
        released = await self.executor.finish(budget_s * 0.7 - (time.monotonic() - began))
        await self.supervisor.stop("executor")
        if self.holding is not None:
            await self.supervisor.stop("holding")
            await self.holding.settle_ended()
            await self._stop_consumer(self.consumer, budget_s)
        await self.supervisor.stop("relay")
        flushed = await self.relay.flush(max(0.5, budget_s * 0.85 - (time.monotonic() - began)))
        await self.supervisor.stop("sync")
        synced = await self._last_sync(max(0.5, budget_s * 0.95 - (time.monotonic() - began)))
        await self._close_parts()
        await journal.close()
        log.info(
            "stopped",
            took_s=round(time.monotonic() - began, 2),
            released=released,
            outbox_empty=flushed,
            synced=synced,
        )

    async def _stop_consumer(self, consumer: Consumer, budget_s: float) -> None:
        """Stop taking; with the channel goes back what is un-acked."""
        consumer.stop()
        if not await self.supervisor.join("consumer", min(STOP_CONSUMER_S, budget_s * 0.2)):
            log.warning("consumer did not stop in time")
        await self.supervisor.stop("consumer")

    async def _last_sync(self, timeout_s: float) -> int | None:
        assert self.syncing  # noqa: S101  # _assemble made it
        try:
            async with asyncio.timeout(timeout_s):
                return await self.syncing.sync_now()
        except (TimeoutError, SyncUnavailableError, JournalError) as error:
            log.warning("no final sync, the rows stay due", error=describe(error))
            return None

    async def _end_by(self, error: BaseException) -> int:
        """End because of an error: quarantine keeps the process, everything else ends it."""
        await self.supervisor.stop()
        if self.executor is not None:
            self.executor.pause()
            await self.executor.finish(0)
        await self._close_parts()
        if isinstance(error, JournalCorruptError | JournalLostError):
            await self._stand_still(error)
            return EXIT_OK
        fatal = isinstance(error, JournalFatalError | JournalRefusedError)
        log.error("worker ends", error=describe(error), fatal=fatal)
        if self.journal is not None and not fatal:
            await self.journal.close()
        return EXIT_JOURNAL if fatal else EXIT_FAILED

    async def _stand_still(self, error: Exception) -> None:
        """Stay live and not ready, touch nothing, and say why, until stopped."""
        self._mode = JournalMode.LOST if isinstance(error, JournalLostError) else JournalMode.QUARANTINED
        self._error = describe(error)
        log.error("journal is not usable, standing still", mode=self._mode.value, error=self._error)
        # Written at once: whatever ends the process, the operator learns from the pod what its journal was like.
        last_words = self.settings.termination_log
        if last_words.exists():
            last_words.write_text(f"{LAST_WORDS[self._mode]}: {self._error}"[: TERMINATION_LOG_BYTES_MAX // 4])
        await self._stop.wait()

    async def _close_parts(self) -> None:
        if self._publisher is not None:
            await self._publisher.close()
        if self._database is not None:
            await self._database.close()
        await self.resources.close()

    # What the admin surface asks

    async def wal(self) -> WalReport | None:
        """The health report; None until the journal is open."""
        if self._mode is not None or self.journal is None:
            if self._mode is None:
                return None
            return health.report(self.settings.shard, self._mode, health.NOTHING, self._error)
        try:
            found = await self.journal.statistics()
        except FATAL as error:
            self.supervisor.report(error)
            if not isinstance(error, JournalCorruptError | JournalLostError):
                return None  # it ends at once: said to be damaged, a sound journal would be fenced and recovered
            mode = JournalMode.LOST if isinstance(error, JournalLostError) else JournalMode.QUARANTINED
            return health.report(self.settings.shard, mode, health.NOTHING, describe(error))
        parts = health.Parts(
            found,
            self.consumer.statistics() if self.consumer else None,
            self.executor.statistics() if self.executor else None,
            self.relay.statistics() if self.relay else None,
            self.syncing.statistics() if self.syncing else None,
        )
        return health.report(self.settings.shard, health.mode_of(found, fenced=self._fenced), parts)

    def is_live(self) -> bool:
        """Whether nothing has ended the worker; the answer itself proves the loop."""
        return True

    async def is_ready(self) -> tuple[bool, str]:
        """Whether it can take and run work."""
        if self._mode is not None:
            return False, f"{self._mode.value}: {self._error}"
        if self.journal is None or self.consumer is None:
            return False, "starting"
        if self._stop.is_set():
            return False, "stopping"
        if self._fenced:
            return False, "fenced"
        state = self.consumer.statistics()
        if not state.connected:
            return False, f"no broker: {state.last_error}"
        return True, ""

    async def render_metrics(self) -> tuple[bytes, str]:
        """Gauges brought up to date, then everything as text."""
        found = await self.wal()
        if found is not None:
            self.metrics.observe(found)
        if self.consumer is not None:
            state = self.consumer.statistics()
            self.metrics.connections.set(state.connections)
            self.metrics.blocked.set(state.blocked)
        return self.metrics.render(), metric.CONTENT_TYPE

    async def command(self, name: str) -> Mapping[str, Any]:
        """Do what the operator asks."""
        if self.journal is None or self.executor is None or self.syncing is None or self._bound is None:
            raise EcoWorkerError(f"{name}: the journal is not open ({self._mode.value if self._mode else 'starting'})")
        match name:
            case "sync":
                await self.journal.retry_parked()
                return {"rows": await self.syncing.sync_now()}
            case "checkpoint":
                return {"pages": await self.journal.checkpoint()}
            case "drain":
                await self.journal.set_draining(True)
                await self._hold()
                self.supervisor.start("drain", self._give_back)
                return {"draining": True}
            case "fence":
                self._fenced = True
                await self._hold()
                return {"fenced": True, "released": await self._finish_fenced()}
            case "resume":
                await self.supervisor.stop("drain")
                await self.journal.set_draining(False)
                self._fenced = False
                self.executor.resume()
                self._bound.let_go()
                return {"draining": False, "fenced": False}
        raise EcoWorkerError(f"no command {name!r}")

    async def _hold(self) -> None:
        assert self.executor and self._bound  # noqa: S101, PT018  # _assemble made them
        self.executor.pause()
        await self._bound.hold()

    async def _finish_fenced(self) -> int:
        assert self.executor and self.consumer  # noqa: S101, PT018  # _assemble made them
        released = await self.executor.finish(FENCE_GRACE_S)
        if self.holding is not None:
            await self.consumer.handed_over()
            await self.holding.settle_ended()
            await self.holding.give_back()
        return released

    async def _give_back(self) -> None:
        """Republish what is pending, as long as running tasks may still put something back."""
        assert self.executor and self.journal  # noqa: S101, PT018  # _assemble made them
        while True:  # one pass is not enough: a running task may still put something back
            given = await self.journal.republish(None)
            if given:
                log.info("given back to the broker", tasks=given)
            if not self.executor.statistics().running and not given:
                return
            await asyncio.sleep(DRAIN_PERIOD_S)

    # Upkeep

    async def _keep_house(self) -> None:
        """Prune what owes nothing, and give what was parked another chance once an hour."""
        journal = self.journal_or_raise()
        rounds = 0
        while True:
            await asyncio.sleep(HOUSEKEEPING_PERIOD_S)
            rounds += 1
            await journal.close_unacked()
            if self._replication is not None:
                await self._replication.keep_house(prune=rounds % PRUNE_SEGMENTS_ROUNDS == 1)
            if rounds % PARKED_RETRY_ROUNDS == 0 and (again := await journal.retry_parked()):
                log.info("parked rows are tried again", rows=again)
            for _ in range(PRUNE_PASSES_MAX):
                if not await journal.prune(keep_s=self.settings.retention_s, limit=PRUNE_ROWS):
                    break
                # The journal is for work first.
                await asyncio.sleep(PRUNE_PAUSE_S)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self.metrics.loop_lag.observe(max(0.0, loop.time() - due))

    def journal_or_raise(self) -> TaskJournal:
        """The open journal."""
        if self.journal is None:
            raise EcoWorkerError("the journal is not open")
        return self.journal


def known_uuid(settings: Settings) -> str | None:
    """The journal that the operator knows of this shard; None while it knows none."""
    try:
        return (settings.shard_settings_dir / JOURNAL_UUID_KEY).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def process_started_at() -> float:
    """Unix seconds at which this process was started, by the kernel's word where it can be had."""
    try:
        ticks = float(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return time.time()
    return time.time() - (uptime_s - ticks / os.sysconf("SC_CLK_TCK"))
