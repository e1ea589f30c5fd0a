"""Which storage classes let their volumes grow, looked up one by one where it matters and the operator may.

They are no namespaced kind: an operator that serves listed namespaces has no right on them and does not ask. What is
not known here the API server says when a claim asks for more.
"""

import asyncio
from collections.abc import Collection, Mapping

import structlog

from eco_operator import errors, kinds
from eco_operator.cluster import Cluster

logger = structlog.get_logger(__name__)


class StorageClasses:
    """Remembers each class for a while, so that a change of it is noticed then."""

    def __init__(self, cluster: Cluster, *, may_look: bool, keep_s: float) -> None:
        self._cluster = cluster
        self._may_look = may_look
        self._keep_s = keep_s
        self._looked_at: dict[str, float] = {}
        self._known: dict[str, bool] = {}
        self._looking = asyncio.Lock()

    @property
    def known(self) -> Mapping[str, bool]:
        """By name, whether a class lets volumes grow; one that is not there lets none."""
        return dict(self._known)

    def unknown(self, names: Collection[str]) -> set[str]:
        """Those that have to be looked at, never or too long ago as they were."""
        if not self._may_look:
            return set()
        now = _now()
        return {name for name in names if now - self._looked_at.get(name, float("-inf")) > self._keep_s}

    async def look(self, names: Collection[str]) -> None:
        """Look at those of them that are unknown; who asks meanwhile waits for the answer and does not ask again."""
        async with self._looking:
            for name in self.unknown(names):
                await self._look(name)

    async def _look(self, name: str) -> None:
        """Look at one. If that is not to be done it is not known: the API server's own answer will have to do."""
        try:
            found = await self._cluster.get(kinds.STORAGE_CLASS, None, name)
        except errors.NotFoundError:
            self._known[name] = False
        except errors.ApiError as error:
            self._known.pop(name, None)
            logger.warning("storage class not known", storage_class=name, error=str(error))
        else:
            self._known[name] = bool(found.get("allowVolumeExpansion"))
        self._looked_at[name] = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
