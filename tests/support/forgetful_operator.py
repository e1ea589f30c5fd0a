"""An operator that makes objects only for EcoWorkers that came in its own life: what a crash left half made stays so.

Run as `python -m tests.support.forgetful_operator run`. The attack on crash points must catch it.
"""

from dataclasses import replace
from typing import Final

from eco_operator import __main__ as operator
from eco_operator import kinds
from eco_operator.loop import Loop
from eco_operator.reconcile import ecoworker
from eco_operator.reconcile.observation import Observation
from eco_operator.reconcile.plan import Apply, Plan

FOUND: Final[set[str]] = set()
"""Uids of the EcoWorkers that were there when it started."""
_decide = ecoworker.decide
_list_everything = Loop.list_everything


async def list_everything(loop: Loop) -> None:
    """Take whatever the first list names for looked after already."""
    is_first = loop.statistics().resyncs == 0
    await _list_everything(loop)
    if is_first:
        FOUND.update(owned.uid for owned in loop.cache.all_owned(kinds.ECO_WORKER))


def decide(seen: Observation) -> Plan:
    """The plan without what is missing, when somebody before it should have made that."""
    plan = _decide(seen)
    if seen.owned is None or seen.owned.uid not in FOUND:
        return plan
    return replace(plan, steps=tuple(it for it in plan.steps if not (isinstance(it, Apply) and it.existing is None)))


if __name__ == "__main__":
    Loop.list_everything = list_everything  # type: ignore[method-assign,assignment]  # that is the sabotage
    ecoworker.decide = decide
    operator.main()
