"""A Redis of a test's own, out of the packages that `tests.support.debian` unpacks: a process on a loopback port."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.support.debian import REDIS
from tests.support.processes import Program, answers, free_port

PASSWORD = "test-only"


@dataclass(slots=True)
class Redis:
    """One server that wants a password."""

    directory: Path
    port: int = field(default_factory=free_port)
    _server: Program = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        prefix = REDIS.directory / "usr"
        # One binary for server and checkers: which one it is, its name says.
        program = self.directory / "redis-server"
        program.symlink_to(prefix / "bin" / "redis-check-rdb")
        argv = [str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", PASSWORD]
        libraries = ":".join(str(path.parent) for path in prefix.glob("lib/*/liblua5.1.so.0"))
        env = {"LD_LIBRARY_PATH": libraries, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        log = self.directory / "redis.log"
        self._server = Program("redis", [*argv, "--save", ""], log, env, directory=self.directory)

    @property
    def url(self) -> str:
        """Where clients connect, to database 0."""
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._server.start()
        self._server.wait_ready(lambda: answers(self.port))

    def close(self) -> None:
        """End it."""
        self._server.kill()
