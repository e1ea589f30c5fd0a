"""The program `kubectl_complete-eco`, which kubectl's own shell completion asks about its plugin `eco`.

kubectl calls it with the words after `kubectl eco`, the last one unfinished, and wants a candidate a line and then a
colon with what the shell is to do: 4 is not to offer file names.
"""

import sys
from itertools import zip_longest
from typing import Final

import typer

from eco_operator.plugin.__main__ import SHARED_WITH_VALUE, SYNCS, WORKERS, app
from eco_operator.plugin.kubectl import Kubectl, KubectlError

NO_FILES: Final = ":4"
_NAMES_OF: Final = {"sync": SYNCS, "orphans": ""}
_WITH_VALUE: Final = SHARED_WITH_VALUE | {"-o", "--output", "--shard"}


def candidates(words: list[str], kubectl: Kubectl) -> list[str]:
    """What the last of the words may become."""
    *before, unfinished = words or [""]
    given, skip = [], False
    for word in before:
        if not skip and not word.startswith("-"):
            given.append(word)
        skip = word in _WITH_VALUE
    command = typer.main.get_group(app)
    if unfinished.startswith("-"):
        own = command.commands.get(given[0]) if given else None
        options = [*command.params, *(own.params if own is not None else ())]
        offered = [name for it in options for name in it.opts if name.startswith("--")]
    elif not given:
        offered = list(command.commands)
    elif resource := _NAMES_OF.get(given[0], WORKERS):
        offered = kubectl.run("get", resource, "-o", "jsonpath={.items[*].metadata.name}").split()
    else:
        offered = []
    return sorted(it for it in offered if it.startswith(unfinished))


def option(words: list[str], *names: str) -> str | None:
    """The value that an option has been given among the words."""
    for word, following in zip_longest(words, words[1:]):
        if word in names:
            return following
        name, _, value = word.partition("=")
        if value and name in names:
            return value
    return None


def main() -> None:
    """Print what fits; nothing when the cluster does not answer, as a completion has no other way to say so."""
    words = sys.argv[1:]
    kubectl = Kubectl(
        kubeconfig=option(words[:-1], "--kubeconfig"),
        context=option(words[:-1], "--context"),
        namespace=option(words[:-1], "-n", "--namespace"),
    )
    try:
        found = candidates(words, kubectl)
    except KubectlError:
        found = []
    typer.echo("\n".join([*found, NO_FILES]))


if __name__ == "__main__":
    main()
