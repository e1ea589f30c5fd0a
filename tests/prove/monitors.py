"""What the ServiceMonitors come to with the real Prometheus operator: `make prove-monitors`.

The operator's chart is installed with its own monitor and with those of the workers. Prometheus must scrape the
operator and every shard by them, a shard that comes later too, and nothing of a worker that is deleted. Exit status 1
when a target is missed.
"""

from contextlib import AsyncExitStack
from typing import Any, Final

import aiohttp

from eco_crds import contract
from eco_lab import prometheus
from eco_lab.demo import install, manifests
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Plan, Stage, publish, remove_namespace, set_up, wait_ready
from eco_lab.environment import LabEnvironment
from tests.prove.cluster import at_rest
from tests.support import figures, proof
from tests.support.waiting import until

NAME: Final = "prove-monitors"
SHARDS: Final = 2
SEEN_WITHIN_S: Final = 120.0
"""The kubelet brings a new configuration into Prometheus' pod about once a minute."""
VALUES: Final = {"serviceMonitor": {"enabled": True}, "workerMonitors": {"enabled": True}}
LABEL: Final = contract.LABEL_SHARD.translate(str.maketrans("./-", "___"))
"""As a Prometheus label; so that a series says which shard it is of."""


async def asked(stage: Stage, session: aiohttp.ClientSession, query: str) -> list[dict[str, Any]]:
    """Result of an instant query."""
    pods = await stage.kubectl.get("pods", "-n", prometheus.NAMESPACE, "-l", f"prometheus={prometheus.NAME}")
    url = f"http://{pods['items'][0]['status']['podIP']}:{prometheus.PORT}/api/v1/query"
    async with session.get(url, params={"query": query}) as answer:
        answer.raise_for_status()
        found: list[dict[str, Any]] = (await answer.json())["data"]["result"]
        return found


async def prove(lab: LabEnvironment, narrator: Narrator) -> None:
    """From the monitors to the series, and back to none."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name=NAME), narrator, stack)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await install.install(lab, VALUES)
        stack.push_async_callback(install.install, lab)
        await stage.kubectl.apply(
            [manifests.eco_worker(stage.services, replicas=SHARDS), manifests.wal_sync(stage.services)]
        )
        await wait_ready(stage)

        async def shards() -> set[str]:
            found = await asked(stage, session, f'up{{namespace="{NAME}"}} == 1')
            return {it["metric"].get(LABEL, "") for it in found}

        async def first_are_seen() -> bool:
            return await shards() == {f"{manifests.WORKER}-{index}" for index in range(SHARDS)}

        seen_s = await until("Prometheus scrapes every shard", first_are_seen, within_s=SEEN_WITHIN_S)
        narrator.say(f"Prometheus scrapes both shards {seen_s:.1f} s after they were Ready")

        async def operator_is_seen() -> bool:
            return len(await asked(stage, session, f'up{{namespace="{install.NAMESPACE}"}} == 1')) == 1

        await until("Prometheus scrapes the operator", operator_is_seen, within_s=SEEN_WITHIN_S)
        await stage.kubectl.run("scale", f"ecoworker/{manifests.WORKER}", f"--replicas={SHARDS + 1}", "-n", NAME)

        async def all_are_seen() -> bool:
            return len(await shards()) == SHARDS + 1

        later_s = await until("Prometheus scrapes a shard that came later", all_are_seen, within_s=SEEN_WITHIN_S)
        await publish(stage)
        ledger = await at_rest(stage)
        wanted = float(ledger.completed)
        counted = 0.0

        async def are_counted() -> bool:
            nonlocal counted
            query = f'sum(wal_tasks_total{{namespace="{NAME}",status="completed"}})'
            counted = float(next((it["value"][1] for it in await asked(stage, session, query)), 0))
            return counted == wanted

        await until(f"Prometheus has counted {wanted:.0f} completed tasks", are_counted, within_s=SEEN_WITHIN_S)
        await stage.kubectl.delete("ecoworkers", "--all", "-n", NAME)

        async def are_gone() -> bool:
            return not await shards()

        gone_s = await until("Prometheus scrapes no shard any more", are_gone, within_s=SEEN_WITHIN_S)
        left = await stage.kubectl.get("servicemonitors", "-n", NAME) or {"items": ()}
        figures.record("operator.monitors_seen_s", round(seen_s, 1), "s", peer="Ready until both shards are scraped")
        figures.record("operator.monitors_later_s", round(later_s, 1), "s", peer="scaled out until it is scraped")
        figures.record("operator.monitors_counted", counted, "tasks", f"== {wanted:.0f}", peer="by Prometheus, by rows")
        gone = f"gone after {gone_s:.1f} s"
        figures.record("operator.monitors_left", len(left["items"]), "monitors", "== 0", peer=gone)
        await remove_namespace(stage.kubectl, NAME)


if __name__ == "__main__":
    proof.main("tests.prove.monitors", __doc__, prove, with_programs=("helm", "prometheus"))
