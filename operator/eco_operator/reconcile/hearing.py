"""Whether a shard's worker is heard of, and what the operator must not conclude from silence."""

from typing import Final

from eco_operator.reconcile.observation import Observation, Shard

SILENT_SHARE_MAX: Final = 5
"""One in so many shards may be silent before probing itself is under suspicion; one shard always may."""


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


def lost_pod(shard: Shard) -> str:
    """The node on which a pod of the shard is stuck whose kubelet does not answer; empty when there is none."""
    stuck = [pod.pod for pod in (*shard.pods, *shard.job_pods) if pod.pod is not None and pod.pod.is_lost]
    return (stuck[0].node or "unknown") if stuck else ""
