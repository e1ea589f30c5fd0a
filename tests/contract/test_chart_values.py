"""Whatever a chart's schema lets pass, its templates turn into objects: a sample of what `make prove-charts` does."""

from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import parity, values
from tests.support.charts import CHARTS

SAMPLE: Final = 10
SEED: Final = 20261121
# Text that YAML takes for something else when a template forgets its quotes.
AWKWARD: Final[dict[str, list[dict[str, Any]]]] = {
    "eco-operator": [
        {"serviceAccount": {"name": "123"}, "priorityClassName": "1e3", "namespaces": ["1", "null"]},
        {"image": {"repository": "localhost:5000/x", "tag": "1.0"}, "defaultWorkerImage": "[{a:#c"},
        {"podLabels": {"a": "true"}, "serviceMonitor": {"enabled": True}, "networkPolicy": {"enabled": True}},
        {"argocd": {"enabled": True, "repoURL": "a: #b", "chart": "123", "targetRevision": "1.0", "path": "null"}},
    ],
    "waste": [
        {"environment": "1", "broker": {"storageClass": "a: #b", "vhost": "1.5"}},
        {"secrets": {"mode": "external", "external": {"storeName": "null", "prefix": "#{"}}},
        {"networkPolicies": {"monitoringNamespace": "123", "dataOperatorNamespaces": ["null"]}},
    ],
    "waste/argocd": [
        {"argocdNamespace": "123", "operator": {"namespace": "1e3"}, "notifications": {"slackChannel": "#eco: all"}},
        {"source": {"repoURL": "git@git.example:eco.git", "targetRevision": "1.0"}, "automated": False},
    ],
}


def texts(node: Any, path: str = "") -> list[str]:
    """Places that must hold text and hold something else: names, labels, annotations."""
    if isinstance(node, list):
        return [found for item in node for found in texts(item, f"{path}[]")]
    if not isinstance(node, dict):
        return []
    strings = ("labels", "annotations", "matchLabels", "nodeSelector")
    wrong = [f"{path}.{key}" for key in ("name", "namespace", "image") if not isinstance(node.get(key, ""), str | dict)]
    for key in strings:
        found = node.get(key) or {}
        wrong += [f"{path}.{key}.{name}" for name, value in found.items() if not isinstance(value, str)]
    return [*wrong, *(found for key, below in node.items() if key != "openAPIV3Schema" for found in texts(below, key))]


@pytest.mark.parametrize("name", AWKWARD)
def test_values_within_the_schema_become_objects(name: str, tmp_path: Path) -> None:
    drawn = values.draw_many(values.of_chart(CHARTS / name), SAMPLE, SEED)
    rendered = parity.render_many(parity.umbrella(CHARTS / name, [*AWKWARD[name], *drawn], tmp_path))
    objects = parity.objects(rendered)
    assert len(objects) > SAMPLE
    assert [found for it in objects for found in texts(it)] == []
    assert [it for it in objects if not {"apiVersion", "kind", "metadata"} <= set(it)] == []
