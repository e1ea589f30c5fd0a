"""Random values of a chart: strategies made from its `values.schema.json`, so that a new value is in them at once."""

import json
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.support import specs
from tests.support.specs import Document

LENGTH_MAX: Final = 3
# Parts whose rules JSON schema cannot say in full, or whose content belongs to Kubernetes.
_DEFINED: Final = {"#/definitions/ecoWorkerSpec": specs.SPECS}


def _is_taken(values: Document) -> bool:
    """Whether the templates have no objection: what they demand beyond the schema, they say by its path."""
    image, secrets = values.get("image", {}), values.get("secrets", {})
    monitored = values.get("serviceMonitor", {}).get("enabled", False)
    delivery = values.get("argocd", {})
    return (
        (not monitored or values.get("service", {}).get("enabled", True))
        and (bool(image.get("repository")) or not (image.get("tag") or image.get("digest")))
        and (not delivery.get("enabled") or bool(delivery.get("repoURL") and delivery.get("targetRevision")))
        and (secrets.get("mode") != "external" or bool(secrets.get("external", {}).get("storeName")))
    )


def of_chart(chart: Path) -> SearchStrategy[Document]:
    """Values that the chart's schema admits."""
    schema = json.loads((chart / "values.schema.json").read_text())
    found: SearchStrategy[Document] = _values(schema, schema)
    return found.filter(_is_taken)


def draw_many(strategy: SearchStrategy[Document], count: int, number: int) -> list[Document]:
    """`count` values from the seed `number`, always the same ones."""
    found: list[Document] = []
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

    @seed(number)
    @settings(max_examples=count, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=slow)
    @given(strategy)
    def collect(document: Document) -> None:
        found.append(document)

    collect()
    return found


def _values(node: Document, root: Document) -> SearchStrategy[Any]:
    if "$ref" in node:
        known = _DEFINED.get(node["$ref"])
        return known if known is not None else _values(root["definitions"][node["$ref"].rpartition("/")[2]], root)
    if "enum" in node:
        return st.sampled_from(node["enum"])
    if "anyOf" in node:
        return st.one_of([_values(option, root) for option in node["anyOf"]])
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return st.one_of([_of_type(kind, node, root) for kind in kinds])


def _of_type(kind: str, node: Document, root: Document) -> SearchStrategy[Any]:
    match kind:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(node.get("minimum", 0), node.get("maximum", 2**31 - 1))
        case "number":
            return st.integers(int(node.get("minimum", 0)) + 1, int(node.get("maximum", 1000)))
        case "string":
            return _texts(node)
        case "array":
            if node["items"] == {"type": "object"}:
                return st.just([])
            items = _values(node["items"], root)
            least = node.get("minItems", 0)
            unique = node.get("uniqueItems", False)
            return st.lists(items, min_size=least, max_size=max(least, LENGTH_MAX), unique=unique)
    return _objects(node, root)


def _texts(node: Document) -> SearchStrategy[str]:
    shortest, longest = node.get("minLength", 0), node.get("maxLength", 40)
    if "pattern" not in node:
        return st.text(specs.PRINTABLE, min_size=shortest, max_size=longest)
    found = st.from_regex(node["pattern"], fullmatch=True, alphabet=specs.PRINTABLE)
    return found.filter(lambda text: shortest <= len(text) <= longest)


def _objects(node: Document, root: Document) -> SearchStrategy[Document]:
    if "properties" in node:
        parts = {name: _values(child, root) for name, child in node["properties"].items() if name != "global"}
        required = {name: parts.pop(name) for name in node.get("required", [])}
        return st.fixed_dictionaries(required, optional=parts)
    if isinstance(node.get("additionalProperties"), dict):
        below = _values(node["additionalProperties"], root)
        # Without names of its own a map is one of labels or annotations.
        names = specs.NAMES if "propertyNames" in node else st.from_regex(r"[a-z]{1,8}", fullmatch=True)
        return st.dictionaries(names, below, max_size=LENGTH_MAX)
    return st.just({})
