"""Counted proofs of the operator: `make prove-operator`; `--part` runs one of them.

Part `idle`: two idle workers and the operator on the lab's cluster. What is counted comes from outside the programs
under test: writes from the API server's audit log, memory from /proc of the machine, image sizes from the node. With
`--quick` it rests for a minute in place of ten. The other parts need no cluster and are described in
`tests.prove.operator_faults`. Exit status 1 when a target is missed.
"""

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from eco_lab import environment
from eco_lab.demo import install, manifests
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Plan, Stage, remove_namespace, set_up, wait_ready
from eco_lab.environment import LabEnvironment
from tests.prove import operator_faults
from tests.support.audit import AuditLog, Write
from tests.support.figures import missed, record, table
from tests.support.waiting import until

IDLE_S: Final = 600
QUICK_IDLE_S: Final = 60
REPAIRED_S_MAX: Final = 10
OPERATOR_MIB_MAX: Final = 100
WORKER_MIB_MAX: Final = 90
QUIET_S: Final = 15
SETTLE_WAIT_S: Final = 180
MIB: Final = 1024 * 1024


async def prove(lab: LabEnvironment, *, idle_s: float, narrator: Narrator) -> None:
    """Set a stage with two idle workers and take the figures."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name="prove-operator", good=0, broken=0), narrator, stack)
        await stage.kubectl.apply([manifests.eco_worker(stage.services), manifests.wal_sync(stage.services)])
        await wait_ready(stage)
        await settle(lab, narrator)
        await idle_writes(lab, idle_s, narrator)
        await memory(stage)
        await repair(stage)
        await image_sizes(stage)
        await remove_namespace(stage.kubectl, stage.plan.name)


async def settle(lab: LabEnvironment, narrator: Narrator) -> None:
    """Wait until the operator has been quiet for a while after the last change."""
    narrator.say(f"waiting until the operator has written nothing for {QUIET_S} s")
    begun = time.monotonic()
    while time.monotonic() - begun < SETTLE_WAIT_S:
        if not await writes_during(lab, QUIET_S):
            return
    raise SystemExit(f"the operator still writes {SETTLE_WAIT_S} s after the workers were ready")


async def writes_during(lab: LabEnvironment, seconds: float) -> list[Write]:
    """Writes of the operator in the coming seconds."""
    if lab.audit_log is None:
        raise SystemExit("this cluster has no audit log that can be read; run this on the lab's own (`eco-lab up`)")
    audit = AuditLog.from_now(lab.audit_log)
    await asyncio.sleep(seconds)  # The measurement itself: what is counted is what happens in this time.
    return audit.writes()


async def idle_writes(lab: LabEnvironment, idle_s: float, narrator: Narrator) -> None:
    """Count what the operator writes while nothing changes."""
    narrator.say(f"counting the operator's writes during {idle_s:.0f} s of rest, its Lease excepted")
    found = await writes_during(lab, idle_s)
    for write in found:
        narrator.show(str(write))
    record("operator.idle_writes", len(found), f"writes in {idle_s:.0f} s", "== 0")


async def memory(stage: Stage) -> None:
    """Resident memory of all processes of a pod, as the kernel counts it."""
    for name in await install.operator_pods(stage.kubectl):
        uid = (await stage.kubectl.get("pod", name, "-n", install.NAMESPACE))["metadata"]["uid"]
        record("operator.rss_mib", round(resident_bytes(uid) / MIB, 1), "MiB", f"<= {OPERATOR_MIB_MAX}")
    pods = await stage.proxy.worker_pods(stage.plan.name)
    largest = max(resident_bytes(pod.uid) for pod in pods)
    record(
        "worker.rss_mib", round(largest / MIB, 1), "MiB", f"<= {WORKER_MIB_MAX}", peer=f"larger of {len(pods)}, idle"
    )


def resident_bytes(pod_uid: str) -> int:
    """Sum over the processes of a pod, its pause container left out."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            groups = status.with_name("cgroup").read_text()
            if pod_uid not in groups.replace("_", "-"):
                continue
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue  # It ended in between.
        if fields["Name"].strip() != "pause" and "VmRSS" in fields:
            total += int(fields["VmRSS"].split()[0]) * 1024
    if total == 0:
        raise SystemExit(f"no process of pod {pod_uid} is to be seen on this machine")
    return total


async def repair(stage: Stage) -> None:
    """From `kubectl delete deployment` of a shard until its new pod is ready."""
    name, space = f"{manifests.WORKER}-0", stage.plan.name
    old = {pod.uid for pod in await stage.proxy.worker_pods(space) if pod.shard == name}
    deployment = (await stage.kubectl.get("deployment", name, "-n", space))["metadata"]["uid"]
    begun = time.monotonic()
    await stage.kubectl.run("delete", "deployment", name, "-n", space, "--wait=false")

    async def there() -> bool:
        found = await stage.proxy.get(f"/apis/apps/v1/namespaces/{space}/deployments/{name}")
        return found is not None and found["metadata"]["uid"] != deployment

    async def ready() -> bool:
        pods = await stage.proxy.worker_pods(space)
        return any(pod.ready and pod.uid not in old for pod in pods if pod.shard == name)

    await until("the deployment is back", there, within_s=60)
    record("operator.repair_s", round(time.monotonic() - begun, 2), "s", f"<= {REPAIRED_S_MAX}")
    await until("the shard is ready again", ready, within_s=90)
    record(
        "operator.repaired_ready_s", round(time.monotonic() - begun, 2), "s", peer="until the shard's new pod is ready"
    )


async def image_sizes(stage: Stage) -> None:
    """Sizes of both images as the node's runtime holds them."""
    nodes = await stage.kubectl.get("nodes")
    sizes = {name: image["sizeBytes"] for image in nodes["items"][0]["status"]["images"] for name in image["names"]}
    for figure, image in (
        ("image.operator_mib", stage.lab.operator_image),
        ("image.worker_mib", stage.lab.worker_image),
    ):
        record(figure, round(sizes[image] / MIB, 1), "MiB")


def main() -> None:
    """Parse the command line, take the figures, print them."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.operator", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"rest for {QUICK_IDLE_S} s in place of {IDLE_S}")
    parser.add_argument(
        "--part", choices=["idle", *operator_faults.PARTS], action="append", help="default: all of them"
    )
    arguments = parser.parse_args()
    parts = arguments.part or ["idle", *operator_faults.PARTS]
    if "idle" in parts:
        lab = environment.up(with_programs=("helm",))
        asyncio.run(prove(lab, idle_s=QUICK_IDLE_S if arguments.quick else IDLE_S, narrator=Narrator()))
    for name, part in operator_faults.PARTS.items():
        if name in parts:
            part()
    print(table())
    sys.exit(1 if missed() else 0)


if __name__ == "__main__":
    main()
