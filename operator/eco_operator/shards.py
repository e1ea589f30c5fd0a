"""Names for what probing brings: whose journal, which pod, and what is known. Pure, so that decisions may use them."""

from dataclasses import dataclass
from typing import NamedTuple

from eco_crds.wal import WalReport


class ShardKey(NamedTuple):
    """One shard of one EcoWorker."""

    namespace: str
    worker: str
    shard: str


@dataclass(frozen=True, slots=True)
class Target:
    """A pod that should answer for a shard."""

    shard: ShardKey
    pod_uid: str
    process: str
    """The process that runs in the pod, as `PodState.process` names it."""
    ip: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known of a shard's journal."""

    report: WalReport | None
    """The last report ever received, however old."""
    age_s: float | None
    """Seconds since it came; None when none ever did."""
    pod_uid: str
    """The pod that sent it."""
    process: str
    """The process in that pod that sent it."""
    error: str
    """Why the last attempt brought nothing; empty when it did."""
    failures: int
    """Attempts in a row that brought nothing."""
    attempts: int
    same_mode: int = 0
    """Reports in a row, of this process, in which the journal was in the same mode."""
