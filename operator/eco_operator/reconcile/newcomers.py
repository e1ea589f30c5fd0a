"""EcoWorkers of which nothing has been said yet: what they need before anything is.

First objects matter more than verdicts, so one that has its own may wait until the others have theirs.
"""

from eco_operator.cache import Cache
from eco_operator.reconcile.observation import Observation, governing_sync
from eco_operator.reconcile.plan import Apply, Plan


def is_new(seen: Observation) -> bool:
    """Whether there is an EcoWorker and nothing has been said of it yet."""
    return seen.owned is not None and not seen.owned.body.get("status")


def makes(plan: Plan) -> bool:
    """Whether something is made that is not there."""
    return any(isinstance(step, Apply) and step.existing is None for step in plan.steps)


def is_as_left(seen: Observation, plan: Plan, cache: Cache) -> bool:
    """Whether an EcoWorker now has what it had and what the plan has made. Much cheaper than to decide anew.

    That something has come for it says nothing: the watch tells of most objects before their creates are answered.
    """
    made = {(it.desired["kind"], it.desired["metadata"]["name"]) for it in plan.steps if isinstance(it, Apply)}
    expected = made.union((child.kind, child.name) for child in seen.children)
    children = cache.children(seen.key.namespace, seen.key.name)
    return (
        cache.owned(seen.key) is seen.owned
        and {(child.kind, child.name) for child in children} == expected
        and not any(child.is_deleting for child in children)
        and (seen.worker is None or governing_sync(seen.worker, cache) is seen.sync)
    )
