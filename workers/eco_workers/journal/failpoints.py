"""Named places where a crash is interesting. Nothing happens at them unless a test has installed a callback.

Code calls `reached("name")`. The names stand in `NAMES`, so a test can visit each of them and fail on one that is never
reached. When nothing is installed the call is one comparison.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

NAMES: Final = (
    "open.locked",
    "open.checked",
    "open.before-migrate",
    "migrate.before-commit",
    "migrate.after-commit",
    "open.epoch-raised",
    "open.recovered",
    "group.before-begin",
    "group.after-begin",
    "operation.before",
    "operation.after",
    "group.before-commit",
    "group.after-commit",
    "group.before-resolve",
    "checkpoint.before",
    "checkpoint.after",
    "prune.before",
    "prune.after",
    "ballast.before-create",
    "ballast.after-create",
    "ballast.before-release",
    "ballast.after-release",
    "quarantine.before-mark",
    "quarantine.after-mark",
    "recover.before-aside",
    "recover.after-aside",
    "recover.before-adopt",
    "recover.after-adopt",
    "recover.before-unmark",
    "close.before",
    "close.after",
)

_callback: Callable[[str], None] | None = None


def reached(name: str) -> None:
    """Tell the installed callback, if any, that execution is at `name`."""
    if _callback is not None:
        _callback(name)


@contextmanager
def installed(callback: Callable[[str], None]) -> Iterator[None]:
    """Call `callback` with the name of each failpoint reached, in whatever thread reaches it."""
    global _callback  # noqa: PLW0603  # one process-wide switch, so that production code passes nothing around
    before = _callback
    _callback = callback
    try:
        yield
    finally:
        _callback = before
