"""Shows the end of every log that a failed test's programs left in its own directory.

What a failure on another machine meant is in the words of the programs, and their logs go with that machine.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

LINES_MAX: Final = 80
_READ_MAX_BYTES: Final = 64 * 1024


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the logs into the report of a test that failed."""
    report = yield
    place = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and isinstance(place, Path):
        for log in sorted(place.rglob("*.log")):
            report.sections.append((f"end of {log.relative_to(place)}", tail(log)))
    return report


def tail(log: Path) -> str:
    """The last lines of a file; of one that cannot be read, why."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _READ_MAX_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-LINES_MAX:])
    except OSError as error:
        return f"not readable: {error}"
