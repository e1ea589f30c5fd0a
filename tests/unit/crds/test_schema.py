"""The schemas: only what Kubernetes takes, a text for each field, a bound for everything that can grow."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import Field

from eco_crds.base import ApiModel
from eco_crds.schema import KINDS, Kind, custom_resource_definition, structural_schema

FORBIDDEN = {"$ref", "$defs", "allOf", "oneOf", "title", "const", "propertyNames", "exclusiveMinimum", "nullable"}


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


EVERY = [
    pytest.param(path, node, id=f"{kind.short}{path}")
    for kind in KINDS
    for path, node in nodes(structural_schema(kind))
    if not path.startswith((".metadata", ".apiVersion", ".kind"))
]


@pytest.mark.parametrize(("path", "node"), EVERY)
def test_a_node_holds_only_words_that_kubernetes_knows(path: str, node: dict[str, Any]) -> None:
    assert not FORBIDDEN & set(node)
    assert not ("properties" in node and "additionalProperties" in node)
    if node.get("x-kubernetes-int-or-string"):
        assert "type" not in node
    else:
        assert "anyOf" not in node
        assert isinstance(node["type"], str)
    assert "null" not in str(node.get("type"))
    assert path or node["type"] == "object"


@pytest.mark.parametrize(("path", "node"), EVERY)
def test_a_field_has_a_text(path: str, node: dict[str, Any]) -> None:
    if not path.endswith(("[]", "{}")):
        assert node["description"].endswith((".", "?"))


@pytest.mark.parametrize(("path", "node"), EVERY)
def test_whatever_can_grow_has_a_bound(path: str, node: dict[str, Any]) -> None:
    """Without bounds the server cannot tell the cost of a rule, and one object may fill etcd."""
    if node.get("type") == "array":
        assert "maxItems" in node
        assert "x-kubernetes-list-type" in node
    if "additionalProperties" in node:
        assert "maxProperties" in node
    if node.get("type") == "string" and "enum" not in node and node.get("format") != "date-time":
        assert "maxLength" in node, path
    if node.get("type") == "integer" and path.startswith(".spec") and not path.endswith("tolerationSeconds"):
        assert {"minimum", "maximum"} <= set(node)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.short)
def test_a_status_has_no_defaults(kind: Kind) -> None:
    status = structural_schema(kind)["properties"]["status"]
    assert [path for path, node in nodes(status) if "default" in node] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.short)
def test_every_column_reads_a_field_that_exists(kind: Kind) -> None:
    version = custom_resource_definition(kind)["spec"]["versions"][0]
    known = {path for path, _ in nodes(version["schema"]["openAPIV3Schema"])} | {".metadata.creationTimestamp"}
    for column in version["additionalPrinterColumns"]:
        path = column["jsonPath"].replace('[?(@.type=="Ready")]', "[]")
        assert path in known


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.short)
def test_every_rule_blames_a_field_that_exists(kind: Kind) -> None:
    for path, node in nodes(structural_schema(kind)):
        for rule in node.get("x-kubernetes-validations", ()):
            blamed = rule.get("fieldPath")
            if blamed is not None:
                named = node
                for part in blamed[1:].split("."):
                    assert part in named["properties"], f"{path}: {blamed}"
                    named = named["properties"][part]


def test_a_union_is_refused_rather_than_dropped() -> None:
    class Bad(ApiModel):
        """Bad."""

        class Spec(ApiModel):
            """Bad."""

            either: bool | str = Field("a", description="d")

        spec: Spec
        status: Spec | None = None

    with pytest.raises(ValueError, match="no structural schema"):
        structural_schema(Kind(model=Bad, plural="bads", short="b", columns=()))
