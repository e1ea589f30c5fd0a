"""`eco-worker job …` as a process of its own on a shard's volume, and the report that it leaves."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eco_crds import contract
from eco_crds.jobs import TERMINATION_LOG_BYTES_MAX, JobReport
from eco_workers.journal import Identity
from tests.support.worker_process import WorkerProcess

TIMEOUT_S: Final = 90.0
IDENTITY: Final = Identity("test", "storage", "storage-0")
"""Whose journal the volume of `WorkerProcess` with index 0 holds."""


@dataclass(slots=True)
class JobProcess:
    """Jobs on the volume of one shard that is not running."""

    shard: WorkerProcess
    env: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where the container's termination message would be."""
        return self.shard.directory / "termination-log"

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start one; the caller waits for it or kills it."""
        self.log.unlink(missing_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "eco_workers", "job", *words],
            env=self.shard.environment | {"ECO_TERMINATION_LOG": str(self.log), "ECO_LOG_LEVEL": "info"} | self.env,
            cwd=self.shard.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, JobReport]:
        """Run one to its end: exit code and report, which is the same in both places."""
        return self.end(self.begin(*words))

    def end(self, process: subprocess.Popen[str]) -> tuple[int, JobReport]:
        """Wait for one that was started."""
        out, said = process.communicate(timeout=TIMEOUT_S)
        assert out.count("\n") == 1, said
        left = self.log.read_text()
        assert left == out.strip()
        assert len(left.encode()) <= TERMINATION_LOG_BYTES_MAX
        return process.returncode, JobReport.model_validate_json(left)

    def know(self, journal_uuid: str) -> None:
        """Tell the shard which journal is known to be its own, as the operator's ConfigMap does."""
        (self.shard.directory / "shard" / contract.JOURNAL_UUID_KEY).write_text(journal_uuid)
