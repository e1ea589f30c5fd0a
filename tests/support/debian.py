"""Servers out of Debian 12, unpacked into directories of this tree: nothing is installed, nothing is started.

    python -m tests.support.debian

downloads their packages by `apt-get`, on any machine that has it and Debian's keys (package debian-archive-keyring),
with lists and cache of its own below `build/`. RabbitMQ 3.10 is the oldest release that the worker runs on.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build" / "debian"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES: Final = (
    ("http://deb.debian.org/debian", "bookworm"),
    ("http://deb.debian.org/debian-security", "bookworm-security"),
)
STEP_TIMEOUT_S: Final = 600.0
_ERLANG: Final = "usr/lib/erlang"


@dataclass(frozen=True, slots=True)
class Server:
    """One server: the packages it is made of, and the program that shows that it is there."""

    name: str
    packages: tuple[str, ...]
    program: str

    @property
    def prefix(self) -> Path | None:
        """Where it is unpacked; None when it is not."""
        return self.directory if (self.directory / self.program).exists() else None

    @property
    def directory(self) -> Path:
        """Where it would be unpacked."""
        return BUILD / self.name


RABBITMQ: Final = Server(
    "rabbitmq",
    (
        "rabbitmq-server",
        *(
            f"erlang-{part}"
            for part in (
                "asn1", "base", "crypto", "eldap", "ftp", "inets", "mnesia", "os-mon", "parsetools", "public-key",
                "runtime-tools", "snmp", "ssl", "syntax-tools", "tftp", "tools", "xmerl",
            )
        ),
    ),
    "usr/lib/rabbitmq/bin/rabbitmq-server",
)  # fmt: skip
REDIS: Final = Server(
    "redis",
    ("redis-tools", "libjemalloc2", "liblzf1", "libhiredis0.14", "liblua5.1-0", "lua-bitop", "lua-cjson"),
    "usr/bin/redis-check-rdb",
)
SERVERS: Final = (RABBITMQ, REDIS)


def unpack(servers: Iterable[Server] = SERVERS) -> None:
    """Download and unpack what was not unpacked before."""
    missing = [server for server in servers if server.prefix is None]
    if not missing:
        return
    if not KEYRING.exists():
        raise FileNotFoundError(f"{KEYRING} (package debian-archive-keyring)")
    work = BUILD / "partial"
    shutil.rmtree(work, ignore_errors=True)
    for name in ("lists/partial", "archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    lines = [f"deb [signed-by={KEYRING}] {url} {suite} main" for url, suite in SOURCES]
    (work / "sources.list").write_text("\n".join([*lines, ""]))
    options = {
        "Dir::Etc::sourcelist": work / "sources.list", "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": work / "lists", "Dir::State::status": work / "status",
        "Dir::Cache": work, "Dir::Cache::archives": work / "archives",
        "APT::Sandbox::User": "root", "Debug::NoLocking": "1",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    _run([*apt, "update"], work)
    for server in missing:
        _unpack(server, apt, work / server.name)
    shutil.rmtree(work)


def _unpack(server: Server, apt: list[str], work: Path) -> None:
    root = work / "root"
    root.mkdir(parents=True)
    _run([*apt, "download", *server.packages], work)
    for archive in sorted(work.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(archive), str(root)], work)
    # Erlang's start scripts hold the place where the package would have put them.
    for script in (root / _ERLANG).glob("**/bin/*"):
        if script.is_file() and not script.is_symlink() and script.read_bytes()[:2] == b"#!":
            script.write_text(re.sub(rf'"?/{_ERLANG}"?', str(server.directory / _ERLANG), script.read_text()))
    shutil.rmtree(server.directory, ignore_errors=True)
    root.rename(server.directory)


def _run(argv: list[str], directory: Path) -> None:
    subprocess.run(argv, cwd=directory, check=True, stdout=subprocess.DEVNULL, timeout=STEP_TIMEOUT_S)


if __name__ == "__main__":
    unpack()
    sys.stdout.write("".join(f"{server.prefix}\n" for server in SERVERS))
