"""Amounts as Kubernetes writes them (`10Gi`, `500m`, `2`), as numbers that can be compared."""

import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StrictInt, StrictStr

QUANTITY_PATTERN: Final = r"^[0-9]{1,15}(\.[0-9]{1,6})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
QUANTITY_LENGTH_MAX: Final = 32

_FACTORS: Final = {
    "": Decimal(1),
    **{unit: Decimal(1000) ** -power for power, unit in enumerate("mun", start=1)},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
# What a server may answer is wider than what this API takes: other units, a sign, an exponent.
_ANY: Final = re.compile(
    r"([+-]?[0-9]{1,40}(?:\.[0-9]{0,40})?|[+-]?\.[0-9]{1,40})(?:(n|u|m|k|[MGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,3}))?"
)
_TAKEN: Final = re.compile(QUANTITY_PATTERN)


def parse(amount: str | int) -> Decimal:
    """The amount in units (bytes, cores). Raises ValueError for what no API server would answer."""
    matched = _ANY.fullmatch(str(amount))
    if matched is None:
        raise ValueError(_refusal(amount))
    number, unit, exponent = matched.groups()
    return Decimal(number) * _FACTORS[unit or ""] * Decimal(10) ** int(exponent or 0)


def _refusal(amount: str | int) -> str:
    return f"not a quantity: {str(amount)[:40]!r} (a number with an optional unit, as in 10Gi or 500m)"


def _check(amount: str | int) -> str | int:
    if _TAKEN.fullmatch(str(amount)) is None:
        raise ValueError(_refusal(amount))
    return amount


Quantity = Annotated[
    StrictInt | StrictStr,
    AfterValidator(_check),
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": QUANTITY_PATTERN,
            "maxLength": QUANTITY_LENGTH_MAX,
        }
    ),
]
"""An amount; kept as it was written, so that what is rendered is what the user wrote."""
