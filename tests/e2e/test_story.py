"""The demo's story with asserts: two kills, one broker restart, nothing lost.

Smaller than the demo (fewer tasks), the same code: what these tests read is what `make demo` prints.
"""

import asyncio
from collections.abc import Iterator

import pytest

from eco_lab.demo.ledger import REASONS, table
from eco_lab.demo.narration import Narrator
from eco_lab.demo.pictures import Flaw
from eco_lab.demo.story import Outcome, Plan, run
from eco_lab.environment import LabEnvironment
from tests.e2e.conftest import clear

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

PLAN = Plan(name="e2e-story", good=190, broken=10)
RESUMED_S_MAX = 10
SETTLED_S = 2.0


@pytest.fixture(scope="module")
def outcome(full_lab: LabEnvironment) -> Iterator[Outcome]:
    """One run for all tests of this module; its narration is what pytest shows on a failure."""
    try:
        yield asyncio.run(run(full_lab, PLAN, Narrator()))
    finally:
        asyncio.run(clear(full_lab, PLAN.name))


def test_no_task_is_lost_and_no_keyed_effect_is_there_twice(outcome: Outcome) -> None:
    assert outcome.ledger.sound, table(outcome.ledger)
    assert outcome.ledger.published == outcome.ledger.rows == PLAN.tasks
    assert outcome.ledger.completed == outcome.ledger.follow_ups == PLAN.good


def test_each_broken_picture_is_in_the_dead_letter_queue_with_its_reason(outcome: Outcome) -> None:
    """That each reason names its flaw is part of a sound ledger; here that every kind of flaw was among them."""
    assert set(outcome.ledger.reasons) == {flaw.value for flaw in Flaw} == {flaw.value for flaw in REASONS}
    assert sum(outcome.ledger.reasons.values()) == PLAN.broken


def test_work_goes_on_within_ten_seconds_of_a_kill(outcome: Outcome) -> None:
    assert [blow for blow in outcome.blows if blow.resumed_s > RESUMED_S_MAX] == []


def test_each_kill_fell_in_mid_work_and_left_unfinished_tasks_to_take_up(outcome: Outcome) -> None:
    assert all(blow.running > 0 and blow.recovered > 0 for blow in outcome.blows), outcome.blows


@pytest.mark.parametrize("number", [0, 1])
def test_kubectl_get_does_not_say_healthy_while_a_shard_is_down(outcome: Outcome, number: int) -> None:
    """Only lines until a little after the resumption count: later trouble is another blow's."""
    blow = outcome.blows[number]
    until = blow.at + blow.resumed_s + SETTLED_S
    seen = outcome.workers.text(since=blow.at)
    assert "1/2" in outcome.workers.values("READY", since=blow.at, until=until), seen
    assert set(outcome.workers.values("WAL", since=blow.at, until=until)) - {"Healthy"}, seen


def test_before_and_after_the_workers_are_ready_and_healthy(outcome: Outcome) -> None:
    for text in (outcome.before, outcome.after):
        assert "2/2" in text
        assert "Healthy" in text
