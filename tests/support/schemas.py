"""Rendered objects held against the real schemas of Kubernetes and of the controllers whose objects the charts use.

The schemas come from the controllers' own Go modules, fetched once into Go's module cache; kubeconform, built from its
module into the lab's cache, checks them strictly: a field that no schema knows is a failure.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from eco_crds.schema import KINDS, custom_resource_definition
from eco_lab import paths
from eco_lab.programs.gobuild import GoToolchain
from eco_lab.versions import KUBERNETES
from tests.support.charts import Manifest

DATA: Final = Path(__file__).parents[1] / "data" / "schemas"
TIMEOUT_S: Final = 300
KUBERNETES_VERSIONS: Final = ("1.35.4", KUBERNETES)
KUBECONFORM: Final = "0.8.0"
# Modules with definitions of other projects, and where in them those are.
_DEFINITIONS: Final = (
    ("github.com/argoproj/argo-cd/v3", "v3.5.7", "manifests/crds/*-crd.yaml"),
    ("github.com/prometheus-operator/prometheus-operator", "v0.85.0", "example/prometheus-operator-crd/*.yaml"),
)
_DROPPED: Final = ("description", "default", "example", "format", "nullable")
_INT_OR_STRING: Final = {"oneOf": [{"type": "string"}, {"type": "integer"}]}


class _Loader(yaml.CSafeLoader):
    """A lone `=`, which YAML 1.1 gives a meaning, is text in these files."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What kubeconform said of one version's schemas."""

    version: str
    valid: int
    failures: tuple[str, ...]


def kubeconform() -> str:
    """Path of kubeconform: `ECO_TEST_KUBECONFORM`, the one on the PATH, or one built for this.

    Raises eco_lab's MissingError when it has to be built and there is no way to Go.
    """
    found = os.environ.get("ECO_TEST_KUBECONFORM") or shutil.which("kubeconform")
    if found:
        return str(found)
    program = paths.find().bin / f"kubeconform-{KUBECONFORM}" / "kubeconform"
    if not program.exists():
        source = paths.find().build / f"kubeconform-{KUBECONFORM}"
        source.mkdir(parents=True, exist_ok=True)
        (source / "go.mod").write_text("module eco-tests/kubeconform\n")
        go = _go()
        go("get", f"github.com/yannh/kubeconform@v{KUBECONFORM}", cwd=source)
        go("build", "-trimpath", "-o", str(program), "github.com/yannh/kubeconform/cmd/kubeconform", cwd=source)
    return str(program)


def versions() -> dict[str, Path]:
    """The schemas of each version of Kubernetes that is checked."""
    below = "api/openapi-spec/swagger.json"
    return {version: _module("k8s.io/kubernetes", f"v{version}") / below for version in KUBERNETES_VERSIONS}


def _module(name: str, version: str) -> Path:
    return Path(_go().module(name, version, paths.find().build)["Dir"])


def _go() -> GoToolchain:
    scratch = paths.find().build
    scratch.mkdir(parents=True, exist_ok=True)
    return GoToolchain(scratch)


def write(directory: Path, swagger: Path) -> Path:
    """One JSON schema a kind, as kubeconform wants them."""
    directory.mkdir(parents=True)
    definitions = json.loads(swagger.read_text())["definitions"]
    strict = {name: _strict(node) for name, node in definitions.items()}
    strict["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    (directory / "definitions.json").write_text(json.dumps({"definitions": strict}))
    for name, node in definitions.items():
        for kind in node.get("x-kubernetes-group-version-kind", ()):
            _write(
                directory,
                kind["kind"],
                kind["group"],
                kind["version"],
                {"$ref": f"definitions.json#/definitions/{name}"},
            )
    for definition in _custom_definitions():
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"] = {**schema.get("properties", {}), "metadata": {"type": "object"}}
            schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
            _write(directory, spec["names"]["kind"], spec["group"], version["name"], schema)
    return directory


def _custom_definitions() -> Iterable[Manifest]:
    yield from (custom_resource_definition(kind) for kind in KINDS)
    for name, version, pattern in _DEFINITIONS:
        for path in sorted(_module(name, version).glob(pattern)):
            yield from (document for document in yaml.load_all(path.read_text(), _Loader) if document)
    for path in sorted(DATA.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def _write(directory: Path, kind: str, group: str, version: str, schema: Any) -> None:
    parts = [kind, group.partition(".")[0], version]
    name = "-".join(part for part in parts if part).lower()
    (directory / f"{name}.json").write_text(json.dumps(schema))


def _strict(node: Any) -> Any:
    """A schema of Kubernetes as JSON schema that refuses fields it does not know."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string") or node.get("format") == "int-or-string":
        return _INT_OR_STRING
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            kept[key] = {name: _strict(child) for name, child in value.items()}
        elif key in {"enum", "required"}:
            kept[key] = value
        elif not key.startswith("x-") and key not in _DROPPED:
            kept[key] = _strict(value)
    if "properties" in kept and not node.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    if node.get("nullable") and "type" in kept:
        kept["type"] = [kept["type"], "null"]
    return kept


def check(manifests: Path, schemas: Path, version: str) -> Verdict:
    """Hold every document of a file or directory against the schemas of one version."""
    location = str(schemas / "{{.ResourceKind}}{{.KindSuffix}}.json")
    command = [kubeconform(), "-strict", "-output", "json", "-summary", "-schema-location", location, str(manifests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise AssertionError(f"kubeconform: {done.stderr[-2000:] or done.stdout[-2000:]}") from None
    failures = tuple(f"{it['kind']} {it['name']}: {it['msg']}" for it in report["resources"])
    return Verdict(version, report["summary"]["valid"], failures)
