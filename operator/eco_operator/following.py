"""Watches of the kinds that are not our own, from the API server straight into the cache.

An EcoWorker consists of eight objects and more, and Kopf would have a queue, a task and a chain of handlers for each.
Here is one reader for each kind. It lists, and watches from there; a watch that merely ends goes on where it was, and
one that fails begins anew with a list. What was deleted while nobody watched the resync finds.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Final, Protocol

import structlog

from eco_operator import errors, metrics
from eco_operator.cluster import OURS, Cluster
from eco_operator.failing import Failing
from eco_operator.kinds import Kind
from eco_operator.watch_event import WatchEvent

logger = structlog.get_logger(__name__)

RECONNECT_PAUSE_S: Final = (0.1, 0.3)
"""Bounds of the pause after a watch that merely ended: a server that restarts ends them all at once."""
FAILING_S_MAX: Final = 60.0
"""After so long without a watch that was well every watch of the process is begun anew."""


class Sink(Protocol):
    """Where it goes."""

    def knows(self, kind: Kind, event: WatchEvent) -> bool:
        """Whether an event is no news. It must be quick and must not fail."""
        ...

    def see(self, kind: Kind, event_type: str | None, body: Mapping[str, Any]) -> None:
        """Take an object, with the type of the event unless it was listed. It must be quick and must not fail."""
        ...


async def follow(cluster: Cluster, sink: Sink, kind: Kind, namespace: str | None) -> None:
    """Feed `sink` with every object and event of a kind until cancelled; raises what fails for `FAILING_S_MAX`."""
    failing = Failing()
    while True:
        begun_s = _now()
        try:
            version = await _list(cluster, sink, kind, namespace)
            while True:
                version = await _watch(cluster, sink, kind, namespace, version)
                await asyncio.sleep(random.uniform(*RECONNECT_PAUSE_S))  # noqa: S311  # jitter, no secret
        except errors.ApiError as error:
            if failing.note(begun_s, _now()) >= FAILING_S_MAX:
                raise
            metrics.WATCH_FAILURES.inc()
            pause_s = failing.pause_s()
            logger.info("a watch failed", kind=kind.kind, error=str(error), pause_s=round(pause_s, 1))
        await asyncio.sleep(pause_s)


async def _list(cluster: Cluster, sink: Sink, kind: Kind, namespace: str | None) -> str:
    """List a kind; returns the version to watch from."""
    from_version = 0
    async for chunk, list_version in cluster.list(kind, (namespace,) if namespace else (), label_selector=OURS):
        for body in chunk:
            sink.see(kind, None, body)
        from_version = list_version
    return str(from_version)


async def _watch(cluster: Cluster, sink: Sink, kind: Kind, namespace: str | None, version: str) -> str:
    """Watch a kind until the watch ends; returns the version to go on from."""
    async for event in cluster.watch(kind, namespace, version=version, label_selector=OURS):
        if event.type != "BOOKMARK" and not sink.knows(kind, event):
            sink.see(kind, event.type, event.body())
        version = event.metadata.resourceVersion
    return version


def _now() -> float:
    return asyncio.get_running_loop().time()
