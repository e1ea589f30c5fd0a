"""What the lab applies to its cluster."""

from typing import Any

from eco_lab import network
from eco_lab.control_plane import _AUDIT_POLICY
from eco_lab.demo import install
from eco_lab.manifests import cluster, servers
from eco_lab.manifests.servers import Credentials
from tests.prove.nodes import SAFE

IMAGES = {"rabbitmq": "localhost/a:1", "postgresql": "localhost/b:1", "s3": "localhost/c:1"}
CREDENTIALS = Credentials(rabbitmq="hidden-1", postgresql="hidden-2", s3="hidden-3")


def kind(objects: list[dict[str, Any]], wanted: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == wanted]


def test_passwords_stand_in_secrets_only() -> None:
    assert "hidden" not in str(servers.servers(IMAGES))
    carriers = {one["kind"] for one in servers.secrets(CREDENTIALS) if "hidden" in str(one)}
    assert carriers == {"Secret"}
    assert "hidden" not in repr(CREDENTIALS)


def test_servers_with_durable_data_keep_it_on_claims() -> None:
    sets = kind(servers.servers(IMAGES), "StatefulSet")
    assert {one["metadata"]["name"] for one in sets} == {"rabbitmq", "postgresql"}
    assert all(one["spec"]["volumeClaimTemplates"] for one in sets)


def test_every_server_has_a_fixed_address_in_the_clusters_range() -> None:
    services = kind(servers.servers(IMAGES), "Service")
    prefix = network.SERVICES_CIDR.removesuffix(".0.0/16")
    assert {one["metadata"]["name"] for one in services} == set(servers.ADDRESSES)
    assert all(one["spec"]["clusterIP"].startswith(f"{prefix}.") for one in services)
    assert len({one["spec"]["clusterIP"] for one in services} | {network.API_SERVICE, network.DNS_SERVICE}) == 5


def test_no_server_runs_as_root_or_with_the_clusters_token() -> None:
    for one in kind(servers.servers(IMAGES), "StatefulSet") + kind(servers.servers(IMAGES), "Deployment"):
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]


def test_every_server_stands_on_the_node_that_no_drill_takes_away() -> None:
    workloads = [one for one in servers.servers(IMAGES) if one["kind"] in {"StatefulSet", "Deployment"}]
    selectors = [one["spec"]["template"]["spec"]["nodeSelector"] for one in workloads]
    assert selectors == [{"kubernetes.io/hostname": SAFE}] * len(IMAGES)


def test_one_storage_class_is_the_default_and_all_of_them_grow() -> None:
    classes = cluster.storage_classes()
    key = "storageclass.kubernetes.io/is-default-class"
    assert [one["metadata"]["name"] for one in classes if key in one["metadata"]["annotations"]] == ["directory"]
    assert all(one["allowVolumeExpansion"] for one in classes)


def test_the_audit_log_keeps_writes_and_of_reads_only_the_operators() -> None:
    """Idle writes are counted from it: what is dropped before the rule for writes must be none of the operator's."""
    rules = _AUDIT_POLICY["rules"]
    assert isinstance(rules, list)
    writes = next(index for index, rule in enumerate(rules) if rule["level"] == "Metadata")
    assert set(rules[writes]["verbs"]) == {"create", "update", "patch", "delete", "deletecollection"}
    reader = f"system:serviceaccount:{install.NAMESPACE}:eco-operator"
    assert rules[writes + 1 :] == [{"level": "Metadata", "users": [reader]}, {"level": "None"}]
    assert all("users" in rule or "userGroups" in rule or "events" in str(rule) for rule in rules[:writes])


def test_no_two_machines_share_an_address() -> None:
    machines = (network.CONTROL, *network.node_names(network.NODES_MAX))
    assert len({network.address(machine) for machine in machines}) == len(machines)
    assert len({network.pods_of(node) for node in machines[1:]}) == network.NODES_MAX
