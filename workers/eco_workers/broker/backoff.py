"""Pauses between attempts to reach a server: they double, have a cap, and are spread by chance.

Full jitter, so that all shards of a fleet do not come back in the same moment after an outage.
"""

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """The pauses of one thing that is tried again and again."""

    first_s: float = 0.2
    cap_s: float = 5.0
    """What a server that is back may still be waited for: a thousand shards then ask it 270 times a second at most."""
    failures: int = 0

    def next_s(self) -> float:
        """The pause before the next attempt."""
        ceiling = min(self.cap_s, self.first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        # Never zero: a server that refuses at once must not be asked in a tight loop.
        return ceiling / 2 + random.uniform(0, ceiling / 2)  # noqa: S311  # spreading load is no secret

    def reset(self) -> None:
        """Begin again: the thing works."""
        self.failures = 0
