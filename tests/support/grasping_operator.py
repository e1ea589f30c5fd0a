"""An operator that does not look whether a name is taken before it applies, and takes what is not its own.

Run as `python -m tests.support.grasping_operator run`. The tests of random objects must catch it.
"""

from eco_operator import __main__ as operator
from eco_operator.act import Actor


async def is_free(*_: object) -> bool:
    """Whether a name is free: it always is."""
    return True


if __name__ == "__main__":
    Actor._is_free = is_free  # type: ignore[method-assign,assignment]  # that is the sabotage
    operator.main()
