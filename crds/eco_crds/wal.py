"""The health report of a journal: what a worker answers on `GET /wal` and the operator reads.

Cheap and exact: made from one read transaction. Ages are seconds by the worker's own clock, so a skew between two
machines does not matter. Fields are only ever added, and an unknown field is ignored by the reader.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

AGE_S_MAX: Final = 1e10
"""Three centuries: an age beyond it, or none that is a number, comes of no clock and could not be made a date."""

Age = Annotated[float, Field(ge=-AGE_S_MAX, le=AGE_S_MAX, allow_inf_nan=False)]
"""Seconds; a little below zero when the worker's clock was set back."""


class JournalMode(StrEnum):
    """How a journal takes work at the moment."""

    NORMAL = "normal"
    """Accepts and finishes work."""
    READ_ONLY = "read-only"
    """Full: accepts nothing new, still finishes what it has."""
    QUARANTINED = "quarantined"
    """Damaged: does nothing and leaves the file as it is until a recovery."""
    LOST = "lost"
    """Another journal than the one the operator knows, or none: accepts nothing."""
    DRAINING = "draining"
    """Accepts nothing and gives back what is pending."""
    FENCED = "fenced"
    """Told to stop: neither accepts nor runs."""


LAST_WORDS: Final = {JournalMode.QUARANTINED: "Corrupt", JournalMode.LOST: "Lost"}
"""How the termination message of a worker begins whose journal was so when its process ended."""


class WalCounts(BaseModel):
    """Rows by state and by what they still owe. All are counts of rows in the journal."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    due: int = Field(0, ge=0, description="Pending rows that may run now.")
    waiting: int = Field(0, ge=0, description="Pending rows with a later start, or un-acked ones awaiting redelivery.")
    running: int = Field(0, ge=0)
    completed: int = Field(0, ge=0)
    failed: int = Field(0, ge=0)
    timeout: int = Field(0, ge=0)
    republished: int = Field(0, ge=0)
    unsynced: int = Field(0, ge=0, description="Terminal rows that still owe their report to the sync target.")
    sync_parked: int = Field(0, ge=0, description="Terminal rows whose sync was given up for now.")
    outbox_unsent: int = Field(0, ge=0)
    outbox_parked: int = Field(0, ge=0)
    unknown_name: int = Field(0, ge=0, description="Pending rows whose task name this image does not know.")


class WalAges(BaseModel):
    """Seconds since the oldest row of a class came to be so; null when the class is empty."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    oldest_due_s: Age | None = None
    oldest_running_s: Age | None = None
    oldest_unsynced_s: Age | None = None
    oldest_outbox_s: Age | None = None
    last_progress_s: Age | None = Field(
        None, description="Since a row last ended, or work last became due; null while nothing is due or running."
    )
    last_checkpoint_s: Age | None = None


class WalVolume(BaseModel):
    """The volume that holds the journal, in bytes, as statvfs tells it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    total_bytes: int = Field(0, ge=0)
    used_bytes: int = Field(0, ge=0)
    database_bytes: int = Field(0, ge=0)
    wal_bytes: int = Field(0, ge=0)

    @property
    def used_percent(self) -> int:
        """Use of the volume in whole percent, rounded down; 0 for a volume without a size."""
        return min(100, self.used_bytes * 100 // max(1, self.total_bytes))


class WalReport(BaseModel):
    """Everything the operator may know of one journal."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    shard: str = Field(description="Name of the shard, as in `storage-0`.")
    journal_uuid: str = Field(
        "", max_length=64, description="Identity of the journal file; empty when there is none to read."
    )
    incarnation: str = Field(
        "", max_length=128, description="`<boot id>:<epoch>` of the process that owns the journal."
    )
    epoch: int = Field(0, ge=0)
    mode: JournalMode
    counts: WalCounts = WalCounts()
    ages: WalAges = WalAges()
    volume: WalVolume = WalVolume()
    last_error: str = Field("", max_length=1024)
    resumed_after_s: Age | None = Field(
        None, description="From the start of this process to the first task it took up again; null when there was none."
    )
    recovered: int = Field(0, ge=0, description="Unfinished rows found at this start.")
    sync_target: str = Field(
        "", description="Name of the sync target kept in the journal; empty when there never was one."
    )
    sync_error: str = Field("", max_length=1024)
    last_sync_s: Age | None = Field(
        None, description="Since the last batch that was committed, or found nothing to do."
    )
    consuming: bool = Field(False, description="Whether the consumer holds an open channel with an active consumer.")
    version: str = ""


class SyncSettings(BaseModel):
    """What a WalSync tells the workers it selects; the JSON in the mounted ConfigMap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(min_length=1, max_length=253, description="Name of one of the worker's `spec.databases`.")
    interval_s: float = Field(300, ge=1, le=86_400)
    batch_size: int = Field(100, ge=1, le=10_000)
    max_attempts: int = Field(10, ge=1, le=100)
    suspended: bool = False
