"""What the operator puts into a pod is what a worker reads there."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from eco_crds import contract
from eco_crds.ecoworker import NAME_LENGTH_MAX, QUEUES_OF_ROLE, RESERVED_ENV, AckPolicy, EcoWorker, Queue, Role
from eco_crds.wal import SyncSettings
from eco_operator.resources import deployment, sync_config
from eco_workers import settings as worker_settings
from tests.support.cases import merge, valid

FULL = Path(__file__).parents[1] / "data" / "resources" / "full" / "ecoworker.yaml"
SECRETS = {"url": "amqp://user:password@broker:5672/", "key": "a-secret-value"}


def environment(worker: EcoWorker) -> dict[str, str]:
    """The variables as the kubelet would set them, with made-up secrets."""
    made: dict[str, str] = {}
    for variable in deployment.environment(worker, 1):
        ref: dict[str, Any] | None = variable.get("valueFrom", {}).get("secretKeyRef")
        made[variable["name"]] = variable["value"] if ref is None else SECRETS.get(ref["key"], "a-secret-value")
    return made


@pytest.mark.parametrize("document", [yaml.safe_load(FULL.read_text()), valid("ecoworkers")], ids=["full", "example"])
def test_a_worker_starts_with_what_the_operator_sets(document: dict[str, Any]) -> None:
    worker = EcoWorker.read(document)
    read = worker_settings.load(environment(worker))
    assert (read.namespace, read.worker) == (worker.metadata.namespace, worker.metadata.name)
    assert read.shard == contract.shard_name(worker.metadata.name, 1)
    assert read.role == worker.spec.role.value
    assert read.queues == worker.spec.effective_queues
    assert read.concurrency == worker.spec.concurrency
    assert read.max_unfinished == worker.spec.effective_max_unfinished
    assert read.grace_period_s == worker.spec.grace_period_seconds
    assert read.ack_policy == worker.spec.wal.ack_policy.value
    assert str(read.wal_db_path) == contract.wal_db_path("storage")
    assert read.rabbitmq_url.get_secret_value() == SECRETS["url"]
    [database] = worker.spec.databases
    assert (read.postgres_host, read.postgres_port, read.postgres_db) == (
        database.host, database.port, database.database,
    )  # fmt: skip
    store = worker.spec.object_store
    assert store is not None
    assert (read.s3_endpoint_url, read.s3_bucket, read.aws_region) == (store.endpoint_url, store.bucket, store.region)
    assert read.aws_secret_access_key.get_secret_value() == "a-secret-value"


def test_a_worker_looks_where_the_operator_mounts() -> None:
    read = worker_settings.load(environment(EcoWorker.read(valid("ecoworkers"))))
    template = deployment.pod_template(EcoWorker.read(valid("ecoworkers")), 0, image="i")
    [container] = template["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    looked_at = [read.wal_db_path.parent, read.token_file.parent, read.sync_settings_dir, read.shard_settings_dir]
    assert {str(path) for path in looked_at} <= mounts
    assert container["ports"][0]["containerPort"] == read.admin_port


@pytest.mark.parametrize(
    "change",
    [
        {"concurrency": 1, "maxUnfinished": 1},
        {"concurrency": 256, "maxUnfinished": 100_000},
        {"gracePeriodSeconds": 5},
        {"gracePeriodSeconds": 3600},
        {"queues": [queue.value for queue in Queue]},
        *({"wal": {"ackPolicy": policy.value}} for policy in AckPolicy),
        {"queues": [queue.value for queue in Queue], "concurrency": 4, "wal": {"ackPolicy": "Completed"}},
    ],
    ids=str,
)
def test_what_the_api_accepts_a_worker_accepts(change: dict[str, Any]) -> None:
    worker_settings.load(environment(EcoWorker.read(merge(valid("ecoworkers"), {"spec": change}))))


def test_the_longest_name_is_a_name_that_a_worker_accepts() -> None:
    document = merge(valid("ecoworkers"), {"metadata": {"name": "a" * NAME_LENGTH_MAX}})
    worker_settings.load(environment(EcoWorker.read(document)))


def test_a_role_consumes_the_same_queues_wherever_it_is_said() -> None:
    assert {role.value: tuple(queues) for role, queues in QUEUES_OF_ROLE.items()} == dict(worker_settings.ROLE_QUEUES)
    assert {queue.value for queue in Queue} == worker_settings.KNOWN_QUEUES
    assert {role.value for role in Role} == set(worker_settings.ROLE_QUEUES)


def test_every_reserved_variable_is_one_that_a_worker_reads() -> None:
    read = {variable for variable, _, _ in worker_settings.documented()}
    assert set(RESERVED_ENV) <= read


def test_a_variable_that_tunes_a_worker_may_be_set() -> None:
    worker = EcoWorker.read(
        merge(valid("ecoworkers"), {"spec": {"env": [{"name": "ECO_LOG_LEVEL", "value": "debug"}]}})
    )
    assert worker_settings.load(environment(worker)).log_level == "debug"


def test_an_authority_may_come_from_a_secret() -> None:
    """A database whose certificate must be looked at is an affair of two variables more."""
    ref = {"valueFrom": {"secretKeyRef": {"name": "postgres-ca", "key": "ca"}}}
    env = [{"name": "POSTGRES_SSLMODE", "value": "verify-full"}, {"name": "POSTGRES_CA", **ref}]
    worker = EcoWorker.read(merge(valid("ecoworkers"), {"spec": {"env": env}}))
    given = environment(worker) | {"POSTGRES_CA": ""}
    assert worker_settings.load(given).postgres_sslmode == "verify-full"
    assert {"name": "POSTGRES_CA", **ref} in deployment.environment(worker, 0)


def test_sync_settings_are_read_as_they_were_written() -> None:
    given = SyncSettings(target="results", interval_s=7, batch_size=3, max_attempts=2, suspended=True)
    manifest = sync_config.build(EcoWorker.read(valid("ecoworkers")), settings=given)
    assert SyncSettings.model_validate_json(manifest["data"][contract.SYNC_SETTINGS_KEY]) == given
