"""The chart eco-worker beside the operator's builders: many in one call of Helm, object by object."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from eco_crds.ecoworker import EcoWorker
from eco_crds.wal import SyncSettings
from eco_operator.resources import budget, claim, deployment, service, shard_config, sync_config
from tests.support.charts import CHARTS, Manifest, run
from tests.support.specs import Document, eco_workers, shard_states

CHART: Final = CHARTS / "eco-worker"
NAMESPACE: Final = "parity"
DEFAULT_IMAGE: Final = "registry.example/eco-worker:default"
DATABASE_NAME: Final = "results"

# Where the chart may say more than the operator applies, by kind and path, and why. Anything else is a difference.
ALLOWED: Final = {
    ("PersistentVolumeClaim", "metadata.annotations.helm.sh/resource-policy"): (
        "Helm must not delete a journal with its release"
    ),
    ("PersistentVolumeClaim", "metadata.annotations.argocd.argoproj.io/sync-options"): (
        "neither may Argo CD, by pruning or with its Application"
    ),
}
# Objects of the operator that the chart does not render, and why.
NOT_RENDERED: Final = {
    "Secret": "its token is random; a chart that renders twice the same has no place for it",
    "Job": "made when a volume needs it, and gone afterwards",
    "ControllerRevision": "the operator's memory; a release has its own",
    "ServiceMonitor": "made where its kind is; a chart of workers is installed where it may be missing",
}


class _Loader(yaml.CSafeLoader):
    """Go writes a lone `=` unquoted, which YAML 1.1 gives a meaning that nobody uses."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


@dataclass(frozen=True, slots=True)
class Case:
    """One EcoWorker, with what the operator knows beside its spec."""

    worker: Document
    shards: list[Document] | None = None
    sync: bool = False

    @property
    def values(self) -> Document:
        """The same as values of the chart."""
        metadata = self.worker["metadata"]
        given_values = {
            "name": metadata["name"],
            "image": DEFAULT_IMAGE,
            "spec": self.worker["spec"],
            "owner": {"uid": metadata["uid"]},
        }
        if self.shards is not None:
            given_values["shards"] = self.shards
        if self.sync:
            given_values["sync"] = {"database": self._model.spec.databases[0].name, "intervalSeconds": 60}
        return given_values

    @property
    def _model(self) -> EcoWorker:
        return EcoWorker.read(self.worker)

    def expected(self) -> list[Manifest]:
        """What the operator would apply."""
        model = self._model
        built = [service.build(model), budget.build(model)]
        if self.sync:
            target = SyncSettings(target=model.spec.databases[0].name, interval_s=60)
            built.append(sync_config.build(model, settings=target))
        shards: list[Document]
        shards = [{"index": index} for index in range(model.spec.replicas)] if self.shards is None else self.shards
        for shard in shards:
            index: int = shard["index"]
            image = shard.get("image") or model.spec.image or DEFAULT_IMAGE
            uuid = shard.get("journalUuid", "")
            sized = {"size": shard.get("size"), "grown": shard.get("grown", "")}
            built.append(claim.build(model, index, image=image, journal_uuid=uuid, **sized))
            replicas, recovery = shard.get("replicas", 1), shard.get("recovery", "")
            built.append(deployment.build(model, index, image=image, replicas=replicas, recovery=recovery))
            if uuid:
                built.append(shard_config.build(model, index, journal_uuid=uuid))
        return built


def random_cases(count: int, number: int) -> list[Case]:
    """`count` cases from the seed `number`, always the same ones."""
    found: list[Case] = []
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

    @seed(number)
    @settings(max_examples=count, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=slow)
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        worker = data.draw(eco_workers())
        shards = data.draw(shard_states(worker))
        found.append(Case(worker, shards, sync=bool(worker["spec"].get("databases")) and data.draw(st.booleans())))

    collect()
    return found


def case_of(document: Document) -> Case:
    """A case from an object that was written down, such as an example; it gets what the API server would fill in."""
    metadata = {"namespace": NAMESPACE, "uid": "6f1d5d5e-0000-4000-8000-00000000000a", **document["metadata"]}
    return Case({**document, "metadata": {**metadata, "namespace": NAMESPACE}})


def umbrella(source: Path, values: Sequence[Document], directory: Path) -> Path:
    """A chart that holds another one many times, each with its own values, under the aliases w0, w1, ..."""
    chart = directory / f"many-{source.name}"
    (chart / "charts").mkdir(parents=True)
    shutil.copytree(source, chart / "charts" / source.name)
    about = yaml.safe_load((source / "Chart.yaml").read_text())
    aliases = [f"w{number}" for number in range(len(values))]
    dependencies = [{"name": about["name"], "alias": alias, "version": about["version"]} for alias in aliases]
    many = {"apiVersion": "v2", "name": "parity", "version": "0.0.0", "dependencies": dependencies}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(many))
    # JSON is YAML, but for the escapes of characters beyond 16 bits.
    (chart / "values.yaml").write_text(json.dumps(dict(zip(aliases, values, strict=True)), ensure_ascii=False))
    return chart


def render_many(chart: Path) -> str:
    """What Helm makes of an umbrella."""
    done = run("template", "parity", str(chart), "--namespace", NAMESPACE, "--kube-version", "1.36.0", timeout_s=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def objects(text: str) -> list[Manifest]:
    """The objects of rendered text."""
    return [document for document in yaml.load_all(text, _Loader) if document]  # a safe loader with one more type


def render(cases: Sequence[Case], directory: Path) -> tuple[str, list[list[Manifest]]]:
    """What Helm makes of all cases: the whole text, and the objects of each case."""
    text = render_many(umbrella(CHART, [case.values for case in cases], directory))
    found: list[list[Manifest]] = [[] for _ in cases]
    for part in re.split(r"^---\n# Source: parity/charts/w", text, flags=re.MULTILINE)[1:]:
        number, _, rest = part.partition("/")
        document = yaml.load(rest.partition("\n")[2], _Loader)  # noqa: S506  # a safe loader with one more type
        if document is not None:
            found[int(number)].append(document)
    return text, found


def differences(case: Case, rendered: Sequence[Manifest]) -> list[str]:
    """Each place where chart and operator disagree about a case."""
    expected = {(it["kind"], it["metadata"]["name"]): it for it in case.expected()}
    actual = {(it["kind"], it["metadata"]["name"]): it for it in rendered}
    found = [f"{kind} {name}: not rendered" for kind, name in expected.keys() - actual.keys()]
    found += [f"{kind} {name}: not of the operator" for kind, name in actual.keys() - expected.keys()]
    if len(actual) != len(rendered):
        found.append("an object is rendered twice")
    for key in expected.keys() & actual.keys():
        found += [f"{' '.join(key)}: {it}" for it in _differences(key[0], "", expected[key], actual[key])]
    return found


def _differences(kind: str, path: str, expected: Any, actual: Any) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        for name in expected.keys() | actual.keys():
            below = f"{path}.{name}".lstrip(".")
            if name not in actual:
                yield f"{below}: missing"
            elif name not in expected:
                if (kind, below) not in ALLOWED:
                    yield f"{below}: not of the operator"
            else:
                yield from _differences(kind, below, expected[name], actual[name])
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for number, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from _differences(kind, f"{path}[{number}]", one, other)
    elif type(expected) is not type(actual) or expected != actual:
        yield f"{path}: {expected!r} of the operator, {actual!r} of the chart"
