"""The operator, installed as a stranger would: its chart, by Helm, with the lab's image."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from eco_lab.demo.kubectl import Kubectl, run_program
from eco_lab.environment import LabEnvironment
from eco_lab.errors import MissingError
from eco_lab.paths import TREE

NAMESPACE: Final = "eco-system"
RELEASE: Final = "eco-operator"
CHART: Final = TREE / "charts" / "eco-operator"
INSTALL_TIMEOUT_S: Final = 120
STATUS_INTERVAL_S: Final = 5


def image_values(image: str) -> dict[str, str]:
    """Repository and tag of an image as the chart takes them; the port of a registry is no tag."""
    head, _, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return {"repository": f"{head}/{name}" if head else name, "tag": tag or "latest", "pullPolicy": "IfNotPresent"}


def values(lab: LabEnvironment) -> dict[str, object]:
    """Values of the chart that differ from its defaults in the lab.

    Its own images, one replica on one machine, and columns that follow the numbers closer than a fleet could bear.
    """
    return {
        "image": image_values(lab.operator_image),
        "defaultWorkerImage": lab.worker_image,
        "replicas": 1,
        "settings": {"statusIntervalSeconds": STATUS_INTERVAL_S},
    }


def helm(lab: LabEnvironment) -> Path:
    """Helm of this lab; a MissingError when there is none."""
    if lab.helm is None or not lab.helm.exists():
        raise MissingError(
            "install the operator's chart", "the lab has no helm", hint="eco-lab up --with helm, or put helm on PATH"
        )
    return lab.helm


async def install(lab: LabEnvironment, more: Mapping[str, object] | None = None) -> str:
    """Install or upgrade the operator and wait until it is ready; Helm's verdict. `more` are values of the chart."""
    await clear_interrupted(lab)
    said = await _run(
        lab,
        "upgrade",
        "--install",
        RELEASE,
        str(CHART),
        "--create-namespace",
        "--values=-",
        "--wait",
        f"--timeout={INSTALL_TIMEOUT_S}s",
        "--output=json",
        stdin=json.dumps({**values(lab), **(more or {})}),
    )
    info = json.loads(said).get("info", {})
    return f"release {RELEASE} in namespace {NAMESPACE}: {info.get('status', 'unknown')}"


async def clear_interrupted(lab: LabEnvironment) -> None:
    """Remove a release whose installation was cut off: Helm refuses every further one until somebody does.

    The custom resource definitions stay, as the chart asks, and with them every EcoWorker.
    """
    releases = json.loads(await _run(lab, "list", "--pending", "--output=json") or "[]")
    if any(release["name"] == RELEASE for release in releases):
        await _run(lab, "uninstall", RELEASE, "--wait", f"--timeout={INSTALL_TIMEOUT_S}s")


async def _run(lab: LabEnvironment, *arguments: str, stdin: str | None = None) -> str:
    command = [str(helm(lab)), f"--kubeconfig={lab.kubeconfig}", f"--namespace={NAMESPACE}", *arguments]
    return await run_program(*command, stdin=stdin, timeout_s=INSTALL_TIMEOUT_S + 30)


async def operator_pods(kubectl: Kubectl) -> list[str]:
    """Names of the operator's running pods."""
    found = await kubectl.get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/name={RELEASE}")
    return [item["metadata"]["name"] for item in (found or {}).get("items", [])]
