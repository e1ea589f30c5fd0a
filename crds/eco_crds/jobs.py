"""The report of a job on a shard's volume: what `eco-worker job …` leaves behind and the operator reads.

A job runs where no worker runs: it takes the journal's lock as a worker would. Its report is one JSON line, written to
the container's termination message (which the kubelet bounds at 4,096 bytes) and to standard output. Fields are only
ever added, and an unknown field is ignored by the reader.
"""

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

TERMINATION_LOG: Final = "/dev/termination-log"
TERMINATION_LOG_BYTES_MAX: Final = 4096
PROBLEMS_MAX: Final = 5
DRY_RUN: Final = "--dry-run"
"""Option of `eco-worker job recover`: look, report what would be done, change nothing."""


class JobName(StrEnum):
    """What a job does."""

    DRAIN = "drain"
    """Give unfinished tasks back to the broker, publish what is unsent, sync what is due."""
    SYNC = "sync"
    """Publish what is unsent and sync what is due; unfinished tasks stay."""
    RECOVER = "recover"
    """Set a damaged or lost journal right: salvage, restore, or begin anew; then publish and sync."""


class JobReport(BaseModel):
    """How a job ended."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: JobName
    shard: str = Field(description="Name of the shard, as in `storage-0`.")
    succeeded: bool
    dry_run: bool = False
    error: str = Field("", max_length=1024, description="Why it failed; empty when it did not.")
    journal_uuid: str = Field("", max_length=64)
    epoch: int = Field(0, ge=0)
    empty: bool = Field(False, description="Whether the journal owes nothing any more, so that its volume may go.")
    action: str = Field(
        "", max_length=32, description="Of `recover`: none, unmarked, adopted, rebuilt, restored or anew."
    )
    unfinished: int = Field(0, ge=0, description="Pending and running rows that are left.")
    unsynced: int = Field(0, ge=0, description="Terminal rows that still owe their report, parked ones included.")
    unsent: int = Field(0, ge=0, description="Messages that are left in the outbox, parked ones included.")
    republished: int = Field(0, ge=0, description="Tasks given back to the broker by this job.")
    published: int = Field(0, ge=0, description="Messages that the broker confirmed to this job.")
    synced: int = Field(0, ge=0, description="Rows whose report this job has brought to the database.")
    salvaged: int = Field(0, ge=0, description="Of `recover`: rows read from a damaged journal.")
    unreadable: int = Field(0, ge=0, description="Of `recover`: places that could not be read.")
    distrusted: int = Field(0, ge=0, description="Of `recover`: rows that did not fit their checksum, dead-lettered.")
    problems: list[str] = Field(default_factory=list, max_length=PROBLEMS_MAX)
    moved_aside: str = Field("", max_length=255, description="File that the damaged journal was kept as.")
    took_s: float = Field(0.0, ge=0)

    def line(self) -> str:
        """One line of JSON within the kubelet's bound: the last problems go first, then the end of the error.

        What is left without both is bounded by the fields themselves.
        """
        told = self
        while len(text := told.model_dump_json().encode()) > TERMINATION_LOG_BYTES_MAX:
            if told.problems:
                told = told.model_copy(update={"problems": told.problems[:-1]})
            elif told.error:
                told = told.model_copy(update={"error": told.error[: len(told.error) // 2]})
            else:
                break
        return text.decode()


class Left(BaseModel):
    """What the last job on a volume left in the journal: the operator notes it on a claim that no shard uses."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str = Field("", max_length=64, description="UID of the job, so that its end is noted once.")
    at: str = Field("", max_length=32, description="When that was noted, in UTC.")
    empty: bool = False
    unfinished: int = Field(0, ge=0)
    unsynced: int = Field(0, ge=0)
    unsent: int = Field(0, ge=0)
    error: str = Field("", max_length=512, description="Why the job failed; empty when it did not.")

    def __str__(self) -> str:
        """For people."""
        if self.error:
            return f"the job on it failed: {self.error}"
        if self.empty:
            return "its journal is empty"
        return (
            f"its journal holds {self.unfinished} unfinished tasks, {self.unsynced} unsynced results and"
            f" {self.unsent} unsent messages"
        )
