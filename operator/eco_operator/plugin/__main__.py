"""The commands of `kubectl eco`."""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from eco_crds import contract
from eco_crds.schema import KINDS
from eco_operator.plugin import show
from eco_operator.plugin.kubectl import Kubectl, KubectlError

WORKERS, SYNCS = (f"{kind.plural}.{contract.GROUP}" for kind in KINDS)
CLAIMS: Final = "persistentvolumeclaims"
SHARED_WITH_VALUE: Final = frozenset({"-n", "--namespace", "--kubeconfig", "--context"})
SHARED: Final = frozenset({"-A", "--all-namespaces"})

app = typer.Typer(
    name="kubectl eco",
    help="Looks after queue workers with local write-ahead journals.",
    no_args_is_help=True,
    add_completion=False,  # kubectl completes its plugins by `kubectl_complete-eco`
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(soft_wrap=True)


class Output(StrEnum):
    """How to print."""

    TEXT = "text"
    JSON = "json"


Name = Annotated[str, typer.Argument(help="Name of an EcoWorker.")]
Names = Annotated[list[str] | None, typer.Argument(help="EcoWorkers by name; all when none is given.")]
Format = Annotated[Output, typer.Option("--output", "-o", help="text, or json for programs.")]
Off = Annotated[bool, typer.Option("--off", help="Take it back.")]


@app.callback()
def choose(
    context: typer.Context,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace; kubectl's own if left out.")
    ] = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look into every namespace.")] = False,
    kubeconfig: Annotated[str | None, typer.Option(help="Path of a kubeconfig.")] = None,
    cluster_context: Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")] = None,
) -> None:
    """Say which cluster and namespace are meant."""
    context.obj = Kubectl("kubectl", kubeconfig, cluster_context, namespace, all_namespaces)


@app.command(epilog="Examples: kubectl eco status | kubectl eco status storage -n shop | kubectl eco status -A -o json")
def status(context: typer.Context, names: Names = None, output: Format = Output.TEXT) -> None:
    """Show EcoWorkers as a tree: shards with their journals, volumes and last recovery, and their syncs."""
    workers = context.obj.get(WORKERS, *(names or ()))
    syncs = context.obj.get(SYNCS)
    if output is Output.JSON:
        _print_json([{"ecoWorker": worker, "walSyncs": _syncs_of(worker, syncs)} for worker in workers])
        return
    for worker in workers:
        console.print(show.tree(worker, _syncs_of(worker, syncs), show.now()))
    if not workers:
        console.print("no EcoWorker here; -A looks into every namespace")


@app.command(epilog="Examples: kubectl eco wal | kubectl eco wal storage -n shop -o json")
def wal(context: typer.Context, names: Names = None, output: Format = Output.TEXT) -> None:
    """Show the journal of every shard, one line each."""
    workers = context.obj.get(WORKERS, *(names or ()))
    if output is Output.JSON:
        _print_json([shard for worker in workers for shard in (worker.get("status") or {}).get("shards") or ()])
        return
    console.print(show.shards_table(workers, show.now()))


@app.command(epilog="Examples: kubectl eco orphans -A | kubectl eco orphans -n shop -o json")
def orphans(context: typer.Context, output: Format = Output.TEXT) -> None:
    """Show claims that no shard uses: their EcoWorker is gone, or was scaled in."""
    ours = f"{contract.LABEL_MANAGED_BY}={contract.MANAGED_BY}"
    marks = {contract.ANNOTATION_ORPHANED, contract.ANNOTATION_SCALED_IN}
    claims = [
        claim
        for claim in context.obj.get(CLAIMS, selector=ours)
        if marks & set(claim["metadata"].get("annotations") or {})
    ]
    if output is Output.JSON:
        _print_json(claims)
        return
    console.print(show.orphans_table(claims, show.now()) if claims else "every claim is in use")


@app.command(epilog="Example: kubectl eco pause storage -n shop")
def pause(context: typer.Context, name: Name) -> None:
    """Have the operator leave an EcoWorker as it is."""
    _ask(context, name, contract.ANNOTATION_PAUSED, "true")


@app.command(epilog="Example: kubectl eco resume storage -n shop")
def resume(context: typer.Context, name: Name) -> None:
    """Have the operator look after a paused EcoWorker again."""
    _ask(context, name, contract.ANNOTATION_PAUSED, None)


@app.command(epilog="Examples: kubectl eco fence storage --shard storage-0 | kubectl eco fence storage --off")
def fence(
    context: typer.Context,
    name: Name,
    shard: Annotated[list[str] | None, typer.Option(help="This shard only, as storage-0; may be repeated.")] = None,
    off: Off = False,
) -> None:
    """Make every shard of an EcoWorker stand still, or some: nothing is accepted and nothing runs."""
    _ask(context, name, contract.ANNOTATION_FENCE, None if off else ",".join(shard or ()) or "true")


@app.command(epilog="Examples: kubectl eco hibernate storage -n shop | kubectl eco hibernate storage --off")
def hibernate(context: typer.Context, name: Name, off: Off = False) -> None:
    """Stop every shard of an EcoWorker; journals and volumes stay."""
    _ask(context, name, contract.ANNOTATION_HIBERNATE, None if off else "true")


@app.command(epilog="Examples: kubectl eco drain storage -n shop | kubectl eco drain storage --off")
def drain(context: typer.Context, name: Name, off: Off = False) -> None:
    """Have every worker finish or put back what it runs, send its results and end; journals and volumes stay."""
    _ask(context, name, contract.ANNOTATION_HIBERNATE, None if off else "true")
    if off:
        return
    workers = context.obj.get(WORKERS, name)
    for entry in _syncs_of(workers[0], context.obj.get(SYNCS)) if workers else ():
        sync(context, entry["metadata"]["name"])


@app.command(epilog="Examples: kubectl eco recover storage --dry-run | kubectl eco recover storage --off")
def recover(
    context: typer.Context,
    name: Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look what would be done.")] = False,
    off: Off = False,
) -> None:
    """Have damaged or lost journals of an EcoWorker set right."""
    _ask(context, name, contract.ANNOTATION_RECOVER, None if off else "dry-run" if dry_run else "true")


@app.command(epilog="Example: kubectl eco sync storage -n shop")
def sync(context: typer.Context, name: Annotated[str, typer.Argument(help="Name of a WalSync.")]) -> None:
    """Have results sent to the database now."""
    value = datetime.now(UTC).isoformat(timespec="milliseconds")
    context.obj.annotate(f"{SYNCS}/{name}", contract.ANNOTATION_SYNC_NOW, value)
    console.print(f"walsync/{name}: asked to send now")


def hoisted(words: list[str]) -> list[str]:
    """The words with the options that every command shares in front, so that they may stand anywhere, as in kubectl."""
    shared, rest, left = list[str](), list[str](), list(words)
    while left:
        word = left.pop(0)
        if word in SHARED_WITH_VALUE:
            shared += [word, *left[:1]]
            left = left[1:]
        elif word in SHARED or word.partition("=")[0] in SHARED_WITH_VALUE:
            shared.append(word)
        else:
            rest.append(word)
    return shared + rest


def main() -> None:
    """Run the command line; what kubectl refuses ends it with kubectl's own words."""
    try:
        app(hoisted(sys.argv[1:]), prog_name="kubectl eco")
    except KubectlError as error:
        typer.echo(f"kubectl eco: {error}", err=True)
        raise SystemExit(1) from None


def _ask(context: typer.Context, name: str, annotation: str, value: str | None) -> None:
    context.obj.annotate(f"{WORKERS}/{name}", annotation, value)
    wish = annotation.rpartition("/")[2]
    console.print(f"ecoworker/{name}: {wish} taken back" if value is None else f"ecoworker/{name}: {wish}={value}")


def _syncs_of(worker: dict[str, Any], syncs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """WalSyncs of the same namespace that show the EcoWorker among theirs."""
    metadata = worker["metadata"]
    return [
        it
        for it in syncs
        if it["metadata"]["namespace"] == metadata["namespace"]
        and metadata["name"] in {entry["name"] for entry in (it.get("status") or {}).get("workers") or ()}
    ]


def _print_json(found: object) -> None:
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
