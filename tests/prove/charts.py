"""Counted proofs of the charts: `make prove-charts`.

The chart eco-worker is rendered for every example and for random EcoWorkers and compared, object by object, with what
the operator's builders make of them. Then the objects of all charts are held against the real schemas of Kubernetes,
Argo CD and the Prometheus operator. Exit status 1 when a target is missed.
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Final

import yaml

from eco_lab import paths
from eco_lab.programs import ladder
from tests.support import parity, schemas, values
from tests.support.charts import CHARTS, template
from tests.support.figures import missed, record, table

SPECS: Final = 250
VALUES: Final = 40
"""Random sets of values of each chart that has a schema of its own."""
ROOT: Final = CHARTS.parent


def written_down() -> list[parity.Case]:
    """Examples and test data that are EcoWorkers."""
    paths = [*ROOT.glob("crds/examples/*.yaml"), *ROOT.glob("tests/data/resources/*/ecoworker.yaml")]
    documents = [document for path in sorted(paths) for document in yaml.safe_load_all(path.read_text())]
    return [parity.case_of(document) for document in documents if document["kind"] == "EcoWorker"]


def renderings() -> dict[str, str]:
    """Every chart with every file of values that it ships, by chart and file."""
    found = {"eco-operator": _rendered("eco-operator")}
    for chart in sorted(path.parent for path in CHARTS.glob("*/Chart.yaml")):
        for path in sorted([*chart.glob("values-*.yaml"), *chart.glob("ci/*.yaml")]):
            found[f"{chart.name} {path.name}"] = _rendered(chart.name, "--values", str(path))
    found["Argo CD"] = _rendered("waste/argocd")
    found["Argo CD's root"] = (CHARTS / "waste" / "argocd" / "root.yaml").read_text()
    return found


def _rendered(chart: str, *arguments: str) -> str:
    done = template(chart, *arguments)
    if done.returncode != 0:
        raise SystemExit(f"helm template {chart} {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def prove(specs: int, number: int, directory: Path) -> None:
    """Take all figures."""
    cases = [*written_down(), *parity.random_cases(specs, number)]
    text, objects = parity.render(cases, directory)
    found = [
        f"case {index}: {line}"
        for index, (case, rendered) in enumerate(zip(cases, objects, strict=True))
        for line in parity.differences(case, rendered)
    ]
    print("\n".join(found[:40]))
    record("charts.parity_specs", len(cases), "EcoWorkers", ">= 200", peer=f"seed {number}")
    record("charts.parity_differences", len(found), "differences", "== 0", peer=f"{sum(map(len, objects))} objects")
    check_schemas({"eco-worker, random": text, **random_values(number, directory), **renderings()}, directory)


def random_values(number: int, directory: Path) -> dict[str, str]:
    """The other charts with random values inside their schemas."""
    found = {}
    for name in ("eco-operator", "waste", "waste/argocd"):
        drawn = values.draw_many(values.of_chart(CHARTS / name), VALUES, number)
        found[f"{name}, random"] = parity.render_many(parity.umbrella(CHARTS / name, drawn, directory))
    return found


def check_schemas(texts: dict[str, str], directory: Path) -> None:
    """Hold rendered text against the schemas of every version of Kubernetes that is here."""
    manifests = directory / "manifests"
    manifests.mkdir()
    for number, text in enumerate(texts.values()):
        (manifests / f"{number}.yaml").write_text(text)
    misspelt = directory / "misspelt.yaml"
    misspelt.write_text(texts["eco-operator"].replace("enableServiceLinks:", "enableServiceLink:"))
    checked, failures = 0, 0
    for version, swagger in schemas.versions().items():
        written = schemas.write(directory / version, swagger)
        if not schemas.check(misspelt, written, version).failures:
            raise SystemExit(f"the schemas of Kubernetes {version} let a misspelt field pass: they prove nothing")
        verdict = schemas.check(manifests, written, version)
        for line in verdict.failures[:20]:
            print(f"Kubernetes {version}: {line}")
        checked += verdict.valid + len(verdict.failures)
        failures += len(verdict.failures)
    against = "Kubernetes " + ", ".join(schemas.versions())
    record("charts.rendered_objects", checked, "objects checked", peer=f"{len(texts)} renderings, {against}")
    record("charts.schema_failures", failures, "failures", "== 0", peer=against)


def main() -> None:
    """Parse the command line, take the figures, print them."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.charts", description=__doc__)
    parser.add_argument("--specs", type=int, default=SPECS, help=f"random EcoWorkers beside the examples ({SPECS})")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="seed of the random ones")
    asked = parser.parse_args()
    os.environ["ECO_TEST_HELM"] = os.environ.get("ECO_TEST_HELM") or str(
        ladder.find_helm(paths.find()) or ladder.helm(paths.find())
    )
    print(f"seed {asked.seed}")
    with tempfile.TemporaryDirectory() as directory:
        prove(asked.specs, asked.seed, Path(directory))
    print(table())
    sys.exit(1 if missed() else 0)


if __name__ == "__main__":
    main()
