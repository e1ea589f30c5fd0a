"""The operator's chart agrees with the manifests, the operator's settings and its calls."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from eco_crds import contract
from eco_crds.schema import KINDS
from eco_operator import kinds
from eco_operator.settings import ENV_PREFIX, Settings
from tests.support.charts import CHARTS, by_kind, render, run, template

CHART = CHARTS / "eco-operator"
MANIFESTS = CHARTS.parent / "crds" / "manifests"
NAMESPACED = ("--set", "namespaces={alpha,beta}")


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    return render("eco-operator")


def operator_pod(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    [deployment] = by_kind(manifests, "Deployment")
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def test_the_chart_is_clean() -> None:
    done = run("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


def test_the_definitions_in_the_chart_are_those_that_the_models_give() -> None:
    for kind in KINDS:
        name = f"{kind.crd_name}.yaml"
        assert (CHART / "files" / "crds" / name).read_bytes() == (MANIFESTS / name).read_bytes()


def test_helm_renders_the_definitions_without_a_change(rendered: list[dict[str, Any]]) -> None:
    found = {it["metadata"]["name"]: it for it in by_kind(rendered, "CustomResourceDefinition")}
    assert set(found) == {kind.crd_name for kind in KINDS}
    for name, definition in found.items():
        assert definition["spec"] == yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())["spec"]
        assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_definitions_can_be_left_out_or_let_go() -> None:
    assert by_kind(render("eco-operator", "--set", "crds.enabled=false"), "CustomResourceDefinition") == []
    for definition in by_kind(render("eco-operator", "--set", "crds.keep=false"), "CustomResourceDefinition"):
        assert "annotations" not in definition["metadata"]


def test_the_operator_understands_every_variable_of_the_chart(
    rendered: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = operator_pod(rendered)["containers"][0]["env"]
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert {it["name"] for it in variables} <= known
    for variable in variables:
        monkeypatch.setenv(variable["name"], variable.get("value", "from-the-field"))
    settings = Settings()
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    for name in ("log_level", "log_format", "probe_interval_s", "resync_interval_s", "status_interval_s", "http_port"):
        assert getattr(settings, name) == defaults[name], f"{name}: the chart's default is not the operator's"
    assert settings.is_cluster_wide


def test_the_lease_that_the_operator_uses_is_the_one_it_has_a_right_to(rendered: list[dict[str, Any]]) -> None:
    names = {it["name"]: it.get("value") for it in operator_pod(rendered)["containers"][0]["env"]}
    [role] = by_kind(rendered, "Role")
    assert role["metadata"]["namespace"] == "eco-system"
    assert role["rules"][1]["resourceNames"] == [names["ECO_OPERATOR_LEASE_NAME"]]


def grants(rules: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield group, resource, verb


def test_rights_are_those_of_the_kinds_that_the_operator_watches_and_writes(rendered: list[dict[str, Any]]) -> None:
    """A kind that the operator takes up without a right, or a right that no code uses, fails here."""
    [role] = [it for it in by_kind(rendered, "ClusterRole") if it["metadata"]["name"] == "eco-operator"]
    expected = {(kind.group, kind.plural, verb) for kind in kinds.WATCHED for verb in ("list", "watch")}
    expected |= {(kind.group, f"{kind.plural}/status", "patch") for kind in kinds.OWNED}
    built = [kind for kind in kinds.CHILDREN if kind is not kinds.POD]
    expected |= {(kind.group, kind.plural, verb) for kind in built for verb in ("get", "create")}
    never_changed = (kinds.REVISION, kinds.JOB)
    expected |= {(kind.group, kind.plural, "patch") for kind in built if kind not in never_changed}
    removed = (kinds.DEPLOYMENT, kinds.CONFIG_MAP, kinds.REVISION, kinds.JOB, kinds.CLAIM)
    expected |= {(kind.group, kind.plural, "delete") for kind in removed}
    expected |= {(kinds.EVENT.group, kinds.EVENT.plural, "create")}
    expected |= {(kinds.STORAGE_CLASS.group, kinds.STORAGE_CLASS.plural, "get")}
    assert set(grants(role["rules"])) == expected


def test_without_the_right_nothing_may_delete_a_claim_and_nothing_ever_uses_a_wildcard() -> None:
    for arguments in ((), NAMESPACED):
        manifests = render("eco-operator", *arguments, "--set", "rbac.deleteClaims=false")
        for role in by_kind(manifests, "ClusterRole") + by_kind(manifests, "Role"):
            found = set(grants(role["rules"]))
            assert ("", "persistentvolumeclaims", "delete") not in found
            assert not [it for it in found if "*" in it]


def test_with_namespaces_the_operator_has_no_right_on_the_cluster() -> None:
    manifests = render("eco-operator", *NAMESPACED)
    assert by_kind(manifests, "ClusterRoleBinding") == []
    bound = {(it["metadata"]["namespace"], it["roleRef"]["name"]) for it in by_kind(manifests, "RoleBinding")}
    assert {("alpha", "eco-operator"), ("beta", "eco-operator"), ("eco-system", "eco-operator-leader")} == bound
    variables = {it["name"]: it.get("value") for it in operator_pod(manifests)["containers"][0]["env"]}
    assert variables["ECO_OPERATOR_NAMESPACES"] == "alpha,beta"


def test_bindings_and_pod_name_the_same_service_account() -> None:
    manifests = render("eco-operator", "--set", "serviceAccount.name=other")
    subjects = [
        (subject["name"], subject["namespace"])
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for binding in by_kind(manifests, kind)
        for subject in binding["subjects"]
    ]
    assert set(subjects) == {("other", "eco-system")}
    assert by_kind(manifests, "ServiceAccount")[0]["metadata"]["name"] == "other"
    assert operator_pod(manifests)["serviceAccountName"] == "other"


def test_the_operator_keeps_to_the_restricted_profile(rendered: list[dict[str, Any]]) -> None:
    pod = operator_pod(rendered)
    container = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_nothing_of_the_chart_is_taken_for_a_child_of_an_ecoworker(rendered: list[dict[str, Any]]) -> None:
    labels = [it["metadata"]["labels"][contract.LABEL_MANAGED_BY] for it in rendered]
    assert contract.MANAGED_BY not in labels


def test_a_second_replica_brings_a_disruption_budget(rendered: list[dict[str, Any]]) -> None:
    assert len(by_kind(rendered, "PodDisruptionBudget")) == 1
    assert by_kind(render("eco-operator", "--set", "replicas=1"), "PodDisruptionBudget") == []


def test_prometheus_scrapes_the_port_that_the_service_has() -> None:
    manifests = render("eco-operator", "--set", "serviceMonitor.enabled=true,serviceMonitor.labels.release=prometheus")
    [monitor] = by_kind(manifests, "ServiceMonitor")
    [service] = by_kind(manifests, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert by_kind(render("eco-operator"), "ServiceMonitor") == []


def test_a_service_monitor_without_a_service_is_refused() -> None:
    done = template("eco-operator", "--set", "serviceMonitor.enabled=true,service.enabled=false")
    assert done.returncode != 0
    assert "serviceMonitor.enabled: needs service.enabled" in done.stderr


def test_with_a_network_policy_the_operator_reaches_what_it_needs() -> None:
    manifests = render("eco-operator", "--set", "networkPolicy.enabled=true")
    [policy] = by_kind(manifests, "NetworkPolicy")
    [deployment] = by_kind(manifests, "Deployment")
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    egress = {port["port"]: rule.get("to") for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert set(egress) == {53, 443, 6443, contract.ADMIN_PORT}
    [workers] = egress[contract.ADMIN_PORT]
    assert workers["podSelector"]["matchLabels"] == {contract.LABEL_SHORT_COMPONENT: contract.COMPONENT_WORKER}
    [scraper] = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]
    assert scraper["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


def test_an_image_can_be_pinned_by_digest() -> None:
    digest = "sha256:" + "a" * 64
    pinned = operator_pod(render("eco-operator", "--set", f"image.digest={digest},image.tag=v1"))["containers"][0]
    assert pinned["image"] == f"eco-operator@{digest}"


def test_a_chart_that_is_rendered_twice_is_the_same() -> None:
    """Random values and look-ups would show as a change in Argo CD each time."""
    assert template("eco-operator").stdout == template("eco-operator").stdout


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("replica=2", "replica"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("settings.logLevel=loud", "logLevel"),
        ("settings.probeIntervalSeconds=0", "probeIntervalSeconds"),
        ("namespaces={Bad_Name}", "namespaces"),
        ("image.digest=latest", "digest"),
        ("settings.nonsense=1", "nonsense"),
    ],
)
def test_a_wrong_value_is_refused_by_name(setting: str, said: str) -> None:
    done = template("eco-operator", "--set", setting)
    assert done.returncode != 0
    assert said in done.stderr


def leaves(values: Mapping[str, Any], schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        known = schema["properties"]
        assert name in known, f"{path}{name} is not in values.schema.json"
        if isinstance(value, Mapping) and "properties" in known[name]:
            yield from leaves(value, known[name], f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_every_value_is_in_the_schema_and_in_the_readme() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    readme = (CHART / "README.md").read_text()
    missing = [path for path in leaves(values, schema) if f"`{path}`" not in readme]
    assert missing == []
    assert set(schema["properties"]) - {"global"} == set(values)
