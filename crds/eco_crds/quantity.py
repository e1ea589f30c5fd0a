"""Amounts as Kubernetes writes them (`10Gi`, `500m`, `2`), as numbers that can be compared."""

import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StrictInt, StrictStr

QUANTITY_PATTERN: Final = r"^[0-9]{1,15}(\.[0-9]{1,6})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
QUANTITY_LENGTH_MAX: Final = 32

_FACTORS: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTP", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTP", start=1)},
}
_QUANTITY: Final = re.compile(QUANTITY_PATTERN)


def parse(amount: str | int) -> Decimal:
    """The amount in units (bytes, cores). Raises ValueError for what the API server would refuse."""
    text = str(amount)
    matched = _QUANTITY.fullmatch(text)
    if matched is None:
        raise ValueError(f"not a quantity: {text!r} (a number with an optional unit, as in 10Gi or 500m)")
    unit = matched.group(2) or ""
    return Decimal(text.removesuffix(unit)) * _FACTORS[unit]


def _check(amount: str | int) -> str | int:
    parse(amount)
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
