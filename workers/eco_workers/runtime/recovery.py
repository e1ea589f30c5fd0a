"""The recovery of a shard's journal as a job does it: the lock within a bound, the known identity, a way to stop it."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, Protocol

from eco_crds.jobs import PROBLEMS_MAX
from eco_workers import logs
from eco_workers.errors import EcoWorkerError, JournalLostError
from eco_workers.journal.limits import Limits
from eco_workers.journal.lock import JournalLock
from eco_workers.journal.model import Identity
from eco_workers.journal.opening import Plan, check_file_system
from eco_workers.journal.recover import RecoveryReport, recover
from eco_workers.runtime.worker import known_uuid
from eco_workers.settings import Settings

log = logs.get(__name__)
PROGRESS_PERIOD_S: Final = 5.0
PROBLEM_CHARACTERS_MAX: Final = 300
BASE_SUFFIX: Final = ".base"


class Restore(Protocol):
    """Brings a copy of this shard's journal from elsewhere; asked only when the journal is damaged or gone."""

    def __call__(self, settings: Settings, target: Path, *, seal: bool) -> Coroutine[Any, Any, Path | None]:
        """Build it at `target`; None when there is none.

        With `seal` whoever still writes to where the copy comes from is shut out first; without, for a dry run,
        nothing changes there.
        """


class RecoveryStoppedError(EcoWorkerError):
    """The recovery was asked to stop. Nothing is half done: the next run begins where the files say."""


class Recovery:
    """One recovery of the journal that the settings lead to."""

    def __init__(
        self, settings: Settings, limits: Limits, *, dry_run: bool = False, restore: Restore | None = None
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._dry_run = dry_run
        self._restore = restore
        self._asked_to_stop = threading.Event()
        self._told_at = time.monotonic()

    async def run(self) -> dict[str, Any]:
        """Set the journal right; the fields of the job's report.

        Raises JournalLockedError when a process holds the journal for longer than the bound, JournalLostError when what
        stands there is sound and another journal than the known one: whose it is, only a person can tell.
        """
        settings = self._settings
        known = known_uuid(settings)
        plan = Plan(
            settings.wal_db_path,
            Identity(settings.namespace, settings.worker, settings.shard),
            known_uuid=known,
            limits=self._limits,
        )
        await asyncio.to_thread(check_file_system, plan.path)
        lock = JournalLock(plan.path)
        await lock.acquire(self._limits.lock_wait_s)
        try:
            report = await self._in_thread(plan, lock)
        finally:
            lock.release()
        if known and report.journal_uuid != known:
            raise JournalLostError(
                f"recover {plan.path}: found {report.journal_uuid or 'no identity'}, which is sound, and {known} is"
                " known to belong here; is it the right volume?"
            )
        log.info("recovered", action=report.action, aside=report.aside, tasks=report.tasks, dry_run=report.dry_run)
        return self._fields(report)

    async def _in_thread(self, plan: Plan, lock: JournalLock) -> RecoveryReport:
        loop = asyncio.get_running_loop()
        base = plan.path.with_name(plan.path.name + BASE_SUFFIX)

        def find_base() -> Path | None:
            if self._restore is None:
                return None
            _remove(base)
            coming = self._restore(self._settings, base, seal=not self._dry_run)
            return asyncio.run_coroutine_threadsafe(coming, loop).result()

        work = asyncio.create_task(
            asyncio.to_thread(
                recover, plan, dry_run=self._dry_run, anew=True, base=find_base, held=lock, progress=self._tell
            )
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The lock is ours for as long as the thread works: it is told, and ends at its next slice of rows.
            self._asked_to_stop.set()
            await asyncio.wait({work})
            raise
        finally:
            _remove(base)

    def _tell(self, what: str, done: int, total: int) -> None:
        """Called between two slices of rows, on the thread that recovers."""
        if self._asked_to_stop.is_set():
            raise RecoveryStoppedError(f"recovery stopped at {what} {done} of {total}")
        if time.monotonic() - self._told_at >= PROGRESS_PERIOD_S:
            self._told_at = time.monotonic()
            log.info("recovering", what=what, done=done, total=total)

    @staticmethod
    def _fields(report: RecoveryReport) -> dict[str, Any]:
        problems = [*report.problems, *report.unreadable]
        return {
            "action": report.action,
            "journal_uuid": report.journal_uuid,
            "epoch": report.epoch,
            "salvaged": sum(report.tasks.values()),
            "unreadable": len(report.unreadable),
            "distrusted": report.dead_lettered,
            "problems": [problem[:PROBLEM_CHARACTERS_MAX] for problem in problems[:PROBLEMS_MAX]],
            "moved_aside": Path(report.aside).name[:255],
        }


def _remove(base: Path) -> None:
    """Remove a copy, and what SQLite makes beside one that is looked into."""
    for part in ("", "-wal", "-shm"):
        base.with_name(base.name + part).unlink(missing_ok=True)
