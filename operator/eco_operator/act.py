"""Acts on a plan, step by step, and reports how it went.

A step that fails keeps back only those that require it. What the cluster answers goes into the cache at once, ahead of
the watch, so that the next look sees it.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog

from eco_crds import contract
from eco_operator import errors, kinds, metrics
from eco_operator.cache import Cache, Child, Key
from eco_operator.cluster import Cluster
from eco_operator.reconcile.ownership import drift
from eco_operator.reconcile.plan import Announce, Apply, Command, Delete, MarkClaim, Outcome, Plan, Release, Step
from eco_operator.shards import Target

logger = structlog.get_logger(__name__)

TOKEN_BYTES: Final = 32
EVENT_CHARACTERS_MAX: Final = 1000
"""Of a message that tells of several objects, before it says how many more: `events.k8s.io` allows a note 1,024."""


class Workers(Protocol):
    """What acting asks of the way to workers."""

    async def command(self, target: Target, name: str, *, token: str) -> None:
        """Have a worker do something; raises `CommandError`."""


@dataclass(slots=True)
class _Tally:
    foreign: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    unexpandable: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    commanded: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    made: list[Announce] = field(default_factory=list)
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Acted:
    """What became of a plan."""

    outcome: Outcome
    changed: int
    """How many objects were written or deleted."""
    retry_after_s: float | None
    """How long the API server asked to be left alone."""

    @property
    def is_troubled(self) -> bool:
        """Whether something stood in the way, so that going on at once would only meet it again."""
        outcome = self.outcome
        return bool(outcome.foreign or outcome.rejected or outcome.unexpandable or outcome.failed)


@dataclass(slots=True)
class Actor:
    """Carries out plans on a cluster."""

    cluster: Cluster
    cache: Cache
    identity: str
    workers: Workers
    _accepted: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By uid: the hash and fields of objects that a server keeps other than applied, so as not to apply for ever."""
    _untold: dict[Key, Announce] = field(default_factory=dict)
    """What was made and has not been told of yet; at most one event for each key."""

    async def act(self, key: Key, plan: Plan, *, is_current: Callable[[], bool], tells: bool = True) -> Acted:
        """Act on each step in order, as long as the object the plan was made for is the one there is.

        What was made is told in one event at the end or, unless it `tells`, when `tell` is called.
        """
        tally, changed = _Tally(), 0
        for step in plan.steps:
            if not is_current():
                break
            try:
                changed += await self._do(key, step, tally)
            except errors.ApiError as error:
                if isinstance(error, errors.DeniedError) and error.is_namespace_going:
                    # Everything of ours in there goes by itself; trying would only be noise.
                    break
                await self._note(error, step, tally)
            except errors.CommandError as error:
                tally.failed.append(str(error)[:512])
            else:
                metrics.STEPS.labels(type(step).__name__).inc()
        if tally.applied:
            logger.info("applied", key=_text(key), objects=tally.applied)
        await self.tell(key)
        if (made := _gathered(tally.made)) is not None:
            self._untold[key] = made
        if tells:
            await self.tell(key)
        outcome = Outcome(
            foreign=tuple(tally.foreign),
            rejected=tuple(tally.rejected),
            unexpandable=tuple(tally.unexpandable),
            failed=tuple(tally.failed),
            applied=tuple(tally.applied),
            commanded=tuple(tally.commanded),
        )
        return Acted(outcome, changed, tally.retry_after_s)

    def has_untold(self, key: Key) -> bool:
        """Whether an event about it was put off."""
        return key in self._untold

    async def tell(self, key: Key) -> None:
        """Post the event that was put off, if one was."""
        await self._announce(self._untold.pop(key, None))

    def forget(self, uids: set[str]) -> None:
        """Keep what was accepted for these objects only."""
        self._accepted = {uid: accepted for uid, accepted in self._accepted.items() if uid in uids}

    async def _do(self, key: Key, step: Step, tally: _Tally) -> bool:
        """Act on one step. Returns whether an object is another than before; what a worker does is for it to report."""
        match step:
            case Apply():
                return await self._apply(key, step, tally)
            case Delete():
                return await self._delete(key, step)
            case MarkClaim():
                await self._mark(step)
                return True
            case Release():
                # Of what could not be applied, the other's claim is all that holds it up.
                if f"{step.child.kind}/{step.child.name}" in tally.missing:
                    return False
                await self._release(key, step)
                return True
            case Command():
                await self._command(key, step)
                tally.commanded.append(step.about)
            case Announce():
                await self._announce(step)
        return False

    async def _apply(self, key: Key, step: Apply, tally: _Tally) -> bool:
        name = _name(step.desired)
        kind = kinds.BY_NAME[step.desired["kind"]]
        if step.requires in tally.missing:
            tally.missing.add(name)
            return False
        wanted_hash = step.desired["metadata"]["annotations"][contract.ANNOTATION_HASH]
        existing = step.existing
        if existing is not None and self._accepted.get(existing.uid) == (wanted_hash, existing.owned_fields):
            return False
        desired = dict(step.desired)
        if kind == kinds.SECRET:
            desired["data"] = {contract.TOKEN_KEY: await self._token(existing)}
        if existing is None:
            try:
                self._written(kind, await self.cluster.make(desired))
            except errors.ConflictError:
                await self._meet(kind, step.desired, tally)
                return False
        else:
            child = await self._change(kind, desired, existing)
            if still := drift(step.desired, child):
                logger.warning("the server keeps it other than applied", key=_text(key), object=name, difference=still)
                self._accepted[child.uid] = (wanted_hash, child.owned_fields)
        logger.debug("applied", key=_text(key), object=name, why=step.why)
        tally.applied.append(name)
        if existing is None and step.announce is not None:
            tally.made.append(step.announce)
        else:
            await self._announce(step.announce)
        return True

    async def _change(self, kind: kinds.Kind, desired: Mapping[str, Any], existing: Child) -> Child:
        """Apply to this very object; one that took its name meanwhile must be looked at first."""
        if existing.is_as_created:
            await self.cluster.own(kind, existing)
        metadata = {**desired["metadata"], "uid": existing.uid}
        return self._written(kind, await self.cluster.apply({**desired, "metadata": metadata}, force=True))

    def _written(self, kind: kinds.Kind, answer: Mapping[str, Any]) -> Child:
        child = self.cache.put_written(kind, answer)
        assert isinstance(child, Child), "our own kinds are not applied"  # noqa: S101  # a caller's mistake
        return child

    async def _meet(self, kind: kinds.Kind, desired: Mapping[str, Any], tally: _Tally) -> None:
        """Look at what has the name of an object to be made. One that is ours and not seen yet goes into the cache."""
        metadata = desired["metadata"]
        found = await self.cluster.get(kind, metadata["namespace"], metadata["name"])
        labels: Mapping[str, str] = found["metadata"].get("labels") or {}
        is_ours = labels.get(contract.LABEL_MANAGED_BY) == contract.MANAGED_BY
        same = all(
            labels.get(label) == metadata["labels"].get(label)
            for label in (contract.LABEL_WORKER, contract.LABEL_SHARD, contract.LABEL_NAMESPACE)
        )
        if is_ours and same:
            self.cache.put_written(kind, found)
            tally.failed.append(f"{_name(desired)} was there already and is looked at anew")
        else:
            tally.foreign.append(_name(desired))
            tally.missing.add(_name(desired))

    async def _token(self, existing: Child | None) -> str:
        """The token the Secret holds, or a new one. It passes through here and is kept nowhere."""
        if existing is not None:
            found = await self.cluster.get(kinds.SECRET, existing.namespace, existing.name)
            kept = (found.get("data") or {}).get(contract.TOKEN_KEY, "")
            if kept:
                return str(kept)
        return base64.b64encode(secrets.token_urlsafe(TOKEN_BYTES).encode()).decode()

    async def _delete(self, key: Key, step: Delete) -> bool:
        child = step.child
        kind = kinds.BY_NAME[child.kind]
        answer = await self.cluster.delete(kind, child.namespace, child.name, uid=child.uid)
        if answer is None:
            return False  # It went before, or its name is another's by now: the watch is about to say so.
        if answer.get("kind") == kind.kind:
            self.cache.put_written(kind, answer)
        else:
            self.cache.drop_deleted(child)
        logger.info("deleted", key=_text(key), object=f"{child.kind}/{child.name}", why=step.why)
        await self._announce(step.announce)
        return True

    async def _mark(self, step: MarkClaim) -> None:
        answer = await self.cluster.annotate(kinds.CLAIM, step.claim, step.marks, contract.ORPHAN_FIELD_MANAGER)
        self.cache.put_written(kinds.CLAIM, answer)
        await self._announce(step.announce)

    async def _release(self, key: Key, step: Release) -> None:
        kind = kinds.BY_NAME[step.child.kind]
        if step.manager == contract.FIELD_MANAGER and step.child.is_as_created:
            await self.cluster.own(kind, step.child)
        self.cache.put_written(kind, await self.cluster.release(kind, step.child, step.manager))
        logger.info("released", key=_text(key), object=f"{step.child.kind}/{step.child.name}", why=step.why)

    async def _command(self, key: Key, step: Command) -> None:
        shard = step.target.shard
        secret = contract.token_secret_name(shard.worker)
        found = await self.cluster.get(kinds.SECRET, shard.namespace, secret)
        token = base64.b64decode((found.get("data") or {}).get(contract.TOKEN_KEY, "")).decode()
        await self.workers.command(step.target, step.name, token=token)
        logger.info("told a worker", key=_text(key), shard=shard.shard, command=step.name, why=step.why)
        await self._announce(step.announce)

    async def _announce(self, announce: Announce | None) -> None:
        """Post an event. It is a courtesy: work never waits for it, and a failure is only logged."""
        if announce is None:
            return
        try:
            await self.cluster.create_event(event(announce, self.identity))
        except errors.ApiError as error:
            logger.warning("event not posted", reason=announce.reason, error=str(error))

    async def _note(self, error: errors.ApiError, step: Step, tally: _Tally) -> None:
        if isinstance(step, Apply):
            tally.missing.add(_name(step.desired))
            if isinstance(error, errors.DeniedError) and error.is_not_expandable:
                tally.unexpandable.append(_name(step.desired))
                await self._announce(step.refused)
                return
        if isinstance(error, errors.TransientError) and error.retry_after_s is not None:
            tally.retry_after_s = max(tally.retry_after_s or 0.0, error.retry_after_s)
        target = tally.rejected if isinstance(error, errors.RejectedError) else tally.failed
        target.append(f"{error.target.rpartition('/')[2]}: {error.message or error.reason or error.status}")


def _gathered(made: Sequence[Announce]) -> Announce | None:
    """One event for all that was made at once: a new EcoWorker is no reason to post eight."""
    if len(made) < 2:
        return next(iter(made), None)
    told = [it.message for it in made]
    while len(" ".join(told)) > EVENT_CHARACTERS_MAX:
        told.pop()
    if len(told) < len(made):
        told.append(f"And {len(made) - len(told)} more.")
    return replace(made[0], reason="Created", message=" ".join(told))


def event(announce: Announce, identity: str) -> dict[str, Any]:
    """The event as the API server wants it."""
    about = announce.about
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    suffix = f"{time.time_ns():x}"
    if announce.once:
        told = f"{about.kind}/{about.uid}/{announce.reason}/{announce.once}"
        suffix = hashlib.sha256(told.encode()).hexdigest()[:16]
    return {
        "apiVersion": kinds.EVENT.api_version,
        "kind": kinds.EVENT.kind,
        "metadata": {"name": f"{about.name}.{suffix}", "namespace": about.namespace},
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
        },
        "reason": announce.reason,
        "message": announce.message,
        "type": announce.type.value,
        "source": {"component": contract.FIELD_MANAGER},
        "reportingComponent": contract.FIELD_MANAGER,
        "reportingInstance": identity,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _name(desired: Mapping[str, Any]) -> str:
    return f"{desired['kind']}/{desired['metadata']['name']}"


def _text(key: Key) -> str:
    return "/".join(key)
