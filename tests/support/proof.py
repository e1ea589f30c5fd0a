"""The command line that proofs on the lab's cluster have in common: bring the lab up, play, print the figures."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

from eco_lab import environment
from eco_lab.demo.narration import Narrator
from eco_lab.environment import LabEnvironment
from tests.support import figures


def main(
    module: str,
    about: str | None,
    play: Callable[[LabEnvironment, Narrator], Awaitable[None]],
    *,
    nodes: int = 1,
    with_programs: tuple[str, ...] = ("helm",),
) -> None:
    """Play a proof without arguments on a lab of so many nodes; exit status 1 when a target is missed."""
    argparse.ArgumentParser(
        prog=f"python -m {module}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()

    async def played() -> None:
        await play(lab, Narrator())

    lab = environment.up(nodes=nodes, with_programs=with_programs)
    asyncio.run(played())
    print(figures.table())
    sys.exit(1 if figures.missed() else 0)
