"""`eco-worker job …`: what is done on a shard's volume while no worker runs there. The operator's Jobs run these."""

from typing import Annotated, Final

import typer

from eco_crds.jobs import JobName

# Heavy modules are imported by the command that needs them.

app = typer.Typer(
    name="job",
    help="Jobs on a shard's journal while no worker runs there. Same environment as `eco-worker run`.\n\n"
    "Each ends with a report, one line of JSON on standard output and in the container's termination message, and with"
    " exit code 0, or 1 (something is left: run it again), 2 (a setting), 70 (the journal must not be opened here)."
    " A job may be killed and run again at any time.\n\nExample: eco-worker job drain --timeout 300",
    no_args_is_help=True,
)
TIMEOUT_DEFAULT_S: Final = 600.0
Timeout = Annotated[
    float, typer.Option("--timeout", min=1, max=86_400, help="Seconds after which it gives up what is left.")
]


@app.command()
def drain(*, timeout_s: Timeout = TIMEOUT_DEFAULT_S) -> None:
    """Give every unfinished task back to the broker, publish what is unsent, sync what is due: the journal is empty.

    Example: WAL_DB_PATH=/var/lib/ecoeco/wal/journal.db RABBITMQ_URL=amqp://… eco-worker job drain
    """
    _run(JobName.DRAIN, timeout_s)


@app.command()
def sync(*, timeout_s: Timeout = TIMEOUT_DEFAULT_S) -> None:
    """Publish what is unsent and sync what is due; unfinished tasks stay for the next worker.

    Example: eco-worker job sync --timeout 120
    """
    _run(JobName.SYNC, timeout_s)


@app.command()
def recover(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    timeout_s: Timeout = TIMEOUT_DEFAULT_S,
) -> None:
    """Set a damaged or lost journal right, then publish and sync for a minute. The old file is kept beside the new one.

    Examples: eco-worker job recover --dry-run; eco-worker job recover
    """
    _run(JobName.RECOVER, timeout_s, dry_run=dry_run)


def _run(name: JobName, timeout_s: float, *, dry_run: bool = False) -> None:
    from eco_workers.runtime.process import run_job  # noqa: PLC0415  # see above

    raise typer.Exit(run_job(name, timeout_s=timeout_s, dry_run=dry_run))
