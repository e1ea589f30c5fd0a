"""Counted proof of the operator's rights: `make prove-rights`.

The tests of the operator run against bare API servers whose audit logs keep every request; where a lab is up, what its
API server has logged of the operator since its start is added. All calls are held against the roles that the chart
renders, both ways: a call without a right, a right without a call. Exit status 1 when there is one of either.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from eco_lab import environment, paths
from eco_lab.programs import ladder
from tests.support import rights
from tests.support.charts import CHARTS, by_kind, render
from tests.support.figures import missed, record, table

ROOT: Final = CHARTS.parent
SUITES: Final = ("test_operator*.py", "test_chart_apiserver.py", "test_chart_clusterwide.py", "test_chart_drift.py")
RUN_S_MAX: Final = 1800
SHOWN_MAX: Final = 40
ROLES: Final = frozenset({"eco-operator", "eco-operator-leader", "eco-operator-applications"})
EVERYTHING: Final = (
    *("--set", "argocd.enabled=true", "--set", "argocd.repoURL=https://git.example/eco.git"),
    *("--set", "argocd.targetRevision=v1", "--set", "workerMonitors.enabled=true"),
)
CLUSTER_ONLY: Final = {rights.Role(rights.Call("storage.k8s.io", "storageclasses", "get"))}
"""Rights on kinds without a namespace. With `namespaces` the operator has none and does not ask."""


def calls_of_the_tests(file: Path) -> set[tuple[rights.Call, str]]:
    """Run the tests of the operator; what it asked meanwhile."""
    suites = [str(path) for pattern in SUITES for path in sorted((ROOT / "tests" / "integration").glob(pattern))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites]
    # Nothing may be missing: a test that is skipped leaves a right unused.
    environ = {**os.environ, rights.VARIABLE: str(file), "CI": "true"}
    environ.pop("ECO_TEST_KUBECONFIG", None)
    done = subprocess.run(command, cwd=ROOT, env=environ, timeout=RUN_S_MAX, check=False)
    if done.returncode != 0:
        raise SystemExit("the tests of the operator fail, so what it asked is not what it asks when all is well")
    return rights.kept(file)


def calls_of_the_lab() -> set[tuple[rights.Call, str]]:
    """What the operator has asked of a lab that is up."""
    lab = environment.load()
    return set(rights.asked(lab.audit_log)) if lab is not None and lab.audit_log is not None else set()


def chart_roles(*arguments: str) -> set[rights.Role]:
    """What the chart allows the operator with all that it can be asked for; roles for people are not meant."""
    manifests = render("eco-operator", *EVERYTHING, *arguments)
    roles = by_kind(manifests, "Role") + by_kind(manifests, "ClusterRole")
    return rights.allowed(it for it in roles if it["metadata"]["name"] in ROLES)


def prove(calls: set[tuple[rights.Call, str]], *, peer: str) -> None:
    """Compare with the chart in both of its modes."""
    everywhere, listed = chart_roles(), chart_roles("--set", "namespaces={one}")
    if everywhere - CLUSTER_ONLY != listed:
        raise SystemExit("with and without `namespaces` the chart gives other rights; one run cannot prove both")
    missing, unused = rights.missing(calls, everywhere), rights.unused(calls, everywhere)
    for title, found in (("asked without a right", missing), ("a right never used", unused)):
        for call in sorted(found)[:SHOWN_MAX]:
            print(f"{title}: {call}")
    record("charts.rbac_missing", len(missing), "calls", "== 0", peer=peer)
    record("charts.rbac_unused", len(unused), "rights", "== 0", peer=f"of {len(everywhere)}")


def main() -> None:
    """Parse the command line, run the tests, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.rights", description=__doc__)
    parser.add_argument("--calls", type=Path, help=f"a file written with {rights.VARIABLE} before; run no test")
    given: Path | None = parser.parse_args().calls
    ladder.cluster(paths.find())
    os.environ["ECO_TEST_HELM"] = os.environ.get("ECO_TEST_HELM") or str(
        ladder.find_helm(paths.find()) or ladder.helm(paths.find())
    )
    with tempfile.TemporaryDirectory() as directory:
        of_tests = rights.kept(given) if given else calls_of_the_tests(Path(directory) / "calls.jsonl")
    of_lab = calls_of_the_lab()
    counts = [len({call for call, _ in found}) for found in (of_tests, of_lab)]
    prove(of_tests | of_lab, peer=f"{counts[0]} kinds of call in tests, {counts[1]} on the lab")
    print(table())
    sys.exit(1 if missed() else 0)


if __name__ == "__main__":
    main()
