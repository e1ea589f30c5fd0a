"""What `up` leaves behind for others."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from eco_lab import environment
from eco_lab.environment import LabEnvironment
from eco_lab.errors import LabError


def sample() -> LabEnvironment:
    return LabEnvironment(
        state_dir=Path("/srv/lab"),
        kubeconfig=Path("/srv/lab/admin.kubeconfig"),
        kubectl=Path("/srv/bin/kubectl"),
        helm=None,
        api_server="https://10.79.0.10:6443",
        audit_log=Path("/srv/lab/audit.jsonl"),
        nodes=("n1", "n2"),
        services_namespace="eco-lab",
        amqp_url="amqp://eco:hidden-1@10.77.0.21:5672/",
        amqp_url_in_cluster="amqp://eco:hidden-1@rabbitmq:5672/",
        postgres_dsn="postgresql://eco:hidden-2@10.77.0.22:5432/eco",
        postgres_dsn_in_cluster="postgresql://eco:hidden-2@postgresql:5432/eco",
        postgres_host_in_cluster="postgresql",
        postgres_port=5432,
        postgres_database="eco",
        postgres_user="eco",
        postgres_password="hidden-2",
        s3_endpoint_url="http://10.77.0.23:9000",
        s3_access_key="eco-lab",
        s3_secret_key="hidden-3",
    )


@pytest.fixture(autouse=True)
def lab_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test here looks at the lab of whoever runs it."""
    monkeypatch.setenv("ECO_LAB_STATE", str(tmp_path))
    return tmp_path


def test_reading_returns_what_was_written() -> None:
    assert LabEnvironment.from_json(sample().to_json()) == sample()


def test_no_password_shows_when_an_environment_is_printed() -> None:
    assert "hidden" not in repr(sample())


def test_without_a_lab_there_is_nothing_to_load() -> None:
    assert environment.load() is None


def test_a_lab_that_is_up_is_loaded(lab_directory: Path) -> None:
    (lab_directory / "environment.json").write_text(sample().to_json())
    assert environment.load() == sample()


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json"])
def test_a_file_that_this_version_does_not_understand_is_no_lab(lab_directory: Path, text: str) -> None:
    (lab_directory / "environment.json").write_text(text)
    assert environment.load() is None


def test_a_file_of_another_version_names_the_fields_that_differ() -> None:
    values = json.loads(sample().to_json())
    values["colour"] = values.pop("nodes")
    with pytest.raises(LabError, match="colour, nodes"):
        LabEnvironment.from_json(json.dumps(values))


def test_shell_lines_survive_any_character_of_a_password() -> None:
    nasty = replace(sample(), s3_secret_key='a\'b $(c) "d"')
    lines = dict(line.removeprefix("export ").split("=", 1) for line in nasty.as_shell().splitlines())
    assert shlex.split(lines["AWS_SECRET_ACCESS_KEY"]) == ['a\'b $(c) "d"']


def test_what_a_lab_does_not_offer_is_not_exported() -> None:
    bare = replace(sample(), amqp_url="", s3_endpoint_url="")
    assert not {"ECO_AMQP_URL", "ECO_S3_ENDPOINT_URL", "AWS_DEFAULT_REGION"} & set(bare.as_variables())
