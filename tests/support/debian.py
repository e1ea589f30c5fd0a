"""The distribution's own RabbitMQ, unpacked into a directory of this tree: nothing is installed, nothing is started.

    python -m tests.support.debian

downloads `rabbitmq-server` and what it needs by `apt-get` (as root) and unpacks it below `build/`. On Debian 12 that is
RabbitMQ 3.10, the oldest release that the worker runs on.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
UNPACKED: Final = ROOT / "build" / "debian-rabbitmq"
PACKAGE: Final = "rabbitmq-server"
DOWNLOAD_TIMEOUT_S: Final = 600.0
_ERLANG: Final = "usr/lib/erlang"


def prefix() -> Path | None:
    """Where it is unpacked; None when it is not."""
    return UNPACKED if (UNPACKED / "usr/lib/rabbitmq/bin/rabbitmq-server").exists() else None


def unpack() -> Path:
    """Download and unpack it, unless that was done before."""
    if prefix() is not None:
        return UNPACKED
    archives = ROOT / "build" / "debs"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "update", "-qq"])
    words = ["install", "-y", "-qq", "--no-install-recommends", "--download-only", "--reinstall"]
    _run(["apt-get", *words, "-o", f"Dir::Cache::archives={archives}", PACKAGE])
    partial = UNPACKED.with_name(UNPACKED.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(archive), str(partial)])
    shutil.rmtree(archives)
    # Erlang's start scripts hold the place where the package would have put them.
    for script in (partial / _ERLANG).glob("**/bin/*"):
        if script.is_file() and not script.is_symlink() and (text := _script(script)):
            script.write_text(re.sub(rf'"?/{_ERLANG}"?', str(UNPACKED / _ERLANG), text))
    shutil.rmtree(UNPACKED, ignore_errors=True)
    partial.rename(UNPACKED)
    return UNPACKED


def _script(path: Path) -> str:
    start = path.read_bytes()[:2]
    return path.read_text() if start == b"#!" else ""


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=DOWNLOAD_TIMEOUT_S)


if __name__ == "__main__":
    sys.stdout.write(f"{unpack()}\n")
