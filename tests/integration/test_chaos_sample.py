"""A small sample of the chaos proof (`make prove-worker` runs it at length), and proof that it can fail."""

import asyncio
import os
import random

import pytest

from tests.prove.worker import chaos
from tests.support import broker, postgres
from tests.support.chaos_volume import lose_volumes
from tests.support.chaos_world import world
from tests.support.parts import require

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
SEED = int(os.environ.get("ECO_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 31)


@pytest.fixture(autouse=True)
def _real_parts() -> None:
    require(broker.is_available(), "a RabbitMQ server (rabbitmq-server, or the lab's image)")
    require(postgres.programs() is not None, "a PostgreSQL server (postgresql)")


async def test_no_task_is_lost_and_no_effect_doubled_by_a_handful_of_faults() -> None:
    """Workers and broker are killed, connections cut at the worst moment; the ledger outside still balances."""
    faults = ["cut_before_ack", "worker_sigkill", "store_answer_lost", "acks_lost", "broker_sigkill", "database_cut"]
    random.Random(SEED).shuffle(faults)
    outcome = await chaos(240, faults, SEED, small_volume=False, say=False)
    verdict = outcome.verdict
    assert (verdict.lost, verdict.duplicates, verdict.wrong, outcome.exits) == ([], [], [], []), f"seed {SEED}"
    assert verdict.published == 240
    assert verdict.runs >= 200, "the tasks did not run: nothing was proved"


@pytest.mark.parametrize(
    ("policy", "faults"),
    [
        ("Completed", ["cut_before_ack", "worker_sigkill", "acks_lost"]),
        ("Replicated", ["store_answer_lost", "worker_sigkill", "store_down"]),
    ],
)
async def test_the_other_policies_keep_it_too(policy: str, faults: list[str]) -> None:
    """The faults that meet what each of them does differently: when its acks leave, and what they wait for."""
    random.Random(SEED).shuffle(faults)
    outcome = await chaos(120, faults, SEED, small_volume=False, say=False, policy=policy)
    verdict = outcome.verdict
    assert (verdict.lost, verdict.duplicates, verdict.wrong, outcome.exits) == ([], [], [], []), f"seed {SEED}"
    assert (verdict.published, verdict.runs >= 100) == (120, True)


async def test_a_lost_volume_costs_nothing_under_replicated() -> None:
    """Deleted in mid-work, the journal is restored from the bucket and the shard goes on."""
    found = await lose_volumes("Replicated", SEED, losses=1, tasks=120)
    assert (found.gone, found.broken, found.duplicates) == ([], [], []), f"seed {SEED}"
    assert found.unfinished_at_loss > 0, "nothing was under way: nothing was proved"


@pytest.mark.parametrize("policy", ["Completed", "Replicated"])
async def test_an_ack_too_early_is_found_out_when_its_volume_is_lost(policy: str) -> None:
    """Their own promises broken on purpose: acked before the end, acked before the bucket has it."""
    sabotage = f"tests.support.chaos_sabotage_{policy.lower()}"
    found = await lose_volumes(policy, SEED, losses=1, tasks=120, sabotage=sabotage)
    assert found.broken, f"seed {SEED}: acked too early, and nobody missed it"


async def test_an_ack_before_the_commit_is_found_out() -> None:
    """The first promise broken on purpose: a killed worker then takes along what it had acked."""
    async with world(random.Random(SEED), sabotage="tests.support.chaos_sabotage_ack") as made:
        await made.ledger.publish(100)
        await made.delivered()
        made.may_exit |= {0, 1}
        for shard in made.shards:
            await asyncio.to_thread(shard.kill)
        for index in range(2):
            await made.restart(index)
        await made.settle()
        verdict = await made.close_books()
    assert verdict.lost, f"seed {SEED}: acked before it was durable, and nobody missed it"
