"""Which pod the shards of an EcoWorker are to run: that of its newest revision, whatever this operator would render.

A revision begins when a field changes that a pod is made from, or the image. A default image is resolved once for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from eco_crds.ecoworker import EcoWorker
from eco_operator import kinds
from eco_operator.cache import Child, Owned
from eco_operator.reconcile.observation import READ_MAX, Observation, read_worker
from eco_operator.reconcile.plan import Apply, Delete, Step
from eco_operator.resources import controller_revision, deployment
from eco_operator.resources.metadata import Manifest

KEPT_MAX: Final = 3
"""Revisions that are kept for people to compare, the newest included."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One that is in the cluster, or about to be."""

    name: str
    number: int
    source: str
    image: str
    template: dict[str, Any]
    manifest: Manifest | None = None
    """Of one that is about to be."""

    def of_shard(self, worker: EcoWorker, index: int) -> dict[str, Any]:
        """The pod of one shard."""
        return deployment.of_shard(self.template, worker, index)


def resolved_image(seen: Observation) -> str:
    """The image to run: the spec's, else the default that the newest revision was made with, else the default now.

    A default stays as it was resolved until the spec changes, so that a newer operator restarts nothing.
    """
    if seen.worker is None or seen.owned is None:
        return ""
    if seen.worker.spec.image:
        return seen.worker.spec.image
    newest = next(iter(kept(seen)), None)
    if newest is not None and newest.source == _source(seen.owned):
        return newest.image
    if newest is None and seen.previous.observed_generation == seen.owned.generation and seen.previous.image:
        return seen.previous.image
    return seen.policy.default_image


def kept(seen: Observation) -> list[Revision]:
    """Every revision of this EcoWorker, the newest first."""
    found = [revision for child in _children(seen) if (revision := _read(child)) is not None]
    return sorted(found, key=lambda it: it.number, reverse=True)


def wanted(seen: Observation, worker: EcoWorker, image: str) -> Revision:
    """The revision that the shards are to run: the newest there is, or the one that `decide` makes."""
    newest = next(iter(kept(seen)), None)
    is_current = newest is not None and seen.owned is not None and newest.source == _source(seen.owned)
    if newest is not None and is_current and newest.image == image:
        return newest
    built = controller_revision.build(worker, number=newest.number + 1 if newest is not None else 1, image=image)
    return _revision(built["metadata"]["name"], built["revision"], built["data"], manifest=built)


def decide(seen: Observation, revision: Revision) -> Iterator[Step]:
    """Make the revision if it is not there, and remove the oldest of too many."""
    children = _children(seen)
    if revision.manifest is not None and seen.child(kinds.REVISION, revision.name) is None:
        yield Apply(revision.manifest, None, "the spec changed")
    by_age = sorted(children, key=lambda child: int(child.data["revision"]), reverse=True)
    for child in by_age[KEPT_MAX:]:
        yield Delete(child, f"{KEPT_MAX} newer revisions are there")


def _children(seen: Observation) -> list[Child]:
    uid = seen.owned.uid if seen.owned is not None else ""
    return [
        child
        for child in seen.children
        if child.kind == kinds.REVISION.kind and uid in child.owner_uids and not child.is_deleting
    ]


@lru_cache(maxsize=READ_MAX)
def _source(owned: Owned) -> str:
    """What a revision of the valid EcoWorker would be of."""
    worker, _, _ = read_worker(owned)
    assert worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    return controller_revision.source(worker)


def _read(child: Child) -> Revision | None:
    return _parsed(child.name, child.data.get("revision", ""), child.data.get("data", ""))


@lru_cache(maxsize=READ_MAX)
def _parsed(name: str, number: str, data: str) -> Revision | None:
    """A revision as it is kept; None when somebody else's hand made it unreadable."""
    try:
        return _revision(name, int(number), msgspec.json.decode(data))
    except (KeyError, TypeError, ValueError):
        return None


def _revision(name: str, number: int, data: dict[str, Any], *, manifest: Manifest | None = None) -> Revision:
    return Revision(name, number, str(data["source"]), str(data["image"]), data["template"], manifest)
