"""Specs that are nearly right: a valid one with a few places broken, drawn from a seed.

A place gets a value of another type, one out of bounds, an unknown neighbour, or goes. What comes out may still be
valid; the tests ask the operator's own rules which it is.
"""

import copy
import random
from collections.abc import Iterator
from typing import Any, Final

BREAKS_MAX: Final = 3
STRANGE: Final[tuple[Any, ...]] = (
    None,
    "",
    "x" * 5000,
    "\u2603\n\t",
    "../../etc/passwd",
    "{{ inject }}",
    -1,
    0,
    2**31,
    2**63 - 1,
    1.5,
    True,
    [],
    {},
    [None],
    {"name": None},
    [[]],
    "1e9999Gi",
    "-5Gi",
    "NaN",
)

Place = tuple[Any, Any]


def mutated(spec: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy of the spec with one to `BREAKS_MAX` places broken."""
    made = copy.deepcopy(spec)
    for _ in range(rng.randint(1, BREAKS_MAX)):
        places = list(_places(made))
        if not places:
            break
        holder, key = rng.choice(places)
        match rng.randrange(4):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}Unknown"] = copy.deepcopy(rng.choice(STRANGE))
            case 2 if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case _:
                holder[key] = copy.deepcopy(rng.choice(STRANGE))
    return made


def _places(node: Any) -> Iterator[Place]:
    items: Any = ()
    if isinstance(node, dict):
        items = list(node.items())
    elif isinstance(node, list):
        items = list(enumerate(node))
    for key, child in items:
        yield node, key
        yield from _places(child)
