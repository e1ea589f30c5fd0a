"""A deliberate fault, loaded like a module of tasks: under `Replicated` nobody waits for the bucket.

Segments arrive late, acks do not: a lost volume takes along what was acked meanwhile, and the volume's proof must find
it.
"""

import asyncio

from eco_workers.journal.replica import Replica
from eco_workers.journal.segments import Kind, Segment

LATE_S = 5.0
_upload = Replica._upload  # that is the sabotage


async def _upload_late(self: Replica, segment: Segment) -> None:
    if segment.kind == Kind.CHANGES:
        await asyncio.sleep(LATE_S)
    await _upload(self, segment)


async def _believe(self: Replica) -> None:
    del self


Replica._upload = _upload_late  # type: ignore[method-assign]  # that is the sabotage
Replica.confirm = _believe  # type: ignore[method-assign]  # and so is this
