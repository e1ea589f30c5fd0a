"""The acting loop: takes a key, observes, decides, acts, and writes the verdict down.

It knows no history: whatever was seen or missed, the next look at a key comes to the same end. The resync lists
everything anew and has every key looked at, so that the watch may be late, lose or repeat events without harm.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import structlog

from eco_crds.ecoworker import Delivery
from eco_operator import errors, kinds, metrics, pods
from eco_operator.act import Acted, Actor
from eco_operator.cache import Cache, Child, Identity, Key, project
from eco_operator.cluster import Cluster
from eco_operator.kinds import Kind
from eco_operator.lists import Lists
from eco_operator.probes import Prober
from eco_operator.queue import KeyQueue
from eco_operator.reconcile import ecoworker, ecoworker_status, growth, kept_claims, newcomers, walsync
from eco_operator.reconcile.findings import Urgency
from eco_operator.reconcile.observation import Observation, Policy, Shard, observe
from eco_operator.reconcile.plan import Outcome, Plan
from eco_operator.resources.application import Source
from eco_operator.settings import Settings
from eco_operator.shards import Probe, ShardKey, Target
from eco_operator.storage_classes import StorageClasses
from eco_operator.watch_event import WatchEvent

logger = structlog.get_logger(__name__)

LOOK_TIMEOUT_S: Final = 120.0
ROUNDS_MAX: Final = 5
FOREIGN_LOOK_AGAIN_S: Final = 30.0
WATCH_LAG_S: Final = 30.0
APPLICATIONS_INTERVAL_S: Final = 5.0
_SHARE_OF_INTERVAL: Final = {Urgency.NUMBERS: 1.0, Urgency.TURN: 0.25, Urgency.NEWS: 0.0}


@dataclass(frozen=True, slots=True)
class LoopStatistics:
    """How the loop goes."""

    looks: int
    failures: int
    resyncs: int
    resynced_ago_s: float | None
    watch_behind_resyncs: int
    """Resyncs in a row that found objects which the watch had not mentioned even half a minute later."""


@dataclass(slots=True)
class Loop:
    """Sets right one key after another, several at a time."""

    cluster: Cluster
    settings: Settings
    cache: Cache = field(default_factory=Cache)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    queue: KeyQueue[Key] = field(init=False)
    prober: Prober = field(init=False)
    _lists: Lists = field(init=False)
    _actor: Actor = field(init=False)
    _classes: StorageClasses = field(init=False)
    _policy: Policy = field(init=False)
    _status_at: dict[Key, float] = field(default_factory=dict)
    _listed: asyncio.Event = field(default_factory=asyncio.Event)
    _started_at: float | None = None
    _looks: int = 0
    _failures: int = 0
    _resyncs: int = 0
    _resynced_at: float | None = None
    _behind: int = 0

    def __post_init__(self) -> None:
        settings = self.settings
        self.queue = KeyQueue(settings.backoff_s_min, settings.backoff_s_max)
        self.prober = Prober(
            targets=partial(pods.targets, self.cache),
            is_wanted=partial(pods.is_known, self.cache),
            on_change=self._on_probe,
            interval_s=settings.probe_interval_s,
            timeout_s=settings.probe_timeout_s,
            concurrency=settings.probe_concurrency,
        )
        self._classes = StorageClasses(
            self.cluster, may_look=settings.is_cluster_wide, keep_s=settings.resync_interval_s / 2
        )
        self._lists = Lists(self.cluster, settings, self.cache)
        self._actor = Actor(self.cluster, self.cache, settings.identity, self.prober)
        self._policy = Policy(
            default_image=settings.default_worker_image,
            report_age_s=3 * settings.probe_interval_s + settings.probe_timeout_s,
            status_interval_s=settings.status_interval_s,
            argocd=_argocd(settings),
        )

    def knows(self, kind: Kind, event: WatchEvent) -> bool:
        """Whether an event of the watch tells what is known; if not, it is to be seen."""
        identity = Identity(kind.kind, event.metadata.namespace, event.metadata.name)
        is_known = event.type != "DELETED" and self.cache.hear(identity, event.metadata.resourceVersion)
        if is_known:
            metrics.watch_events(kind.kind).inc()
        return is_known

    def see(self, kind: Kind, event_type: str | None, body: Mapping[str, Any]) -> None:
        """Take in one event of the watch."""
        metrics.watch_events(kind.kind).inc()
        keys = self.cache.see(kind, event_type, body)
        for key in keys:
            self.queue.add(key)
        if keys and kind == kinds.POD and event_type != "DELETED":
            self._meet(project(kind, body))

    def _meet(self, child: Child) -> None:
        """A process that has started and has not reported yet need not wait for the next round."""
        pod, shard = child.pod, ShardKey(child.namespace, child.worker, child.shard)
        if pod is None or not pod.process or not pod.ip or child.is_of_job:
            return
        last = self.prober.probe(shard)
        if (last.pod_uid, last.process) != (child.uid, pod.process):
            self.prober.hurry(Target(shard, child.uid, pod.process, pod.ip))

    async def run(self) -> None:
        """Set right whatever is on the queue until cancelled. The first lists must be in (`wait_listed`)."""
        self._started_at = _now()
        async with asyncio.TaskGroup() as group:
            for number in range(self.settings.reconcile_concurrency):
                group.create_task(self._work(), name=f"reconcile-{number}")
            group.create_task(self._resync(), name="resync")
            if self.settings.argocd_namespace:
                group.create_task(self._follow_applications(), name="applications")
            group.create_task(self.prober.run(), name="prober")

    def statistics(self) -> LoopStatistics:
        """How the loop goes now."""
        ago_s = None if self._resynced_at is None else _now() - self._resynced_at
        return LoopStatistics(self._looks, self._failures, self._resyncs, ago_s, self._behind)

    async def list_everything(self) -> None:
        """List every watched kind, forget what is gone, and have every key looked at."""
        await self._lists.everything()
        if self._lists.monitor_labels != self._policy.monitor_labels:
            logger.info("service monitors", wanted=self._lists.monitor_labels is not None)
            self._policy = replace(self._policy, monitor_labels=self._lists.monitor_labels)
        self._actor.forget(self.cache.child_uids())
        keys = self.cache.all_keys()
        for key in keys:
            self.queue.add(key, patient=True)
        self._status_at = {key: at for key, at in self._status_at.items() if key in keys}
        self._resyncs += 1
        self._resynced_at = _now()
        self._listed.set()

    async def wait_listed(self) -> None:
        """Return once everything has been listed for the first time."""
        await self._listed.wait()

    def shards_by_state(self) -> dict[str, int]:
        """How many shards there are of each health, as last written down."""
        counts: dict[str, int] = {}
        for owned in self.cache.all_owned(kinds.ECO_WORKER):
            for shard in (owned.body.get("status") or {}).get("shards") or ():
                counts[shard.get("wal", "Unknown")] = counts.get(shard.get("wal", "Unknown"), 0) + 1
        return counts

    def kept_claims_by_state(self) -> dict[tuple[str, str], int]:
        """How many claims no shard uses, by why and by what the last job on each left in the journal."""
        return dict(Counter(kept for claim in self.cache.claims() if (kept := kept_claims.describe(claim)) is not None))

    async def _follow_applications(self) -> None:
        """Look after Argo CD's Applications at intervals while there are any, or are to be."""
        while True:
            await asyncio.sleep(APPLICATIONS_INTERVAL_S)
            if not self.cache.applications() and not self._any_by_argocd():
                continue
            before = self.cache.applications()
            try:
                await self._lists.applications()
            except errors.ApiError as error:
                logger.warning("applications not listed, the next time will do", error=str(error))
                continue
            after = self.cache.applications()
            for uid in before.keys() | after.keys():
                if before.get(uid) != after.get(uid):
                    child = after.get(uid) or before[uid]
                    self.queue.add(Key(kinds.ECO_WORKER.kind, child.worker_namespace, child.worker))

    def _any_by_argocd(self) -> bool:
        workers = self.cache.all_owned(kinds.ECO_WORKER)
        return any((owned.body.get("spec") or {}).get("delivery") == Delivery.ARGOCD.value for owned in workers)

    async def _resync(self) -> None:
        # By then every worker has been asked often enough to tell silence from a young operator.
        await asyncio.sleep(self._policy.report_age_s + 0.5)
        for key in self.cache.all_keys():
            self.queue.add(key, patient=True)
        while True:
            interval_s = self.settings.resync_interval_s
            await asyncio.sleep(interval_s * random.uniform(0.9, 1.1))  # noqa: S311  # jitter, no secret
            try:
                await self.list_everything()
            except errors.ApiError as error:
                metrics.RESYNCS.labels("failed").inc()
                logger.warning("resync failed, the next one will do", error=str(error))
                continue
            metrics.RESYNCS.labels("done").inc()
            listed = self.cache.unwatched()
            await asyncio.sleep(min(WATCH_LAG_S, interval_s / 2))
            unwatched = self.cache.still_unwatched(listed)
            self._behind = self._behind + 1 if unwatched else 0
            if unwatched:
                logger.warning("the watch is behind the lists", objects=unwatched, resyncs=self._behind)

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            started, failed, retry_after_s = _now(), True, None
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    failed, retry_after_s = await self._look(key)
            except errors.ApiError as error:
                retry_after_s = getattr(error, "retry_after_s", None)
                logger.warning("look failed", key="/".join(key), error=str(error))
            except TimeoutError:
                logger.warning("look took too long", key="/".join(key), limit_s=LOOK_TIMEOUT_S)
            except Exception:
                # One object that nobody thought of must not keep the others waiting.
                logger.exception("look failed unexpectedly", key="/".join(key))
            finally:
                pause_s = self.queue.done(key, failed=failed, retry_after_s=retry_after_s)
            self._looks += 1
            self._failures += failed
            if pause_s is not None:
                logger.info("will look again", key="/".join(key), pause_s=round(pause_s, 1))
            metrics.RECONCILES.labels(key.kind, "failed" if failed else "done").inc()
            metrics.RECONCILE_SECONDS.labels(key.kind).observe(_now() - started)
            # A look that finds nothing to do waits for nothing: after a resync a fleet of them would hold up the Lease.
            await asyncio.sleep(0)

    async def _look(self, key: Key) -> tuple[bool, float | None]:
        """One look at one key. Returns whether it has to be tried again, and how long the server wants to rest."""
        if key.kind == kinds.WAL_SYNC.kind:
            await self._look_at_sync(key)
            return False, None
        seen, acted, look_again_s = await self._act_until_settled(key)
        if seen is None:
            return False, acted.retry_after_s
        await self._actor.tell(key)
        if seen.owned is not None and not seen.owned.is_deleting:
            status = ecoworker_status.conclude(seen, acted.outcome)
            urgency = ecoworker_status.urgency(status, seen.previous)
            await self._write(key, ecoworker_status.body(seen, status), urgency)
        self._look_again(key, seen, look_again_s, has_foreign=bool(acted.outcome.foreign))
        return bool(acted.outcome.failed or acted.outcome.rejected), acted.retry_after_s

    async def _act_until_settled(self, key: Key) -> tuple[Observation | None, Acted, float | None]:
        """Act until nothing is left to do or something stands in the way, so that the verdict is about the end of it.

        Otherwise Ready could be said on a report whose journal has not been written down yet.

        None is seen of an EcoWorker that turns out to be gone or going: it is looked at again.

        Nor of one that is new and has just got its objects while others wait for a look or get theirs: first objects
        matter more to them than to this one what is said of it. It is put last, but only once.
        """
        acted, look_again_s = Acted(Outcome(), 0, None), None
        for number in range(ROUNDS_MAX):
            seen = self._observe(key)
            if unknown := self._classes.unknown(growth.classes_in_question(seen)):
                await self._classes.look(unknown)
                seen = self._observe(key)
            plan = ecoworker.decide(seen)
            if seen.owned is None and plan.steps and not number:
                # What is about to be said of the journals people may act on. Their pods answer while they drain.
                await self.prober.ask_now(
                    it for it in pods.targets(self.cache) if it.shard[:2] == (key.namespace, key.name)
                )
                seen = self._observe(key)
                plan = ecoworker.decide(seen)
            look_again_s = plan.look_again_s
            if not plan.steps:
                return seen, acted, look_again_s
            if not await self._is_confirmed(key, seen, plan):
                self.queue.add(key)
                return None, acted, look_again_s
            may_wait = self._may_wait(key, seen, plan)
            is_current = partial(self._is_current, key, seen)
            acted = await self._actor.act(key, plan, is_current=is_current, tells=not may_wait)
            if may_wait and acted.changed and not acted.is_troubled:
                come_again = self.queue.put_last if newcomers.is_as_left(seen, plan, self.cache) else self.queue.add
                come_again(key)
                return None, acted, look_again_s
            if not acted.changed or acted.is_troubled:
                return self._observe(key), acted, look_again_s
        self.queue.add(key)
        return self._observe(key), acted, look_again_s

    async def _is_confirmed(self, key: Key, seen: Observation, plan: Plan) -> bool:
        """Whether an EcoWorker that has lost an object, or is to have one more, is there by the server's own word.

        With it the garbage collector takes what it owns, and the watch may tell of that before it tells of its end.
        Whoever made those objects again would start a worker that nobody wants, and fight with the collector.
        """
        if seen.owned is None or newcomers.is_new(seen) or not newcomers.makes(plan):
            return True
        found = await self.cluster.find(kinds.ECO_WORKER, key.namespace, key.name)
        if found is None or found["metadata"]["uid"] != seen.owned.uid:
            self.cache.forget_gone(seen.owned)
        if found is not None:
            self.cache.put_written(kinds.ECO_WORKER, found)
        owned = self.cache.owned(key)
        return owned is not None and owned.uid == seen.owned.uid and not owned.is_deleting

    def _may_wait(self, key: Key, seen: Observation, plan: Plan) -> bool:
        """Whether an EcoWorker that gets its first objects may wait for its verdict: once, while others get theirs.

        Where nothing is made somebody fights over what there is, and it is time to say so.
        """
        if not newcomers.is_new(seen) or not newcomers.makes(plan) or self._actor.has_untold(key):
            return False
        self.queue.hold_back_last(key)
        return self.queue.has_others(key)

    async def _look_at_sync(self, key: Key) -> None:
        seen = walsync.observe(
            key,
            cache=self.cache,
            probe=self._probe_of_the_living,
            policy=self._policy,
            now=self._second(),
            is_settling=self._is_settling(),
        )
        if seen is None or seen.owned.is_deleting:
            return
        status = walsync.conclude(seen)
        if status is not None:
            await self._write(key, walsync.body(seen, status), walsync.urgency(status, seen.previous))

    async def _write(self, key: Key, body: dict[str, Any], urgency: Urgency) -> None:
        """Write a status, or put it off when only numbers changed and the last one is young."""
        if urgency is Urgency.NONE:
            return
        now = _now()
        interval_s = self._policy.status_interval_s * _SHARE_OF_INTERVAL[urgency]
        rest_s = self._status_at.get(key, float("-inf")) + interval_s - now
        if rest_s > 0:
            self.queue.add(key, after_s=rest_s)
            return
        try:
            answer = await self.cluster.apply(body, force=True, subresource="status")
        except errors.NotFoundError:
            return  # It went while it was looked at.
        except errors.DeniedError as error:
            if error.is_namespace_going:
                return
            raise
        self._status_at[key] = now
        self.cache.put_written(kinds.BY_NAME[key.kind], answer)

    def _observe(self, key: Key) -> Observation:
        return observe(
            key,
            cache=self.cache,
            probe=self.prober.probe,
            policy=self._policy,
            now=self._second(),
            is_settling=self._is_settling(),
            classes=self._classes.known,
        )

    def _look_again(self, key: Key, seen: Observation, after_s: float | None, *, has_foreign: bool) -> None:
        """Make appointments for what no event will tell: a silence that grows, an object that is not ours and goes."""
        pauses = [after_s] if after_s is not None else []
        if has_foreign:
            pauses.append(FOREIGN_LOOK_AGAIN_S)
        silences = [
            self._policy.report_age_s - shard.probe.age_s + 0.1
            for shard in seen.shards
            if shard.probe.age_s is not None and shard.probe.age_s <= self._policy.report_age_s and _is_silent(shard)
        ]
        if silences:
            pauses.append(min(silences))
            # What a process that is gone said last is no news of its journal: the syncs are looked at as it goes.
            sync_after_s = 0.0 if any(_is_gone(shard) for shard in seen.shards) else min(silences)
            for sync in self.cache.all_owned(kinds.WAL_SYNC, key.namespace):
                self.queue.add(sync.key, after_s=sync_after_s)
        if pauses:
            self.queue.add(key, after_s=min(pauses))

    def _probe_of_the_living(self, shard: ShardKey) -> Probe:
        """What is known of a shard's journal, too old to be believed once the process that told it is gone."""
        probe = self.prober.probe(shard)
        if probe.age_s is None:
            return probe
        if pods.lives(self.cache, shard, probe):
            return probe
        return replace(probe, age_s=max(probe.age_s, self._policy.report_age_s + 1.0))

    def _on_probe(self, shard: ShardKey) -> None:
        self.queue.add(Key(kinds.ECO_WORKER.kind, shard.namespace, shard.worker), patient=True)
        for sync in self.cache.all_owned(kinds.WAL_SYNC, shard.namespace):
            self.queue.add(sync.key, patient=True)

    def _is_current(self, key: Key, seen: Observation) -> bool:
        """Whether the object that was observed is the one there is, and whatever follows is still meant for it."""
        owned = self.cache.owned(key)
        return (owned.uid if owned is not None else "") == (seen.owned.uid if seen.owned is not None else "")

    def _is_settling(self) -> bool:
        return self._started_at is None or _now() < self._started_at + self._policy.report_age_s

    def _second(self) -> datetime:
        return self.clock().replace(microsecond=0)


def _argocd(settings: Settings) -> Source | None:
    if not settings.argocd_namespace:
        return None
    return Source(
        namespace=settings.argocd_namespace,
        repo_url=settings.argocd_repo_url,
        chart=settings.argocd_chart,
        path=settings.argocd_path,
        revision=settings.argocd_revision,
        project=settings.argocd_project,
        destination=settings.argocd_destination,
    )


def _is_silent(shard: Shard) -> bool:
    return shard.probe.failures > 0 or _is_gone(shard)


def _is_gone(shard: Shard) -> bool:
    pod = shard.pod.pod if shard.pod is not None else None
    return pod is None or not pod.ip or not pod.process


def _now() -> float:
    return asyncio.get_running_loop().time()
