"""The process around a worker: event loop, signals, logs, exit code."""

import asyncio
import signal

import uvloop

from eco_workers import logs, settings
from eco_workers.runtime.worker import Worker


def run_worker() -> int:
    """Run one shard until SIGTERM or SIGINT; the exit code. Raises SettingsError before anything is touched."""
    loaded = settings.load()
    logs.configure(form=loaded.log_format, level=loaded.log_level, shard=loaded.shard)

    async def work() -> int:
        worker = Worker(loaded)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        return await worker.run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())
