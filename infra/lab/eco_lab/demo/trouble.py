"""The three blows of the story, and how long the work stood still after each.

Times are taken from this side: from the moment the blow was sent to the first look that sees the new process say it has
taken a task up again. The looks are 0.2 s apart, so a time is at most that much too long, never too short.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from eco_lab.demo.broker import answers
from eco_lab.demo.kubectl import Kubectl
from eco_lab.demo.services import Services
from eco_lab.demo.watch import Sight, Watch, done
from eco_lab.errors import NotReadyError

MID_WORK_WAIT_S: Final = 60.0
RESUME_WAIT_S: Final = 120.0
BROKER_WAIT_S: Final = 120.0
BROKER_POLL_S: Final = 0.25

Kill = Callable[[Sight], Awaitable[None]]
"""Strikes the shard that was sighted."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One kill and what followed."""

    what: str
    shard: str
    at: float
    """Monotonic seconds."""
    running: int
    """Tasks that the process ran when it was last seen."""
    recovered: int
    """Unfinished tasks that its successor found in the journal."""
    resumed_s: float
    """From the blow to the first sight of a resumed task."""
    process_s: float | None
    """From the start of the new process to the first task that its predecessor had begun, by its own clock."""


async def mid_work(watch: Watch, shard: str) -> Sight:
    """Wait until a shard runs tasks, and give that sight."""

    def running() -> bool:
        sight = watch.shards.get(shard)
        return sight is not None and sight.report.counts.running > 0

    await watch.until(f"{shard} runs a task", running, within_s=MID_WORK_WAIT_S)
    return watch.shards[shard]


async def strike(watch: Watch, shard: str, what: str, kill: Kill) -> Blow:
    """Strike a shard in mid-work and wait until its successor has taken a task up."""
    before = await mid_work(watch, shard)
    at = time.monotonic()
    await kill(before)

    def resumed() -> bool:
        report = watch.shards[shard].report
        if report.incarnation == before.report.incarnation:
            return False
        # A process that was asked to stop before it was killed has put its tasks back unbegun. Its successor takes them
        # up oldest first, as new ones; the first sight of a running or ended task is then the resumption.
        ended = done(report) > done(before.report)
        return report.resumed_after_s is not None or report.counts.running > 0 or ended

    await watch.until(f"{shard} resumes after: {what}", resumed, within_s=RESUME_WAIT_S)
    after = watch.shards[shard].report
    return Blow(
        what=what,
        shard=shard,
        at=at,
        running=before.report.counts.running,
        recovered=after.recovered,
        resumed_s=time.monotonic() - at,
        process_s=after.resumed_after_s,
    )


def delete_pod_at_once(kubectl: Kubectl, namespace: str) -> Kill:
    """The pod's object is removed without waiting for its processes."""

    async def kill(sight: Sight) -> None:
        await kubectl.run(
            "delete", "pod", sight.pod.name, "-n", namespace, "--force", "--grace-period=0", "--wait=false"
        )

    return kill


async def restart_broker(services: Services, kubectl: Kubectl) -> float:
    """Delete RabbitMQ's pod and wait until it answers again; seconds from the deletion on."""
    at = time.monotonic()
    namespace = services.lab.services_namespace
    await kubectl.run("delete", "pod", "rabbitmq-0", "-n", namespace, timeout_s=BROKER_WAIT_S)
    while not await answers(services.amqp_url):
        if time.monotonic() - at > BROKER_WAIT_S:
            raise NotReadyError("restart RabbitMQ", f"it does not answer {BROKER_WAIT_S:.0f} s after its deletion")
        await asyncio.sleep(BROKER_POLL_S)
    return time.monotonic() - at
