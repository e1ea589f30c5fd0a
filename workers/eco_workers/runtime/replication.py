"""`ackPolicy: Replicated`: a journal joined with the bucket that keeps its segments. Neither knows the other."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eco_workers import logs
from eco_workers.errors import EcoWorkerError, JournalLostError, JournalRefusedError
from eco_workers.journal.limits import Limits
from eco_workers.journal.model import Identity, TaskJournal
from eco_workers.settings import Settings

if TYPE_CHECKING:
    from eco_workers.journal.replicated import ReplicatedJournal
    from eco_workers.storage.segments import SegmentStore

log = logs.get(__name__)
POLICY: Final = "Replicated"
_SQLITE_FILES: Final = ("", "-wal", "-shm", "-journal")


class Replication:
    """What a worker has beside its journal under this policy."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: SegmentStore | None = None
        self._journal: ReplicatedJournal | None = None
        self._prune_due = False

    async def open(self, settings: Settings, limits: Limits, known_uuid: str | None) -> TaskJournal:
        """Open the journal on this shard's volume, its segments going to the bucket."""
        # Deferred: other policies need neither.
        from eco_workers.journal.replica import Replica  # noqa: PLC0415  # see above
        from eco_workers.journal.replicated import ReplicatedJournal  # noqa: PLC0415  # see above

        self._store = await _open_store(settings)
        self._journal = await ReplicatedJournal.open_replicated(
            settings.wal_db_path,
            identity=_identity(settings),
            replica=Replica(self._store, _place(settings)),
            known_uuid=known_uuid,
            limits=limits,
        )
        return self._journal

    async def watch(self) -> None:
        """End the worker, by an error, when another writer has taken over."""
        if self._journal is not None:
            raise JournalRefusedError(await self._journal.replica.wait_fenced())

    async def keep_house(self, *, prune: bool = False) -> None:
        """Begin the next epoch when this one is long, and delete what a snapshot made needless: then, or when asked."""
        if self._journal is None:
            return
        renews = self._journal.renew()
        self._prune_due |= renews or prune
        if renews or not (self._prune_due and self._journal.replica.begun):
            return
        try:
            pruned = await self._journal.replica.prune()
        except EcoWorkerError as error:
            log.warning("old segments could not be pruned", error=str(error))
            return
        self._prune_due = False
        if pruned:
            log.info("old segments pruned", segments=pruned)

    async def close(self) -> None:
        """Close the client; after the journal."""
        if self._store is not None:
            await self._store.close()


async def restore_base(settings: Settings, target: Path, *, seal: bool = True) -> Path | None:
    """Build at `target` what the bucket holds of this shard's journal, for `journal.recover(base=…)`.

    First seals what was written and claims the next epoch, so that a writer that still lives acks nothing which this
    copy lacks: from then on the file that stands on the old volume is refused, so this is for one that is lost or
    damaged. Without `seal` the bucket stays as it is, for a dry run. None where there is nothing to restore: another
    policy, or no epoch that ever came as far as an ack. Raises JournalCorruptError at a gap or a damaged segment, with
    nothing left at `target`; ObjectStoreError when the bucket does not answer.
    """
    if settings.ack_policy != POLICY:
        return None
    from eco_workers.journal.restore import restore  # noqa: PLC0415  # as above

    await asyncio.to_thread(_remove, target)
    async with _store_of(settings) as store:
        try:
            found = await restore(store, _place(settings), target, seal=seal)
        except JournalLostError as error:
            log.info("nothing to restore", reason=str(error))
            return None
    log.info("restored", uuid=found.journal_uuid, epoch=found.epoch, segments=found.segments)
    return target


@asynccontextmanager
async def _store_of(settings: Settings) -> "AsyncIterator[SegmentStore]":
    store = await _open_store(settings)
    try:
        yield store
    finally:
        await store.close()


async def _open_store(settings: Settings) -> "SegmentStore":
    # Beside the loop: the import of the client takes most of a second.
    module = await asyncio.to_thread(importlib.import_module, "eco_workers.storage.segments")
    store: SegmentStore = await module.SegmentStore.open(
        bucket=settings.s3_bucket,
        endpoint_url=settings.s3_endpoint_url or None,
        region=settings.aws_region,
        access_key=settings.aws_access_key_id.get_secret_value(),
        secret_key=settings.aws_secret_access_key.get_secret_value(),
    )
    return store


def _identity(settings: Settings) -> Identity:
    return Identity(settings.namespace, settings.worker, settings.shard)


def _place(settings: Settings) -> str:
    from eco_workers.journal import segments  # noqa: PLC0415  # as above

    return segments.location(settings.replica_prefix, _identity(settings))


def _remove(target: Path) -> None:
    for suffix in _SQLITE_FILES:
        target.with_name(target.name + suffix).unlink(missing_ok=True)
