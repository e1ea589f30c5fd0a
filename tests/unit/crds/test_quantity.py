"""Amounts as Kubernetes writes them."""

from decimal import Decimal

import pytest

from eco_crds.quantity import parse


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("10Gi", 10 * 2**30),
        ("1.5Ki", 1536),
        ("500m", Decimal("0.5")),
        ("2", 2),
        (2, 2),
        ("1k", 1000),
        ("3T", 3 * 10**12),
        ("0", 0),
    ],
)
def test_an_amount_is_read_as_kubernetes_reads_it(text: str | int, amount: Decimal | int) -> None:
    assert parse(text) == amount


@pytest.mark.parametrize("text", ["", "Gi", "-1", "1 Gi", "1GiB", "1e3", "ten", "1..5", "1Gi\n", "٣", "+1"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse(text)
