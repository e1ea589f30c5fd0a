"""Pieces of a verdict that both kinds share: conditions with their times, moments that stay put, sums for people."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from eco_crds.conditions import ConditionType
from eco_crds.ecoworker_status import UNKNOWN
from eco_crds.fields import Condition, ConditionStatus

MOMENT_TOLERANCE: Final = timedelta(seconds=20)
MESSAGE_LENGTH_MAX: Final = 1024


class Urgency(StrEnum):
    """How long a changed status may wait to be written."""

    NONE = "none"
    """Nothing changed."""
    NUMBERS = "numbers"
    """Some number is another: it waits until the last write is one status interval old."""
    TURN = "turn"
    """A number left zero or came back to it, which is what people look for: a quarter of the interval."""
    NEWS = "news"
    """A condition, the health of a journal or readiness changed: at once."""


def turns(new: Iterable[str], old: Iterable[str]) -> bool:
    """Whether one of these sums left zero, came back to it, or ceased to be exact."""
    return [(it == "0", it.startswith(">=")) for it in new] != [(it == "0", it.startswith(">=")) for it in old]


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without its times."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str = ""


def dated(
    findings: Iterable[Finding], before: Iterable[Condition], *, now: datetime, generation: int
) -> list[Condition]:
    """The conditions of this verdict; one whose status stayed keeps the time at which it came."""
    known = {condition.type: condition for condition in before}
    conditions = []
    for finding in findings:
        old = known.get(finding.type)
        is_same = old is not None and old.status is finding.status
        conditions.append(
            Condition(
                type=finding.type.value,
                status=finding.status,
                reason=finding.reason,
                message=finding.message[:MESSAGE_LENGTH_MAX],
                last_transition_time=old.last_transition_time if old is not None and is_same else now,
                observed_generation=generation,
            )
        )
    return sorted(conditions, key=lambda condition: condition.type)


def moment(heard: datetime, age_s: float | None, before: datetime | None) -> datetime | None:
    """When something of that age began; as it was written before while that still is about right."""
    if age_s is None:
        return None
    began = (heard - timedelta(seconds=age_s)).replace(microsecond=0)
    return before if before is not None and abs(began - before) <= MOMENT_TOLERANCE else began


def total(numbers: Iterable[int | None], *, silent: bool) -> str:
    """A sum for people. With a shard that is not heard of it is a lower bound, and said to be one."""
    known = [number for number in numbers if number is not None]
    if silent:
        return f">={sum(known)}" if known else UNKNOWN
    return str(sum(known))
