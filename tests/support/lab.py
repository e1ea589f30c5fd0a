"""Fixtures that hand out real servers: those that the environment names, else those of the lab.

`ECO_AMQP_URL`, `ECO_POSTGRES_DSN` and `ECO_S3_ENDPOINT_URL` come first, so that a developer may point the tests at
servers of their own. `ECO_TEST_LAB=0` forbids the tests to start a lab; one that runs is used all the same.
"""

import os
from dataclasses import dataclass, field

import pytest

from eco_lab import environment
from eco_lab.environment import LabEnvironment
from eco_lab.errors import LabError
from tests.support.parts import require


@dataclass(frozen=True, slots=True)
class S3Target:
    """An S3 endpoint that tests may write to."""

    endpoint_url: str
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"


@pytest.fixture(scope="session")
def lab() -> LabEnvironment:
    """The lab with its servers. Where the tests may start one, `up` also mends one that died since it was last used."""
    may_start = os.environ.get("ECO_TEST_LAB") != "0" and os.geteuid() == 0
    found = environment.load()
    if not may_start and found is not None and found.amqp_url:
        return found
    require(
        os.environ.get("ECO_TEST_LAB") != "0", "a running lab (`eco-lab up`), and ECO_TEST_LAB=0 forbids to start one"
    )
    require(os.geteuid() == 0, "a running lab (`eco-lab up`), and only root may start one")
    try:
        return environment.up()
    except LabError as error:
        require(False, f"the lab, which did not start: {error}")
        raise


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> str:
    """URL of a RabbitMQ whose user may declare anything in its virtual host."""
    return os.environ.get("ECO_AMQP_URL") or _lab(request).amqp_url


@pytest.fixture(scope="session")
def postgres_dsn(request: pytest.FixtureRequest) -> str:
    """DSN of a PostgreSQL whose user owns its database and may create others."""
    return os.environ.get("ECO_POSTGRES_DSN") or _lab(request).postgres_dsn


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest) -> S3Target:
    """An S3 endpoint with a bucket that exists."""
    endpoint_url = os.environ.get("ECO_S3_ENDPOINT_URL")
    if endpoint_url:
        return S3Target(
            endpoint_url=endpoint_url,
            bucket=os.environ.get("ECO_S3_BUCKET", "eco-test"),
            access_key=os.environ.get("AWS_ACCESS_KEY_ID", "test"),
            secret_key=os.environ.get("AWS_SECRET_ACCESS_KEY", "test"),
            region=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        )
    found = _lab(request)
    return S3Target(
        endpoint_url=found.s3_endpoint_url,
        bucket=found.s3_bucket,
        access_key=found.s3_access_key,
        secret_key=found.s3_secret_key,
        region=found.s3_region,
    )


def _lab(request: pytest.FixtureRequest) -> LabEnvironment:
    # Asked for only when needed: a fixture argument would start the lab even where the environment names a server.
    value = request.getfixturevalue("lab")
    assert isinstance(value, LabEnvironment)
    return value
