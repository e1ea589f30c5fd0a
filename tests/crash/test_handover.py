"""The hand-over of one task between a broker and two journals, searched state by state."""

from typing import Final

import pytest

from tests.support.handover import Policy, search
from tests.support.mutations import MUTATIONS

SAMPLE_STATES: Final = 40_000
DEEP: Final = frozenset({"an acked delivery leaves the owner as it was"})
"""Mutations whose shortest failure lies too many steps away for this suite; the proof finds them."""


@pytest.mark.parametrize("policy", list(Policy), ids=lambda policy: policy.name.lower())
def test_somebody_always_holds_the_task(policy: Policy) -> None:
    """The states nearest to the start; `python -m tests.prove.journal` visits all of them."""
    found = search(policy, states_max=SAMPLE_STATES)
    assert found.violation is None
    assert found.states > SAMPLE_STATES


@pytest.mark.parametrize("name", sorted(MUTATIONS.keys() - DEEP))
def test_a_fault_in_the_rules_is_found(name: str) -> None:
    """Each mutation breaks a promise in a state that the search comes to, and the way there is told."""
    mutation = MUTATIONS[name]
    found = search(mutation.policy, mutation.rules, trace=True)
    assert found.violation is not None
    assert len(found.violation.path) >= 2
