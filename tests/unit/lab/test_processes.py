"""Processes are known by number and start time; programs that fail say why."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from eco_lab import processes
from eco_lab.errors import CommandError, MissingError, NotReadyError
from eco_lab.processes import Process


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def known(child: subprocess.Popen[bytes]) -> Process:
    found = processes.identify(child.pid)
    assert found is not None
    return found


def test_a_running_process_is_alive(child: subprocess.Popen[bytes]) -> None:
    assert known(child).is_alive()


def test_a_zombie_is_not_alive(child: subprocess.Popen[bytes]) -> None:
    """It has ended, though its number is taken until somebody waits for it."""
    process = known(child)
    os.kill(child.pid, 9)
    processes.wait_until("end", lambda: not process.is_alive(), timeout_s=5)
    assert Path(f"/proc/{child.pid}").exists()


def test_a_number_used_again_is_another_process(child: subprocess.Popen[bytes]) -> None:
    """Same number, other start time: it is never signalled."""
    impostor = replace(known(child), started_ticks=1)
    assert not impostor.is_alive()
    impostor.kill()
    impostor.stop(grace_s=0)
    assert child.poll() is None


def test_a_process_of_another_boot_is_not_ours(child: subprocess.Popen[bytes]) -> None:
    assert not replace(known(child), boot_id="another").is_alive()


def test_a_record_brings_back_a_process_only_while_it_lives(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    file = tmp_path / "run" / "child.json"
    process = known(child)
    processes.record(file, process)
    assert processes.recall(file) == process
    process.kill()
    assert processes.recall(file) is None


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}', "{"])
def test_a_damaged_record_is_no_process(tmp_path: Path, text: str) -> None:
    file = tmp_path / "record.json"
    file.write_text(text)
    assert processes.recall(file) is None


def test_a_daemon_writes_its_log_and_outlives_nothing_it_should_not(tmp_path: Path) -> None:
    log, pipe = tmp_path / "daemon.log", tmp_path / "pipe"
    os.mkfifo(pipe)
    # Its standard input is empty, so it goes by when somebody opens the other end of the pipe: not before it is known.
    program = "import sys; assert not sys.stdin.read(); print('ready', flush=True); open(sys.argv[1]).read()"
    process = processes.spawn([sys.executable, "-c", program, str(pipe)], log=log)
    assert process.is_alive()
    pipe.open("w").close()
    processes.wait_until("its end", lambda: not process.is_alive(), timeout_s=10)
    assert log.read_text() == "ready\n"


def test_a_failing_program_is_named_with_its_last_words() -> None:
    with pytest.raises(CommandError, match=r"doing it: exit status 3: why it failed"):
        processes.run(
            [sys.executable, "-c", "import sys; print('why it failed', file=sys.stderr); sys.exit(3)"], what="doing it"
        )


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(MissingError, match="no-such-program"):
        processes.run(["no-such-program"])


def test_secrets_travel_on_standard_input() -> None:
    assert processes.run([sys.executable, "-c", "print(input())"], stdin="hidden\n") == "hidden\n"


def test_waiting_ends_at_its_deadline_and_shows_the_log(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_text("first\nlast words\n")
    with pytest.raises(NotReadyError, match=r"(?s)the part: not after 0 s.*last words"):
        processes.wait_until("the part", lambda: False, timeout_s=0, log=log)
