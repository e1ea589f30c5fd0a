"""Counted proofs on the lab's cluster with work in flight: `make prove-cluster`; `--part` runs one of them.

* `scale-in`: four shards become one under load. Every task must have its end, and the volumes left must be empty.
* `recovery`: pages of a shard's journal are overwritten and its worker is killed, under each ack policy. Nobody helps.
* `upgrade`: an operator of a later version, whose builders render every pod otherwise, takes over while tasks run.

The ledger of the demo judges: what was published with the broker's confirm against rows, objects and messages.
Exit status 1 when a target is missed.
"""

import argparse
import asyncio
import contextlib
import math
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from eco_crds.contract import claim_name, wal_db_path
from eco_crds.ecoworker import AckPolicy, Role
from eco_lab import environment
from eco_lab.demo import broker, install, manifests
from eco_lab.demo.evidence import collect
from eco_lab.demo.ledger import Ledger, settle, table
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Plan, Stage, publish, remove_namespace, set_up, wait_ready
from eco_lab.drills import signal_process
from eco_lab.environment import LabEnvironment
from tests.support import figures
from tests.support.api import ROOT
from tests.support.processes import Program, free_port
from tests.support.waiting import until

SHARDS_BEFORE: Final = 4
BEGUN_SHARE: Final = 0.1
"""So much of the work has an end when the blow falls."""
REST_WAIT_S: Final = 240.0
QUIET_S: Final = 4.0
"""Longer than a lost delivery takes to come back."""
SCALE_IN_WAIT_S: Final = 240.0
RECOVERY_WAIT_S: Final = 180.0
UPGRADE_WATCH_S: Final = 30.0
POLL_S: Final = 0.5
PAGE_BYTES: Final = 4096
JOURNAL: Final = Path(wal_db_path(Role.STORAGE)).name
DAMAGED_SHARE: Final = 0.1
"""So much of a journal's pages is overwritten."""


@asynccontextmanager
async def worked(
    lab: LabEnvironment, name: str, narrator: Narrator, *, shards: int = manifests.SHARDS, **wal: Any
) -> AsyncIterator[Stage]:
    """A stage whose shards are Ready, with tasks published and some of them ended."""
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name=name), narrator, stack)
        worker = manifests.eco_worker(stage.services, replicas=shards)
        worker["spec"]["wal"] |= wal
        await stage.kubectl.apply([worker, manifests.wal_sync(stage.services)])
        await wait_ready(stage)
        await publish(stage)
        begun = int(stage.plan.tasks * BEGUN_SHARE)
        await stage.watch.until(f"{begun} tasks have an end", lambda: stage.watch.ended >= begun, within_s=120)
        yield stage
        await remove_namespace(stage.kubectl, name)


async def at_rest(stage: Stage) -> Ledger:
    """Wait until no queue and no journal holds anything to do; the books then.

    Rows that wait are not waited for: under `Completed` one may wait a quarter of an hour for a redelivery that went to
    another shard. A task that is scheduled for later would show in the books as lost.
    """
    quiet_since = math.inf

    async def nothing_left() -> bool:
        nonlocal quiet_since
        await stage.watch.look()
        there = {pod.shard for pod in stage.watch.pods}
        stage.watch.shards = {shard: sight for shard, sight in stage.watch.shards.items() if shard in there}
        waiting = sum(sight.report.counts.waiting for sight in stage.watch.shards.values())
        if stage.watch.owed > waiting or await broker.depth(stage.services.amqp_url, manifests.QUEUE):
            quiet_since = math.inf
        elif quiet_since == math.inf:
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since > QUIET_S

    await until("the work is done", nothing_left, within_s=REST_WAIT_S)
    ledger = settle(await collect(stage.services, stage.published))
    stage.narrator.show(table(ledger))
    return ledger


async def status(stage: Stage) -> dict[str, Any]:
    """The EcoWorker's status as it is written."""
    found = await stage.kubectl.get("ecoworker", manifests.WORKER, "-n", stage.plan.name)
    answer: dict[str, Any] = found.get("status", {})
    return answer


def condition(said: dict[str, Any], name: str) -> tuple[str, str]:
    """Status and reason of a condition; empty when it is not there."""
    found = next((it for it in said.get("conditions", ()) if it["type"] == name), None)
    return (found["status"], found["reason"]) if found else ("", "")


async def scale_in(lab: LabEnvironment, narrator: Narrator) -> None:
    """From four shards to one, in the middle of the work."""
    async with worked(lab, "prove-scale-in", narrator, shards=SHARDS_BEFORE) as stage:
        owed = stage.watch.owed
        begun = time.monotonic()
        await stage.kubectl.run("scale", f"ecoworker/{manifests.WORKER}", "--replicas=1", "-n", stage.plan.name)

        async def alone() -> bool:
            found = await stage.kubectl.get("deployments", "-n", stage.plan.name)
            return len(found["items"]) == 1

        await until("one shard is left", alone, within_s=SCALE_IN_WAIT_S)
        took_s = time.monotonic() - begun
        narrator.show(await stage.lines())
        ledger = await at_rest(stage)
        kept = await stage.kubectl.get("pvc", "-n", stage.plan.name)
        peer = f"{ledger.published} tasks, {owed} in the journals at the moment; {len(kept['items'])} volumes kept"
        figures.record("operator.scale_in_lost", len(ledger.lost), "tasks", "== 0", peer=peer)
        figures.record("operator.scale_in_duplicates", len(ledger.duplicates), "objects + rows", "== 0")
        figures.record("operator.scale_in_s", round(took_s, 1), "s", peer="4 to 1, until three shards are gone")


async def recovery(lab: LabEnvironment, narrator: Narrator) -> None:
    """A damaged journal under each policy, without a hand."""
    seconds: dict[str, float] = {}
    lost: dict[str, int] = {}
    doubled = 0
    for policy in AckPolicy:
        async with worked(lab, f"prove-recovery-{policy.value.lower()}", narrator, ackPolicy=policy.value) as stage:
            seconds[policy.value] = await _damaged_and_recovered(stage)
            ledger = await at_rest(stage)
            lost[policy.value] = len(ledger.lost)
            doubled += len(ledger.duplicates)
    promised = sum(count for policy, count in lost.items() if policy != AckPolicy.JOURNALED.value)
    times = f"{_by_policy(seconds)}; from the kill to WALHealthy"
    figures.record("operator.recovery_s", max(seconds.values()), "s", peer=times)
    figures.record("operator.recovery_lost", promised, "tasks", "== 0", peer=f"{_by_policy(lost)}; the first may")
    figures.record("operator.recovery_duplicates", doubled, "objects + rows", "== 0")


def _by_policy(values: Mapping[str, float]) -> str:
    return ", ".join(f"{policy} {value}" for policy, value in values.items())


async def _damaged_and_recovered(stage: Stage) -> float:
    """Overwrite pages of the second shard's journal and kill its worker; seconds until all is healthy again."""
    shard = f"{manifests.WORKER}-1"
    pod = next(it for it in await stage.proxy.worker_pods(stage.plan.name) if it.shard == shard)
    journal = await journal_of(stage, 1)
    begun = time.monotonic()
    await asyncio.to_thread(signal_process, stage.plan.name, pod.name, signal.SIGKILL)
    damaged = await asyncio.to_thread(damage, journal, random.Random(1))
    stage.narrator.say(f"{shard}: its worker killed, {damaged} pages of the journal overwritten")
    own: dict[str, Any] = {}

    async def recovered() -> bool:
        said = await status(stage)
        own.update(next((it for it in said.get("shards", ()) if it["name"] == shard), {}))
        return bool(own.get("lastRecovery")) and condition(said, "WALHealthy")[0] == "True"

    await until("the journal is set right and healthy", recovered, within_s=RECOVERY_WAIT_S)
    took_s = round(time.monotonic() - begun, 1)
    stage.narrator.say(f"{shard} is healthy after {took_s} s: {own['lastRecovery']}")
    stage.narrator.show(await stage.lines())
    return took_s


async def journal_of(stage: Stage, index: int) -> Path:
    """File of a shard's journal, as this machine sees it."""
    return await volume_of(stage, index) / JOURNAL


async def volume_of(stage: Stage, index: int) -> Path:
    """Directory of a shard's volume, as this machine sees it."""
    claim = await stage.kubectl.get("pvc", claim_name(manifests.WORKER, index), "-n", stage.plan.name)
    volume = await stage.kubectl.get("pv", claim["spec"]["volumeName"])
    return Path(volume["spec"]["hostPath"]["path"])


def damage(journal: Path, chance: random.Random) -> int:
    """Overwrite pages all over a journal's file, its first excepted, and a quarter into its log; how many.

    The log holds the newest content of most pages, so that damage to the file alone might never be read.
    """
    done = 0
    for file, share, begin in ((journal, DAMAGED_SHARE, 1), (journal.with_name(f"{journal.name}-wal"), 0.0, None)):
        pages = file.stat().st_size // PAGE_BYTES if file.exists() else 0
        if pages < 2:
            continue
        chosen = [pages // 4] if begin is None else chance.sample(range(begin, pages), max(1, int(pages * share)))
        with file.open("r+b") as out:
            for page in chosen:
                out.seek(page * PAGE_BYTES)
                out.write(chance.randbytes(PAGE_BYTES))
            out.flush()
            os.fsync(out.fileno())
        done += len(chosen)
    return done


def fill_volume(file: Path) -> None:
    """Write a file until its file system has no byte left."""
    with file.open("wb", buffering=0) as out:
        for size in (1 << 20, PAGE_BYTES, 1):
            with contextlib.suppress(OSError):
                while True:
                    out.write(b"\0" * size)


async def upgrade(lab: LabEnvironment, narrator: Narrator) -> None:
    """A later operator takes over; the specs stay."""
    async with worked(lab, "prove-upgrade", narrator) as stage:
        before = await identities(stage)
        deployment = ("-n", install.NAMESPACE, f"deployment/{install.RELEASE}")
        await stage.kubectl.run("scale", *deployment, "--replicas=0")
        newer = Program(
            "newer operator",
            [sys.executable, "-m", "tests.support.newer_operator", "run"],
            lab.state_dir / "log" / "newer-operator.log",
            {
                "PATH": os.environ["PATH"],
                "KUBECONFIG": str(lab.kubeconfig),
                "ECO_OPERATOR_LEASE_NAMESPACE": install.NAMESPACE,
                "ECO_OPERATOR_HTTP_HOST": "127.0.0.1",
                "ECO_OPERATOR_HTTP_PORT": str(free_port()),
                "ECO_OPERATOR_DEFAULT_WORKER_IMAGE": lab.worker_image,
            },
            directory=ROOT,
        )
        newer.start()
        try:

            async def leads() -> bool:
                lease = await stage.kubectl.get("lease", install.RELEASE, "-n", install.NAMESPACE)
                holder = str((lease or {}).get("spec", {}).get("holderIdentity") or "")
                return bool(holder) and install.RELEASE not in holder

            took_s = await until("the newer operator leads", leads, within_s=60)
            narrator.say(f"the newer operator leads after {took_s:.1f} s")
            await asyncio.sleep(UPGRADE_WATCH_S)  # the measurement itself: what it restarts, it restarts in this time
            ledger = await at_rest(stage)
            after = await identities(stage)
        finally:
            newer.stop()
            await stage.kubectl.run("scale", *deployment, "--replicas=1")
        restarts = len(before ^ after)
        peer = f"{UPGRADE_WATCH_S:.0f} s and {ledger.published} tasks under the newer operator"
        figures.record("operator.upgrade_restarts", restarts, "pods changed", "== 0", peer=peer)
        figures.record("operator.upgrade_lost", len(ledger.lost), "tasks", "== 0")


async def identities(stage: Stage) -> set[tuple[str, str, int]]:
    """Name, uid and restarts of every worker's pod."""
    return {(pod.name, pod.uid, pod.restarts) for pod in await stage.proxy.worker_pods(stage.plan.name)}


PARTS: Final[dict[str, Callable[[LabEnvironment, Narrator], Awaitable[None]]]] = {
    "scale-in": scale_in,
    "recovery": recovery,
    "upgrade": upgrade,
}


async def run(lab: LabEnvironment, parts: list[str]) -> None:
    """The parts asked for, in order."""
    for name in parts:
        await PARTS[name](lab, Narrator())


def main() -> None:
    """Parse the command line, take the figures, print them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.prove.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="default: all of them")
    arguments = parser.parse_args()
    asyncio.run(run(environment.up(with_programs=("helm",)), arguments.part or list(PARTS)))
    print(figures.table())
    sys.exit(1 if figures.missed() else 0)


if __name__ == "__main__":
    main()
