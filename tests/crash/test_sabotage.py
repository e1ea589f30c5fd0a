"""Every deliberate fault in the journal is seen by the attack that claims to see it."""

import logging
from collections.abc import Iterator

import pytest

from tests.support.sabotage import ATTACKS, SABOTAGES, Attack, caught
from tests.support.scratch import memory_directory


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Lost groups are logged, and here they are lost on purpose."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_an_attack_finds_nothing_wrong_with_the_sound_journal(attack: Attack) -> None:
    with memory_directory() as directory:
        assert await attack(directory) == []


@pytest.mark.parametrize("name", SABOTAGES)
async def test_a_sabotage_is_caught(name: str) -> None:
    with memory_directory() as directory:
        assert await caught(SABOTAGES[name], directory) != []


def test_there_are_sabotages_enough_for_each_promise() -> None:
    assert len(SABOTAGES) >= 14
    assert {sabotage.attack for sabotage in SABOTAGES.values()} == set(ATTACKS)
