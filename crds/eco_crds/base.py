"""What every model of this API has in common: naming, strictness, and rules that live in two places at once.

A rule is written down once, with its CEL expression (checked by the API server) and its Python twin (checked by the
operator), so that neither can be changed without the other in view.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel

DNS_LABEL_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
KEY_PATTERN: Final = r"^[-._a-zA-Z0-9]+$"


@dataclass(frozen=True, slots=True)
class Rule:
    """A demand on an object that bounds of single fields cannot express."""

    cel: str
    """The demand as the API server checks it, on the node that carries the rule."""
    message: str
    """What is wrong and what to do, for the person whose object was refused."""
    field: str
    """Path of the field to blame, relative to the node and starting with a dot."""
    holds: Callable[[Any], bool]
    """The same demand on the model."""
    reason: str = "FieldValueInvalid"


@dataclass(frozen=True, slots=True)
class TransitionRule:
    """A demand on a change: both states are known. Checked on updates only."""

    cel: str
    message: str
    field: str
    holds: Callable[[Any, Any], bool]
    """Called with the new state and the old one."""
    reason: str = "FieldValueForbidden"


class ApiModel(BaseModel):
    """Base of everything a user writes: camelCase outside, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        extra="forbid",
        frozen=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    transitions: ClassVar[tuple[TransitionRule, ...]] = ()


class StatusModel(ApiModel):
    """Base of everything the operator writes: a field that a newer operator wrote is ignored when read back."""

    model_config = ConfigDict(extra="ignore")


def _in_seconds(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Timestamp = Annotated[AwareDatetime, PlainSerializer(_in_seconds, return_type=str, when_used="json")]
"""A point in time, written in UTC and whole seconds as Kubernetes does."""
