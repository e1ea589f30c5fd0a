"""Programs that a test starts, signals and is sure to leave none of.

Every process gets a session of its own, a file for its output, and dies with the thread that started it: nothing runs
on after a test run that was killed. Only processes started here are ever signalled.
"""

import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ProcessError(RuntimeError):
    """A program did not come up, did not go down, or ended when it should not; shows the end of its output."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scratch_directory(parent: Path | None = None) -> Path:
    """A new directory that servers which run as another user can reach; the caller removes it."""
    made = Path(tempfile.mkdtemp(prefix="eco-test-", dir=parent))
    made.chmod(0o755)
    return made


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = START_TIMEOUT_S) -> None:
    """Look until the condition holds; raises ProcessError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ProcessError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


@dataclass(slots=True)
class Program:
    """One program: how it is started, and the process it is at the moment."""

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    directory: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; raises when it was never started."""
        if self.process is None:
            raise ProcessError(f"{self.name} was not started")
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there, stopped by SIGSTOP or not."""
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return None if self.process is None else self.process.poll()

    def start(self) -> None:
        """Start it; output is appended to the log."""
        if self.is_running:
            raise ProcessError(f"{self.name} runs already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                list(self.argv),
                env=dict(self.env),
                cwd=self.directory,
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # one async-signal-safe call, and no thread holds a lock for it
            )

    def send(self, number: int) -> None:
        """Send a signal; harmless when the process is gone."""
        if self.is_running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the whole session it leads, and wait until it is gone."""
        if self.process is None:
            return
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self, number: int = signal.SIGTERM, *, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """Ask it to end, and kill it when it does not in time; its exit code."""
        if self.process is None:
            return None
        self.send(signal.SIGCONT)
        self.send(number)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def tail(self, lines: int = 25) -> str:
        """The end of its output."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def wait_ready(self, ready: Callable[[], bool], *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Look until it is ready; raises ProcessError, with the end of its output, when it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.is_running:
                raise ProcessError(f"{self.name} ended with {self.exit_code} while starting:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} is not ready after {timeout_s:.0f} s:\n{self.tail()}")
            time.sleep(POLL_S)


def answers(port: int) -> bool:
    """Whether somebody takes a TCP connection at a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
