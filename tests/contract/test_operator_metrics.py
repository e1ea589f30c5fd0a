"""The metrics of the operator and what its chart's README says of them."""

from typing import Final, cast

import pytest
from prometheus_client import Counter, Histogram
from prometheus_client.metrics_core import Metric

from eco_operator import metrics, web
from eco_operator.cluster import Cluster
from eco_operator.loop import Loop
from eco_operator.settings import Settings
from tests.support.charts import CHARTS

README: Final = CHARTS / "eco-operator" / "README.md"
HEADING: Final = "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n"


def rows() -> list[str]:
    """A row for each metric: those of the operator itself, then those of the fleet, in the order of the code."""
    health = web.Health(Settings(), None, Loop(cast("Cluster", None), Settings()))
    kept = [it for it in vars(metrics).values() if isinstance(it, Counter | Histogram)]
    found = [row(family, tuple(it._labelnames)) for it in kept for family in it.describe()]
    found += [f"| `{it.name}` | gauge |  | {it.text} |" for it in web._gauges(health)]
    return found + [row(it, tuple(it._labelnames)) for it in web._labelled(health)]


def row(family: Metric, labels: tuple[str, ...]) -> str:
    """What the table says of one metric, under the name that Prometheus stores."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return f"| `{name}` | {family.type} | {', '.join(f'`{it}`' for it in labels)} | {family.documentation} |"


def test_the_readme_of_the_chart_lists_every_metric_with_its_help_text() -> None:
    _, _, after = README.read_text(encoding="utf-8").partition(HEADING)
    assert after.partition("\n\n")[0].splitlines() == rows()


@pytest.mark.parametrize("written", rows())
def test_every_metric_is_named_and_says_what_it_means(written: str) -> None:
    _, name, _, _, meaning, _ = (cell.strip() for cell in written.split("|"))
    assert name.startswith("`eco_")
    assert meaning.endswith(".")
