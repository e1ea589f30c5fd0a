"""Pieces that several kinds or several fields share: references to secrets, conditions, metadata."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field
from pydantic.config import JsonDict

from eco_crds.base import DNS_LABEL_PATTERN, DNS_SUBDOMAIN_PATTERN, KEY_PATTERN, ApiModel, StatusModel, Timestamp

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN_PATTERN)]
"""Name of an object of the same namespace."""

LabelName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL_PATTERN)]
"""A short name: lower case letters, digits and dashes."""


def list_map(*keys: str) -> JsonDict:
    """Schema marks of a list whose entries are told apart by `keys`, so that two managers can own one entry each."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


LIST_SET: Final[JsonDict] = {"x-kubernetes-list-type": "set"}
LIST_ATOMIC: Final[JsonDict] = {"x-kubernetes-list-type": "atomic"}
MAP_ATOMIC: Final[JsonDict] = {"x-kubernetes-map-type": "atomic"}


class SecretKeyRef(ApiModel):
    """One key of a Secret in the namespace of the object."""

    name: ObjectName
    """Name of the Secret."""
    key: str = Field(min_length=1, max_length=253, pattern=KEY_PATTERN)
    """Key inside the Secret."""


class ObjectReference(ApiModel):
    """Another object of the same namespace, by its name."""

    name: ObjectName
    """Name of the object."""


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusModel):
    """One aspect of the state of an object, as the operator last saw it."""

    type: str = Field(min_length=1, max_length=316)
    """Which aspect, in CamelCase."""
    status: ConditionStatus
    """Whether it holds: True, False or Unknown."""
    reason: str = Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    """Why, as one word that programs can rely on."""
    message: str = Field(max_length=32768)
    """Why, as a sentence for people."""
    last_transition_time: Timestamp
    """When the status last changed from one value to another."""
    observed_generation: int = Field(0, ge=0, json_schema_extra={"format": "int64"})
    """Generation of the object that this was found for."""


class OwnerMetadata(StatusModel):
    """What the operator reads of an object's metadata; the schema leaves it to the API server."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
