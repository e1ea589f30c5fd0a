"""The operator's settings: a wrong one stops the start and names its variable."""

import pytest

from eco_operator import settings
from eco_operator.errors import ConfigurationError


def test_the_defaults_are_those_of_a_cluster_wide_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECO_OPERATOR_NAMESPACES", raising=False)
    found = settings.load()
    assert found.is_cluster_wide
    assert (found.lease_duration_s, found.renew_deadline_s, found.retry_period_s) == (15, 10, 2)


def test_namespaces_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_OPERATOR_NAMESPACES", "shop, blog,")
    assert settings.load().namespaces == ("shop", "blog")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ECO_OPERATOR_PROBE_INTERVAL_S", "soon"),
        ("ECO_OPERATOR_HTTP_PORT", "70000"),
        ("ECO_OPERATOR_LOG_LEVEL", "loud"),
        ("ECO_OPERATOR_RECONCILE_CONCURRENCY", "0"),
    ],
)
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        settings.load()


def test_a_lease_shorter_than_its_renewal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_OPERATOR_LEASE_DURATION_S", "5")
    with pytest.raises(ConfigurationError, match="retry_period_s < renew_deadline_s < lease_duration_s"):
        settings.load()


def test_two_operators_of_one_machine_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECO_OPERATOR_IDENTITY", raising=False)
    first = settings.load().identity
    monkeypatch.setattr("os.getpid", lambda: 4_000_001)
    assert settings.load().identity != first
