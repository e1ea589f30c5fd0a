"""What is to be done: named steps, each with its reason. Only `loop` acts on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from eco_operator.cache import Child
from eco_operator.shards import Target


class EventType(StrEnum):
    """Kubernetes knows these two."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """What an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell people, as an event. The same `once` never tells twice, not even after a restart."""

    about: ObjectRef
    reason: str
    message: str
    type: EventType = EventType.NORMAL
    once: str = ""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make an object as wanted; `existing` is the one there is, None when there should be none."""

    desired: Mapping[str, Any]
    existing: Child | None
    why: str
    announce: Announce | None = None
    requires: str = ""
    """`Kind/name` of an object without which this one must not be made, should a step before this have failed on it."""
    refused: Announce | None = None
    """What to tell should the storage class of a claim let no volume grow."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove an object that is ours and no longer wanted."""

    child: Child
    why: str
    announce: Announce | None = None


@dataclass(frozen=True, slots=True)
class MarkClaim:
    """Have a claim that no shard uses carry exactly these marks; none takes all of them off."""

    claim: Child
    marks: Mapping[str, str]
    why: str
    announce: Announce | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Give up all fields of an object that a field manager owns; those that nobody else owns would go with them."""

    child: Child
    manager: str
    why: str
    announce: Announce | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """Have a worker do something. Meant for the process that was seen, and harmless when it is done twice."""

    target: Target
    name: str
    why: str
    announce: Announce | None = None

    @property
    def about(self) -> str:
        """What an outcome calls it."""
        return f"{self.name} {self.target.shard.shard}"


Step = Apply | Delete | MarkClaim | Release | Command | Announce


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything to do for one key now, and when to look again without being told."""

    steps: tuple[Step, ...] = ()
    look_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How acting on a plan went, as far as the verdict needs to know."""

    foreign: tuple[str, ...] = ()
    """Objects of needed names that are not ours, as `Kind/name`."""
    rejected: tuple[str, ...] = ()
    """What the API server said to the objects it will never take."""
    unexpandable: tuple[str, ...] = ()
    """Claims that may not grow, their class being what it is, as `Kind/name`."""
    failed: tuple[str, ...] = ()
    """Calls that failed and will be tried again."""
    applied: tuple[str, ...] = field(default=())
    """Names of what was applied, as `Kind/name`."""
    commanded: tuple[str, ...] = ()
    """What workers were told and did, as `command shard`."""
