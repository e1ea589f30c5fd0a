"""What the demo applies is valid, and carries no password outside a Secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from eco_crds.validation import validate
from eco_lab.demo import install, manifests
from eco_lab.demo.services import Services
from eco_lab.environment import LabEnvironment


@pytest.fixture
def services(tmp_path: Path) -> Services:
    lab = LabEnvironment(
        state_dir=tmp_path,
        kubeconfig=tmp_path / "admin.kubeconfig",
        kubectl=tmp_path / "kubectl",
        helm=None,
        api_server="https://127.0.0.1:6443",
        audit_log=None,
        nodes=("n1",),
        services_namespace="eco-lab",
        amqp_url="amqp://eco:hidden@10.0.0.1:5672/",
        amqp_url_in_cluster="amqp://eco:hidden@rabbitmq.eco-lab:5672/",
        postgres_dsn="postgresql://eco:hidden@10.0.0.2:5432/eco",
        postgres_dsn_in_cluster="postgresql://eco:hidden@postgresql.eco-lab:5432/eco",
        postgres_host_in_cluster="postgresql.eco-lab",
        postgres_port=5432,
        postgres_database="eco",
        postgres_user="eco",
        postgres_password="hidden",
        s3_endpoint_url="http://10.0.0.3:9000",
        s3_endpoint_url_in_cluster="http://s3.eco-lab:9000",
        s3_bucket="eco",
        s3_access_key="key",
        s3_secret_key="hidden",
        worker_image="localhost/eco-worker:1",
        operator_image="localhost/eco-operator:1",
    )
    return Services("demo", lab)


def test_the_resources_of_the_demo_pass_the_rules_of_the_api(services: Services) -> None:
    assert validate(manifests.eco_worker(services)) == []
    assert validate(manifests.wal_sync(services)) == []


def test_passwords_stand_in_secrets_only(services: Services) -> None:
    resources: list[dict[str, Any]] = [
        manifests.namespace("demo"),
        manifests.eco_worker(services),
        manifests.wal_sync(services),
    ]
    assert "hidden" not in json.dumps(resources)
    assert "hidden" in json.dumps(manifests.secrets(services))


def test_every_run_has_a_virtual_host_and_a_database_of_its_own(services: Services) -> None:
    assert services.amqp_url == "amqp://eco:hidden@10.0.0.1:5672/demo"
    assert services.amqp_url_in_cluster == "amqp://eco:hidden@rabbitmq.eco-lab:5672/demo"
    assert services.postgres_dsn == "postgresql://eco:hidden@10.0.0.2:5432/demo"


@pytest.mark.parametrize(
    ("image", "repository", "tag"),
    [
        ("localhost/eco-operator:abc", "localhost/eco-operator", "abc"),
        ("registry.example:5000/eco/operator", "registry.example:5000/eco/operator", "latest"),
        ("eco-operator:1", "eco-operator", "1"),
    ],
)
def test_an_image_is_taken_apart_as_the_chart_wants_it(image: str, repository: str, tag: str) -> None:
    values = install.image_values(image)
    assert (values["repository"], values["tag"]) == (repository, tag)
