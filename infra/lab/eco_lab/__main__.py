"""The command line: `eco-lab up | down | status | env | images | demo`."""

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from eco_lab import environment, lifecycle, progress, state
from eco_lab.errors import LabError

app = typer.Typer(
    name="eco-lab",
    help="A real Kubernetes cluster with RabbitMQ, PostgreSQL and an S3 stand-in on this machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Part(StrEnum):
    """Parts that can be had alone."""

    CONTROL_PLANE = "control-plane"


class Program(StrEnum):
    """Programs fetched or built on request."""

    HELM = "helm"
    HELM_UNITTEST = "helm-unittest"
    ARGOCD = "argocd"
    PROMETHEUS = "prometheus"


@app.command(
    epilog="Examples: eco-lab up | eco-lab up --nodes 3 | eco-lab up --only control-plane | eco-lab up --with argocd"
)
def up(
    nodes: Annotated[int, typer.Option(min=1, max=3, help="How many nodes.")] = 1,
    only: Annotated[Part | None, typer.Option(help="Start this part only: no node, no servers.")] = None,
    with_programs: Annotated[list[Program] | None, typer.Option("--with", help="Have this too.")] = None,
) -> None:
    """Start the lab, or what of it does not run. Harmless to repeat, also after one that was cut off."""
    found = environment.up(
        nodes=nodes,
        only_control_plane=only is Part.CONTROL_PLANE,
        with_programs=tuple(program.value for program in with_programs or ()),
    )
    progress.say(f"up: API server {found.api_server}, nodes {', '.join(found.nodes) or 'none'}")
    progress.say('use it: eval "$(eco-lab env)"; kubectl get pods -A')


@app.command(epilog="Examples: eco-lab down | eco-lab down --wipe")
def down(
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete its data, keys and logs too; the cache stays.")] = False,
) -> None:
    """Stop everything that the lab started. Its data stay for the next start unless wiped."""
    lifecycle.down(wipe=wipe)


@app.command(epilog="Examples: eco-lab status | eco-lab status --json")
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what runs. Exit status 1 when the lab is not up."""
    found = state.observe()
    print(json.dumps(found.as_dict(), indent=2) if as_json else found.as_text())
    if not found.is_up:
        raise typer.Exit(1)


@app.command(epilog='Examples: eval "$(eco-lab env)" | eco-lab env --json')
def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print every address and password as JSON.")] = False,
) -> None:
    """Print what others need to use the lab, as export lines for a shell."""
    found = environment.load()
    if found is None:
        raise LabError("print the lab's environment", "the lab is not up", hint="eco-lab up")
    print(found.to_json() if as_json else found.as_shell())


@app.command(epilog="Example, after a change of the worker: eco-lab images")
def images() -> None:
    """Build the operator's and worker's image from this tree and import them into the running nodes."""
    found = lifecycle.update_images()
    print(f"{found.worker_image}\n{found.operator_image}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def demo(context: typer.Context) -> None:
    """Run the main job: 500 tasks outlive two killed workers and a restarted broker."""
    from eco_lab.demo.command import demo as story  # noqa: PLC0415 - its clients are heavy; no other command needs them

    inner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    inner.command()(story)
    inner(context.args, prog_name="eco-lab demo")


def main() -> None:
    """Run the command line; an error of the lab ends it with status 2 and what to do."""
    try:
        app()
    except LabError as error:
        print(f"eco-lab: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
