"""Lists of everything, from the API server into the cache: at the start, at a resync, when the watches begin anew."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from eco_operator import errors, kinds
from eco_operator.cache import Cache
from eco_operator.cluster import OURS, Cluster
from eco_operator.kinds import Kind
from eco_operator.settings import Settings

ATTEMPTS_MAX: Final = 5
"""Of a list that gets too old between two of its chunks."""


@dataclass(slots=True)
class Lists:
    """What is there, and with it what is gone."""

    cluster: Cluster
    settings: Settings
    cache: Cache
    monitor_labels: Mapping[str, str] | None = None
    """Labels that ServiceMonitors are to have; None where none are wanted, or their kind was missing last time."""
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def everything(self) -> None:
        """List every kind and forget what is gone; raises `ApiError`, and what was listed until then stays."""
        async with self._one_at_a_time:  # The resync and watches that begin anew may want it at the same time.
            self.cache.begin_list()
            try:
                for kind in kinds.WATCHED:
                    await self._list(kind, self.settings.namespaces)
                await self.applications()
                await self._monitors()
            finally:
                self.cache.end_list()

    async def applications(self) -> None:
        """List Argo CD's Applications. Of an Argo CD that is not installed there are none."""
        if not self.settings.argocd_namespace:
            return
        try:
            await self._list(kinds.APPLICATION, (self.settings.argocd_namespace,))
        except errors.NotFoundError:
            self.cache.forget_unnamed(kinds.APPLICATION, set(), sys.maxsize)

    async def _monitors(self) -> None:
        """Where their kind is missing none are wanted, until a later list finds it."""
        if not self.settings.service_monitors:
            return
        try:
            await self._list(kinds.SERVICE_MONITOR, self.settings.namespaces)
        except errors.NotFoundError:
            self.cache.forget_unnamed(kinds.SERVICE_MONITOR, set(), sys.maxsize)
            self.monitor_labels = None
        else:
            self.monitor_labels = self.settings.service_monitor_labels

    async def _list(self, kind: Kind, namespaces: Sequence[str]) -> None:
        selector = "" if kind in kinds.OWNED else OURS
        for attempt in range(1, ATTEMPTS_MAX + 1):
            named, versions = set(), []
            try:
                async for chunk, version in self.cluster.list(kind, namespaces, label_selector=selector):
                    named |= self.cache.take_list(kind, chunk)
                    versions.append(version)
            except errors.ExpiredError:
                if attempt == ATTEMPTS_MAX:
                    raise
                continue
            self.cache.forget_unnamed(kind, named, min(versions, default=0))
            return
