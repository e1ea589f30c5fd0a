"""Argo CD's own program on the health checks of our kinds: `make prove-health`.

It runs them over the test cases, and over every status that `make prove-states` took from real workers, one in each
state of a journal. What it says must be what the case says, and what the checks say in a plain Lua 5.1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from eco_crds import contract
from eco_lab import paths
from eco_lab.programs import ladder
from tests.prove.states import KEPT
from tests.support import figures, lua
from tests.support.charts import CHARTS

SCRIPTS: Final = CHARTS / "eco-operator" / "argocd"
TIMEOUT_S: Final = 60


def cases() -> Iterator[tuple[str, Path, dict[str, str]]]:
    """Kind, object and what is to be said of it, in Argo CD's own format of tests."""
    for tests in sorted((SCRIPTS / contract.GROUP).glob("*/health_test.yaml")):
        for case in yaml.safe_load(tests.read_text())["tests"]:
            yield tests.parent.name, tests.parent / case["inputPath"], case["healthStatus"]


def kept() -> Iterator[tuple[str, Path, dict[str, str]]]:
    """The statuses of real workers, and what a plain Lua says of them."""
    script = (SCRIPTS / contract.GROUP / "EcoWorker" / "health.lua").read_text()
    for file in sorted(KEPT.glob("*.json")):
        found: dict[str, str] = lua.run(script, json.loads(file.read_text()))
        yield "EcoWorker", file, found


def said(program: Path, settings: Path, file: Path) -> dict[str, str]:
    """What Argo CD says of an object."""
    command = [str(program), "admin", "settings", "resource-overrides", "health", str(file)]
    done = subprocess.run(
        [*command, "--argocd-cm-path", str(settings)], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    return {"status": lines.get("STATUS", ""), "message": lines.get("MESSAGE", "")}


def main() -> None:
    """Parse the command line, run, compare, print."""
    argparse.ArgumentParser(
        prog="python -m tests.prove.health", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    program = ladder.argocd(paths.find()) / "argocd"
    overrides: dict[str, Any] = yaml.safe_load((SCRIPTS / "argocd-cm.yaml").read_text())
    metadata = {"name": "argocd-cm", "labels": {"app.kubernetes.io/part-of": "argocd"}}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as settings:
        yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **overrides}, settings)
        settings.flush()
        for name, found in (("cases", list(cases())), ("states", list(kept()))):
            other = []
            for kind, file, wanted in found:
                heard = said(program, Path(settings.name), file)
                print(f"{kind:<10} {file.stem:<24} {heard['status']:<12} {heard['message'][:80]}")
                if heard != {"status": wanted["status"], "message": wanted.get("message", "")}:
                    other.append(f"{file.name}: {heard}, not {wanted}")
            print("\n".join(other))
            figures.record(f"charts.argocd_health_{name}", len(found), "objects", ">= 9", peer=f"{len(other)} other")
            figures.record(f"charts.argocd_health_{name}_wrong", len(other), "objects", "== 0")
    print(figures.table())
    sys.exit(1 if figures.missed() else 0)


if __name__ == "__main__":
    main()
