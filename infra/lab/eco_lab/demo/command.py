"""`eco-lab demo`: the story from the command line, its figures, and its exit status."""

import asyncio
import logging
import time
from typing import Annotated, Final

import typer

from eco_lab import environment, figures, progress
from eco_lab.demo import ledger
from eco_lab.demo.narration import Narrator
from eco_lab.demo.pictures import photographs
from eco_lab.demo.story import Outcome, Plan, run
from eco_lab.errors import LabError
from eco_lab.paths import find

RESUMED_S_MAX: Final = 10
WALL_S_MAX: Final = 180
COLD_S_MAX: Final = 1200


def demo(
    tasks: Annotated[int, typer.Option(min=60, max=20_000, help="Tasks to publish.")] = 500,
    broken: Annotated[int, typer.Option(min=0, max=500, help="How many of them name a file broken on purpose.")] = 20,
    name: Annotated[str, typer.Option(help="Namespace, virtual host, database and bucket of the run.")] = "demo",
) -> None:
    """Run the main job on the lab and prove that nothing is lost: two kills, one broker restart, one ledger.

    Starts the lab when it is not up and leaves it up. Exit status 1 when anything is lost, doubled or out of place.
    """
    photographs()  # A missing package is said now, not after the cluster was built.
    # A client that finds the restarted broker away says so for every try; the story tells it once.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    begun = time.monotonic()
    narrator = Narrator()
    cold = not any(find().bin.glob("*/*"))
    narrator.say("the lab: a Kubernetes cluster, RabbitMQ, PostgreSQL and an S3 stand-in on this machine")
    with narrator.chapter("lab"):
        lab = environment.up(with_programs=("helm",))
    if not lab.managed:
        raise LabError(
            "run the demo",
            "this cluster was not started by the lab, and one of the blows kills a process from the machine's side",
            hint="unset ECO_LAB_USE_CURRENT_CONTEXT; on a cluster of your own, follow the README's first steps by hand",
        )
    outcome = _play(lab, Plan(name=name, good=tasks - broken, broken=broken), narrator)
    wall_s = time.monotonic() - begun
    _tell(narrator, outcome, cold=cold)
    _figures(outcome, wall_s, cold=cold)
    print(f"\n{figures.table()}")
    print(_look_around(lab, name))
    raise typer.Exit(0 if outcome.ledger.sound else 1)


def _play(lab: environment.LabEnvironment, plan: Plan, narrator: Narrator) -> Outcome:
    try:
        return asyncio.run(run(lab, plan, narrator))
    except BaseExceptionGroup as group:
        # Chapters run side by side; a person wants the one error that began it, not the tree around it.
        named = group.subgroup(LabError)
        if named is None:
            raise
        first: BaseException = named
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


def _tell(narrator: Narrator, outcome: Outcome, *, cold: bool) -> None:
    print("\nLEDGER")
    print(ledger.table(outcome.ledger))
    for blow in outcome.blows:
        print(f"resumed {blow.resumed_s:.1f} s after: {blow.shard}, {blow.what} ({blow.recovered} unfinished found)")
    print(f"RabbitMQ answered {outcome.broker_s:.1f} s after its pod was deleted")
    print("\nSECONDS")
    for title, took_s in narrator.chapters.items():
        print(f"{title:<20} {took_s:6.1f}")
    if cold:
        print("\nthe lab, built from nothing:")
        for title, took_s in progress.steps:
            print(f"  {title:<40} {took_s:6.1f}")


def _figures(outcome: Outcome, wall_s: float, *, cold: bool) -> None:
    result = outcome.ledger
    figures.record("demo.lost", len(result.lost), "tasks", "== 0")
    figures.record("demo.duplicates", len(result.duplicates), "objects + rows", "== 0")
    figures.record("demo.resumed_s", round(outcome.resumed_s, 2), "s", f"<= {RESUMED_S_MAX}")
    if cold:
        figures.record("demo.cold_s", round(wall_s, 1), "s", f"<= {COLD_S_MAX}")
    else:
        figures.record("demo.wall_s", round(wall_s, 1), "s", f"<= {WALL_S_MAX}")


def _look_around(lab: environment.LabEnvironment, name: str) -> str:
    return f"""
The lab stays up. To look around:
  eval "$(eco-lab env)"                                  # KUBECONFIG and the addresses of the servers
  {lab.kubectl} get ecoworkers,walsyncs,pods,pvc -n {name}
  {lab.kubectl} describe ecoworker storage -n {name}
  {lab.kubectl} logs -n eco-system deployment/eco-operator
To stop it and remove all of it but its cache: eco-lab down --wipe"""
