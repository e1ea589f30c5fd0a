"""A RabbitMQ of a test's own: a process on a loopback port that can be stopped, killed, paused and started again.

The server comes from the image in the lab's cache, or from a root file system that `ECO_BROKER_ROOTFS` names, by chroot
in a mount namespace of its own; else, or when that variable is empty, from the machine (`rabbitmq-server` of the
distribution, another release), where it may also lie unpacked in a directory (`tests.support.debian`). Everything it
writes is below one directory, so it keeps its queues over a restart.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.certificates import Certificates
from tests.support.processes import ProcessError, Program, answers, free_port, wait_for
from tests.support.rootfs import unpacked

CACHE: Final = Path(os.environ.get("ECO_LAB_CACHE", Path.home() / ".cache" / "eco-lab"))
SCRIPTS: Final = Path("/usr/lib/rabbitmq/bin")
INSIDE: Final = Path("/srv/broker")
"""Where the directory of a broker is mounted in a root file system."""
START_TIMEOUT_S: Final = 90.0
CONTROL_TIMEOUT_S: Final = 60.0
_GREETING: Final = b"AMQP\x00\x00\x09\x01"


def rootfs() -> Path | None:
    """A root file system with a RabbitMQ in it, newer than the distribution's; None when there is none."""
    if os.geteuid() != 0:
        return None
    named = os.environ.get("ECO_BROKER_ROOTFS")
    if named == "":
        return None
    if named is not None:
        return Path(named)
    archives = sorted(CACHE.glob("images/eco-lab-rabbitmq-*.tar"), key=lambda path: path.stat().st_mtime)
    return unpacked(archives[-1]) if archives else None


def is_available() -> bool:
    """Whether any RabbitMQ server is on this machine."""
    return rootfs() is not None or (SCRIPTS / "rabbitmq-server").exists()


@dataclass(slots=True)
class Broker:
    """One RabbitMQ node."""

    directory: Path
    root: Path | None = field(default_factory=rootfs)
    prefix: Path | None = None
    """Where packages of the distribution are unpacked without being installed; goes before `root`."""
    port: int = field(default_factory=free_port)
    certificates: Certificates | None = None
    """With them it also listens for TLS."""
    tls_port: int = field(default_factory=free_port)
    _distribution_port: int = field(default_factory=free_port)
    _epmd_port: int = field(default_factory=free_port)
    _server: Program = field(init=False)
    _epmd: Program = field(init=False)

    def __post_init__(self) -> None:
        if self.prefix is not None:
            self.root = None
        self.directory.mkdir(parents=True, exist_ok=True)
        home = self._home
        programs = "/usr/sbin:/usr/bin:/sbin:/bin"
        installed = (self.prefix or Path("/")) / "usr/lib"
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "disk_free_limit.absolute = 64MB\n"
            "log.console = true\nlog.console.level = warning\nlog.file = false\n" + self._tls_lines()
        )
        env = {
            "PATH": f"{installed / 'erlang/bin'}:{programs}" if self.prefix else programs,
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "RABBITMQ_HOME": str(installed / "rabbitmq"),
            # Erlang itself, not a shell that waits for it: signals then reach the broker.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_BASE": str(home),
            "RABBITMQ_MNESIA_BASE": str(home / "db"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        log = self.directory / "broker.log"
        self._epmd = Program("epmd", self._inside(["epmd", "-port", str(self._epmd_port)]), log, env)
        self._server = Program("rabbitmq", self._inside([str(self._scripts / "rabbitmq-server")]), log, env)

    @property
    def url(self) -> str:
        """Where clients connect, as the default user of the default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def tls_url(self) -> str:
        """The same by TLS."""
        return f"amqps://guest:guest@localhost:{self.tls_port}/"

    def _tls_lines(self) -> str:
        if self.certificates is None:
            return ""
        lines = [f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}", "ssl_options.verify = verify_none"]
        for option, source in (
            ("cacertfile", self.certificates.authority),
            ("certfile", self.certificates.certificate),
            ("keyfile", self.certificates.key),
        ):
            shutil.copyfile(source, self.directory / source.name)
            lines.append(f"ssl_options.{option} = {self._home / source.name}")
        return "\n".join([*lines, ""])

    @property
    def _scripts(self) -> Path:
        return SCRIPTS if self.prefix is None else self.prefix / SCRIPTS.relative_to("/")

    @property
    def _home(self) -> Path:
        return INSIDE if self.root else self.directory

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._server.is_running

    @property
    def pid(self) -> int:
        """Process id of the Erlang machine."""
        return self._server.pid

    def version(self) -> str:
        """Version of the server, from its own files."""
        base = (self.prefix or self.root or Path("/")) / "usr/lib/rabbitmq/lib"
        found = sorted(base.glob("rabbitmq_server-*"))
        return found[-1].name.removeprefix("rabbitmq_server-") if found else "unknown"

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start it and wait until it takes AMQP connections."""
        if not self._epmd.is_running:
            # Ours, in the foreground: the one that Erlang starts by itself would outlive the broker.
            self._epmd.start()
            self._epmd.wait_ready(lambda: answers(self._epmd_port))
        self._server.start()
        self._server.wait_ready(self.greets, timeout_s=timeout_s)

    def stop(self) -> None:
        """End it in order (SIGTERM), as a rolling upgrade does."""
        self._server.stop(timeout_s=CONTROL_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()

    def send(self, number: int) -> None:
        """Send any signal to the server, SIGSTOP for one."""
        self._server.send(number)

    def close(self) -> None:
        """End everything; the directory stays."""
        self._server.kill()
        self._epmd.kill()

    def greets(self) -> bool:
        """Whether the server speaks AMQP: answers the protocol header with its own `Connection.Start`."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2.0) as connection:
                connection.sendall(_GREETING)
                greeted = connection.recv(1) == b"\x01"
        except OSError:
            return False
        # The listeners are opened one after the other.
        return greeted and (self.certificates is None or answers(self.tls_port))

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl`; its output. Takes about two seconds of a core."""
        done = subprocess.run(
            self._inside([str(self._scripts / "rabbitmqctl"), "--quiet", *arguments]),
            env=dict(self._server.env),
            capture_output=True,
            text=True,
            timeout=CONTROL_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ProcessError(f"rabbitmqctl {shlex.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def names_written_at(self) -> float:
        """When the broker last wrote down which quorum queues it has (unix seconds); 0 when it never did."""
        return max((path.stat().st_mtime for path in (self.directory / "db").rglob("names.dets")), default=0.0)

    def define(self, definitions: Mapping[str, Any]) -> None:
        """Import queues, bindings and policies, as an administrator does."""
        (self.directory / "definitions.json").write_text(json.dumps(definitions))
        self.control("import_definitions", str(self._home / "definitions.json"))

    def raise_memory_alarm(self) -> None:
        """Make the broker block everybody who publishes."""
        self.control("set_vm_memory_high_watermark", "absolute", "1MB")

    def clear_memory_alarm(self) -> None:
        """Let publishers go on."""
        self.control("set_vm_memory_high_watermark", "0.4")

    def _inside(self, argv: list[str]) -> list[str]:
        if self.root is None:
            return argv
        target = self.root / INSIDE.relative_to("/")
        target.mkdir(parents=True, exist_ok=True)
        root = shlex.quote(str(self.root))
        mounts = (
            f"mount --bind {shlex.quote(str(self.directory.resolve()))} {shlex.quote(str(target))}"
            f" && mount -t proc proc {root}/proc && mount --bind /dev {root}/dev"
        )
        script = f"{mounts} && exec chroot {root} {shlex.join(argv)}"
        unshare = shutil.which("unshare") or "/usr/bin/unshare"
        return [unshare, "--mount", "--propagation", "private", "sh", "-c", script]


def wait_until_greets(broker: Broker, *, timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until a broker that others have started again takes connections."""
    wait_for(broker.greets, "the broker", timeout_s=timeout_s)
