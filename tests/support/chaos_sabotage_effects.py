"""A deliberate fault, loaded like a module of tasks: a message's id is made anew at each publishing.

The same message sent twice is then two messages, and the chaos must find duplicates.
"""

import uuid
from collections.abc import Sequence

from eco_workers.broker.publisher import Message, Publisher, Receipt

_publish = Publisher.publish


class _Renamed:
    def __init__(self, message: Message) -> None:
        self._message = message
        self.message_id = str(uuid.uuid4())

    def __getattr__(self, name: str) -> object:
        return getattr(self._message, name)


async def _publish_renamed(self: Publisher, messages: Sequence[Message]) -> list[Receipt]:
    return await _publish(self, [_Renamed(message) for message in messages])  # type: ignore[misc]  # by attribute it is one


Publisher.publish = _publish_renamed  # type: ignore[method-assign]  # that is the sabotage
