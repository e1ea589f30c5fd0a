"""Which pods can tell of a shard's journal, by what is known of the cluster."""

from eco_operator import kinds
from eco_operator.cache import Cache
from eco_operator.shards import Probe, ShardKey, Target


def targets(cache: Cache) -> list[Target]:
    """The pod of each shard that may answer: the newest in which a process runs."""
    best: dict[ShardKey, tuple[bool, str, Target]] = {}
    for child in cache.pods():
        pod = child.pod
        if pod is None or not pod.ip or not pod.process or not child.shard:
            continue
        shard = ShardKey(child.namespace, child.worker, child.shard)
        candidate = (not child.is_deleting, pod.created, Target(shard, child.uid, pod.process, pod.ip))
        if shard not in best or candidate[:2] > best[shard][:2]:
            best[shard] = candidate
    return [candidate[2] for candidate in best.values()]


def is_known(cache: Cache, shard: ShardKey) -> bool:
    """Whether anything is left of a shard."""
    return any(child.shard == shard.shard for child in cache.children(shard.namespace, shard.worker))


def lives(cache: Cache, shard: ShardKey, probe: Probe) -> bool:
    """Whether the process that sent the last report of a shard still runs."""
    processes = {
        (child.uid, child.pod.process)
        for child in cache.children(shard.namespace, shard.worker, kinds.POD)
        if child.shard == shard.shard and child.pod is not None and child.pod.process and not child.is_of_job
    }
    return (probe.pod_uid, probe.process) in processes
