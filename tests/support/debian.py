"""RabbitMQ 3.10 out of Debian 12, unpacked into a directory of this tree: nothing is installed, nothing is started.

    python -m tests.support.debian

downloads the packages by `apt-get`, on any machine that has it and Debian's keys (package debian-archive-keyring), with
lists and cache of its own below `build/`. It is the oldest release of RabbitMQ that the worker runs on.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
UNPACKED: Final = ROOT / "build" / "debian-rabbitmq"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES: Final = (
    ("http://deb.debian.org/debian", "bookworm"),
    ("http://deb.debian.org/debian-security", "bookworm-security"),
)
PACKAGES: Final = (
    "rabbitmq-server",
    *(
        f"erlang-{part}"
        for part in (
            "asn1", "base", "crypto", "eldap", "ftp", "inets", "mnesia", "os-mon", "parsetools", "public-key",
            "runtime-tools", "snmp", "ssl", "syntax-tools", "tftp", "tools", "xmerl",
        )
    ),
)  # fmt: skip
STEP_TIMEOUT_S: Final = 600.0
_ERLANG: Final = "usr/lib/erlang"


def prefix() -> Path | None:
    """Where it is unpacked; None when it is not."""
    return UNPACKED if (UNPACKED / "usr/lib/rabbitmq/bin/rabbitmq-server").exists() else None


def unpack() -> Path:
    """Download and unpack it, unless that was done before."""
    if prefix() is not None:
        return UNPACKED
    if not KEYRING.exists():
        raise FileNotFoundError(f"{KEYRING} (package debian-archive-keyring)")
    work = UNPACKED.with_name(UNPACKED.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    for name in ("lists/partial", "archives/partial", "debs", "root"):
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
    _run([*apt, "download", *PACKAGES], work / "debs")
    for archive in sorted((work / "debs").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(archive), str(work / "root")], work)
    # Erlang's start scripts hold the place where the package would have put them.
    for script in (work / "root" / _ERLANG).glob("**/bin/*"):
        if script.is_file() and not script.is_symlink() and script.read_bytes()[:2] == b"#!":
            script.write_text(re.sub(rf'"?/{_ERLANG}"?', str(UNPACKED / _ERLANG), script.read_text()))
    shutil.rmtree(UNPACKED, ignore_errors=True)
    (work / "root").rename(UNPACKED)
    shutil.rmtree(work)
    return UNPACKED


def _run(argv: list[str], directory: Path) -> None:
    subprocess.run(argv, cwd=directory, check=True, stdout=subprocess.DEVNULL, timeout=STEP_TIMEOUT_S)


if __name__ == "__main__":
    sys.stdout.write(f"{unpack()}\n")
