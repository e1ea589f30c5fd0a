"""From one release to the next and back with work in flight: `make prove-release`; `--previous REF` says from which.

On the lab's cluster the operator of an earlier commit is installed by its own chart, from images of its own tree. While
tasks run it is upgraded to this tree, later rolled back, then uninstalled and installed again. Workers keep their image
throughout, so none of that may restart one. Exit status 1 when a target is missed.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from eco_lab import environment
from eco_lab import paths as lab_paths
from eco_lab.demo import install, manifests
from eco_lab.demo.kubectl import run_program
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Plan, Stage, publish, remove_namespace, set_up, wait_ready
from eco_lab.environment import LabEnvironment
from eco_lab.nodes import Node
from tests.prove.cluster import at_rest, identities
from tests.support import figures
from tests.support.api import ROOT
from tests.support.waiting import until

NAME: Final = "prove-release"
PREVIOUS: Final = "HEAD~20"
"""There is no tag yet; so many commits back is another operator, with other definitions."""
BEGUN_SHARE: Final = 0.1
BUILD_TIMEOUT_S: Final = 900
READY_WITHIN_S: Final = 90.0
_IMAGES: Final = """
import json
from eco_lab import paths
from eco_lab.images import catalogue
from eco_lab.images.build import Builder
built = catalogue.of_the_tree(Builder(paths.find()))
print("IMAGES", json.dumps({name: (image, str(file)) for name, (image, file) in built.items()}))
"""


@contextmanager
def tree_of(ref: str) -> Iterator[Path]:
    """A checkout of an earlier commit; gone afterwards. Not below /tmp: the lab's machines have one of their own."""
    with tempfile.TemporaryDirectory(dir=lab_paths.find().build) as place:
        tree = Path(place) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), ref], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def images_of(tree: Path, lab: LabEnvironment) -> dict[str, str]:
    """Names of that tree's images, built by its own builder and brought into every node."""
    packages = ("infra/lab", "crds", "operator", "workers")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / package) for package in packages)}
    command = [sys.executable, "-c", _IMAGES]
    done = subprocess.run(
        command, cwd=tree, env=env, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("IMAGES "))
    found = {name: (image, Path(file)) for name, (image, file) in json.loads(line.removeprefix("IMAGES ")).items()}
    for node in lab.nodes:
        Node(node, lab_paths.find(), lab.kubectl.parent).import_images([file for _, file in found.values()])
    return {name: image for name, (image, _) in found.items()}


async def helm(lab: LabEnvironment, *arguments: str, values: dict[str, object] | None = None) -> None:
    """Run Helm on the operator's release."""
    command = [str(install.helm(lab)), f"--kubeconfig={lab.kubeconfig}", f"--namespace={install.NAMESPACE}", *arguments]
    await run_program(*command, stdin=json.dumps(values) if values is not None else None, timeout_s=180)


async def install_previous(lab: LabEnvironment, tree: Path, images: dict[str, str]) -> None:
    """The earlier release, from nothing of the operator."""
    await helm(lab, "uninstall", install.RELEASE, "--ignore-not-found", "--wait", "--timeout=120s")
    values = {**install.values(lab), "image": install.image_values(images["operator"])}
    chart = str(tree / "charts" / "eco-operator")
    words = ("install", install.RELEASE, chart, "--create-namespace", "--take-ownership", "--values=-", "--wait")
    await helm(lab, *words, "--timeout=120s", values=values)


async def prove(lab: LabEnvironment, tree: Path, narrator: Narrator) -> None:
    """Install, upgrade, roll back, uninstall, install again."""
    images = await asyncio.to_thread(images_of, tree, lab)
    async with AsyncExitStack() as stack:
        stage = await set_up(lab, Plan(name=NAME), narrator, stack)
        await install_previous(lab, tree, images)
        narrator.say(f"installed: {images['operator']}")
        await stage.kubectl.apply([manifests.eco_worker(stage.services), manifests.wal_sync(stage.services)])
        await wait_ready(stage)
        before = await identities(stage)
        await _in_flight(stage)
        narrator.say(await install.install(lab))
        await _settled(stage)
        upgraded = len(before ^ await identities(stage))
        ledger = await at_rest(stage)
        peer = f"{ledger.published} tasks"
        figures.record("charts.upgrade_lost", len(ledger.lost), "tasks", "== 0", peer=peer)
        figures.record("charts.upgrade_restarts", upgraded, "pods changed", "== 0", peer="workers keep their image")
        await _in_flight(stage)
        await helm(lab, "rollback", install.RELEASE, "--wait", "--timeout=120s")
        narrator.say("rolled back")
        await _settled(stage)
        rolled = len(before ^ await identities(stage))
        ledger = await at_rest(stage)
        figures.record("charts.rollback_lost", len(ledger.lost), "tasks", "== 0", peer=f"{ledger.published} tasks")
        figures.record("charts.rollback_restarts", rolled, "pods changed", "== 0")
        await _removed_and_back(stage, before)
        await remove_namespace(stage.kubectl, NAME)


async def _in_flight(stage: Stage) -> None:
    """Publish, and wait until some of it has an end."""
    ended = stage.watch.ended
    await publish(stage)
    wanted = ended + int(stage.plan.tasks * BEGUN_SHARE)
    await stage.watch.until(f"{wanted} tasks have an end", lambda: stage.watch.ended >= wanted, within_s=120)


async def _settled(stage: Stage) -> None:
    """Wait until the operator of this moment calls the EcoWorker Ready."""
    lease = await stage.kubectl.get("lease", install.RELEASE, "-n", install.NAMESPACE)
    pods = set(await install.operator_pods(stage.kubectl))

    async def is_led() -> bool:
        nonlocal lease
        lease = await stage.kubectl.get("lease", install.RELEASE, "-n", install.NAMESPACE)
        return str((lease or {}).get("spec", {}).get("holderIdentity") or "") in pods

    await until("a pod of this release leads", is_led, within_s=READY_WITHIN_S)
    await wait_ready(stage)


async def _removed_and_back(stage: Stage, before: set[tuple[str, str, int]]) -> None:
    """Uninstalled, the workers go on by themselves; installed again, they are taken up as they are."""
    kubectl = stage.kubectl
    claims = await _uids(stage, "pvc")
    await helm(stage.lab, "uninstall", install.RELEASE, "--wait", "--timeout=120s")
    crds = await kubectl.get("crds")
    kept = [item for item in crds["items"] if item["spec"]["group"] == "eco.growbin.app"]
    await publish(stage)
    ledger = await at_rest(stage)
    figures.record("charts.uninstalled_lost", len(ledger.lost), "tasks", "== 0", peer="worked off without an operator")
    stage.narrator.say(await install.install(stage.lab))
    await _settled(stage)
    changed = len(before ^ await identities(stage))
    changed += len(set(claims.items()) ^ set((await _uids(stage, "pvc")).items()))
    figures.record("charts.reinstall_changes", changed, "pods + claims", "== 0")
    figures.record("charts.uninstalled_definitions_kept", len(kept), "definitions", "== 2")


async def _uids(stage: Stage, kind: str) -> dict[str, str]:
    found: dict[str, Any] = await stage.kubectl.get(kind, "-n", NAME)
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in found["items"]}


def main() -> None:
    """Parse the command line, take the figures, print them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.prove.release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--previous", default=PREVIOUS, metavar="REF", help=f"the earlier release ({PREVIOUS})")
    arguments = parser.parse_args()
    lab = environment.up(with_programs=("helm",))
    with tree_of(arguments.previous) as tree:
        asyncio.run(prove(lab, tree, Narrator()))
    print(figures.table())
    sys.exit(1 if figures.missed() else 0)


if __name__ == "__main__":
    main()
