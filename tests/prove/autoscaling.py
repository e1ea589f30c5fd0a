"""Shards that come and go by the cluster's own autoscaler, under load: `make prove-autoscaling`.

A HorizontalPodAutoscaler aims at the EcoWorker's scale subresource. The number that it is told is the tasks without an
end, fifty for each shard. It makes four shards of one, and as the work is done one of four again, each shard going only
when its journal is empty. The ledger of the demo judges. Exit status 1 when a target is missed.
"""

from contextlib import AsyncExitStack
from typing import Any, Final

from eco_crds.contract import API_VERSION
from eco_lab.demo import manifests
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Plan, publish, remove_namespace, set_up, wait_ready
from eco_lab.environment import LabEnvironment
from tests.prove.cluster import at_rest
from tests.support import external_metrics, figures, proof
from tests.support.waiting import until

NAME: Final = "prove-autoscaling"
SHARDS_MAX: Final = 4
TASKS_A_SHARD: Final = 50
OUT_WAIT_S: Final = 120.0
IN_WAIT_S: Final = 360.0


def autoscaler() -> dict[str, Any]:
    """From one shard to four and back, without a pause before it scales in."""
    at_once = {"stabilizationWindowSeconds": 0}
    metric = {"name": external_metrics.METRIC}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": manifests.WORKER, "namespace": NAME},
        "spec": {
            "scaleTargetRef": {"apiVersion": API_VERSION, "kind": "EcoWorker", "name": manifests.WORKER},
            "minReplicas": 1,
            "maxReplicas": SHARDS_MAX,
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": metric,
                        "target": {"type": "AverageValue", "averageValue": str(TASKS_A_SHARD)},
                    },
                }
            ],
            "behavior": {"scaleDown": at_once, "scaleUp": at_once},
        },
    }


async def prove(lab: LabEnvironment, narrator: Narrator) -> None:
    """Scale out with the work that comes, and in with the work that is done."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name=NAME), narrator, stack)
        await stage.kubectl.apply(
            [manifests.eco_worker(stage.services, replicas=1), manifests.wal_sync(stage.services)]
        )
        await wait_ready(stage)

        async def deployments() -> int:
            await stage.watch.look()
            return len((await stage.kubectl.get("deployments", "-n", NAME))["items"])

        async def is_out() -> bool:
            return await deployments() == SHARDS_MAX

        async def is_in() -> bool:
            return await deployments() == 1

        await stack.enter_async_context(
            external_metrics.served(stage.kubectl, lambda: max(0, len(stage.published) - stage.watch.ended))
        )
        await publish(stage)
        await stage.kubectl.apply([autoscaler()])
        out_s = await until("the autoscaler has made four shards", is_out, within_s=OUT_WAIT_S)
        owed = stage.watch.owed
        narrator.say(f"four shards after {out_s:.1f} s")
        narrator.show(await stage.kubectl.run("get", "hpa,ecoworkers", "-n", NAME))
        await publish(stage)
        in_s = await until("the autoscaler has left one shard", is_in, within_s=IN_WAIT_S)
        narrator.say(f"one shard {in_s:.1f} s later")
        narrator.show(await stage.kubectl.run("get", "hpa,ecoworkers", "-n", NAME))
        ledger = await at_rest(stage)
        peer = f"{ledger.published} tasks, {owed} in the journals when there were four"
        figures.record("operator.hpa_out_s", round(out_s, 1), "s", peer="1 to 4; the autoscaler looks every 15 s")
        figures.record("operator.hpa_in_s", round(in_s, 1), "s", peer="4 to 1, from a second batch of work on")
        figures.record("operator.hpa_lost", len(ledger.lost), "tasks", "== 0", peer=peer)
        figures.record("operator.hpa_duplicates", len(ledger.duplicates), "objects + rows", "== 0")
        await remove_namespace(stage.kubectl, NAME)


if __name__ == "__main__":
    proof.main("tests.prove.autoscaling", __doc__, prove)
