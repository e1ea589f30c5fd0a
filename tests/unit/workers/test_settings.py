from pathlib import Path

import pytest
from pydantic import SecretStr

from eco_crds import contract
from eco_workers.broker.topology import DEAD_LETTER_QUEUE, TOPOLOGY
from eco_workers.errors import SettingsError
from eco_workers.settings import KNOWN_QUEUES, Settings, documented, load
from eco_workers.tasks.resources import address_of
from tests.support.certificates import make

GOOD = {"RABBITMQ_URL": "amqp://user:hunter2@rabbitmq:5672/"}


def test_one_variable_is_enough() -> None:
    """Everything but the broker has a default; the role decides the queue, the concurrency the bound."""
    settings = load(GOOD)
    assert settings.queues == ("q.batch",)
    assert settings.max_unfinished == settings.concurrency + 256
    assert settings.grace_period_s == 60


def test_each_variable_of_the_contract_is_read() -> None:
    """The operator renders the names in `contract`; a name that the worker does not read would be dead weight."""
    wanted = {value for name, value in vars(contract).items() if name.startswith("ENV_")}
    assert wanted <= {name for name, _, _ in documented()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RABBITMQ_URL", "http://rabbitmq"),
        ("ECO_CONCURRENCY", "many"),
        ("ECO_CONCURRENCY", "0"),
        ("ECO_ROLE", "painter"),
        ("ECO_QUEUES", "q.batch,q.nowhere"),
        ("ECO_GRACE_PERIOD_S", "-1"),
        ("POSTGRES_PORT", "70000"),
        ("ECO_SHARD", "Not A Label"),
        ("S3_BUCKET", "x"),
        ("ECO_LOG_FORMAT", "xml"),
        ("ECO_MAX_UNFINISHED", "-3"),
        ("POSTGRES_HOSTS", "chat"),
        ("POSTGRES_HOSTS", "chat=db:70000"),
        ("POSTGRES_HOSTS", "chat=db, no name=db"),
        ("POSTGRES_SSLMODE", "maybe"),
        ("REDIS_URL", "http://redis"),
        ("REDIS_URL", "redis://redis/one"),
        ("CLOUDFRONT_DISTRIBUTION_ID", "d111111abcdef8.cloudfront.net"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_an_example(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(GOOD | {name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert f"Example: {name}=" in message


def test_a_missing_broker_is_refused_with_its_name() -> None:
    with pytest.raises(SettingsError, match=r"RABBITMQ_URL: .*Example: RABBITMQ_URL=amqp"):
        load({})


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load(GOOD | {"ECO_CONCURRENCY": "0", "POSTGRES_PORT": "x"})
    assert len(str(caught.value).splitlines()) == 2


def test_no_secret_shows_in_the_repr_or_in_an_error() -> None:
    settings = load(GOOD | {"POSTGRES_PASSWORD": "hunter3", "AWS_SECRET_ACCESS_KEY": "hunter4"})
    assert "hunter" not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        load({"RABBITMQ_URL": "http://user:hunter2@x"})
    assert "hunter" not in str(caught.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("amqp://from-file/\n")
    settings = load({"RABBITMQ_URL_FILE": str(secret)})
    assert settings.rabbitmq_url.get_secret_value() == "amqp://from-file/"


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RABBITMQ_URL_FILE="):
        load({"RABBITMQ_URL_FILE": str(tmp_path / "none")})


def test_an_empty_variable_counts_as_absent() -> None:
    assert load(GOOD | {"ECO_CONCURRENCY": ""}).concurrency == Settings.model_fields["concurrency"].default


def test_queues_are_those_of_the_topology() -> None:
    """Named twice, in the settings and on the broker: the two must agree."""
    assert TOPOLOGY.names() - {DEAD_LETTER_QUEUE} == KNOWN_QUEUES


@pytest.mark.parametrize("name", ["RABBITMQ_CA", "POSTGRES_CA"])
@pytest.mark.parametrize(
    "value", ["/etc/ca.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----"], ids=["path", "broken"]
)
def test_an_authority_that_is_none_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: .*Example: {name}="):
        load({"RABBITMQ_URL": "amqps://x/", "POSTGRES_SSLMODE": "verify-full", name: value})


def test_an_authority_that_nobody_would_ask_is_refused(tmp_path: Path) -> None:
    pem = make(tmp_path).pem
    with pytest.raises(SettingsError, match="RABBITMQ_CA is set, so RABBITMQ_URL must be amqps"):
        load({"RABBITMQ_URL": "amqp://x/", "RABBITMQ_CA": pem})
    with pytest.raises(SettingsError, match="POSTGRES_CA is set, so POSTGRES_SSLMODE must be verify"):
        load(GOOD | {"POSTGRES_CA": pem})


def test_an_authority_may_come_from_a_file(tmp_path: Path) -> None:
    made = make(tmp_path)
    settings = load({"RABBITMQ_URL": "amqps://x/", "RABBITMQ_CA_FILE": str(made.authority)})
    assert settings.rabbitmq_ca == made.pem.strip()
    assert "cadata=" in settings.amqp_url


SECRETS = {
    str(field.validation_alias): name for name, field in Settings.model_fields.items() if field.annotation is SecretStr
}


@pytest.mark.parametrize("variable", SECRETS)
def test_every_secret_may_come_from_a_file(variable: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    text = "redis://from-file/" if variable == "REDIS_URL" else "amqp://from-file/"
    file.write_text(f"{text}\n")
    values = {key: value for key, value in GOOD.items() if key != variable} | {f"{variable}_FILE": str(file)}
    assert getattr(load(values), SECRETS[variable]).get_secret_value() == text


def test_databases_may_live_in_several_places() -> None:
    settings = load(GOOD | {"POSTGRES_HOST": "main", "POSTGRES_HOSTS": "ecoeco_auth=auth:5433, ecoeco_chat=chat"})
    found = [address_of(settings, name) for name in ("", "ecoeco_auth", "ecoeco_chat", "ecoeco_waste")]
    assert [(each.host, each.port, each.database) for each in found] == [
        ("main", 5432, "ecoeco_waste"), ("auth", 5433, "ecoeco_auth"), ("chat", 5432, "ecoeco_chat"),
        ("main", 5432, "ecoeco_waste"),
    ]  # fmt: skip
