"""Random EcoWorkers that are valid: strategies made from the schema of the models, so a new field is in them at once.

Text is any printable text that Kubernetes could hold; line and paragraph separators are left out, which Go's and
Python's JSON write differently.
"""

from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from eco_crds.ecoworker import RESERVED_ENV
from eco_crds.quantity import QUANTITY_PATTERN, parse
from eco_crds.schema import KINDS, Node, structural_schema
from eco_crds.validation import validate

Document = dict[str, Any]

PRINTABLE: Final = st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"])
REPLICAS_MAX: Final = 4
"""Shards of one random EcoWorker: enough to tell them apart, few enough to render hundreds."""
LIST_LENGTH_MAX: Final = 4
TEXT_LENGTH_MAX: Final = 24

_SPEC: Final = structural_schema(KINDS[0])["properties"]["spec"]
NAMES: Final = st.from_regex(r"[a-z]([-a-z0-9]{0,12}[a-z0-9])?", fullmatch=True)
UUIDS: Final = st.uuids(version=4).map(str)
SIZES: Final = st.one_of(
    st.from_regex(r"[1-9][0-9]{0,2}(Gi|G|Ti)", fullmatch=True),
    st.sampled_from(["64Mi", "65536Ki", "0.5Gi", "67108864", 67_108_864, 10**12, "1000000000000m"]),
)


def _quantities() -> SearchStrategy[Any]:
    return st.one_of(
        st.integers(0, 10**15 - 1),
        st.from_regex(QUANTITY_PATTERN, fullmatch=True, alphabet=st.characters(codec="ascii")),
    )


def _texts(node: Node) -> SearchStrategy[str]:
    shortest, longest = node.get("minLength", 0), node.get("maxLength", TEXT_LENGTH_MAX)
    if "pattern" in node:
        found = st.from_regex(node["pattern"], fullmatch=True, alphabet=PRINTABLE)
        return found.filter(lambda text: shortest <= len(text) <= longest)
    alphabet = st.one_of(PRINTABLE, st.just("\n")) if longest > 1000 else PRINTABLE
    return st.text(alphabet, min_size=shortest, max_size=min(longest, TEXT_LENGTH_MAX))


def _lists(node: Node, path: str) -> SearchStrategy[list[Any]]:
    keys = node.get("x-kubernetes-list-map-keys")
    unique = (lambda item: item[keys[0]]) if keys else None
    most = min(node.get("maxItems", LIST_LENGTH_MAX), LIST_LENGTH_MAX)
    items = values(node["items"], f"{path}[]")
    if unique is None and node.get("x-kubernetes-list-type") == "set":
        return st.lists(items, max_size=most, unique=True)
    return st.lists(items, max_size=most, unique_by=unique)


def _objects(node: Node, path: str) -> SearchStrategy[Document]:
    required = {name: values(child, f"{path}.{name}") for name, child in node["properties"].items()}
    optional = {name: required.pop(name) for name in list(required) if name not in node.get("required", [])}
    whole: SearchStrategy[Document] = st.fixed_dictionaries(required, optional=optional)
    return whole.map(_REPAIRS[path]) if path in _REPAIRS else whole


def values(node: Node, path: str) -> SearchStrategy[Any]:
    """Values that a node of the schema admits."""
    if path in _SPECIAL:
        return _SPECIAL[path]
    if node.get("x-kubernetes-int-or-string"):
        return _quantities()
    match node["type"]:
        case "object" if "properties" in node:
            return _objects(node, path)
        case "object":
            keys = st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,5}/[a-z]{1,8})?", fullmatch=True)
            return st.dictionaries(keys, values(node["additionalProperties"], f"{path}{{}}"), max_size=3)
        case "array":
            return _lists(node, path)
        case "integer":
            return st.integers(node.get("minimum", 0), node.get("maximum", 2**31 - 1))
        case "boolean":
            return st.booleans()
        case "string" if "enum" in node:
            return st.sampled_from(node["enum"])
        case "string":
            return _texts(node)
    raise NotImplementedError(f"{path}: {node}")


def _one_source(variable: Document) -> Document:
    if "value" in variable:
        return {key: part for key, part in variable.items() if key != "valueFrom"}
    return variable if "valueFrom" in variable else {**variable, "value": ""}


def _both_keys(store: Document) -> Document:
    pair = ("accessKeySecretRef", "secretKeySecretRef")
    if all(key in store for key in pair):
        return store
    return {key: part for key, part in store.items() if key not in pair}


def _within(wal: Document) -> Document:
    size, growth = wal.get("size", "10Gi"), wal.get("growth")
    if growth is not None and parse(growth["max"]) < parse(size):
        return {**wal, "growth": {**growth, "max": size}}
    return wal


def _whole(spec: Document) -> Document:
    if spec.get("maxUnfinished", 10**6) < spec.get("concurrency", 4):
        spec["maxUnfinished"] = spec.get("concurrency", 4)
    if spec.get("wal", {}).get("ackPolicy") == "Completed":
        spec["queues"] = spec.get("queues", [])[: spec.get("concurrency", 4)]
    return spec


_SPECIAL: Final[dict[str, SearchStrategy[Any]]] = {
    "spec.replicas": st.integers(0, REPLICAS_MAX),
    "spec.wal.size": SIZES,
    "spec.wal.growth.max": SIZES,
    "spec.env[].name": st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,16}", fullmatch=True).filter(
        lambda name: name not in RESERVED_ENV
    ),
}
# What rules between fields demand; a filter would throw nearly everything away.
_REPAIRS: Final = {"spec": _whole, "spec.env[]": _one_source, "spec.wal": _within, "spec.objectStore": _both_keys}


def _is_valid(worker: Document) -> bool:
    return validate(worker) == []


# Made once: a strategy is costly to build and cheap to draw from.
SPECS: Final = values({**_SPEC, "required": [*_SPEC["required"], "objectStore"]}, "spec")


@st.composite
def eco_workers(draw: st.DrawFn) -> Document:
    """An EcoWorker that API server and operator accept."""
    metadata = {"name": draw(NAMES), "namespace": "parity", "uid": draw(UUIDS)}
    worker = {
        "apiVersion": "eco.growbin.app/v1alpha1",
        "kind": "EcoWorker",
        "metadata": metadata,
        "spec": draw(SPECS),
    }
    assert _is_valid(worker), validate(worker)
    return worker


@st.composite
def shard_states(draw: st.DrawFn, worker: Document) -> list[Document] | None:
    """What the operator knows of single shards, in the form of the chart's value `shards`; None: nothing yet."""
    if draw(st.booleans()):
        return None
    smallest = parse(worker["spec"].get("wal", {}).get("size", "10Gi"))
    indices = draw(st.lists(st.integers(0, 99), max_size=3, unique=True))
    optional: dict[str, SearchStrategy[Any]] = {
        "replicas": st.integers(0, 1),
        "image": st.from_regex(r"[a-z]{1,8}/[a-z]{1,8}@sha256:[0-9a-f]{64}", fullmatch=True),
        "size": SIZES.map(str).filter(lambda size: parse(size) > smallest),
        "grown": st.sampled_from(["", "15Gi from 10200547328"]),
        "recovery": st.sampled_from(["", "Corrupt", "Lost 2026-01-01T00:00:00Z"]),
        "journalUuid": UUIDS,
    }
    if smallest >= parse("500Ti"):
        del optional["size"]  # Hardly any size is larger, and a filter that finds nothing gives up.
    return [{"index": index, **draw(st.fixed_dictionaries({}, optional=optional))} for index in sorted(indices)]
