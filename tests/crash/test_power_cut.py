"""A sample of the power cuts that the proof makes by the ten thousand, and its controls."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.crash import power
from tests.support.cuts import Cutter, record
from tests.support.scratch import memory_directory
from tests.support.workload import live

SEED: Final = 7


@pytest.fixture
def directory() -> Iterator[Path]:
    with memory_directory() as path:
        yield path


async def test_no_cut_at_work_or_at_the_next_start_loses_anything(directory: Path) -> None:
    tally = await power.at_work(directory, SEED, tasks=3, share=0.05, draws=1, kept=1)
    assert tally.complaints == []
    assert tally.states > 60


async def test_no_cut_while_the_ballast_changes_loses_anything(directory: Path) -> None:
    tally = await power.with_ballast(directory, SEED, tasks=4, share=0.1, draws=1)
    assert tally.complaints == []
    assert tally.states > 50


async def test_no_cut_in_a_migration_loses_anything(directory: Path) -> None:
    tally = await power.while_migrating(directory, SEED, tasks=3, draws=1, share=0.2)
    assert tally.complaints == []
    assert tally.states > 50


async def test_a_damaged_journal_stays_as_it_is_whenever_the_power_goes(directory: Path) -> None:
    tally = await power.while_quarantining(directory, SEED, tasks=6, draws=4)
    assert tally.complaints == []
    assert tally.states >= 3


async def test_a_rebuild_that_was_cut_short_is_finished_by_the_next_one(directory: Path) -> None:
    tally = await power.while_rebuilding(directory, SEED, tasks=6, draws=1, share=0.3)
    assert tally.complaints == []
    assert tally.states > 20


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
async def test_the_cuts_find_what_a_journal_that_does_not_sync_loses(directory: Path, synchronous: str) -> None:
    """The control: the same cuts of a journal without `synchronous=FULL` find losses."""
    recorder = await record(
        directory / "work", lambda journal, ledger: live(journal, ledger, seed=SEED, tasks=3), synchronous=synchronous
    )
    tally = await Cutter(directory / "cut", random.Random(SEED), share=0.1).run(recorder, synchronous)
    assert tally.lost > 0
