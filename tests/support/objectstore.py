"""An S3 stand-in of a test's own: moto's server as a process on a loopback port. It forgets everything when it ends."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import Program, answers, free_port


@dataclass(slots=True)
class ObjectStore:
    """One moto server."""

    directory: Path
    port: int = field(default_factory=free_port)
    _server: Program = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        argv = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(self.port)]
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        self._server = Program("moto", argv, self.directory / "moto.log", env, directory=self.directory)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._server.start()
        self._server.wait_ready(lambda: answers(self.port))

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._server.send(number)

    def close(self) -> None:
        """End it, and all it held with it."""
        self._server.kill()
