"""The command `kubectl eco`: what people look at and ask for, from a shell.

It reads objects and sets annotations by running kubectl itself, so it has the rights, contexts and logins of whoever
runs it and none besides. It acts on nothing: the operator does, once it sees the annotation. Nothing else of the
operator imports this package, and it imports nothing of the operator: it needs the extra `plugin` only.
"""

import importlib
import sys
from typing import Final

NEEDS: Final = frozenset({"typer", "rich", "click"})


def main() -> None:
    """Run `kubectl eco`; where its packages are not installed, say so."""
    _run("__main__")


def complete() -> None:
    """Run the completion that kubectl asks for."""
    _run("completion")


def _run(module: str) -> None:
    try:
        found = importlib.import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if error.name not in NEEDS:
            raise
        sys.stderr.write(f"kubectl eco: package {error.name} is missing: pip install 'eco-operator[plugin]'\n")
        raise SystemExit(2) from None
    found.main()
