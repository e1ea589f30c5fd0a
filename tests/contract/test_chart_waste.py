"""Eco2's chart: its objects agree with the API, with the workers' own queues, and with one another."""

import itertools
import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_crds.validation import validate
from eco_crds.walsync import WalSync
from eco_workers.broker.topology import TOPOLOGY, definitions
from tests.support.charts import CHARTS, Manifest, by_kind, render, run, template

CHART: Final = CHARTS / "waste"
APPS: Final = CHART / "argocd"
ENVIRONMENTS: Final = ("dev", "staging", "prod")
# Kinds without a namespace that our charts render.
CLUSTER_KINDS: Final = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "PriorityClass"}


def of(environment: str, *arguments: str) -> list[Manifest]:
    return render("waste", "--values", str(CHART / f"values-{environment}.yaml"), *arguments)


@pytest.fixture(scope="module")
def prod() -> list[Manifest]:
    return of("prod")


def named(manifests: list[Manifest], kind: str, name: str, namespace: str | None = None) -> Manifest:
    [found] = [
        it
        for it in by_kind(manifests, kind)
        if it["metadata"]["name"] == name and namespace in {None, it["metadata"].get("namespace")}
    ]
    return found


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_workers_and_syncs_of_every_environment_are_accepted_by_the_api(environment: str) -> None:
    manifests = of(environment)
    workers = [EcoWorker.read(it) for it in by_kind(manifests, "EcoWorker")]
    syncs = [WalSync.read(it) for it in by_kind(manifests, "WalSync")]
    assert [it for it in by_kind(manifests, "EcoWorker") + by_kind(manifests, "WalSync") if validate(it)] == []
    for sync in syncs:
        [worker] = [it for it in workers if sync.spec.eco_workers.matches(it.metadata)]
        assert worker.spec.database(sync.spec.database) is not None
    assert {it.metadata.name for it in workers} == {"storage-worker"}


def test_the_chart_is_clean() -> None:
    for values in sorted(CHART.glob("values-*.yaml")):
        done = run("lint", "--strict", str(CHART), "--values", str(values))
        assert done.returncode == 0, done.stdout
    assert run("lint", "--strict", str(APPS)).returncode == 0


def test_the_definitions_file_is_what_the_workers_declare() -> None:
    """`python -m eco_workers.broker --vhost eco` writes it."""
    written = (CHART / "files" / "rabbitmq-definitions.json").read_text()
    assert written == json.dumps(definitions("eco"), indent=2) + "\n"


def test_the_operators_objects_are_the_workers_topology(prod: list[Manifest]) -> None:
    queues = {it["spec"]["name"]: it["spec"] for it in by_kind(prod, "Queue")}
    assert set(queues) == TOPOLOGY.names()
    for queue in TOPOLOGY.queues:
        made = {"x-queue-type": queues[queue.name]["type"], **queues[queue.name].get("arguments", {})}
        assert made == queue.arguments
        assert queues[queue.name]["durable"] is True
    assert {it["spec"]["name"]: it["spec"]["type"] for it in by_kind(prod, "Exchange")} == TOPOLOGY.exchanges
    bound = [
        tuple(it["spec"][key] for key in ("source", "destination", "routingKey")) for it in by_kind(prod, "Binding")
    ]
    assert sorted(bound) == sorted(TOPOLOGY.bindings())
    policies = {it["spec"]["name"]: it["spec"]["definition"] for it in by_kind(prod, "Policy")}
    assert policies == {f"eco-{queue.name}": queue.policy for queue in TOPOLOGY.queues}
    assert {
        it["spec"]["vhost"] for kind in ("Queue", "Exchange", "Binding", "Policy") for it in by_kind(prod, kind)
    } == {"eco"}


def test_no_queue_has_a_priority_argument_which_brokers_refuse() -> None:
    assert "x-max-priority" not in template("waste").stdout


def test_queue_weights_are_weights_of_pods(prod: list[Manifest]) -> None:
    values = {it["metadata"]["name"]: it["value"] for it in by_kind(prod, "PriorityClass")}
    weighted = [queue for queue in TOPOLOGY.queues if queue.weight]
    assert values == {f"eco-{queue.name.replace('.', '-')}": 1000 * queue.weight for queue in weighted}
    for worker in by_kind(prod, "EcoWorker"):
        assert worker["spec"]["priorityClassName"] in values


def ports(rule: dict[str, Any]) -> list[int]:
    return [port["port"] for port in rule["ports"]]


def test_only_clients_of_two_tiers_reach_the_broker_and_the_broker_reaches_itself(prod: list[Manifest]) -> None:
    policy = named(prod, "NetworkPolicy", "storage-isolation", "messaging")["spec"]
    assert policy["podSelector"] == {"matchLabels": {"app": "rabbitmq"}}
    rules = {port: rule["from"] for rule in policy["ingress"] for port in ports(rule)}
    assert set(rules) == {5672, 4369, 25672, 35672, 15672, 15692}
    [clients] = rules[5672]
    [tiers] = clients["namespaceSelector"]["matchExpressions"]
    assert tiers == {"key": "tier", "operator": "In", "values": ["sync-api", "async-workers"]}
    for port in (4369, 25672, 35672):
        assert rules[port] == [{"podSelector": policy["podSelector"]}]
    labels = {port: rules[port][0]["namespaceSelector"]["matchLabels"] for port in (15672, 15692)}
    assert labels[15672] == {"kubernetes.io/metadata.name": "rabbitmq-system"}
    assert labels[15692] == {"kubernetes.io/metadata.name": "monitoring"}


def test_the_network_rule_selects_the_pods_of_the_broker(prod: list[Manifest]) -> None:
    [cluster] = by_kind(prod, "RabbitmqCluster")
    labels = cluster["spec"]["override"]["statefulSet"]["spec"]["template"]["metadata"]["labels"]
    policy = named(prod, "NetworkPolicy", "storage-isolation", "messaging")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert (cluster["spec"]["replicas"], cluster["spec"]["persistence"]["storage"]) == (3, "20Gi")


@pytest.mark.parametrize("namespace", ["messaging", "data", "waste"])
def test_what_no_rule_allows_is_denied_but_names_are_found(prod: list[Manifest], namespace: str) -> None:
    deny = named(prod, "NetworkPolicy", "default-deny", namespace)["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    dns = named(prod, "NetworkPolicy", "allow-dns", namespace)["spec"]
    assert {(port["port"], port["protocol"]) for port in dns["egress"][0]["ports"]} == {(53, "UDP"), (53, "TCP")}


def test_workers_reach_what_their_specs_name_and_the_operator_reaches_them(prod: list[Manifest]) -> None:
    policy = named(prod, "NetworkPolicy", "workers", "waste")["spec"]
    [[from_operator, _]] = [rule["from"] for rule in policy["ingress"] if ports(rule) == [contract.ADMIN_PORT]]
    assert from_operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "eco-system"}
    [selected] = policy["podSelector"]["matchExpressions"]
    assert (selected["key"], selected["operator"]) == (contract.LABEL_SHORT_COMPONENT, "In")
    assert selected["values"] == [contract.COMPONENT_WORKER, contract.COMPONENT_JOB]
    allowed = {port for rule in policy["egress"] for port in ports(rule)}
    for worker in by_kind(prod, "EcoWorker"):
        assert {database.get("port", 5432) for database in worker["spec"]["databases"]} <= allowed
    assert {5672, 443} <= allowed


def test_namespaces_carry_their_tier_and_stay(prod: list[Manifest]) -> None:
    tiers = {it["metadata"]["name"]: it["metadata"]["labels"]["tier"] for it in by_kind(prod, "Namespace")}
    assert tiers["waste"] == "async-workers"
    assert tiers["messaging"] == tiers["data"] == "storage"
    assert {"auth", "users", "locations", "recycle", "chat"} <= {
        name for name, tier in tiers.items() if tier == "sync-api"
    }
    for it in by_kind(prod, "Namespace"):
        assert it["metadata"]["annotations"]["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"
    used = {it["metadata"]["namespace"] for it in prod if it["kind"] not in CLUSTER_KINDS}
    assert used <= set(tiers)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_secret_and_no_default_account_is_in_the_objects(environment: str) -> None:
    text = template("waste", "--values", str(CHART / f"values-{environment}.yaml")).stdout
    assert "kind: Secret\n" not in text
    assert "guest" not in text


def references(node: Any) -> set[tuple[str, str]]:
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    own = {(node["name"], node["key"])} if set(node) == {"name", "key"} else set()
    return own.union(*map(references, node.values()))


def test_with_a_store_every_key_that_a_worker_names_is_made(prod: list[Manifest]) -> None:
    made = {
        (it["spec"]["target"]["name"], entry["secretKey"])
        for it in by_kind(prod, "ExternalSecret")
        if it["metadata"]["namespace"] == "waste"
        for entry in it["spec"]["data"]
    }
    assert made == set().union(*(references(it["spec"]) for it in by_kind(prod, "EcoWorker")))
    user = named(prod, "User", "storage-worker")["spec"]["importCredentialsSecret"]["name"]
    imported = named(prod, "ExternalSecret", user, "messaging")["spec"]["data"]
    assert [entry["secretKey"] for entry in imported] == ["username", "password"]


def test_objects_come_in_their_order(prod: list[Manifest]) -> None:
    def wave(kind: str) -> set[int]:
        return {int(it["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]) for it in by_kind(prod, kind)}

    order = [
        "Namespace",
        "NetworkPolicy",
        "ExternalSecret",
        "RabbitmqCluster",
        "Vhost",
        "Queue",
        "Binding",
        "EcoWorker",
    ]
    waves = [wave(kind) for kind in order]
    assert all(max(before) < min(after) for before, after in itertools.pairwise(waves))
    assert all("argocd.argoproj.io/sync-wave" in it["metadata"]["annotations"] for it in prod)


def test_a_metric_of_a_worker_comes_under_its_kinds_name(prod: list[Manifest]) -> None:
    """The Service that the operator makes is selected by the worker's name, and its label gives the job its name."""
    monitor = named(prod, "ServiceMonitor", "storage-worker")["spec"]
    assert monitor["jobLabel"] == contract.LABEL_NAME
    assert contract.component_name("storage") == "storage-worker"
    assert monitor["selector"]["matchLabels"] == {contract.LABEL_WORKER: "storage-worker"}
    assert monitor["endpoints"][0]["port"] == contract.ADMIN_PORT_NAME


def test_a_further_worker_is_one_block() -> None:
    first = yaml.safe_load((CHART / "values.yaml").read_text())["workers"]["storage-worker"]
    manifests = of("prod", "--set-json", f"workers.thumbnails={json.dumps({**first, 'autoscaled': True})}")
    second = named(manifests, "EcoWorker", "thumbnails")
    assert validate(second) == []
    assert "replicas" not in second["spec"]
    for kind in ("WalSync", "ServiceMonitor", "User", "Permission"):
        named(manifests, kind, "thumbnails")


def test_the_image_is_pinned_once_for_all_workers() -> None:
    digest = "sha256:" + "b" * 64
    manifests = of("prod", "--set", f"image.repository=ghcr.io/eco/worker,image.digest={digest}")
    assert {it["spec"]["image"] for it in by_kind(manifests, "EcoWorker")} == {f"ghcr.io/eco/worker@{digest}"}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("nonsense=1", "nonsense"),
        ("broker.replicas=2", "/broker/replicas"),
        ("workers.storage-worker.spec.wal.sise=1", "/workers/storage-worker/spec/wal"),
        (
            "workers.storage-worker.spec.env[0].name=RABBITMQ_URL,workers.storage-worker.spec.env[0].value=x",
            "/env/0/name",
        ),
        ("workers.storage-worker.sync.batchSize=0", "/workers/storage-worker/sync/batchSize"),
        ("workers.Upper.enabled=true", "Upper"),
        ("image.digest=latest", "/image/digest"),
        ("image.tag=v1", "image.repository"),
        ("secrets.mode=external", "secrets.external.storeName"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(setting: str, said: str) -> None:
    done = template("waste", "--set", setting)
    assert done.returncode != 0
    assert said in done.stderr


def test_rendering_twice_gives_the_same() -> None:
    assert template("waste").stdout == template("waste").stdout


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_argo_cds_project_allows_just_what_the_applications_hold(environment: str) -> None:
    apps = render("waste/argocd", "--set", f"environment={environment}", namespace="argocd")
    [project] = by_kind(apps, "AppProject")
    held = [*of(environment), *render("eco-operator")]
    allowed = {entry["namespace"] for entry in project["spec"]["destinations"]}
    assert {it["metadata"]["namespace"] for it in held if "namespace" in it["metadata"]} <= allowed
    assert {it["kind"] for it in held if "namespace" not in it["metadata"]} == {
        entry["kind"] for entry in project["spec"]["clusterResourceWhitelist"]
    }
    for application in by_kind(apps, "Application"):
        source = application["spec"]["source"]
        chart = CHARTS.parent / source["path"]
        assert (chart / "Chart.yaml").is_file()
        assert source["helm"]["valueFiles"] == [f"values-{environment}.yaml"]
        assert application["spec"]["syncPolicy"]["automated"] == {"prune": True, "selfHeal": True}
        assert "finalizers" not in application["metadata"]
    assert (CHART / f"values-{environment}.yaml").is_file()
    waves = {it["metadata"]["name"]: int(it["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]) for it in apps}
    assert waves["eco"] < waves["eco-operator"] < waves["waste"]


def test_the_object_that_starts_it_all_leads_to_the_applications(tmp_path: Path) -> None:
    root = yaml.safe_load((APPS / "root.yaml").read_text())
    assert CHARTS.parent / root["spec"]["source"]["path"] == APPS
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(root["spec"]["source"]["helm"]["valuesObject"]))
    apps = {it["metadata"]["name"]: it for it in render("waste/argocd", "--values", str(values), namespace="argocd")}
    for name, chart in (("eco-operator", "eco-operator"), ("waste", "waste")):
        given = tmp_path / f"{name}.yaml"
        given.write_text(yaml.safe_dump(apps[name]["spec"]["source"]["helm"]["valuesObject"]))
        assert template(chart, "--values", str(given)).returncode == 0
