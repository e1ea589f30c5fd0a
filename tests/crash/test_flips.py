"""A sample of the bit flips that the proof makes by the thousand."""

import random
from typing import Final

from tests.crash.flips import flip
from tests.support.scratch import memory_directory

FLIPS: Final = 150


async def test_a_flipped_bit_is_seen_or_without_effect() -> None:
    with memory_directory() as directory:
        found = await flip(directory, random.Random(7), count=FLIPS, tasks=6)
    assert found.wrong == []
    assert found.detected > 0
    assert found.detected + found.harmless + found.last_transaction == FLIPS
