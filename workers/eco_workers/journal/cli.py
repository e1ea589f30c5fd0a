"""`eco-wal`: look into a journal, check it, repair it. Tables for people, `--json` for programs.

Looking is safe while a worker has the journal open. What changes the file (`checkpoint`, `recover`) takes the journal's
lock and refuses while somebody else holds it.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from eco_crds import contract
from eco_workers.errors import EcoWorkerError
from eco_workers.journal.inspection import Inspector
from eco_workers.journal.manager import state_named
from eco_workers.journal.model import Identity
from eco_workers.journal.opening import Plan
from eco_workers.journal.recover import recover as recover_journal
from eco_workers.journal.salvage import copied, salvage_all

app = typer.Typer(help="Look into a worker's journal, check it, repair it.", no_args_is_help=True, add_completion=False)
Db = Annotated[
    Path,
    typer.Option("--db", envvar=contract.ENV_WAL_DB_PATH, help="The journal's file.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
screen = Console()
errors = Console(stderr=True)


@app.command()
def stats(db: Db, as_json: AsJson = False) -> None:
    """Counts by state, ages, sizes, and who has the journal open."""
    with _told():
        found = Inspector(db).statistics()
    if as_json:
        _print_json(found)
        return
    table = Table("what", "value", title=f"{db}")
    for key, value in _flat(found):
        table.add_row(key, "" if value is None else str(value))
    screen.print(table)


@app.command(name="list")
def list_tasks(
    db: Db,
    state: Annotated[str | None, typer.Option(help="Only this state; `processing` means running.")] = None,
    name: Annotated[str | None, typer.Option(help="Only this task name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """Tasks, the youngest first."""
    with _told():
        wanted = None if state is None else _state(state)
        found = Inspector(db).tasks(state=wanted, name=name, limit=limit)
    if as_json:
        _print_json(found)
        return
    table = Table("task", "name", "state", "attempts", "generation", "created", "ended", "sync", "error")
    for row in found:
        table.add_row(
            row["task_id"],
            row["task_name"],
            row["state"],
            str(row["attempts"]),
            str(row["generation"]),
            _time(row["created_at"]),
            _time(row["ended_at"]),
            row["sync_status"],
            (row["error"] or "")[:60],
        )
    screen.print(table)


@app.command()
def show(task_id: Annotated[str, typer.Argument(help="The id of a task.")], db: Db, as_json: AsJson = False) -> None:
    """One task: its row, finished steps and messages."""
    with _told():
        found = Inspector(db).task(task_id)
    if found is None:
        _fail(f"task {task_id!r} is not in {db}")
    if as_json:
        _print_json(found)
    else:
        screen.print_json(json.dumps(found))


@app.command()
def verify(db: Db, as_json: AsJson = False) -> None:
    """Check structure, every row's checksum and the counters. Exit code 1 when something is wrong."""
    with _told(), errors.status("checking every row"):
        problems = Inspector(db).verify()
    if as_json:
        _print_json({"sound": not problems, "problems": problems})
    else:
        screen.print("sound" if not problems else "\n".join(problems), markup=False)
    raise typer.Exit(1 if problems else 0)


@app.command()
def checkpoint(db: Db, as_json: AsJson = False) -> None:
    """Move the log into the database file, of a journal that no worker has open."""
    with _told():
        in_log, moved = Inspector(db).checkpoint()
    _print_json({"pages_in_log": in_log, "pages_moved": moved}) if as_json else screen.print(f"{moved} pages moved")


@app.command()
def export(
    db: Db, out: Annotated[Path | None, typer.Option(help="A new file; standard output without it.")] = None
) -> None:
    """Every task as one line of JSON, payload and result included."""
    with _told(), _output(out) as write:
        for line in Inspector(db).export():
            write(line)


@app.command(name="salvage")
def salvage_rows(
    db: Db, out: Annotated[Path | None, typer.Option(help="A new file; standard output without it.")] = None
) -> None:
    """Whatever can still be read of a damaged journal, as lines of JSON. The journal is only copied."""
    with _told(), _progress() as told, copied(db, db.with_name(db.name + ".salvage")) as copy:
        found = salvage_all(copy, told)
    with _told(), _output(out) as write:
        for kind, rows in (
            ("task", found.tasks),
            ("message", found.outbox),
            ("damaged task", found.damaged_tasks),
            ("damaged message", found.damaged_outbox),
        ):
            for row in rows:
                write(json.dumps({"kind": kind} | row._asdict(), default=_text, ensure_ascii=False))
    for place in found.unreadable:
        errors.print(f"not readable: {place}", markup=False)


@app.command()
def recover(
    db: Db,
    namespace: Annotated[str, typer.Option(envvar=contract.ENV_NAMESPACE)] = "",
    worker: Annotated[str, typer.Option(envvar=contract.ENV_WORKER)] = "",
    shard: Annotated[str, typer.Option(envvar=contract.ENV_SHARD)] = "",
    base: Annotated[Path | None, typer.Option(help="A backup or restored copy to start from.")] = None,
    adopt: Annotated[bool, typer.Option(help="Take over a sound journal of another identity or older epoch.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a quarantined journal usable again. The old file is kept beside it."""
    with _told():
        identity = _identity(db, namespace, worker, shard)
        with _progress() as told:
            report = recover_journal(Plan(db, identity), dry_run=dry_run, adopt=adopt, base=base, progress=told)
    if as_json:
        _print_json(asdict(report))
        return
    table = Table("what", "value", title="would be done" if dry_run else "done")
    for key, value in _flat(asdict(report)):
        table.add_row(key, str(value))
    screen.print(table)


def main() -> None:
    """Run the command line."""
    app()


def _identity(db: Path, namespace: str, worker: str, shard: str) -> Identity:
    """The identity as given, each missing part as it stands in the journal."""
    if namespace and worker and shard:
        return Identity(namespace, worker, shard)
    known: Mapping[str, Any] = {}
    try:
        with copied(db, db.with_name(db.name + ".identity")) as copy:
            known = salvage_all(copy).meta
    except OSError as error:
        _fail(f"read {db}: {error}")
    parts = [
        given or known.get(key, "")
        for key, given in zip(("namespace", "worker", "shard"), (namespace, worker, shard), strict=True)
    ]
    if not all(parts):
        _fail("whose journal it is cannot be read from it: give --namespace, --worker and --shard")
    return Identity(*parts)


@contextmanager
def _told() -> Iterator[None]:
    """Errors of our own as one line and exit code 2, not as a traceback."""
    try:
        yield
    except (EcoWorkerError, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    errors.print(message, style="red", markup=False)
    raise typer.Exit(2)


@contextmanager
def _progress() -> Iterator[Any]:
    with Progress(console=errors, transient=True) as bar:
        lines: dict[str, TaskID] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in lines:
                lines[what] = bar.add_task(what, total=total)
            bar.update(lines[what], completed=done, total=total)

        yield told


@contextmanager
def _output(out: Path | None) -> Iterator[Any]:
    if out is None:
        yield lambda line: sys.stdout.write(line + "\n")
        return
    with out.open("x", encoding="utf-8") as stream:
        yield lambda line: stream.write(line + "\n")


def _state(name: str) -> str:
    try:
        return state_named(name).value
    except ValueError:
        _fail(f"{name!r} is no state of a task")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, "\n".join(map(str, value))
        else:
            yield prefix + key, value


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _time(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
