"""The process around a worker or a job: event loop, signals, logs, report, exit code."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Final

import uvloop

from eco_crds import contract
from eco_crds.jobs import TERMINATION_LOG, JobName, JobReport
from eco_workers import logs, settings
from eco_workers.errors import SettingsError
from eco_workers.runtime.worker import Worker

COLLECT_AFTER_OBJECTS: Final = 20_000
"""New containers before Python looks for cycles among them. At its own 700 it looks several times a batch, at hundreds
of tasks that are all alive: a tenth of the loop's time. What tasks leave in cycles waits a little longer."""


def run_worker() -> int:
    """Run one shard until SIGTERM or SIGINT; the exit code. Raises SettingsError before anything is touched."""
    loaded = settings.load()
    logs.configure(form=loaded.log_format, level=loaded.log_level, shard=loaded.shard)

    async def work() -> int:
        worker = Worker(loaded)
        # Modules, models and settings live as long as the process: no need to look through them again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER_OBJECTS)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        return await worker.run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def run_job(name: JobName, *, timeout_s: float, dry_run: bool = False) -> int:
    """Run one job to its end, SIGTERM or SIGINT; the exit code. Its report goes out before the process ends.

    Raises SettingsError before anything is touched; the report says so too.
    """
    # Deferred: a worker that starts does not carry the jobs.
    from eco_workers.runtime.jobs import ShardJob  # noqa: PLC0415  # see above
    from eco_workers.runtime.replication import restore_base  # noqa: PLC0415  # see above

    try:
        loaded = settings.load()
    except SettingsError as error:
        shard = os.environ.get(contract.ENV_SHARD, "")
        left = JobReport(job=name, shard=shard, succeeded=False, dry_run=dry_run, error=logs.clean(str(error))[:1024])
        _leave(left, Path(os.environ.get("ECO_TERMINATION_LOG") or TERMINATION_LOG))
        raise
    logs.configure(form=loaded.log_format, level=loaded.log_level, shard=loaded.shard)

    async def work() -> int:
        job = ShardJob(name, loaded, timeout_s=timeout_s, dry_run=dry_run, restore=restore_base)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, job.stop)
        ended = await job.run()
        _leave(ended.report, loaded.termination_log)
        return ended.exit_code

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def _leave(report: JobReport, termination_log: Path) -> None:
    line = report.line()
    # The kubelet makes its file before the container starts; on a person's machine there is none, and /dev is no place
    # to make one.
    if str(termination_log) != TERMINATION_LOG or termination_log.exists():
        with contextlib.suppress(OSError):
            termination_log.write_text(line, encoding="utf-8")
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
