"""Whether a shard's worker is heard of, and what the operator must not conclude from silence."""

from datetime import datetime, timedelta
from typing import Final

from eco_operator.reconcile.observation import Observation, Shard

SILENT_SHARE_MAX: Final = 5
"""One in so many shards may be silent before probing itself is under suspicion; one shard always may."""
OVERDUE: Final = timedelta(seconds=60)
"""How long after the end of its grace period a pod that is still there says that its node is gone."""


def is_fresh(seen: Observation, shard: Shard) -> bool:
    """Whether the process that runs now has reported within three periods of the probe."""
    return shard.report is not None and shard.probe.age_s is not None and shard.probe.age_s <= seen.policy.report_age_s


def is_probing_down(seen: Observation) -> bool:
    """Whether so many processes that run are silent that the way to them is to blame rather than they."""
    silent = sum(shard.target is not None and not is_fresh(seen, shard) for shard in seen.shards)
    return too_many_silent(silent, len(seen.shards))


def too_many_silent(silent: int, shards: int) -> bool:
    """Whether that many silent ones of all are more than one, and more than a fifth."""
    return silent > max(1, shards // SILENT_SHARE_MAX)


def lost_pod(seen: Observation, shard: Shard) -> str:
    """The node that keeps a pod of the shard which should be gone, its kubelet being silent; empty when none does."""
    pods = [pod.pod for pod in (*shard.pods, *shard.job_pods) if pod.pod is not None]
    stuck = [pod for pod in pods if pod.is_lost or _is_overdue(pod.leaves_by, seen.now)]
    return (stuck[0].node or "unknown") if stuck else ""


def _is_overdue(leaves_by: str, now: datetime) -> bool:
    """Whether a kubelet that lives would have ended the pod long ago."""
    try:
        return now - datetime.fromisoformat(leaves_by) > OVERDUE
    except ValueError:
        return False
