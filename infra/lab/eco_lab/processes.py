"""Running programs: to their end, or as daemons that a later `eco-lab` finds again.

A daemon is known by its process id and its start time. The number alone would not do: the kernel hands it out again,
and the lab must never signal a process that it did not start.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from eco_lab.errors import CommandError, MissingError, NotReadyError

_POLL_S = 0.05


def run(
    command: Sequence[str | Path],
    *,
    what: str = "",
    stdin: str | None = None,
    timeout_s: float = 120,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program to its end and return what it printed.

    Raises CommandError with the last lines of its output when it fails or takes longer than `timeout_s`.
    `what` names the action for the message; secrets belong on `stdin`, never in `command`.
    """
    argv = [str(word) for word in command]
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, env=environ, cwd=cwd, check=False
        )
    except FileNotFoundError as error:
        raise MissingError(what or argv[0], f"program {argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(what or " ".join(argv[:4]), f"still running after {timeout_s:g} s") from error
    if done.returncode != 0:
        tail = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-8:])
        raise CommandError(what or " ".join(argv[:4]), f"exit status {done.returncode}: {tail}")
    return done.stdout


def succeeds(command: Sequence[str | Path], *, timeout_s: float = 10) -> bool:
    """Whether a program ends with status 0 within its time."""
    try:
        run(command, timeout_s=timeout_s)
    except (CommandError, MissingError):
        return False
    return True


def wait_until(
    what: str, check: Callable[[], bool], *, timeout_s: float, log: Path | None = None, poll_s: float = _POLL_S
) -> None:
    """Return as soon as `check` is true; raise NotReadyError with the end of `log` when it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise NotReadyError(
                what,
                f"not after {timeout_s:g} s{_tail(log)}",
                hint="read the log, then repeat `eco-lab up`: it goes on where it stopped",
            )
        time.sleep(poll_s)


def _tail(log: Path | None) -> str:
    if log is None or not log.exists():
        return ""
    lines = log.read_text(errors="replace").splitlines()[-6:]
    return f"; end of {log}:\n    " + "\n    ".join(line[:300] for line in lines)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that the lab started, told apart from any later one with the same number."""

    pid: int
    started_ticks: int
    """Start time in clock ticks since boot, from `/proc/PID/stat`."""
    boot_id: str

    def is_alive(self) -> bool:
        """Whether it still runs. A zombie does not: it may stay for seconds where PID 1 reaps lazily."""
        if self.boot_id != _boot_id():
            return False
        stat = _stat(self.pid)
        return stat is not None and stat == (stat[0], self.started_ticks) and stat[0] not in "ZX"

    def stop(self, *, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s`. Returns when it is gone."""
        if self.send(signal.SIGTERM):
            deadline = time.monotonic() + grace_s
            while self.is_alive() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.send(signal.SIGKILL):
            wait_until(f"end of process {self.pid}", lambda: not self.is_alive(), timeout_s=20)

    def send(self, number: signal.Signals) -> bool:
        """Signal it if it is alive; False if it was not."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def identify(pid: int) -> Process | None:
    """The running process with this number, or None."""
    stat = _stat(pid)
    return Process(pid, stat[1], _boot_id()) if stat is not None and stat[0] not in "ZX" else None


def record(file: Path, process: Process) -> None:
    """Remember a process for a later `recall`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".new")
    scratch.write_text(json.dumps(asdict(process)))
    scratch.replace(file)


def recall(file: Path) -> Process | None:
    """The recorded process if it is still alive, else None."""
    try:
        process = Process(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return process if process.is_alive() else None


def spawn(command: Sequence[str | Path], *, log: Path, environ: Mapping[str, str] | None = None) -> Process:
    """Start a program in a session of its own with its output appended to `log`; it outlives this one."""
    log.parent.mkdir(parents=True, exist_ok=True)
    argv = [str(word) for word in command]
    output = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), output, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # Not subprocess.Popen: its object complains at collection about a child that is meant to live on.
    pid = os.posix_spawnp(argv[0], argv, dict(environ or os.environ), file_actions=actions, setsid=True)
    process = identify(pid)
    if process is None:
        raise CommandError(f"start {argv[0]}", f"ended at once{_tail(log)}")
    return process


def only_child(parent: Process, *, what: str, log: Path) -> Process:
    """The process that `parent` forked: the daemon itself below an `nsenter` or `unshare`."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and parent.is_alive():
        try:
            pids = children.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            break
        child = identify(int(pids[0])) if pids else None
        if child is not None:
            return child
        time.sleep(0.01)
    raise CommandError(f"start {what}", f"ended at once{_tail(log)}")


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may itself hold spaces and parentheses: count from the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])
