"""Turns a model into a structural schema, and a kind into its CustomResourceDefinition.

Kubernetes takes a subset of JSON schema: no references, no unions, no `additionalProperties: false` beside properties.
What pydantic writes is rewritten here; the rules of each model become CEL validations on the node of that model.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from eco_crds import contract
from eco_crds.base import ApiModel, Rule, TransitionRule
from eco_crds.ecoworker import EcoWorker
from eco_crds.walsync import WalSync

Node = dict[str, Any]

# Words of JSON schema that say nothing to Kubernetes or that it refuses.
_DROPPED: Final = frozenset({"title", "$defs", "additionalProperties", "const", "examples", "anyOf", "allOf", "oneOf"})
# Words of a node in the order a reader wants them; the rest follows as it comes.
_ORDER: Final = ("description", "type", "format", "default", "enum", "required", "properties")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False
    """Whether it is shown with `-o wide` only."""

    def render(self) -> Node:
        """The column as a CustomResourceDefinition has it."""
        rendered = {"name": self.name, "type": self.type, "jsonPath": self.path, "description": self.description}
        return {**rendered, "priority": 1} if self.wide else rendered


@dataclass(frozen=True, slots=True)
class Kind:
    """A custom resource: its model and how it is shown."""

    model: type[ApiModel]
    plural: str
    short: str
    columns: tuple[Column, ...]
    scale: bool = False

    @property
    def name(self) -> str:
        """The kind, as in `EcoWorker`."""
        return self.model.__name__

    @property
    def crd_name(self) -> str:
        """Name of the CustomResourceDefinition."""
        return f"{self.plural}.{contract.GROUP}"


KINDS: Final = (
    Kind(
        model=EcoWorker,
        plural="ecoworkers",
        short="ew",
        scale=True,
        columns=(
            Column("Ready", ".status.summary.ready", "Ready shards of all"),
            Column("WAL", ".status.summary.wal", "State of the worst journal"),
            Column("Pending", ".status.summary.pending", "Tasks that are due or running"),
            Column("Oldest", ".status.oldestPendingTime", "Age of the oldest of them", type="date"),
            Column("Unsynced", ".status.summary.unsynced", "Results that still owe their way to the database"),
            Column("Disk%", ".status.summary.disk", "Use of the fullest volume"),
            Column("Age", ".metadata.creationTimestamp", "Age of the EcoWorker", type="date"),
            Column("Image", ".status.image", "Image that the workers are meant to run", wide=True),
            Column("Last-Recovery", ".status.lastRecoveryTime", "Since a worker took up work again", "date", wide=True),
            Column("Message", ".status.summary.message", "What is wrong", wide=True),
        ),
    ),
    Kind(
        model=WalSync,
        plural="walsyncs",
        short="ws",
        columns=(
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether results reach the database"),
            Column("State", ".status.summary.state", "Synced, or why not"),
            Column("Unsynced", ".status.summary.unsynced", "Results that wait"),
            Column("Lag", ".status.oldestUnsyncedTime", "Age of the oldest of them", type="date"),
            Column("Last-Sync", ".status.lastSyncTime", "Since every shard was last done", type="date"),
            Column("Parked", ".status.summary.parked", "Results that the database refused too often"),
            Column("Age", ".metadata.creationTimestamp", "Age of the WalSync", type="date"),
            Column("Message", ".status.summary.message", "What is wrong", wide=True),
        ),
    ),
)


def _one_paragraph(text: str) -> str:
    """A docstring without its line breaks; the paragraphs of a longer one stay apart."""
    return "\n\n".join(re.sub(r"\s+", " ", part).strip() for part in re.split(r"\n\s*\n", text.strip()))


def _without_null(node: Node) -> Node:
    """`X | None` is an optional field here: what remains is X, with the words that stood beside the union."""
    options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if "anyOf" not in node or node.get("x-kubernetes-int-or-string"):
        return node
    if len(options) != 1:
        raise ValueError(f"a union has no structural schema: {node!r}")
    beside = {key: value for key, value in node.items() if key != "anyOf"}
    if beside.get("default", ...) is None:
        del beside["default"]
    return {**options[0], **beside}


def _resolve(node: Node, definitions: Node) -> Node:
    """Put a referenced schema in place of the reference; words beside the reference win, as pydantic means them."""
    while "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def _structural(node: Node, models: dict[str, type[BaseModel]], definitions: Node) -> Node:
    """Rewrite one node and all below it."""
    node = _without_null(node)
    model = models.get(node.get("$ref", "").removeprefix("#/$defs/"))
    node = _without_null(_resolve(node, definitions))
    result = {key: value for key, value in node.items() if key not in _DROPPED}
    if node.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "description" in result:
        result["description"] = _one_paragraph(result["description"])
    if "properties" in node:
        result["properties"] = {
            name: _structural(child, models, definitions) for name, child in node["properties"].items()
        }
    elif isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(node["additionalProperties"], models, definitions)
    # Kubernetes has no bound on keys in a schema; the bound on their number is what the cost of rules needs.
    result.pop("propertyNames", None)
    if "items" in node:
        result["items"] = _structural(node["items"], models, definitions)
    if isinstance(result.get("default"), dict):
        # In full, since the server tries the rules on it as it stands; null is no value to Kubernetes.
        result["default"] = {key: value for key, value in result["default"].items() if value is not None}
    if result.get("type") == "integer":
        result.setdefault("format", "int32")
    if model is not None and issubclass(model, ApiModel):
        result.update(_validations(model))
    return {**{key: result[key] for key in _ORDER if key in result}, **result}


def _validations(model: type[ApiModel]) -> Node:
    every: tuple[Rule | TransitionRule, ...] = (*model.rules, *model.transitions)
    rules = [
        {"rule": rule.cel, "message": rule.message, "fieldPath": rule.field, "reason": rule.reason} for rule in every
    ]
    # The server refuses a path that the schema does not spell out, and of metadata it spells out nothing.
    for rule in rules:
        if rule["fieldPath"].startswith(".metadata"):
            del rule["fieldPath"]
    return {"x-kubernetes-validations": rules} if rules else {}


def _drop_defaults(node: Node) -> None:
    node.pop("default", None)
    for child in node.get("properties", {}).values():
        _drop_defaults(child)
    if "items" in node:
        _drop_defaults(node["items"])


def _models_below(model: type[BaseModel], found: dict[str, type[BaseModel]]) -> None:
    for field in model.model_fields.values():
        for inner in _model_types(field.annotation):
            if inner.__name__ not in found:
                found[inner.__name__] = inner
                _models_below(inner, found)


def _model_types(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in getattr(annotation, "__args__", ()) for inner in _model_types(argument)]


def structural_schema(kind: Kind) -> Node:
    """The schema of a kind, as the API server validates, defaults and explains it."""
    models: dict[str, type[BaseModel]] = {}
    _models_below(kind.model, models)
    document = kind.model.model_json_schema(by_alias=True, mode="validation")
    definitions = document.get("$defs", {})
    properties = document["properties"]
    schema: Node = {
        "type": "object",
        "description": _one_paragraph(document["description"]),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": _structural(properties["spec"], models, definitions),
            "status": _structural(properties["status"], models, definitions),
        },
    }
    # A default in the status would pretend that somebody looked.
    _drop_defaults(schema["properties"]["status"])
    return {**schema, **_validations(kind.model)}


def custom_resource_definition(kind: Kind) -> Node:
    """The CustomResourceDefinition of a kind."""
    subresources: Node = {"status": {}}
    if kind.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    names = {
        "kind": kind.name,
        "listKind": f"{kind.name}List",
        "plural": kind.plural,
        "singular": kind.name.lower(),
        "shortNames": [kind.short],
        "categories": ["eco"],
    }
    version = {
        "name": contract.VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": [column.render() for column in kind.columns],
        "schema": {"openAPIV3Schema": structural_schema(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {"group": contract.GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }
