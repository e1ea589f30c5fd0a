"""`kubectl eco` as a plugin of the real kubectl, against a real API server with the operator at work."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eco_crds import contract
from eco_crds.wal import JournalMode, WalCounts
from eco_operator import kinds
from tests.support.apiserver import ApiServer
from tests.support.operator_world import World, example, operator_world, sync
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


@pytest.fixture
async def world(server: ApiServer, tmp_path: Path) -> AsyncIterator[World]:
    async with operator_world(server, tmp_path) as made:
        made.kubectl("apply", "-f", "-", given=example())
        await made.until_ready()
        yield made


class Shell:
    """A shell whose PATH has kubectl and the plugin's two programs."""

    def __init__(self, world: World, place: Path) -> None:
        modules = {"kubectl-eco": "eco_operator.plugin", "kubectl_complete-eco": "eco_operator.plugin.completion"}
        for name, module in modules.items():
            script = place / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
            script.chmod(0o755)
        self._kubectl = str(world.server.kubectl)
        self._env = {
            "PATH": f"{place}:{world.server.kubectl.parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(world.server.kubeconfig),
            "HOME": str(place),
            "COLUMNS": "200",
        }

    async def run(self, *arguments: str, status: int = 0) -> str:
        # In a thread: the workers of this process must go on answering the operator.
        return await asyncio.to_thread(self._run, arguments, status)

    def _run(self, arguments: tuple[str, ...], status: int) -> str:
        done = subprocess.run(
            [self._kubectl, *arguments], env=self._env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def shell(world: World, tmp_path: Path) -> Shell:
    place = tmp_path / "bin"
    place.mkdir()
    return Shell(world, place)


async def test_a_tree_shows_shards_with_journal_volume_and_sync(world: World, shell: Shell) -> None:
    world.kubectl("apply", "-f", "-", given=sync())
    world.fleet.workers["storage-1"].says(mode=JournalMode.READ_ONLY, counts=WalCounts(due=4, unsynced=3))
    await world.until_condition("WALHealthy", "False", "Full")
    shown = await shell.run("eco", "status", "-n", world.namespace)
    assert f"{world.namespace}/storage  2/2 ready  WAL Full" in shown
    assert "storage-0  Healthy  ready  pending 0  unsynced 0  volume 10 % of wal-storage-0" in shown
    assert "storage-1  Full  ready  pending 4  unsynced 3" in shown
    assert "WALHealthy=False Full" in shown
    assert "sync storage" in shown
    assert "\x1b[" not in shown, "colours in what is no terminal"
    (told,) = json.loads(await shell.run("eco", "-n", world.namespace, "status", "storage", "-o", "json"))
    assert told["ecoWorker"]["status"]["summary"]["wal"] == "Full"
    assert [it["metadata"]["name"] for it in told["walSyncs"]] == ["storage"]
    lines = (await shell.run("eco", "wal", f"--namespace={world.namespace}")).splitlines()
    assert lines[0].split()[:3] == ["SHARD", "WAL", "PENDING"]
    assert lines[2].split()[:3] == ["storage-1", "Full", "4"]


async def test_wishes_reach_the_operator_and_are_taken_back(world: World, shell: Shell) -> None:
    space = ("-n", world.namespace)
    await shell.run("eco", "fence", "storage", "--shard", "storage-1", *space)
    await world.until_condition("Fenced", "True", "Annotation")

    async def is_fenced() -> bool:
        return [world.fleet.workers[name].told for name in ("storage-0", "storage-1")] == [[], ["fence"]]

    await until("one worker is told to stand still", is_fenced, within_s=10)
    await shell.run("eco", "fence", "storage", "--off", *space)
    await world.until_ready()
    await shell.run("eco", "pause", "storage", *space)
    await world.until_condition("Paused", "True", "Annotation")
    await shell.run("eco", "resume", "storage", *space)
    await world.until_condition("Paused", "", "")
    await shell.run("eco", "hibernate", "storage", *space)
    await world.until_condition("Ready", "False", "Hibernated")
    await shell.run("eco", "hibernate", "storage", "--off", *space)
    await world.until_ready()
    assert "hibernate=true" in await shell.run("eco", "drain", "storage", *space)
    await world.until_condition("Ready", "False", "Hibernated")
    await shell.run("eco", "drain", "storage", "--off", *space)
    await world.until_ready()


async def test_a_dry_run_of_a_recovery_and_a_sync_are_asked_for(world: World, shell: Shell) -> None:
    world.kubectl("apply", "-f", "-", given=sync())
    await shell.run("eco", "sync", "storage", "-n", world.namespace)

    async def sent() -> bool:
        return all(worker.told == ["sync"] for worker in world.fleet.workers.values())

    await until("every worker is told to send", sent, within_s=15)
    await shell.run("eco", "recover", "storage", "--dry-run", "-n", world.namespace)
    found = (await world.worker())["metadata"]["annotations"]
    assert found[contract.ANNOTATION_RECOVER] == "dry-run"


async def test_claims_without_a_shard_are_listed(world: World, shell: Shell) -> None:
    assert "every claim is in use" in await shell.run("eco", "orphans", "-n", world.namespace)
    world.kubectl("delete", "ecoworker", "storage", "--timeout=10s")

    async def is_marked() -> bool:
        claim = await world.cluster.get(kinds.CLAIM, world.namespace, "wal-storage-1")
        return contract.ANNOTATION_ORPHANED in claim["metadata"]["annotations"]

    await until("the claims are marked", is_marked, within_s=15)
    shown = await shell.run("eco", "orphans", "-A")
    assert "wal-storage-0" in shown
    assert "its EcoWorker is gone" in shown


async def test_kubectl_completes_commands_options_and_names(world: World, shell: Shell) -> None:
    async def completed(*words: str) -> list[str]:
        return [
            line
            for line in (await shell.run("__complete", "eco", *words)).splitlines()
            if not line.startswith(("Comp", "[Debug]"))
        ]

    assert await completed("or") == ["orphans", ":4"]
    assert "--dry-run" in await completed("recover", "--d")
    assert await completed("-n", world.namespace, "pause", "st") == ["storage", ":4"]
    assert await completed("orphans", "s") == [":4"]


async def test_what_kubectl_refuses_is_told_in_its_words(world: World, shell: Shell) -> None:
    told = await shell.run("eco", "pause", "nobody", "-n", world.namespace, status=1)
    assert '"nobody" not found' in told
    assert "Traceback" not in told
