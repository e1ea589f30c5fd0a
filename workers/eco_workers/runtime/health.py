"""How it all stands, in the words that the operator, the probes and the metrics read."""

import time
from dataclasses import dataclass

from eco_crds.wal import JournalMode, WalReport
from eco_workers import __version__
from eco_workers.broker.consumer import ConsumerStatistics
from eco_workers.journal.model import Statistics
from eco_workers.logs import clean
from eco_workers.runtime.executor import ExecutorStatistics
from eco_workers.runtime.relay import RelayStatistics
from eco_workers.sync.writer import SyncStatistics


@dataclass(frozen=True, slots=True)
class Parts:
    """The statistics of every part at one moment; None for a part that is not there."""

    journal: Statistics | None
    consumer: ConsumerStatistics | None
    executor: ExecutorStatistics | None
    relay: RelayStatistics | None
    sync: SyncStatistics | None


NOTHING = Parts(None, None, None, None, None)


def report(shard: str, mode: JournalMode, parts: Parts, error: str = "") -> WalReport:
    """The health report. The first error that somebody should read stands in `last_error`."""
    journal, sync = parts.journal, parts.sync
    errors = (
        error,
        journal.last_error if journal else "",
        parts.consumer.last_error if parts.consumer else "",
        parts.relay.last_error if parts.relay else "",
    )
    last_error = clean(next((each for each in errors if each), ""))[:1024]
    if journal is None:
        return WalReport(shard=shard, mode=mode, last_error=last_error, version=__version__)
    return WalReport(
        shard=shard,
        journal_uuid=journal.journal_uuid,
        incarnation=journal.incarnation,
        epoch=journal.epoch,
        mode=mode,
        counts=journal.counts,
        ages=journal.ages,
        volume=journal.volume,
        last_error=last_error,
        resumed_after_s=parts.executor.first_resumed_after_s if parts.executor else None,
        recovered=journal.recovered,
        sync_target=journal.sync_target,
        sync_error=clean(sync.last_error)[:1024] if sync else "",
        last_sync_s=max(0.0, time.time() - sync.last_success_at) if sync and sync.last_success_at else None,
        consuming=bool(parts.consumer and parts.consumer.consuming),
        version=__version__,
    )


def mode_of(journal: Statistics, *, fenced: bool) -> JournalMode:
    """The mode of a journal that could be opened."""
    if fenced:
        return JournalMode.FENCED
    if journal.draining:
        return JournalMode.DRAINING
    return JournalMode.READ_ONLY if journal.read_only else JournalMode.NORMAL
