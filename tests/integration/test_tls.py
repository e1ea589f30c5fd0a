"""TLS to a real RabbitMQ and a real PostgreSQL: verified unless somebody says otherwise."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eco_workers.broker.publisher import Publisher
from eco_workers.client import NewMessage
from eco_workers.errors import BrokerUnavailableError, SyncUnavailableError
from eco_workers.settings import load
from eco_workers.sync.database import Database
from eco_workers.tasks.resources import address_of
from tests.support import broker as brokers
from tests.support import postgres as postgreses
from tests.support.broker import Broker
from tests.support.certificates import Certificates, make
from tests.support.parts import require
from tests.support.postgres import PASSWORD, USER, Postgres
from tests.support.processes import scratch_directory
from tests.support.queues import Queues
from tests.support.worker_process import WorkerProcess

pytestmark = [pytest.mark.broker, pytest.mark.slow]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def broker(certificates: Certificates) -> Iterator[Broker]:
    require(brokers.is_available(), "a RabbitMQ server")
    made = Broker(scratch_directory() / "broker", certificates=certificates)
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def postgres(certificates: Certificates) -> Iterator[Postgres]:
    require(postgreses.programs(), "a PostgreSQL server (package postgresql)")
    made = Postgres(scratch_directory() / "postgres", certificates=certificates)
    made.start()
    made.require_tls()
    yield made
    made.kill()


def test_a_worker_works_over_tls_with_an_authority_of_its_own(
    broker: Broker, certificates: Certificates, tmp_path: Path
) -> None:
    """Consuming and publishing each have their connection; both are encrypted."""
    env = {"RABBITMQ_CA_FILE": str(certificates.authority)}
    worker = WorkerProcess(
        tmp_path / "shard-0", broker.tls_url, queues="q.api", modules="tests.support.own_tasks", env=env
    )
    worker.start()
    try:
        worker.wait_ready()
        Queues(broker.url).send(NewMessage("test.hold", {}, "q.api", "one"))
        worker.wait_for(lambda r: r.counts.completed == 1 and not r.counts.outbox_unsent, "sent", timeout_s=30)
        assert Queues(broker.url).ready("q.ai") == 1
        assert broker.control("list_connections", "ssl").split().count("true") == 2
    finally:
        worker.kill()


async def connect(url: str, authority: str = "") -> None:
    publisher = Publisher(load({"RABBITMQ_URL": url, "RABBITMQ_CA": authority}).amqp_url, name="test")
    try:
        await publisher.open()
    finally:
        await publisher.close()


async def test_a_broker_is_verified_by_default(
    broker: Broker, certificates: Certificates, other_authority: Certificates
) -> None:
    await connect(broker.tls_url, certificates.pem)
    # Several authorities, as while one is replaced by the next.
    await connect(broker.tls_url, other_authority.pem + certificates.pem)
    for authority in ("", other_authority.pem):
        with pytest.raises(BrokerUnavailableError, match=r"(?i)certificate verify failed") as caught:
            await connect(broker.tls_url, authority)
        assert "guest:guest" not in str(caught.value)
    with pytest.raises(BrokerUnavailableError, match=r"(?i)certificate"):
        await connect(broker.tls_url.replace("localhost", "127.0.0.1"), certificates.pem)
    # Not verified only by a person's own word in the URL.
    await connect(broker.tls_url + "?no_verify_ssl=1")


def test_commands_of_a_person_trust_the_same_authority(broker: Broker, certificates: Certificates) -> None:
    argv = [sys.executable, "-m", "eco_workers", "send", "act", "{}", "--queue", "q.api", "--id", "x"]
    env = {"RABBITMQ_URL": broker.tls_url, "PATH": "/usr/bin:/bin"}
    refused = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, "certificate" in refused.stderr) == (1, True)
    env |= {"RABBITMQ_CA_FILE": str(certificates.authority)}
    sent = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (sent.returncode, sent.stdout.strip()) == (0, "x"), sent.stderr


async def ping(postgres: Postgres, mode: str, authority: str = "", host: str = "localhost") -> None:
    env = {
        "RABBITMQ_URL": "amqp://x/", "POSTGRES_HOST": host, "POSTGRES_PORT": str(postgres.port),
        "POSTGRES_USER": USER, "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "eco", "POSTGRES_CA": authority,
        "POSTGRES_SSLMODE": mode,
    }  # fmt: skip
    database = Database(address_of(load(env)))
    try:
        await database.ping()
    finally:
        await database.close()


@pytest.mark.postgres
async def test_the_modes_of_the_database_mean_what_they_mean_everywhere(
    postgres: Postgres, certificates: Certificates, other_authority: Certificates
) -> None:
    with pytest.raises(SyncUnavailableError):
        await ping(postgres, "disable")
    for mode in ("prefer", "require"):
        await ping(postgres, mode)
    for mode in ("verify-ca", "verify-full"):
        await ping(postgres, mode, certificates.pem)
        for authority in ("", other_authority.pem):
            with pytest.raises(SyncUnavailableError, match=r"(?i)certificate verify failed"):
                await ping(postgres, mode, authority)
    await ping(postgres, "verify-ca", certificates.pem, host="127.0.0.1")
    with pytest.raises(SyncUnavailableError, match=r"(?i)certificate"):
        await ping(postgres, "verify-full", certificates.pem, host="127.0.0.1")
