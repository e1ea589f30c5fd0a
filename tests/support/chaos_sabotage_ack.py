"""A deliberate fault, loaded like a module of tasks: deliveries are acked before they are durable.

A proof that cannot fail proves nothing: with this in the worker, the chaos must find lost tasks.
"""

import asyncio
from collections.abc import Sequence

from eco_workers.broker.channel import Delivery
from eco_workers.broker.consumer import Outcome
from eco_workers.runtime.intake import Intake

LATE_S = 5.0
_take = Intake.take
_late: set[asyncio.Task[Outcome]] = set()


async def _take_too_late(self: Intake, deliveries: Sequence[Delivery]) -> Outcome:
    async def later() -> Outcome:
        await asyncio.sleep(LATE_S)
        return await _take(self, deliveries)

    task = asyncio.create_task(later())
    _late.add(task)
    task.add_done_callback(_late.discard)
    return Outcome.DURABLE


Intake.take = _take_too_late  # type: ignore[method-assign]  # that is the sabotage
