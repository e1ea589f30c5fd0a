"""Amounts as Kubernetes writes them."""

from decimal import Decimal

import pytest
from pydantic import TypeAdapter, ValidationError

from eco_crds.quantity import Quantity, parse


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
        ("1Ei", 2**60),
        ("15e9", 15 * 10**9),
        ("1E", 10**18),
        ("1E3", 1000),
        ("5.", 5),
        ("-1", -1),
        ("100n", Decimal("0.0000001")),
    ],
)
def test_an_amount_is_read_as_kubernetes_reads_it(text: str | int, amount: Decimal | int) -> None:
    assert parse(text) == amount


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1GiB", "ten", "1..5", "1Gi\n", "\u0663", "1e9999999", "0x10"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse(text)


@pytest.mark.parametrize("text", ["-1", "15e9", "1Ei", "5.", True, None, 1.5, -3])
def test_the_api_takes_the_plain_forms_only(text: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Quantity).validate_python(text)
