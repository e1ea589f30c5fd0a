"""The worker as a process of its own, as in a pod: its environment, its signals, its health report."""

import json
import os
import signal
import struct
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from eco_crds import contract
from eco_crds.wal import WalReport
from eco_workers import settings
from eco_workers.settings import Settings
from tests.support.processes import ProcessError, Program, free_port, wait_for

ROOT: Final = Path(__file__).resolve().parents[2]
SHIFTED_CLOCK: Final = Path(__file__).with_name("shifted_clock")
READY_TIMEOUT_S: Final = 60.0
REQUEST_TIMEOUT_S: Final = 5.0
TOKEN: Final = "token-of-a-test"


@dataclass(slots=True)
class WorkerProcess:
    """One shard."""

    directory: Path
    amqp_url: str
    worker: str = "storage"
    index: int = 0
    queues: str = "q.batch"
    modules: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    volume: Path | None = None
    """Directory of the journal; a shard's own unless told otherwise."""
    starts: int = 0
    kills: int = 0
    _program: Program = field(init=False)

    def __post_init__(self) -> None:
        directory = self.directory
        volume = self.volume or directory / "volume"
        for path in (directory, volume, directory / "sync", directory / "shard"):
            path.mkdir(parents=True, exist_ok=True)
        token = directory / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        self.set_clock(0.0)
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(directory),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SHIFTED_CLOCK), str(ROOT), os.environ.get("PYTHONPATH")))),
            "ECO_TEST_CLOCK": str(directory / "clock"),
            "PYTHONUNBUFFERED": "1",
            contract.ENV_NAMESPACE: "test",
            contract.ENV_WORKER: self.worker,
            contract.ENV_SHARD: self.name,
            contract.ENV_ROLE: "storage",
            contract.ENV_QUEUES: self.queues,
            contract.ENV_WAL_DB_PATH: str(volume / "journal.db"),
            contract.ENV_RABBITMQ_URL: self.amqp_url,
            "ECO_TASK_MODULES": self.modules,
            "ECO_ADMIN_HOST": "127.0.0.1",
            "ECO_ADMIN_PORT": str(self.port),
            "ECO_TOKEN_FILE": str(token),
            "ECO_SYNC_SETTINGS_DIR": str(directory / "sync"),
            "ECO_SHARD_SETTINGS_DIR": str(directory / "shard"),
            "ECO_LOG_LEVEL": "warning",
            **self.env,
        }
        argv = [sys.executable, "-m", "eco_workers", "run"]
        self._program = Program(self.name, argv, directory / "worker.log", env, directory=ROOT)

    @property
    def name(self) -> str:
        """Name of the shard."""
        return contract.shard_name(self.worker, self.index)

    @property
    def environment(self) -> dict[str, str]:
        """Its variables, for whatever else is run on the same shard."""
        return dict(self._program.env)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._program.pid

    @property
    def journal(self) -> Path:
        """File of the journal."""
        return (self.volume or self.directory / "volume") / "journal.db"

    @property
    def settings(self) -> Settings:
        """What it is told, as it reads it."""
        return settings.load(self._program.env)

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._program.is_running

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._program.exit_code

    def sync_to(self, *, target: str = "main", interval_s: float = 1, batch_size: int = 100) -> None:
        """Write the settings of the sync, as the operator's ConfigMap does."""
        settings = {"target": target, "interval_s": interval_s, "batch_size": batch_size, "max_attempts": 10}
        path = self.directory / "sync" / contract.SYNC_SETTINGS_KEY
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(settings))
        fresh.replace(path)

    def set_clock(self, ahead_s: float) -> None:
        """Set its wall clock, now and for whatever is started later; negative is behind."""
        with (self.directory / "clock").open("r+b" if (self.directory / "clock").exists() else "wb") as file:
            file.write(struct.pack("d", ahead_s))

    def start(self) -> None:
        """Start it; does not wait."""
        self.starts += 1
        self._program.start()

    def wait_ready(self, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until it consumes."""
        self._program.wait_ready(self._is_consuming, timeout_s=timeout_s)

    def wait_for(self, holds: Callable[[WalReport], bool], what: str, *, timeout_s: float) -> None:
        """Wait until its report is as wanted."""

        def look() -> bool:
            report = self.report()
            return report is not None and holds(report)

        try:
            wait_for(look, f"{self.name}: {what}", timeout_s=timeout_s)
        except ProcessError as error:
            raise ProcessError(f"{error}; last report {self.report()}\n{self.tail()}") from None

    def report(self) -> WalReport | None:
        """What it says of its journal; None when it says nothing."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/wal", timeout=REQUEST_TIMEOUT_S) as answer:
                return WalReport.model_validate_json(answer.read())
        except (OSError, urllib.error.URLError, ValueError):
            return None

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory is short."""
        self.kills += 1
        self._program.kill()

    def send(self, number: int) -> None:
        """Send a signal."""
        self._program.send(number)

    def terminate(self, *, timeout_s: float) -> int | None:
        """SIGTERM, as the kubelet does; its exit code, or that of the SIGKILL which followed."""
        return self._program.stop(signal.SIGTERM, timeout_s=timeout_s)

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        return self._program.tail(lines)

    def _is_consuming(self) -> bool:
        report = self.report()
        return report is not None and report.consuming


def postgres_environment(dsn: str) -> dict[str, str]:
    """The variables of a worker that lead to a database."""
    parts = urlsplit(dsn)
    return {
        contract.ENV_POSTGRES_HOST: parts.hostname or "",
        contract.ENV_POSTGRES_PORT: str(parts.port or 5432),
        contract.ENV_POSTGRES_DB: parts.path.lstrip("/"),
        contract.ENV_POSTGRES_USER: parts.username or "",
        contract.ENV_POSTGRES_PASSWORD: parts.password or "",
    }
