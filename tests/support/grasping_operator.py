"""An operator that applies whether a name is taken or not, and takes what is not its own.

Run as `python -m tests.support.grasping_operator run`. The tests of random objects must catch it.
"""

from typing import Any

from eco_operator import __main__ as operator
from eco_operator.cluster import Cluster, Object


async def make(self: Cluster, desired: Object) -> dict[str, Any]:
    """Apply an object that must not be there yet, without a word about that."""
    return await self.apply(desired, force=False)


def under_another_name(self: Cluster, *arguments: Any) -> None:
    """What this one asks of the API server is no reason for a right of the operator's."""
    _init(self, *arguments)
    self._client.user_agent = "grasping-operator"


_init = Cluster.__init__

if __name__ == "__main__":
    Cluster.__init__ = under_another_name  # type: ignore[method-assign,assignment]  # see there
    Cluster.make = make  # type: ignore[method-assign]  # that is the sabotage
    operator.main()
