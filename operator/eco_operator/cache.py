"""What the operator remembers of the cluster: our own objects whole, everything else as a small projection.

Two sources feed it: the watch, event by event, and the resync, list by list. Whatever is newer by resource version
wins, so a late event never undoes a list, nor a stale list an event. Only a list can tell that an object is gone whose
deletion the watch never mentioned (after a 410, say), so it drops what it does not name. What the watch has called
deleted never comes back: a list that still names it is out of date, however it was asked for.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from eco_operator import kinds
from eco_operator.kinds import Kind
from eco_operator.objects import Child, Key, Owned, own, project, version_of

__all__ = ["Cache", "CacheStatistics", "Child", "Identity", "Key", "Owned", "project"]


BURIED_MAX: Final = 10_000
"""So many deletions are remembered: more than happen while a list that is out of date is on its way."""


_WATCHED: Final = frozenset(kind.kind for kind in kinds.WATCHED)
"""Of the others lists alone tell."""


class Identity(NamedTuple):
    """An object by kind and name; another of the same name later has the same."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """How much is remembered, and how far the watch is behind the lists."""

    objects: Mapping[str, int]
    unwatched: int
    """Objects whose last known version came from a list, and the watch has not said so yet."""


@dataclass(slots=True)
class Cache:
    """Everything known of the cluster."""

    _owned: dict[Key, Owned] = field(default_factory=dict)
    _by_kind: dict[str, dict[Key, Owned]] = field(default_factory=dict)
    """The same, so that the few WalSyncs are found among many EcoWorkers."""
    _children: dict[Identity, Child] = field(default_factory=dict)
    _by_worker: dict[tuple[str, str], dict[Identity, Child]] = field(default_factory=dict)
    _watched: dict[Identity, int] = field(default_factory=dict)
    _tombstones: dict[Identity, int] | None = None
    _buried: dict[str, None] = field(default_factory=dict)
    """Uids of what is gone for good, the oldest first; bounded by `BURIED_MAX`."""

    def owned(self, key: Key) -> Owned | None:
        """The EcoWorker or WalSync of that key."""
        return self._owned.get(key)

    def all_owned(self, kind: Kind, namespace: str | None = None) -> list[Owned]:
        """Every object of one of our kinds, of one namespace or all."""
        found = self._by_kind.get(kind.kind, {}).values()
        return [owned for owned in found if namespace is None or owned.key.namespace == namespace]

    def children(self, namespace: str, worker: str, kind: Kind | None = None) -> list[Child]:
        """What carries the label of that EcoWorker."""
        found = self._by_worker.get((namespace, worker), {}).values()
        return [child for child in found if kind is None or child.kind == kind.kind]

    def pods(self) -> list[Child]:
        """Every pod of every worker; those of jobs are none."""
        found = self._children.values()
        return [child for child in found if child.pod is not None and child.worker and not child.is_of_job]

    def applications(self) -> dict[str, Child]:
        """Every Application of Argo CD that is ours, by its uid."""
        return {child.uid: child for child in self._children.values() if child.application is not None}

    def claims(self) -> list[Child]:
        """Every claim on a volume with a journal, used or not."""
        return [child for child in self._children.values() if child.claim is not None]

    def child_uids(self) -> set[str]:
        """The uid of everything that is not of our own kinds."""
        return {child.uid for child in self._children.values()}

    def all_keys(self) -> set[Key]:
        """Everything there is to look at, with the names of EcoWorkers that are gone and left something behind."""
        left = {Key(kinds.ECO_WORKER.kind, namespace, worker) for namespace, worker in self._by_worker}
        return left | set(self._owned)

    def see(self, kind: Kind, event_type: str | None, body: Mapping[str, Any]) -> set[Key]:
        """Take in one event of the watch; returns the keys it concerns, none when it told nothing new."""
        identity, version = _identity(kind, body), version_of(body)
        if event_type == "DELETED":
            self._bury(body["metadata"]["uid"])
        elif body["metadata"]["uid"] in self._buried:
            return set()
        self._watched[identity] = max(version, self._watched.get(identity, 0))
        known = self._known(identity)
        if known is not None and (version < known.version or (version == known.version and event_type != "DELETED")):
            return set()
        if event_type == "DELETED":
            self._watched.pop(identity, None)
            if self._tombstones is not None:
                self._tombstones[identity] = version
            concerned = self._concerned(kind, self._project(kind, body))
            self._drop(identity)
            return concerned
        return self._put(kind, identity, body)

    def hear(self, identity: Identity, version: str) -> bool:
        """Take note that the watch has told of a version; whether that is the one which is known."""
        known = self._known(identity)
        if known is None or not version.isdigit() or known.version != int(version):
            return False
        self._watched[identity] = max(known.version, self._watched.get(identity, 0))
        return True

    def begin_list(self) -> None:
        """Remember deletions from now on, so that a list begun now cannot bring back what goes meanwhile."""
        self._tombstones = {}

    def end_list(self) -> None:
        """Stop remembering deletions."""
        self._tombstones = None

    def take_list(self, kind: Kind, bodies: Iterable[Mapping[str, Any]]) -> set[Identity]:
        """Take in one chunk of a list; returns what it named."""
        named = set()
        for body in bodies:
            identity, version = _identity(kind, body), version_of(body)
            named.add(identity)
            known = self._known(identity)
            gone = (self._tombstones or {}).get(identity, -1)
            if body["metadata"]["uid"] in self._buried:
                continue
            if version > gone and (known is None or version > known.version):
                self._put(kind, identity, body)
        return named

    def forget_unnamed(self, kind: Kind, named: set[Identity], list_version: int) -> int:
        """Drop what a whole list did not name and is not newer than it; returns how many."""
        candidates = [*self._owned, *self._children]
        gone = [
            identity
            for identity in (Identity(*candidate) for candidate in candidates)
            if identity.kind == kind.kind and identity not in named
        ]
        dropped = 0
        for identity in gone:
            known = self._known(identity)
            if known is not None and known.version <= list_version:
                if isinstance(known, Owned):
                    # Lists of our own kinds select nothing: it has been deleted. Another kind may have lost its label.
                    self._bury(known.uid)
                self._drop(identity)
                self._watched.pop(identity, None)
                dropped += 1
        return dropped

    def put_written(self, kind: Kind, body: Mapping[str, Any]) -> Owned | Child:
        """Take in what the server answered us, ahead of the watch; returns it.

        What has been deleted since stays so: the answer may have been on its way for longer than the event. Of another
        kind than our own the event may tell of a lost label only.
        """
        identity = _identity(kind, body)
        known, written = self._known(identity), self._project(kind, body)
        if isinstance(written, Owned) and written.uid in self._buried:
            return written
        if known is None or written.version > known.version:
            self._keep(kind, identity, written)
        return written

    def drop_deleted(self, child: Child) -> None:
        """Forget what we deleted ourselves, ahead of the watch; another object of that name stays."""
        identity = Identity(child.kind, child.namespace, child.name)
        known = self._children.get(identity)
        if known is not None and known.uid == child.uid:
            self._drop(identity)
        self._bury(child.uid)

    def forget_gone(self, owned: Owned) -> None:
        """Forget one of our own objects that the server has no more, ahead of the watch; another of that name stays."""
        identity = Identity(*owned.key)
        known = self._owned.get(owned.key)
        if known is not None and known.uid == owned.uid:
            self._drop(identity)
            self._watched.pop(identity, None)
        self._bury(owned.uid)

    def unwatched(self) -> dict[Identity, int]:
        """Every object whose known version the watch has not mentioned yet, with that version."""
        versions = {Identity(*key): entry.version for key, entry in self._owned.items()}
        versions |= {identity: child.version for identity, child in self._children.items() if identity.kind in _WATCHED}
        return {identity: version for identity, version in versions.items() if self._watched.get(identity, 0) < version}

    def still_unwatched(self, before: Mapping[Identity, int]) -> int:
        """How many of the versions that `unwatched` named a while ago the watch still has not mentioned.

        What was written since does not count: of a busy fleet there is always something that the watch is about to say.
        """
        return sum(
            self._known(identity) is not None and self._watched.get(identity, 0) < version
            for identity, version in before.items()
        )

    def statistics(self) -> CacheStatistics:
        """How much is remembered."""
        counts = Counter(key.kind for key in self._owned)
        counts.update(identity.kind for identity in self._children)
        return CacheStatistics(objects=counts, unwatched=len(self.unwatched()))

    def _bury(self, uid: str) -> None:
        self._buried[uid] = None
        if len(self._buried) > BURIED_MAX:
            del self._buried[next(iter(self._buried))]

    def _known(self, identity: Identity) -> Owned | Child | None:
        return self._owned.get(Key(*identity)) or self._children.get(identity)

    def _put(self, kind: Kind, identity: Identity, body: Mapping[str, Any]) -> set[Key]:
        return self._keep(kind, identity, self._project(kind, body))

    def _keep(self, kind: Kind, identity: Identity, entry: Owned | Child) -> set[Key]:
        if isinstance(entry, Owned):
            self._owned[entry.key] = entry
            self._by_kind.setdefault(entry.key.kind, {})[entry.key] = entry
            return self._concerned(kind, entry)
        before = self._children.get(identity)
        concerned = self._concerned(kind, entry)
        if before is not None and before.worker != entry.worker:
            concerned |= self._concerned(kind, before)
            self._unindex(before, identity)
        self._children[identity] = entry
        if entry.worker:
            self._by_worker.setdefault((entry.worker_namespace, entry.worker), {})[identity] = entry
        return concerned

    def _drop(self, identity: Identity) -> None:
        if (owned := self._owned.pop(Key(*identity), None)) is not None:
            del self._by_kind[owned.key.kind][owned.key]
        child = self._children.pop(identity, None)
        if child is not None:
            self._unindex(child, identity)

    def _unindex(self, child: Child, identity: Identity) -> None:
        siblings = self._by_worker.get((child.worker_namespace, child.worker))
        if siblings is not None:
            siblings.pop(identity, None)
            if not siblings:
                del self._by_worker[(child.worker_namespace, child.worker)]

    def _project(self, kind: Kind, body: Mapping[str, Any]) -> Owned | Child:
        return own(kind, body) if kind in kinds.OWNED else project(kind, body)

    def _concerned(self, kind: Kind, entry: Owned | Child) -> set[Key]:
        if isinstance(entry, Child):
            return {Key(kinds.ECO_WORKER.kind, entry.worker_namespace, entry.worker)} if entry.worker else set()
        keys = {entry.key}
        # A WalSync tells EcoWorkers how to sync; an EcoWorker's state is what a WalSync shows.
        other = kinds.WAL_SYNC if kind == kinds.ECO_WORKER else kinds.ECO_WORKER
        keys.update(owned.key for owned in self.all_owned(other, entry.key.namespace))
        return keys


def _identity(kind: Kind, body: Mapping[str, Any]) -> Identity:
    return Identity(kind.kind, body["metadata"]["namespace"], body["metadata"]["name"])
