"""A small sample of the chaos proof (`make prove-worker` runs it at length), and proof that it can fail."""

import asyncio
import os
import random

import pytest

from tests.prove.worker import chaos
from tests.support import broker, postgres
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
