"""The schema of the values of `charts/eco-worker`: an EcoWorker's spec, and what the chart asks beside it.

Helm takes JSON schema, not CEL. Of the models' rules those that JSON schema can say are said here; the chart's own
templates check the rest. A rule that is new is in neither list, and building the schema fails until somebody decides.
"""

from typing import Any, Final

from eco_crds.base import DNS_SUBDOMAIN_PATTERN, ApiModel
from eco_crds.ecoworker import (
    NAME_LENGTH_MAX,
    REPLICAS_MAX,
    RESERVED_ENV,
    AckPolicy,
    EcoWorker,
    EcoWorkerSpec,
    EnvVar,
    ObjectStore,
)
from eco_crds.ecoworker import Wal as WalSpec
from eco_crds.quantity import QUANTITY_LENGTH_MAX, QUANTITY_PATTERN
from eco_crds.schema import KINDS, Node, structural_schema

DIALECT: Final = "http://json-schema.org/draft-07/schema#"
UUID_PATTERN: Final = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_NAME: Final[Node] = {"type": "string", "maxLength": NAME_LENGTH_MAX, "pattern": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$"}
_OBJECT_NAME: Final[Node] = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": DNS_SUBDOMAIN_PATTERN}
_IMAGE: Final[Node] = {"type": "string", "maxLength": 1024, "pattern": r"^[^\s]*$"}
# An integer is matched by no pattern: the pattern's bounds as numbers.
_QUANTITY: Final[Node] = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999},
        {"type": "string", "pattern": QUANTITY_PATTERN, "maxLength": QUANTITY_LENGTH_MAX},
    ]
}

# By model and field of the rule: the same demand in JSON schema, on the node of the model.
_IN_SCHEMA: Final[dict[tuple[type[ApiModel], str], Node]] = {
    (EcoWorkerSpec, ".objectStore"): {
        "if": {"properties": {"role": {"const": "storage"}}},
        "then": {"required": ["objectStore"]},
    },
    (EcoWorkerSpec, ".wal.ackPolicy"): {
        "if": {
            "required": ["wal"],
            "properties": {
                "wal": {"required": ["ackPolicy"], "properties": {"ackPolicy": {"const": AckPolicy.REPLICATED.value}}}
            },
        },
        "then": {"required": ["objectStore"]},
    },
    (EcoWorkerSpec, ".env"): {
        "properties": {"env": {"items": {"properties": {"name": {"not": {"enum": list(RESERVED_ENV)}}}}}}
    },
    (EnvVar, ".name"): {"oneOf": [{"required": ["value"]}, {"required": ["valueFrom"]}]},
    (ObjectStore, ".secretKeySecretRef"): {
        "dependencies": {
            "accessKeySecretRef": ["secretKeySecretRef"],
            "secretKeySecretRef": ["accessKeySecretRef"],
        }
    },
}
_IN_TEMPLATE: Final = frozenset(
    {
        (EcoWorker, ".metadata.name"),
        (EcoWorkerSpec, ".maxUnfinished"),
        (EcoWorkerSpec, ".concurrency"),
        (WalSpec, ".size"),
        (WalSpec, ".growth.max"),
    },
)


def values_schema() -> Node:
    """The schema, as the file in the chart has it."""
    parts = definitions()
    properties: Node = {
        "global": {"type": "object", "description": "Set by a parent chart; not used."},
        "name": {**_NAME, "description": "Name of the EcoWorker; the name of the release when empty."},
        "image": {**_IMAGE, "description": "Image of workers whose spec names none."},
        "spec": parts["ecoWorkerSpec"],
        "adminTokenSecret": {**_OBJECT_NAME, "minLength": 0, "pattern": f"^$|{DNS_SUBDOMAIN_PATTERN}"},
        "sync": parts["walSyncSettings"],
        "shared": {"type": "boolean", "description": "Whether to render what all shards share."},
        "shards": _shards(),
        "owner": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"uid": {"type": "string", "maxLength": 63, "pattern": "^[-A-Za-z0-9]*$"}},
            "description": "The EcoWorker in the cluster that owns the objects.",
        },
    }
    document = {"$schema": DIALECT, "title": "Values of eco-worker", "type": "object", "required": ["spec"]}
    return {**document, "additionalProperties": False, "properties": properties}


def definitions() -> Node:
    """What a chart may refer to as `#/definitions/...`: the spec of an EcoWorker, and that of a WalSync for one."""
    worker, sync = (structural_schema(kind)["properties"]["spec"] for kind in KINDS)
    settings = _without(_plain(sync), "ecoWorkers")
    spec = _plain(worker)
    _add_rules(spec, EcoWorker)
    about = "How results go to the database; not at all when left out."
    return {"ecoWorkerSpec": spec, "walSyncSettings": {**settings, "type": ["object", "null"], "description": about}}


def with_definitions(schema: Node) -> Node:
    """A chart's own schema with those definitions that it has as the models give them now."""
    fresh = {name: node for name, node in definitions().items() if name in schema.get("definitions", {})}
    return {**schema, "definitions": {**schema["definitions"], **fresh}} if fresh else schema


def _shards() -> Node:
    entry: Node = {
        "type": "object",
        "additionalProperties": False,
        "required": ["index"],
        "properties": {
            "index": {"type": "integer", "minimum": 0, "maximum": REPLICAS_MAX - 1},
            "replicas": {"type": "integer", "minimum": 0, "maximum": 1},
            "image": _IMAGE,
            "size": _QUANTITY,
            "grown": {"type": "string", "maxLength": 256},
            "recovery": {"type": "string", "maxLength": 256},
            "journalUuid": {"type": "string", "pattern": f"^$|{UUID_PATTERN}"},
        },
    }
    description = "Shards to render; all of them when left out."
    return {"type": ["array", "null"], "description": description, "maxItems": REPLICAS_MAX, "items": entry}


def _plain(node: Node) -> Node:
    """A structural schema in plain JSON schema: unknown fields are refused, and no words of Kubernetes are left."""
    if node.get("x-kubernetes-int-or-string"):
        return {**{key: node[key] for key in ("description", "default") if key in node}, **_QUANTITY}
    kept = {key: value for key, value in node.items() if not key.startswith("x-kubernetes-") and key != "format"}
    if node.get("x-kubernetes-list-type") == "set":
        kept["uniqueItems"] = True
    if "properties" in node:
        kept["additionalProperties"] = False
        kept["properties"] = {name: _plain(child) for name, child in node["properties"].items()}
    elif "additionalProperties" in node:
        kept["additionalProperties"] = _plain(node["additionalProperties"])
    if "items" in node:
        kept["items"] = _plain(node["items"])
    return kept


def _without(node: Node, field: str) -> Node:
    properties = {name: child for name, child in node["properties"].items() if name != field}
    return {**node, "properties": properties, "required": [name for name in node["required"] if name != field]}


def _add_rules(spec: Node, root: type[ApiModel]) -> None:
    places: dict[type[ApiModel], Node] = {
        EcoWorkerSpec: spec,
        EnvVar: spec["properties"]["env"]["items"],
        ObjectStore: spec["properties"]["objectStore"],
        WalSpec: spec["properties"]["wal"],
        root: {},
    }
    found = {(model, rule.field) for model in _models(root) for rule in model.rules}
    decided = _IN_SCHEMA.keys() | _IN_TEMPLATE
    if found != decided:
        raise ValueError(f"rules without a check in the chart, or checks without a rule: {found ^ decided}")
    for (model, _), words in _IN_SCHEMA.items():
        places[model].setdefault("allOf", []).append(words)


def _models(model: type[ApiModel]) -> set[type[ApiModel]]:
    found: set[type[ApiModel]] = {model}
    waiting: list[Any] = [field.annotation for name, field in model.model_fields.items() if name != "status"]
    while waiting:
        annotation = waiting.pop()
        if isinstance(annotation, type) and issubclass(annotation, ApiModel):
            if annotation not in found:
                found.add(annotation)
                waiting.extend(field.annotation for field in annotation.model_fields.values())
        else:
            waiting.extend(getattr(annotation, "__args__", ()))
    return found
