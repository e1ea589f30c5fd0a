"""An operator that lives by events alone: no resync, no report and no failure brings a key back.

Run as `python -m tests.support.edge_triggered_operator run`. The tests of faults must catch it.
"""

from eco_operator import __main__ as operator
from eco_operator.cache import Key
from eco_operator.queue import KeyQueue

_added = KeyQueue.add
_done = KeyQueue.done


def add(queue: KeyQueue[Key], key: Key, *, after_s: float = 0.0, patient: bool = False) -> None:
    """Take in what an event names and nothing else."""
    if not patient and not after_s:
        _added(queue, key)


def done(queue: KeyQueue[Key], key: Key, *, failed: bool = False, retry_after_s: float | None = None) -> float | None:
    """Take every end for a good one."""
    return _done(queue, key, failed=False, retry_after_s=None if failed else retry_after_s)


if __name__ == "__main__":
    KeyQueue.add = add  # type: ignore[method-assign,assignment]  # that is the sabotage
    KeyQueue.done = done  # type: ignore[method-assign,assignment]  # that is the sabotage
    operator.main()
