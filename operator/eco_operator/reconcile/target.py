"""What the Deployment of a shard should be, all things considered: revision, recovery, hibernation."""

from typing import Any

from eco_crds import contract
from eco_crds.ecoworker import EcoWorker
from eco_operator.reconcile import recovery
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.revision import Revision, kept
from eco_operator.resources import deployment


def wanted(seen: Observation, worker: EcoWorker, shard: Shard, revision: Revision) -> dict[str, Any]:
    """The Deployment that a shard should have, with the pod of that revision."""
    found = recovery.look(seen, worker, shard)
    record = recovery.record(seen, shard, found) if found.is_fenced else ""
    return deployment.build(
        worker,
        shard.index,
        image=revision.image,
        replicas=0 if record or worker.hibernated else 1,
        recovery=record,
        template=revision.of_shard(worker, shard.index),
    )


def is_hash_of(shard: Shard, desired: dict[str, Any]) -> bool:
    """Whether the shard's Deployment was applied as this."""
    child = shard.deployment
    return child is not None and child.desired_hash in desired["metadata"]["annotations"].values()


def is_switch(shard: Shard, desired: dict[str, Any]) -> bool:
    """Whether it starts, stops, or begins or ends a recovery: that waits for no other shard's roll."""
    state = shard.deployment.deployment if shard.deployment is not None else None
    return state is not None and (
        state.replicas != desired["spec"]["replicas"] or state.recovery != _recovery_in(desired)
    )


def record_in(desired: dict[str, Any]) -> str:
    """The cause of the recovery that a Deployment is stopped for; empty when it is for none."""
    return recovery.cause_in(_recovery_in(desired))


def starts(shard: Shard, desired: dict[str, Any]) -> bool:
    """Whether it would bring up a worker where none is meant to be now."""
    state = shard.deployment.deployment if shard.deployment is not None else None
    return bool(desired["spec"]["replicas"]) and (state is None or not state.replicas)


def revision_of(seen: Observation, worker: EcoWorker, shard: Shard, newest: Revision) -> Revision | None:
    """The revision that a shard's Deployment is of; None when it is of none that is kept."""
    others = [revision for revision in kept(seen) if revision.name != newest.name]
    return next((it for it in (newest, *others) if is_hash_of(shard, wanted(seen, worker, shard, it))), None)


def _recovery_in(desired: dict[str, Any]) -> str:
    return str(desired["metadata"]["annotations"].get(contract.ANNOTATION_RECOVERY, ""))
