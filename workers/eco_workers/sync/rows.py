"""The words of the sync: a report, where it comes from, where it goes. No client is imported here."""

from dataclasses import dataclass
from typing import Protocol

from eco_workers.errors import EcoWorkerError
from eco_workers.tls import DatabaseTls


class RowRefusedError(EcoWorkerError):
    """PostgreSQL refused the rows of a batch. With one row in it, that row is the culprit."""


class Row(Protocol):
    """What the database wants to know of a report."""

    @property
    def task_id(self) -> str:
        """Id of the task."""

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def queue(self) -> str:
        """Queue it came from."""

    @property
    def state(self) -> str:
        """completed, failed or timeout."""

    @property
    def generation(self) -> int:
        """Raised by each republish and replay."""

    @property
    def version(self) -> int:
        """Raised by each change of the row in its journal."""

    @property
    def attempts(self) -> int:
        """Attempts begun."""

    @property
    def payload(self) -> bytes:
        """JSON."""

    @property
    def result(self) -> bytes | None:
        """JSON; None without one."""

    @property
    def error(self) -> str | None:
        """Why it failed."""

    @property
    def created_at(self) -> float:
        """Unix seconds."""

    @property
    def started_at(self) -> float | None:
        """Unix seconds of the last start."""

    @property
    def ended_at(self) -> float:
        """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the database is. The password is kept out of every message."""

    host: str
    port: int
    database: str
    user: str
    password: str
    tls: DatabaseTls = "prefer"

    def __repr__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}/{self.database}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Which shard sends."""

    namespace: str
    worker: str
    shard: str
