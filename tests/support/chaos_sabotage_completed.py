"""A deliberate fault, loaded like a module of tasks: under `Completed` a delivery is acked once it is in the journal.

A lost volume then takes along what had neither ended nor waited for a retry, and the volume's proof must find it.
"""

import asyncio

from eco_workers.runtime.holding import Holding

_acks: set[asyncio.Task[None]] = set()


def _keep_nothing(self: Holding, task_id: str, tag: int) -> None:
    del task_id
    ack = asyncio.create_task(self.settle([tag]))
    _acks.add(ack)
    ack.add_done_callback(_acks.discard)


Holding.keep = _keep_nothing  # type: ignore[method-assign]  # that is the sabotage
