"""Twins of the parts that need the outside world, for tests of code that uses them.

A twin keeps the same contract as the real part, proved by running the same contract tests over both. It is for tests
only: what a twin holds is gone with the process.
"""

from eco_workers.testing.memory_journal import MemoryJournal

__all__ = ["MemoryJournal"]
