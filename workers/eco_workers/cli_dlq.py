"""`eco-worker dlq …`: look at dead letters, send them again, drop them. Reads RABBITMQ_URL, no other setting."""

import asyncio
import json
import re
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from eco_workers.errors import EcoWorkerError

if TYPE_CHECKING:
    from eco_workers.runtime.dlq import Entry, Filter, Outcome

# Heavy modules are imported by the command that needs them.

T = TypeVar("T")
app = typer.Typer(
    name="dlq",
    help="Look at dead letters, send them again, drop them. Reads RABBITMQ_URL. Looking never loses a letter, also when"
    " it is killed in the middle.\n\nExample: eco-worker dlq replay --task 'image.*' --reason 'connection refused'",
    no_args_is_help=True,
)
EXIT_KEPT: Final = 1
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Ids = Annotated[list[str] | None, typer.Option("--id", help="Id of a task or message; may be given several times.")]
Name = Annotated[str, typer.Option("--task", help="Name of the task, with * and ? as in a shell.")]
Reason = Annotated[str, typer.Option("--reason", help="Part of the reason, in any case.")]
Queue = Annotated[str, typer.Option("--queue", help="Queue that it came from.")]
Older = Annotated[str, typer.Option("--older-than", help="Failed longer ago than this: 90s, 15m, 2h, 7d.")]
Younger = Annotated[str, typer.Option("--younger-than", help="Failed since: 90s, 15m, 2h, 7d.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Letters at most, the oldest first.")]
All = Annotated[bool, typer.Option("--all", help="Every letter: needed when no filter is given.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell which letters are meant.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command(name="list")
def list_letters(
    *,
    ids: Ids = None,
    task: Name = "",
    reason: Reason = "",
    queue: Queue = "",
    older_than: Older = "",
    younger_than: Younger = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Letters at most, the oldest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Letters that match, the oldest first. They stay.

    Examples: eco-worker dlq list; eco-worker dlq list --task 'image.*' --older-than 2h --json
    """
    from eco_workers.runtime import dlq  # noqa: PLC0415  # see above

    wanted = _filter(ids, task, reason, queue, older_than, younger_than)
    _print(_run(dlq.find(_url(), wanted, limit=limit)), "listed", as_json=as_json)


@app.command()
def show(identity: Annotated[str, typer.Argument(metavar="ID", help="Id of a task or message.")]) -> None:
    """Every letter of one task, whole: headers and body, as JSON. Exit code 1 when there is none.

    Example: eco-worker dlq show 7c0f5ad2-5e9a-4ad0-9f0e-0f4b0a3d3d11
    """
    from eco_workers.runtime import dlq  # noqa: PLC0415  # see above

    found = _run(dlq.show(_url(), identity))
    if not found:
        raise EcoWorkerError(f"no dead letter of {identity!r}")
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))


@app.command()
def replay(  # noqa: PLR0913  # the options of a command
    *,
    ids: Ids = None,
    task: Name = "",
    reason: Reason = "",
    queue: Queue = "",
    older_than: Older = "",
    younger_than: Younger = "",
    limit: Limit = 1_000_000,
    every: All = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Send letters that match back to the queue they came from: each task runs again, with its whole budget.

    Exit code 1 when some that match had to stay.

    Examples: eco-worker dlq replay --id 7c0f5ad2; eco-worker dlq replay --task 'image.*' --dry-run
    """
    from eco_workers.runtime import dlq  # noqa: PLC0415  # see above

    wanted = _filter(ids, task, reason, queue, older_than, younger_than)
    _check_meant(wanted, every=every)
    outcome = _run(dlq.replay(_url(), wanted, limit=limit, dry_run=dry_run))
    _print(outcome, "would be replayed" if dry_run else "replayed", as_json=as_json)
    raise typer.Exit(EXIT_KEPT if outcome.kept_count else 0)


@app.command()
def drop(  # noqa: PLR0913  # the options of a command
    *,
    ids: Ids = None,
    task: Name = "",
    reason: Reason = "",
    queue: Queue = "",
    older_than: Older = "",
    younger_than: Younger = "",
    limit: Limit = 1_000_000,
    every: All = False,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="They are gone for good: say that this is meant.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove letters that match, for good.

    Examples: eco-worker dlq drop --task old.name --dry-run; eco-worker dlq drop --older-than 30d --yes
    """
    from eco_workers.runtime import dlq  # noqa: PLC0415  # see above

    wanted = _filter(ids, task, reason, queue, older_than, younger_than)
    _check_meant(wanted, every=every)
    if not (yes or dry_run):
        raise EcoWorkerError("drop: letters are gone for good; add --yes, or --dry-run to see which are meant")
    outcome = _run(dlq.drop(_url(), wanted, limit=limit, dry_run=dry_run))
    _print(outcome, "would be dropped" if dry_run else "dropped", as_json=as_json)


def seconds(text: str) -> float | None:
    """A duration as a person writes it; None for the empty text."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise EcoWorkerError(f"{text!r} is no duration. Example: --older-than 2h")
    return float(found[1]) * _UNITS_S[found[2]]


def _filter(ids: list[str] | None, task: str, reason: str, queue: str, older: str, younger: str) -> "Filter":
    from eco_workers.runtime.dlq import Filter  # noqa: PLC0415  # see above

    return Filter(frozenset(ids or ()), task, reason, queue, seconds(older), seconds(younger))


def _check_meant(wanted: "Filter", *, every: bool) -> None:
    if wanted.is_empty and not every:
        raise EcoWorkerError("no filter is given; add --all if every dead letter is meant")


def _url() -> str:
    from eco_workers.settings import broker_url  # noqa: PLC0415  # see above

    return broker_url()


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _print(outcome: "Outcome", word: str, *, as_json: bool) -> None:
    from eco_workers.runtime.dlq import described  # noqa: PLC0415  # see above

    if as_json:
        document = {
            "scanned": outcome.scanned,
            "count": outcome.count,
            "matched": [described(entry) for entry in outcome.matched],
            "done": outcome.done,
            "kept_count": outcome.kept_count,
            "kept": [{"task_id": entry.task_id, "why": why} for entry, why in outcome.kept],
        }
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for entry in outcome.matched:
        typer.echo(_line(entry))
    for entry, why in outcome.kept:
        typer.echo(f"kept: {entry.task_id}: {why}", err=True)
    typer.echo(f"{outcome.count - outcome.kept_count} {word}, {outcome.scanned} looked at", err=True)


def _line(entry: "Entry") -> str:
    at = "" if entry.failed_at is None else datetime.fromtimestamp(entry.failed_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{entry.task_id:<36}  {entry.name:<20} {entry.queue:<8} {at:<20} {entry.attempts:>3}x  {entry.reason[:100]}"
