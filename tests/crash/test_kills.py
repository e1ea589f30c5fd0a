"""A sample of the kills that the proof makes by the thousand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
KILLS: Final = 60


def test_a_killed_journal_keeps_what_it_acknowledged() -> None:
    """In a process of its own: the loop forks, and must not do that beside the threads of a test run."""
    command = [sys.executable, "-m", "tests.crash.kills", "--iterations", str(KILLS), "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["complaints"] == []
    assert found["iterations"] >= KILLS
    assert sum(number for where, number in found["at"].items() if where != "its end") > KILLS / 2
