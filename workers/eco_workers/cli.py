"""The commands of `eco-worker`: check a worker's surroundings, list its tasks, send one, ask how it stands.

Jobs on a journal are in `cli_jobs`, dead letters in `cli_dlq`.
"""

import asyncio
import json
import os
import sys
from typing import Annotated, Any, Final

import typer

from eco_workers import cli_dlq, cli_jobs
from eco_workers.errors import EcoWorkerError, SettingsError

# Heavy modules are imported by the command that needs them: the start of a worker is part of its recovery time.

app = typer.Typer(
    name="eco-worker",
    help="Queue worker that writes every task to a local journal before it owns it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_jobs.app)
app.add_typer(cli_dlq.app)
EXIT_SETTINGS: Final = 2
EXIT_FAILED: Final = 1
REPORT_TIMEOUT_S: Final = 5.0


@app.command()
def run() -> None:
    """Run one shard until SIGTERM. Settings come from the environment; `eco-worker check --settings` lists them.

    Example: RABBITMQ_URL=amqp://guest:guest@localhost/ WAL_DB_PATH=/tmp/wal/journal.db eco-worker run
    """
    from eco_workers.runtime.process import run_worker  # noqa: PLC0415  # see above

    raise typer.Exit(run_worker())


@app.command()
def check(
    *,
    settings: Annotated[
        bool, typer.Option("--settings", help="List every variable with its default and leave.")
    ] = False,
) -> None:
    """Check the settings and everything they point to: broker, database, bucket, volume. Changes nothing.

    Examples: eco-worker check; eco-worker check --settings
    """
    from eco_workers import settings as module  # noqa: PLC0415  # see above

    if settings:
        for name, default, example in module.documented():
            typer.echo(f"{name:<24} {default or '-':<36} example: {example}")
        return
    from eco_workers.runtime.check import check_all  # noqa: PLC0415  # see above

    failed = False
    for what, problem in asyncio.run(check_all(_settings())):
        failed |= bool(problem)
        typer.echo(f"{'FAIL' if problem else 'ok':<5} {what}{': ' + problem if problem else ''}")
    raise typer.Exit(EXIT_FAILED if failed else 0)


@app.command()
def tasks() -> None:
    """List the tasks that this image knows: name, queue, time limit, attempts.

    Example: ECO_TASK_MODULES=shop.tasks eco-worker tasks
    """
    from eco_workers.settings import ROLE_QUEUES  # noqa: PLC0415  # see above
    from eco_workers.tasks.registry import ROLE_MODULES, collect  # noqa: PLC0415  # see above

    role = os.environ.get("ECO_ROLE") or next(iter(ROLE_QUEUES))
    if role not in ROLE_MODULES:
        raise SettingsError(f"ECO_ROLE: {role!r} is no role. Example: ECO_ROLE={next(iter(ROLE_MODULES))}")
    own = [name for name in os.environ.get("ECO_TASK_MODULES", "").split(",") if name]
    for name, task in sorted(collect((*ROLE_MODULES[role], *own)).tasks.items()):
        typer.echo(
            f"{name:<24} {task.queue:<8} {task.time_limit_s:>6.0f} s {task.retry.attempts_max:>3}x  {task.description}"
        )


@app.command()
def send(
    name: Annotated[str, typer.Argument(help="Name of the task.")],
    payload: Annotated[str, typer.Argument(help="JSON object, or - to read it from standard input.")] = "{}",
    *,
    queue: Annotated[str, typer.Option(help="Queue or routing key.")] = "q.batch",
    task_id: Annotated[str, typer.Option("--id", help="Id of the task; made up when empty.")] = "",
) -> None:
    """Send one task and wait until the broker has confirmed it; prints its id. Reads RABBITMQ_URL.

    Example: eco-worker send image.store '{"key": "uploads/1.jpg"}' --queue q.batch
    """
    from eco_workers.client import Client  # noqa: PLC0415  # see above

    text = sys.stdin.read() if payload == "-" else payload
    try:
        document: Any = json.loads(text)
    except ValueError as error:
        raise EcoWorkerError(f"payload: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise EcoWorkerError(f"payload: a JSON {type(document).__name__}, want an object")
    from eco_workers.settings import broker_url  # noqa: PLC0415  # see above

    url = broker_url()

    async def go() -> str:
        async with Client(url) as client:
            return await client.send(name, document, queue=queue, task_id=task_id or None)

    typer.echo(asyncio.run(go()))


@app.command()
def status(
    url: Annotated[str, typer.Option(help="Address of the worker's admin port.")] = "http://127.0.0.1:9464",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="The whole report as JSON.")] = False,
) -> None:
    """Ask a running worker how its journal stands.

    Examples: eco-worker status; eco-worker status --url http://10.1.2.3:9464 --json
    """
    from urllib.request import urlopen  # noqa: PLC0415  # see above

    from eco_crds.wal import WalReport  # noqa: PLC0415  # see above

    if not url.startswith(("http://", "https://")):
        raise EcoWorkerError(f"--url {url}: want http:// or https://")
    try:
        with urlopen(f"{url.rstrip('/')}/wal", timeout=REPORT_TIMEOUT_S) as answer:  # noqa: S310  # scheme checked above
            report = WalReport.model_validate_json(answer.read())
    except (OSError, ValueError) as error:
        raise EcoWorkerError(f"no report from {url}: {error}") from None
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    counts = report.counts
    typer.echo(f"{report.shard}: {report.mode.value}, {'consuming' if report.consuming else 'not consuming'}")
    typer.echo(f"  due {counts.due}  waiting {counts.waiting}  running {counts.running}")
    typer.echo(f"  completed {counts.completed}  failed {counts.failed}  timeout {counts.timeout}")
    parked = counts.sync_parked + counts.outbox_parked
    typer.echo(f"  unsynced {counts.unsynced}  outbox {counts.outbox_unsent}  parked {parked}")
    if report.last_error:
        typer.echo(f"  last error: {report.last_error}")


def _settings() -> Any:
    from eco_workers.settings import load  # noqa: PLC0415  # see above

    return load()
