"""How long something has been failing that is tried again and again, and how long to rest before the next try."""

import random
from dataclasses import dataclass
from typing import Final

PAUSE_S_MIN: Final = 0.5
PAUSE_S_MAX: Final = 30.0
WELL_S: Final = 120.0
"""Watches that lasted so long were well. Kopf needs 54 s of pauses to give up on a server that refuses."""


@dataclass(slots=True)
class Failing:
    """One failure after another, until a try lasts for `WELL_S`."""

    failures: int = 0
    since_s: float = 0.0

    def note(self, begun_s: float, now_s: float) -> float:
        """Take in that a try begun then has failed now; returns for how long they have been failing."""
        if not self.failures or now_s - begun_s >= WELL_S:
            self.failures, self.since_s = 0, now_s
        self.failures += 1
        return now_s - self.since_s

    def pause_s(self) -> float:
        """A pause that doubles with each failure, with jitter: an API server has many clients to take back."""
        backoff_s = min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(self.failures - 1, 30))
        return backoff_s * random.uniform(0.75, 1.0)  # noqa: S311  # jitter, no secret
