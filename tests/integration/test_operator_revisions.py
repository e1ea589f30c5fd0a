"""Revisions of pods do not pile up: beyond a number of them the oldest goes."""

import pytest

from eco_operator import kinds
from eco_operator.reconcile.revision import KEPT_MAX
from tests.support.operator_world import World, example
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


async def numbers(world: World) -> list[int]:
    found = [it async for chunk, _ in world.cluster.list(kinds.REVISION, (world.namespace,)) for it in chunk]
    return sorted(int(it["revision"]) for it in found)


async def test_of_many_revisions_the_newest_are_kept(world: World) -> None:
    world.kubectl("apply", "-f", "-", given=example(replicas=1))
    await world.until_ready()
    last = KEPT_MAX + 2
    for number in range(2, last + 1):
        change = f'{{"spec":{{"concurrency":{10 + number}}}}}'
        world.kubectl("patch", "ecoworker/storage", "--type=merge", "-p", change)

        async def made(number: int = number) -> bool:
            return number in await numbers(world)

        await until(f"revision {number}", made, within_s=15)

    async def pruned() -> bool:
        return await numbers(world) == list(range(last - KEPT_MAX + 1, last + 1))

    await until("the oldest are gone", pruned, within_s=15)
