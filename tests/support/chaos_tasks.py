"""The tasks of the chaos proof. Each leaves effects that an outside ledger can count: an object, a message, a row.

Every run of a body is noted in a file, so that repeated runs are known; they are allowed, repeated effects are not.
"""

import asyncio
import os
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, Field

from eco_workers.errors import TaskFailedError
from eco_workers.tasks.context import Context
from eco_workers.tasks.registry import RetryPolicy, task

NAME: Final = "chaos.work"
DONE_NAME: Final = "chaos.done"
DONE_QUEUE: Final = "q.ai"
RUNS_VARIABLE: Final = "ECO_CHAOS_RUNS"
OBJECT_PREFIX: Final = "chaos/"


class Work(BaseModel):
    """What one task is to do."""

    n: int
    kind: Literal["message", "object", "flaky", "hopeless"]
    pause_s: float = Field(0.0, ge=0, le=30)


@task(NAME, queue="q.batch", time_limit_s=60, retry=RetryPolicy(attempts_max=25, first_s=0.2, cap_s=2))
async def work(context: Context, payload: Work) -> dict[str, int | str]:
    """Leave one effect of each kind that the payload asks for."""
    _note_run(context)
    if payload.kind == "hopeless":
        raise TaskFailedError(f"task {payload.n} cannot succeed")
    if payload.kind == "flaky" and context.attempt == 1:
        raise RuntimeError(f"task {payload.n} fails the first time")
    if payload.pause_s:
        await asyncio.sleep(payload.pause_s)
    if payload.kind == "object":
        await context.step("store", lambda: _store(context, payload.n))
    context.emit(DONE_NAME, {"task": context.task_id, "n": payload.n}, routing_key=DONE_QUEUE)
    return {"n": payload.n, "task": context.task_id}


async def _store(context: Context, n: int) -> str:
    objects = await context.resources.objects()
    stored = await objects.store_once(f"{OBJECT_PREFIX}{context.task_id}", content(n), content_type="text/plain")
    return stored.key


def content(n: int) -> bytes:
    """The bytes of the object that task `n` stores."""
    return f"object of task {n}\n".encode()


def _note_run(context: Context) -> None:
    path = os.environ.get(RUNS_VARIABLE)
    if path:
        line = f"{context.task_id} {context.attempt} {os.getpid()}\n".encode()
        # One short write in append mode: the lines of two shards do not mix.
        file = os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line)
        finally:
            os.close(file)
