"""Jobs on a shard's volume while no worker runs there: give its work back, sync what is due, set its journal right.

A job opens the journal as a worker would, with the same settings, the same lock and the same known identity, so it
never runs beside one. Each step is a transaction of the journal, or an effect that is marked behind it: a job that is
killed at any point and run again comes to the same end. What is away (broker, database) is tried again, with pauses,
until the time is up; then the report says what is left and why.
"""

import asyncio
import contextlib
import time
import traceback
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from eco_crds.jobs import PROBLEMS_MAX, JobName, JobReport
from eco_crds.wal import SyncSettings, WalCounts
from eco_workers import logs
from eco_workers.broker.backoff import Backoff
from eco_workers.broker.publisher import Publisher
from eco_workers.errors import (
    BrokerUnavailableError,
    EcoWorkerError,
    JournalBusyError,
    JournalError,
    SyncUnavailableError,
    TopologyError,
)
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import TaskJournal
from eco_workers.metrics import Metrics
from eco_workers.runtime.executor import describe
from eco_workers.runtime.recovery import Recovery, Restore
from eco_workers.runtime.relay import Relay
from eco_workers.runtime.supervisor import end
from eco_workers.runtime.syncing import read_settings
from eco_workers.runtime.worker import EXIT_FAILED, EXIT_JOURNAL, EXIT_OK, LateDatabase, known_uuid, open_sqlite
from eco_workers.settings import Settings
from eco_workers.sync.rows import Origin
from eco_workers.sync.writer import Writer
from eco_workers.tasks.resources import address_of

log = logs.get(__name__)
TIMEOUT_DEFAULT_S: Final = 600.0
SETTLE_S: Final = 60.0
"""How long a recovery publishes and syncs: the worker that follows does the rest, and a shard that is set right must
not stay fenced because its database is away."""
PROGRESS_PERIOD_S: Final = 5.0
OUTBOX_WAIT_S: Final = 0.5
TEXT_CHARACTERS_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended: its report and the exit code of its process."""

    report: JobReport
    exit_code: int


class LeftoverError(EcoWorkerError):
    """The journal still owes something, and waiting longer would not change it. Says what, and why."""


class ShardJob:
    """One job on the journal that the settings lead to."""

    def __init__(
        self,
        name: JobName,
        settings: Settings,
        *,
        timeout_s: float = TIMEOUT_DEFAULT_S,
        dry_run: bool = False,
        restore: Restore | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._timeout_s = timeout_s
        self._dry_run = dry_run
        self._restore = restore
        self._stop = asyncio.Event()
        self._found: dict[str, Any] = {}
        """Fields of the report, as far as they are known."""
        self._troubles: dict[str, str] = {}
        """What is in the way at the moment, by part."""
        self._limits = limits or Limits(payload_bytes_max=settings.message_bytes_max)

    def stop(self) -> None:
        """End the job at the next safe point; run again, it goes on from there."""
        self._stop.set()

    async def run(self) -> Ended:
        """Do it, within its time."""
        began = time.monotonic()
        work = asyncio.create_task(self._work(), name=f"job {self._name}")
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, stopped}, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(work, stopped)
        exit_code, error = self._judge(work)
        report = JobReport(
            job=self._name,
            shard=self._settings.shard,
            succeeded=exit_code == EXIT_OK,
            dry_run=self._dry_run,
            error=logs.clean(error)[:1024],
            took_s=round(time.monotonic() - began, 3),
            **self._found,
        )
        return Ended(report, exit_code)

    def _judge(self, work: asyncio.Task[None]) -> tuple[int, str]:
        """Exit code and error of a job that has ended."""
        if work.cancelled():
            why = "stopped" if self._stop.is_set() else f"not done within {self._timeout_s:g} s"
            return EXIT_FAILED, "; ".join([f"{why}, run it again to go on", *self._troubles.values()])
        failure = work.exception()
        if failure is None:
            return EXIT_OK, ""
        if not isinstance(failure, EcoWorkerError | OSError):
            log.error("job died", trace="".join(traceback.format_exception(failure)))
        refused = isinstance(failure, JournalError | OSError)
        return EXIT_JOURNAL if refused else EXIT_FAILED, describe(failure)

    async def _work(self) -> None:
        if self._name is JobName.RECOVER:
            recovery = Recovery(self._settings, self._limits, dry_run=self._dry_run, restore=self._restore)
            self._found |= await recovery.run()
            if self._dry_run:
                return
        journal = await open_sqlite(self._settings, self._limits, known_uuid(self._settings))
        try:
            await self._with(journal)
        finally:
            # A journal that has just failed says so by the error that is on its way already.
            with contextlib.suppress(JournalError):
                await self._take_stock(journal)
                await journal.close()

    async def _with(self, journal: TaskJournal) -> None:
        before = await self._take_stock(journal)
        log.info("journal open", uuid=journal.journal_uuid, **_owed(before))
        # What was given up belongs to a time when something was away or wrong; a job is somebody who tries again.
        while await journal.retry_parked():
            pass
        progress = asyncio.create_task(self._tell(journal), name="progress")
        try:
            if self._name is JobName.DRAIN:
                await self._give_back(journal, before)
            if self._name is JobName.RECOVER:
                await self._settle_for_a_while(journal)
            else:
                await self._settle(journal)
        finally:
            await end(progress)
        owed = _owed(await self._take_stock(journal))
        if self._name is JobName.DRAIN and any(owed.values()):
            left = ", ".join(f"{count} {what}" for what, count in owed.items() if count)
            raise LeftoverError(f"left in the journal: {left}")

    async def _give_back(self, journal: TaskJournal, before: WalCounts) -> None:
        """Make a message of every unfinished task: with its attempts, its start and its next generation."""
        try:
            await journal.republish(None)
        finally:
            after = (await journal.statistics()).counts
            self._found["republished"] = after.republished - before.republished
        log.info("given back to the broker", tasks=self._found["republished"])

    async def _settle_for_a_while(self, journal: TaskJournal) -> None:
        """Publish and sync, but not at any price: see `SETTLE_S`."""
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._settle(journal)
        except TimeoutError:
            log.warning("the rest is left to the worker", **self._troubles)
        except LeftoverError as error:
            self._troubles["left"] = str(error)
        found = [*self._found.get("problems", []), *self._troubles.values()]
        self._found["problems"] = found[:PROBLEMS_MAX]

    async def _settle(self, journal: TaskJournal) -> None:
        """Publish what is unsent and sync what is due, side by side: neither waits for the other's server."""
        parts = [
            asyncio.create_task(self._publish(journal), name="publish"),
            asyncio.create_task(self._sync(journal), name="sync"),
        ]
        try:
            # Both come to their end even when one fails: what can be saved is.
            results = await asyncio.gather(*parts, return_exceptions=True)
        finally:
            await end(*parts)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures and all(isinstance(failure, LeftoverError) for failure in failures):
            raise LeftoverError("; ".join(map(str, failures)))
        if failures:
            raise next(failure for failure in failures if not isinstance(failure, LeftoverError))

    async def _publish(self, journal: TaskJournal) -> None:
        """Publish until the outbox is empty, or holds only what reaches no queue."""
        settings = self._settings
        publisher = Publisher(settings.amqp_url, name=f"{settings.namespace}/{settings.shard} job")
        relay = Relay(journal, publisher, Metrics())
        backoff = Backoff()
        declared = False
        try:
            while (counts := (await journal.statistics()).counts).outbox_unsent:
                try:
                    if not declared:
                        await publisher.declare()
                        declared = True
                    moved = await relay.pass_once()
                except (BrokerUnavailableError, JournalBusyError) as error:
                    self._troubles["broker"] = _short(error)
                    await asyncio.sleep(backoff.next_s())
                    continue
                if moved:
                    backoff.reset()
                    self._troubles.pop("broker", None)
                elif moved is None and not relay.waits_for_room and relay.statistics().unroutable:
                    raise LeftoverError(f"{counts.outbox_unsent} messages reach no queue: {_last(relay)}")
                else:
                    # Held back by a full queue, or not due yet after an earlier failure.
                    self._troubles["broker"] = _last(relay) or "messages wait for their next attempt"
                    await asyncio.sleep(max(OUTBOX_WAIT_S, backoff.next_s()))
        except TopologyError as error:
            raise LeftoverError(str(error)) from error
        finally:
            self._found["published"] = relay.statistics().sent
            await publisher.close()
        self._troubles.pop("broker", None)

    async def _sync(self, journal: TaskJournal) -> None:
        """Bring every report to the database that the journal owes them to."""
        wanted = self._sync_settings()
        if wanted is not None:
            await journal.set_sync_target(wanted.target)
        found = await journal.statistics()
        if not (found.counts.unsynced or found.counts.sync_parked):
            return
        if wanted is not None and wanted.suspended:
            raise LeftoverError(f"{found.counts.unsynced} rows are unsynced and the sync is suspended")
        if not self._settings.postgres_host:
            raise LeftoverError(f"sync target {found.sync_target!r} is set, but POSTGRES_HOST is not")
        rules = wanted or SyncSettings(target=found.sync_target)
        database = LateDatabase(address_of(self._settings))
        origin = Origin(self._settings.namespace, self._settings.worker, self._settings.shard)
        writer = Writer(journal, database, origin)
        backoff = Backoff()
        try:
            while (await journal.statistics()).counts.unsynced:
                try:
                    sent = await writer.drain(batch_size=rules.batch_size, max_attempts=rules.max_attempts)
                except (SyncUnavailableError, JournalBusyError) as error:
                    self._troubles["database"] = _short(error)
                    await asyncio.sleep(backoff.next_s())
                    continue
                backoff.reset()
                self._troubles.pop("database", None)
                if not sent:
                    break
        finally:
            self._found["synced"] = writer.statistics().rows
            await database.close()
        if left := _owed((await journal.statistics()).counts)["unsynced"]:
            why = writer.statistics().last_error
            raise LeftoverError(f"{left} rows are refused by the database: {why}"[:TEXT_CHARACTERS_MAX])

    def _sync_settings(self) -> SyncSettings | None:
        try:
            return read_settings(self._settings.sync_settings_dir)
        except (OSError, ValidationError) as error:
            raise LeftoverError(f"sync settings in {self._settings.sync_settings_dir}: {_short(error)}") from error

    async def _take_stock(self, journal: TaskJournal) -> WalCounts:
        """Note in the report how the journal stands."""
        found = await journal.statistics()
        counts = found.counts
        owed = _owed(counts)
        self._found |= owed | {
            "journal_uuid": found.journal_uuid,
            "epoch": found.epoch,
            "empty": not any(owed.values()),
        }
        return counts

    async def _tell(self, journal: TaskJournal) -> None:
        """Say now and then how far it is."""
        while True:
            await asyncio.sleep(PROGRESS_PERIOD_S)
            log.info("progress", **_owed((await journal.statistics()).counts), **self._troubles)


def _owed(counts: WalCounts) -> dict[str, int]:
    return {
        "unfinished": counts.due + counts.waiting + counts.running,
        "unsynced": counts.unsynced + counts.sync_parked,
        "unsent": counts.outbox_unsent + counts.outbox_parked,
    }


def _last(relay: Relay) -> str:
    return relay.statistics().last_error[:TEXT_CHARACTERS_MAX]


def _short(error: BaseException) -> str:
    return logs.clean(describe(error))[:TEXT_CHARACTERS_MAX]
