"""Charts as Helm renders them."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import yaml

from eco_lab import environment, paths
from eco_lab.programs import ladder
from tests.support.parts import require

CHARTS: Final = Path(__file__).parents[2] / "charts"
HELM_TIMEOUT_S: Final = 60
Manifest = dict[str, Any]


def helm() -> str:
    """Path of Helm: `ECO_TEST_HELM`, the one on the PATH, or that of a lab that is up."""
    lab = environment.load()
    of_lab = str(lab.helm) if lab is not None and lab.helm else None
    found = os.environ.get("ECO_TEST_HELM") or shutil.which("helm") or of_lab
    require(found, "helm (on the PATH, by ECO_TEST_HELM, or of the lab: `eco-lab up --with helm`)")
    return str(found)


def helm_unittest() -> str:
    """Path of helm-unittest: `ECO_TEST_HELM_UNITTEST`, the lab's own, or the one on the PATH."""
    found = os.environ.get("ECO_TEST_HELM_UNITTEST") or ladder.find_helm_unittest(paths.find())
    require(found, "helm-unittest (on the PATH, or of the lab: `eco-lab up --with helm-unittest`)")
    return str(found)


@dataclass(frozen=True, slots=True)
class UnitTests:
    """What helm-unittest said of the suites in a chart's `tests/`."""

    passed: int
    failed: int
    suites: int
    text: str


def unit_tests(chart: Path, report: Path) -> UnitTests:
    """Run the suites of a chart; `report` is a file to be made."""
    command = [helm_unittest(), "--strict", "--output-type", "JUnit", "--output-file", str(report), str(chart)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HELM_TIMEOUT_S, check=False)
    assert report.exists(), done.stdout + done.stderr
    suites = ET.parse(report).getroot().findall("testsuite")  # noqa: S314  # the file is the program's own
    count = sum(int(suite.get("tests", 0)) for suite in suites)
    bad = sum(int(suite.get(what, 0)) for suite in suites for what in ("failures", "errors"))
    # A suite that does not even parse counts no test.
    failed = max(bad, int(done.returncode != 0))
    return UnitTests(count - bad, failed, len(suites), done.stdout + done.stderr)


def run(*arguments: str, timeout_s: float = HELM_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run Helm; the caller looks at the exit status."""
    command = [helm(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def template(chart: str, *arguments: str, namespace: str = "eco-system") -> subprocess.CompletedProcess[str]:
    """Render a chart, given by its path below charts/, under its own name."""
    options = ("--kube-version", "1.34.0", "--namespace", namespace)
    return run("template", Path(chart).name, str(CHARTS / chart), *options, *arguments)


def render(chart: str, *arguments: str, namespace: str = "eco-system") -> list[Manifest]:
    """The objects of a chart."""
    done = template(chart, *arguments, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def by_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [it for it in manifests if it["kind"] == kind]
