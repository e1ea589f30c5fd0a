"""The way from the operator to every worker is cut, and nothing else: `make prove-probes`, on a lab of two nodes.

The workers run on the second node, whose network drops what comes from the operator. They go on; the operator must say
that it cannot tell, and touch nothing: no shard is fenced, stopped or recovered on the strength of a silence.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from eco_lab import paths as lab_paths
from eco_lab.demo import install, manifests
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Plan, Stage, publish, remove_namespace, set_up, wait_ready
from eco_lab.environment import LabEnvironment
from eco_lab.nodes import Node
from eco_lab.processes import run
from tests.prove.cluster import at_rest, condition, identities, status
from tests.prove.nodes import LOST, SAFE, operator_is_safe
from tests.support import figures, proof
from tests.support.waiting import until

NAME: Final = "prove-probes"
SHARDS: Final = 3
SAID_WITHIN_S: Final = 60.0
WATCHED_S: Final = 60.0


@asynccontextmanager
async def deaf(stage: Stage) -> AsyncIterator[None]:
    """The workers' node drops every packet from the operator's pods."""
    node = Node(LOST, lab_paths.find(), stage.lab.kubectl.parent)
    pods = await stage.kubectl.get("pods", "-n", install.NAMESPACE, "-l", f"app.kubernetes.io/name={install.RELEASE}")
    rules = [("FORWARD", "-s", pod["status"]["podIP"], "-j", "DROP") for pod in pods["items"]]
    for rule in rules:
        run(node.machine.inside("iptables", "-I", *rule))
    try:
        yield
    finally:
        for rule in rules:
            run(node.machine.inside("iptables", "-D", *rule))


async def prove(lab: LabEnvironment, narrator: Narrator) -> None:
    """Cut the way under load, watch, and mend it."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name=NAME), narrator, stack)
        await operator_is_safe(stage)
        await stage.kubectl.run("cordon", SAFE)
        try:
            await stage.kubectl.apply(
                [manifests.eco_worker(stage.services, replicas=SHARDS), manifests.wal_sync(stage.services)]
            )
            await wait_ready(stage)
        finally:
            await stage.kubectl.run("uncordon", SAFE)
        before = await identities(stage)

        async def says_so() -> bool:
            return condition(await status(stage), "Ready") == ("Unknown", "ProbeUnavailable")

        async with deaf(stage):
            begun = time.monotonic()
            await publish(stage)
            await until("kubectl says ProbeUnavailable", says_so, within_s=SAID_WITHIN_S)
            said_s = round(time.monotonic() - begun, 1)
            narrator.show(await stage.lines())
            await asyncio.sleep(WATCHED_S)  # the time that is watched: what is touched, is touched in it
            assert await says_so(), "it stopped saying so though nothing had changed"
            ledger = await at_rest(stage)
            touched = len(before ^ await identities(stage))
        await wait_ready(stage)
        figures.record("operator.probes_cut_said_s", said_s, "s", peer="until Ready=Unknown ProbeUnavailable")
        figures.record(
            "operator.probes_cut_touched", touched, "pods changed", "== 0", peer=f"{WATCHED_S:.0f} s watched"
        )
        figures.record("operator.probes_cut_lost", len(ledger.lost), "tasks", "== 0", peer=f"{ledger.published} tasks")
        await remove_namespace(stage.kubectl, NAME)


if __name__ == "__main__":
    proof.main("tests.prove.probes", __doc__, prove, nodes=2)
