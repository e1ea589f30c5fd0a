"""`eco-wal` and the façade by the first deployment's names, on real files."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eco_workers.errors import JournalError
from eco_workers.journal import Emit, Limits
from eco_workers.journal.cli import app
from eco_workers.journal.manager import WALManager, WALRecovery, state_named
from tests.support.journals import NAMES, Journals, task

runner = CliRunner()


@pytest.fixture
async def journals(tmp_path: Path) -> AsyncIterator[Journals]:
    some = Journals("sqlite", tmp_path)
    yield some
    await some.close()


@pytest.fixture
async def journal(journals: Journals) -> Any:
    """A live journal with one task of each kind that people ask for."""
    journals.clock.now = time.time()
    opened: Any = await journals.open(Limits(lock_wait_s=0.2))
    await opened.accept([task("done"), task("bad"), task("left")])
    await opened.claim(2, names=NAMES)
    await opened.step("done", "fetch", b'"bytes"')
    await opened.complete("done", b'{"ok":true}', emits=[Emit("q.ai", b"{}")])
    await opened.fail("bad", "no picture")
    return opened


def run(journals: Journals, *arguments: str) -> Any:
    return runner.invoke(app, [*arguments, "--db", str(journals.path)])


async def beside(journals: Journals, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as people do: one process must not open a live journal's file twice."""
    command = [sys.executable, "-c", "from eco_workers.journal.cli import main; main()", *arguments]
    return await asyncio.to_thread(
        subprocess.run,
        [*command, "--db", str(journals.path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_looking_is_safe_while_the_journal_is_open(journals: Journals, journal: Any) -> None:
    found = json.loads((await beside(journals, "stats", "--json")).stdout)
    assert (found["counts"]["completed"], found["counts"]["failed"], found["counts"]["due"]) == (1, 1, 1)
    assert found["holder"]["pid"] == str(os.getpid())
    assert "journal_uuid" in (await beside(journals, "stats")).stdout
    assert (await beside(journals, "verify")).returncode == 0
    await journal.accept([task("more")])
    assert json.loads((await beside(journals, "stats", "--json")).stdout)["counts"]["due"] == 2
    assert await journal.verify() == []


async def test_tasks_are_listed_and_shown(journals: Journals, journal: Any) -> None:
    await journal.close()
    failed = json.loads(run(journals, "list", "--state", "failed", "--json").stdout)
    assert [(row["task_id"], row["error"]) for row in failed] == [("bad", "no picture")]
    assert json.loads(run(journals, "list", "--state", "processing", "--json").stdout) == []
    shown = json.loads(run(journals, "show", "done", "--json").stdout)
    assert (shown["result"], shown["steps"][0]["name"], len(shown["messages"])) == ({"ok": True}, "fetch", 1)
    missing = run(journals, "show", "nobody")
    assert (missing.exit_code, "'nobody' is not in" in missing.stderr) == (2, True)


async def test_verify_tells_sound_from_damaged(journals: Journals, journal: Any) -> None:
    await journal.close()
    assert run(journals, "verify").exit_code == 0
    data = bytearray(journals.path.read_bytes())
    data[data.index(b"no picture")] ^= 1
    journals.path.write_bytes(data)
    result = run(journals, "verify", "--json")
    assert result.exit_code == 1
    assert "checksum" in json.loads(result.stdout)["problems"][0]


async def test_a_live_journal_is_not_checkpointed_from_outside(journals: Journals, journal: Any) -> None:
    result = await beside(journals, "checkpoint")
    assert result.returncode == 2
    assert "has it open" in result.stderr
    await journal.close()
    assert run(journals, "checkpoint").exit_code == 0


async def test_every_task_is_exported_once(journals: Journals, journal: Any, tmp_path: Path) -> None:
    await journal.close()
    lines = [json.loads(line) for line in run(journals, "export").stdout.splitlines()]
    assert [line["task_id"] for line in lines] == ["done", "bad", "left"]
    assert lines[0]["payload"] == {"key": "uploads/1.jpg"}
    out = tmp_path / "out.jsonl"
    assert run(journals, "export", "--out", str(out)).exit_code == 0
    assert run(journals, "export", "--out", str(out)).exit_code == 2


async def test_a_damaged_journal_is_salvaged_then_recovered(journals: Journals, journal: Any) -> None:
    await journal.close()
    with journals.path.open("r+b") as stream:
        stream.seek(len("SQLite"))
        stream.write(b"\xa5")
    assert run(journals, "stats").exit_code == 2
    assert run(journals, "salvage").exit_code == 0
    identity = ["--namespace", "eco", "--worker", "storage", "--shard", "storage-0"]
    plan = json.loads(run(journals, "recover", "--dry-run", "--json", *identity).stdout)
    assert (plan["action"], plan["dry_run"], plan["aside"]) == ("rebuilt", True, "")
    done = json.loads(run(journals, "recover", "--json", *identity).stdout)
    assert await asyncio.to_thread(Path(done["aside"]).exists)
    assert json.loads(run(journals, "recover", "--json", *identity).stdout)["action"] == "none"
    again: Any = await journals.open(known_uuid=done["journal_uuid"])
    assert again.journal_uuid == journal.journal_uuid


async def test_a_missing_journal_is_told_in_one_line(journals: Journals) -> None:
    result = run(journals, "stats")
    assert result.exit_code == 2
    assert "there is no journal" in result.stderr
    assert "Traceback" not in result.output


# -- the façade -----------------------------------------------------------------------------------------------------


async def test_the_documents_method_names_do_what_they_say(journals: Journals) -> None:
    journal: Any = await journals.open()
    manager = WALManager(journal, queue="q.ai")
    running = await manager.log_task_start("t1", "image.store", b"{}")
    assert running.attempt == 1
    await manager.log_task_complete("t1", b'{"ok":true}')
    await manager.log_task_start("t2", "image.store", b"{}")
    await manager.log_task_failure("t2", "bad")
    await manager.write("t3", "image.store", b"{}")
    assert [each.task_id for each in await manager.recover_pending_tasks()] == ["t3"]
    counts = (await journal.statistics()).counts
    assert (counts.completed, counts.failed, counts.due) == (1, 1, 1)
    assert await manager.checkpoint() > 0
    journals.clock.pass_(10)
    assert await manager.cleanup(keep_s=5) == 1


async def test_recovery_at_start_republishes_each_task_once(journals: Journals) -> None:
    journal: Any = await journals.open()
    manager = WALManager(journal, queue="q.ai")
    await manager.write("old", "image.store", b"{}")
    journals.clock.pass_(4000)
    await manager.write("young", "image.store", b"{}")
    asked = 0

    async def ready() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    recovery = WALRecovery(manager, journal, clock=journals.clock)
    report = await recovery.recover_on_startup(ready, expire_after_s=3600, republish=True, poll_s=0.001)
    assert (report.unfinished, report.expired, report.republished) == (2, 1, 1)
    again = await recovery.recover_on_startup(ready, republish=True)
    assert (again.unfinished, again.republished) == (0, 0)
    assert [message.kind for message in await journal.outbox(10)] == ["dead-letter", "republish"]


async def test_recovery_changes_nothing_when_the_broker_does_not_come(journals: Journals) -> None:
    journal: Any = await journals.open()
    manager = WALManager(journal, queue="q.ai")
    await manager.write("t1", "image.store", b"{}")

    async def never() -> bool:
        return False

    recovery = WALRecovery(manager, journal, clock=journals.clock)
    with pytest.raises(JournalError, match="not reachable"):
        await recovery.recover_on_startup(never, republish=True, wait_s=0.01, poll_s=0.001)
    assert (await journal.statistics()).counts.due == 1


def test_processing_is_another_name_of_running() -> None:
    assert state_named("processing") == "running"
