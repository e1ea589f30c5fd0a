"""The unit tests that lie in the charts, in helm-unittest's own format, pass; and a broken template makes them fail."""

import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.charts import CHARTS, unit_tests
from tests.support.figures import record

NAMES: Final = sorted(str(path.parent.relative_to(CHARTS)) for path in CHARTS.glob("**/Chart.yaml"))
# What somebody may break in a template, and the chart whose suites must see it.
BREAKS: Final = {
    "a pod with rights": ("eco-operator", "deployment.yaml", "runAsNonRoot: true", "runAsNonRoot: false"),
    "both replicas on one node": ("eco-operator", "deployment.yaml", "kubernetes.io/hostname", "kubernetes.io/os"),
    "any Lease": ("eco-operator", "rbac.yaml", "    resourceNames: [{{ $name }}]\n", ""),
    "definitions that go": ("eco-operator", "crds.yaml", '"keep"', '"delete"'),
    "everybody may scrape": ("eco-operator", "networkpolicy.yaml", "[Ingress, Egress]", "[Egress]"),
    "a budget for one": ("eco-operator", "poddisruptionbudget.yaml", ") 1)", ") 0)"),
    "claims that Argo CD prunes": ("eco-worker", "shards.yaml", "Prune=false,Delete=false", "Prune=true"),
    "two on one volume": ("eco-worker", "shards.yaml", "Recreate", "RollingUpdate"),
    "journals without a least size": ("eco-worker", "_checks.tpl", "67108864.0", "1.0"),
    "any namespace reaches the broker": ("waste", "networkpolicies.yaml", "port: 5672", "port: 5673"),
    "self-heal against an autoscaler": ("waste", "workers.yaml", 'omit $spec "replicas"', 'omit $spec "none"'),
    "a store without a name": ("waste", "_helpers.tpl", 'eq .Values.secrets.mode "external"', "false"),
    "workers that go with their Application": (
        "waste/argocd",
        "applications.yaml",
        "  namespace: {{ $root.Values.argocdNamespace | quote }}\n",
        "  namespace: argocd\n  finalizers: [resources-finalizer.argocd.argoproj.io]\n",
    ),
    "a namespace that goes with its journals": ("waste", "namespaces.yaml", "resource-policy: keep", "other: keep"),
}


def written_down(chart: str) -> tuple[int, int]:
    files = (CHARTS / chart / "tests").glob("*_test.yaml")
    suites: list[dict[str, Any]] = [yaml.safe_load(it.read_text()) for it in files]
    return len(suites), sum(len(suite["tests"]) for suite in suites)


def copied(chart: str, directory: Path) -> Path:
    """A copy, since the program leaves a folder for snapshots beside the suites."""
    return Path(shutil.copytree(CHARTS / chart, directory / chart.replace("/", "-")))


def test_all_suites_of_all_charts_pass(tmp_path: Path) -> None:
    results = {
        chart: unit_tests(copied(chart, tmp_path), tmp_path / f"{chart.replace('/', '-')}.xml") for chart in NAMES
    }
    passed, failed = (sum(getattr(it, what) for it in results.values()) for what in ("passed", "failed"))
    record("charts.unit_tests", passed, "tests", ok=failed == 0, peer=f"{failed} failed, {len(results)} charts")
    assert [result.text for result in results.values() if result.failed] == []
    assert {chart: (it.suites, it.passed) for chart, it in results.items()} == {it: written_down(it) for it in NAMES}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_template_is_caught(what: str, tmp_path: Path) -> None:
    chart, template, sound, broken = BREAKS[what]
    copy = copied(chart, tmp_path)
    path = copy / "templates" / template
    text = path.read_text()
    assert sound in text
    path.write_text(text.replace(sound, broken))
    assert unit_tests(copy, tmp_path / "report.xml").failed > 0
