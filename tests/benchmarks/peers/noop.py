"""The no-op task as the worker of this project runs it."""

from typing import Any

from eco_workers.tasks.context import Context
from eco_workers.tasks.registry import task
from tests.benchmarks.peers.marks import mark


@task("bench.noop", queue="q.sched")
async def noop(context: Context, payload: dict[str, Any]) -> None:
    """Leave a mark."""
    del context
    mark(payload["sent"])
