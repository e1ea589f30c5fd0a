"""CPU work in processes of its own: the loop never blocks, and a killed process costs one more try, not the worker.

Processes are spawned (never forked: the parent has threads and open connections), started at the first use, and die
with the parent even when it is killed, by the kernel's parent-death signal.
"""

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, TypeVar

from eco_workers import logs

T = TypeVar("T")
log = logs.get(__name__)
TRIES_MAX: Final = 3
JOBS_A_PROCESS_MAX: Final = 1000
"""A process is replaced after this many jobs: what a C library leaks goes with it."""
_PR_SET_PDEATHSIG: Final = 1


class Processes:
    """A few processes for CPU work, made when first needed and made again when one of them dies."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None
        self._admitted = asyncio.Semaphore(count)
        self.replaced = 0
        """How often the pool had to be made again because a process was gone."""

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run one job; raises what it raises, and BrokenProcessPool when every try lost its process."""
        # No more jobs than processes are handed over: a cancelled job must not wait inside the pool's own queue.
        async with self._admitted:
            for attempt in range(1, TRIES_MAX + 1):
                pool = self._ensure()
                try:
                    return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
                except BrokenProcessPool:
                    self._discard(pool)
                    log.warning("a process for CPU work is gone", attempt=attempt)
                    if attempt == TRIES_MAX:
                        raise
                except asyncio.CancelledError:
                    # The time limit ran out or the worker stops: a job cannot be called off, its process can.
                    self._discard(pool)
                    raise
        raise AssertionError("unreachable")

    def process_ids(self) -> list[int]:
        """Processes of the moment; empty before the first job."""
        pool = self._pool
        return [] if pool is None else list(_processes_of(pool))

    async def close(self) -> None:
        """End all processes; what still runs is killed."""
        if self._pool is not None:
            pool = self._pool
            self._discard(pool)
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _ensure(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(os.getpid(),),
                max_tasks_per_child=JOBS_A_PROCESS_MAX,
            )
        return self._pool

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        if self._pool is pool:
            self._pool = None
            self.replaced += 1
        for process_id in _processes_of(pool):
            try:
                os.kill(process_id, signal.SIGKILL)
            except ProcessLookupError:
                continue
        pool.shutdown(wait=False, cancel_futures=True)


def _processes_of(pool: ProcessPoolExecutor) -> list[int]:
    # No public name before Python 3.14 (`kill_workers`); None once the pool is broken.
    return list(getattr(pool, "_processes", None) or {})


def _begin(parent: int) -> None:
    """Set up a process: die with the parent, leave its signals to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent died before the signal was asked for.
        os._exit(1)
