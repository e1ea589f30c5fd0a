"""Tasks of a user's own, in a module of its own: what a worker under test is given to do.

Each run appends one line to the file that its payload names: a test counts what really ran, in whatever process.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eco_workers.tasks.context import Context
from eco_workers.tasks.registry import RetryPolicy, task

POLL_S = 0.02


class Job(BaseModel):
    """Payload of every task here."""

    ledger: Path | None = None
    """One line a run goes here."""
    gate: Path | None = None
    """The task ends once this file exists."""


def note(context: Context, job: Job, what: str) -> None:
    """Write down that something happened, whatever happens to this process next."""
    if job.ledger is not None:
        with job.ledger.open("a", encoding="utf-8") as file:
            file.write(f"{what} {context.task_id} {context.attempt} {os.getpid()}\n")


@task("test.echo", queue="q.api", time_limit_s=60)
async def echo(context: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload."""
    note(context, Job.model_validate(payload), "run")
    return payload


@task("test.hold", queue="q.api", time_limit_s=120)
async def hold(context: Context, payload: Job) -> str:
    """Wait for the gate, then emit a message and end."""
    note(context, payload, "begin")
    # A file, since whoever opens the gate is another process.
    while payload.gate is not None and not await asyncio.to_thread(payload.gate.exists):  # noqa: ASYNC110  # see above
        await asyncio.sleep(POLL_S)
    note(context, payload, "end")
    context.emit("test.next", {"from": context.task_id}, routing_key="q.ai")
    return "done"


@task("test.poison", queue="q.api", retry=RetryPolicy(attempts_max=3, first_s=0.01, cap_s=0.01))
async def poison(context: Context, payload: Job) -> None:
    """Take the whole process down, as a crash in a C library does."""
    note(context, payload, "begin")
    os.kill(os.getpid(), signal.SIGKILL)


@task("test.gated", queue="q.api", retry=RetryPolicy(attempts_max=2, first_s=0.01, cap_s=0.01))
async def gated(context: Context, payload: Job) -> str:
    """Fail until the gate is open."""
    note(context, payload, "begin")
    if payload.gate is None or not await asyncio.to_thread(payload.gate.exists):
        raise ConnectionError("the gate is closed")
    note(context, payload, "end")
    return "done"


@task("test.fail", queue="q.api", retry=RetryPolicy(attempts_max=2, first_s=0.01, cap_s=0.01))
async def fail(context: Context, payload: Job) -> None:
    """Fail each time."""
    note(context, payload, "begin")
    raise ConnectionError("nothing there")
