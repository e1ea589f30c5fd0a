"""A PostgreSQL of a test's own: a cluster in a directory, on a loopback port, that can be stopped, paused and starved.

The server refuses to run as root; then everything runs as the `postgres` user of the distribution, which must be able
to reach the directory (below `/tmp/pytest-of-root` it is not).
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.certificates import Certificates
from tests.support.processes import Program, answers, free_port

USER: Final = "eco"
PASSWORD: Final = "test-only"
DATABASE: Final = "eco"
INIT_TIMEOUT_S: Final = 120.0


def programs() -> Path | None:
    """Directory of the newest PostgreSQL server on this machine; None when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


@dataclass(slots=True)
class Postgres:
    """One cluster with one database and its owner."""

    directory: Path
    connections_max: int = 20
    port: int = field(default_factory=free_port)
    certificates: Certificates | None = None
    """With them it speaks TLS too."""
    _server: Program = field(init=False)
    _user: str | None = field(init=False)

    def __post_init__(self) -> None:
        self._user = "postgres" if os.geteuid() == 0 else None
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._user:
            shutil.chown(self.directory, self._user)
        argv = [
            str(self._programs / "postgres"), "-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port),
            "-k", str(self.directory), "-c", f"max_connections={self.connections_max}",
            "-c", "superuser_reserved_connections=3", "-c", "shared_buffers=64MB",
        ]  # fmt: skip
        argv += self._tls_arguments()
        self._server = Program("postgres", argv, self.directory / "postgres.log", self._env, self._user, self.directory)

    def _tls_arguments(self) -> list[str]:
        if self.certificates is None:
            return []
        own = [self.directory / "server.pem", self.directory / "server.key"]
        for source, target in zip((self.certificates.certificate, self.certificates.key), own, strict=True):
            shutil.copyfile(source, target)
            target.chmod(0o600)
            if self._user:
                shutil.chown(target, self._user)
        return ["-c", "ssl=on", "-c", f"ssl_cert_file={own[0]}", "-c", f"ssl_key_file={own[1]}"]

    def require_tls(self) -> None:
        """Refuse connections without TLS from now on."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(rules.read_text().replace("\nhost ", "\nhostssl "))
        os.kill(self._server.pid, signal.SIGHUP)

    @property
    def dsn(self) -> str:
        """URL of the database, as its owner."""
        return self.dsn_at(self.port)

    def dsn_at(self, port: int) -> str:
        """URL of the database behind another port, a proxy's for one."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/{DATABASE}"

    @property
    def superuser_dsn(self) -> str:
        """URL for whoever must get in when the connections are used up."""
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._server.is_running

    def start(self) -> None:
        """Start it, made from nothing the first time, and wait until it answers."""
        fresh = not self._data.exists()
        if fresh:
            self._initialize()
        self._server.start()
        self._server.wait_ready(self._accepts)
        if fresh:
            self._psql(f"CREATE ROLE {USER} LOGIN CREATEDB PASSWORD '{PASSWORD}'")
            self._psql(f"CREATE DATABASE {DATABASE} OWNER {USER}")

    def stop(self) -> None:
        """End it at once, connections and all, with a clean shutdown (`fast`)."""
        self._server.stop(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        self._server.kill()

    def pause(self) -> None:
        """SIGSTOP to the server and its sessions: connections hang, none is refused."""
        self._each(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT after `pause`."""
        self._each(signal.SIGCONT)

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _programs(self) -> Path:
        found = programs()
        if found is None:
            raise FileNotFoundError("a PostgreSQL server (package postgresql)")
        return found

    @property
    def _env(self) -> dict[str, str]:
        return {"PATH": f"{self._programs}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGPASSWORD": PASSWORD}

    def _initialize(self) -> None:
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        if self._user:
            shutil.chown(secret, self._user)
        argv = [
            str(self._programs / "initdb"), "-D", str(self._data), "-U", "postgres", "-A", "scram-sha-256",
            "--pwfile", str(secret), "-E", "UTF8", "--no-sync",
        ]  # fmt: skip
        self._run(argv)
        secret.unlink()

    def _accepts(self) -> bool:
        if not answers(self.port):
            return False
        argv = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(argv, env=self._env, check=False, timeout=INIT_TIMEOUT_S).returncode == 0

    def _psql(self, statement: str) -> None:
        argv = [str(self._programs / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]
        self._run([*argv, "-p", str(self.port), "-U", "postgres", "-d", "postgres", "-c", statement])

    def _run(self, argv: list[str]) -> None:
        user = self._user
        subprocess.run(
            argv, env=self._env, user=user, group=user, extra_groups=[] if user else None, cwd=self.directory,
            check=True, capture_output=True, timeout=INIT_TIMEOUT_S,
        )  # fmt: skip

    def _each(self, number: int) -> None:
        if not self.is_running:
            return
        for pid in (*_children(self._server.pid), self._server.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(entry.parent.name))
    return found


def wait_stopped(server: Postgres, *, timeout_s: float = 10.0) -> None:
    """Wait until nobody listens any more."""
    deadline = time.monotonic() + timeout_s
    while answers(server.port) and time.monotonic() < deadline:
        time.sleep(0.02)
