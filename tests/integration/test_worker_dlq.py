"""Dead letters on a real broker: looked at, sent again, dropped, and none lost whatever happens in between."""

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eco_workers.client import NewMessage
from tests.support.processes import wait_for
from tests.support.queues import Queues
from tests.support.worker_process import WorkerProcess

pytestmark = [pytest.mark.broker, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 60.0


@pytest.fixture
def queues(amqp_url: str) -> Queues:
    made = Queues(amqp_url)
    made.clean()
    return made


@pytest.fixture
def worker(tmp_path: Path, queues: Queues) -> Iterator[WorkerProcess]:
    made = WorkerProcess(tmp_path / "shard-0", queues.url, queues="q.api", modules="tests.support.own_tasks")
    yield made
    made.kill()


def begin(queues: Queues, *words: str) -> subprocess.Popen[str]:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "160", "RABBITMQ_URL": queues.url}
    argv = [sys.executable, "-m", "eco_workers", "dlq", *words]
    return subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def dlq(queues: Queues, *words: str) -> tuple[int, str, str]:
    process = begin(queues, *words)
    out, said = process.communicate(timeout=WITHIN_S)
    return process.returncode, out, said


def listed(queues: Queues, *words: str) -> list[str]:
    code, out, said = dlq(queues, "list", "--json", *words)
    assert code == 0, said
    return [entry["task_id"] for entry in json.loads(out)["matched"]]


def letter(queues: Queues, task_id: str, *, name: str = "test.echo", body: bytes = b"{}", **headers: Any) -> None:
    """A dead letter as a worker's outbox writes it."""
    own = {
        "x-eco-task-id": task_id, "x-eco-task-name": name, "x-eco-queue": "q.api", "x-eco-generation": "0",
        "x-eco-attempts": "10", "x-eco-reason": "failed: ConnectionError: nothing there",
        "x-eco-failed-at": f"{time.time():.3f}",
    }  # fmt: skip
    given = own | {f"x-eco-{key.replace('_', '-')}": value for key, value in headers.items()}
    queues.send_raw("q.dlq", body, message_id=str(uuid.uuid4()), headers=given, content_type="application/json")


def lines(ledger: Path, what: str) -> list[list[str]]:
    found = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
    return [line for line in found if line[0] == what]


def test_a_task_that_failed_runs_again_on_the_same_shard_and_completes(
    worker: WorkerProcess, queues: Queues, tmp_path: Path
) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    worker.start()
    worker.wait_ready()
    queues.send(NewMessage("test.gated", {"ledger": str(ledger), "gate": str(gate)}, "q.api", "mended"))
    worker.wait_for(lambda r: r.counts.failed == 1 and not r.counts.outbox_unsent, "failed", timeout_s=WITHIN_S)
    assert listed(queues) == ["mended"]
    code, _, said = dlq(queues, "replay", "--id", "mended", "--dry-run")
    assert (code, "1 would be replayed" in said, queues.ready("q.dlq")) == (0, True, 1)
    # As long as the cause is there it fails again, and its new letter can be sent again as well.
    assert dlq(queues, "replay", "--id", "mended")[0] == 0
    wait_for(lambda: len(lines(ledger, "begin")) == 4 and queues.ready("q.dlq") == 1, "failed again")
    gate.touch()
    assert dlq(queues, "replay", "--task", "test.g*")[0] == 0
    worker.wait_for(lambda r: r.counts.completed == 1 and not r.counts.failed, "completed", timeout_s=WITHIN_S)
    assert queues.ready("q.dlq") == 0
    # Each replay had its whole budget of two attempts.
    assert [line[2] for line in lines(ledger, "begin")] == ["1", "2", "1", "2", "1"]
    assert len(lines(ledger, "end")) == 1


def test_a_replay_that_is_killed_again_and_again_loses_nothing_and_runs_nothing_twice(
    worker: WorkerProcess, queues: Queues, tmp_path: Path
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ledger = tmp_path / "ledger"
    ids = [f"task-{number}" for number in range(1500)]
    queues.send(*(Letter("test.echo", {"ledger": str(ledger)}, "q.dlq", each) for each in ids))
    killed = 0
    for _ in range(40):
        process = begin(queues, "replay", "--all")
        time.sleep(chance.uniform(0.5, 1.2))
        if process.poll() is None:
            process.kill()
            killed += 1
        process.communicate()
        if process.returncode == 0 or killed == 6:
            break
    # What a killed look held is back on the queue only when the broker has noticed.
    wait_for(lambda: queues.ready("q.api") + queues.ready("q.dlq") >= len(ids), "all are back")
    assert dlq(queues, "replay", "--all")[0] == 0
    wait_for(lambda: queues.ready("q.dlq") == 0, "all are replayed")
    assert killed >= 2
    worker.start()
    worker.wait_ready()
    wait_for(lambda: len(lines(ledger, "run")) >= len(ids) and not queues.ready("q.api"), "all ran")
    worker.wait_for(lambda r: not r.counts.due and not r.counts.running, "idle", timeout_s=WITHIN_S)
    assert Counter(line[1] for line in lines(ledger, "run")) == dict.fromkeys(ids, 1)


class Letter(NewMessage):
    """A dead letter, sent in bulk."""

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-eco-task-id": self.task_id, "x-eco-task-name": self.name, "x-eco-queue": "q.api",
            "x-eco-generation": "0", "x-eco-reason": "failed", "x-eco-failed-at": f"{time.time():.3f}",
        }  # fmt: skip


def test_what_is_looked_at_stays_in_its_order(queues: Queues) -> None:
    ids = [f"t{number}" for number in range(12)]
    for each in ids:
        letter(queues, each)
    assert listed(queues, "--limit", "3") == ids[:3]
    for _ in range(8):
        assert listed(queues) == ids
    code, out, said = dlq(queues, "list", "--limit", "2")
    assert (code, len(out.splitlines()), "2 listed" in said) == (0, 2, True)
    assert "nothing there" in out


def test_only_what_matches_is_sent_or_dropped(queues: Queues) -> None:
    now = time.time()
    letter(queues, "old", failed_at=f"{now - 7200:.3f}")
    letter(queues, "timeout", reason="timeout: 60 s")
    letter(queues, "other", name="other.task")
    letter(queues, "batch", queue="q.batch")
    assert listed(queues, "--older-than", "1h") == ["old"]
    assert listed(queues, "--younger-than", "1h") == ["timeout", "other", "batch"]
    assert listed(queues, "--reason", "TIMEOUT") == ["timeout"]
    assert listed(queues, "--task", "other.*") == ["other"]
    assert listed(queues, "--queue", "q.batch") == ["batch"]
    assert listed(queues, "--id", "old", "--id", "batch") == ["old", "batch"]
    assert dlq(queues, "replay", "--queue", "q.batch")[0] == 0
    assert (queues.ready("q.batch"), listed(queues)) == (1, ["old", "timeout", "other"])
    code, _, said = dlq(queues, "drop", "--task", "other.*")
    assert (code, "--yes" in said) == (1, True)
    assert dlq(queues, "drop", "--task", "other.*", "--dry-run")[0] == 0
    assert listed(queues) == ["old", "timeout", "other"]
    assert dlq(queues, "drop", "--task", "other.*", "--yes")[0] == 0
    assert listed(queues) == ["old", "timeout"]
    for words in (("replay",), ("drop", "--yes")):
        code, _, said = dlq(queues, *words)
        assert (code, "--all" in said) == (1, True)
    code, _, said = dlq(queues, "list", "--older-than", "soon")
    assert (code, "no duration" in said) == (1, True)


def test_a_letter_is_shown_whole(queues: Queues) -> None:
    letter(queues, "one", body=b'{"key":"uploads/1.jpg"}')
    code, out, _ = dlq(queues, "show", "one")
    [shown] = json.loads(out)
    assert (code, shown["body"], shown["headers"]["x-eco-attempts"]) == (0, {"key": "uploads/1.jpg"}, "10")
    assert dlq(queues, "show", "nobody")[0] == 1
    assert queues.ready("q.dlq") == 1


def test_a_replayed_message_is_the_task_with_a_fresh_budget_and_a_higher_generation(queues: Queues) -> None:
    letter(queues, "one", generation="3", traceparent="00-aa-bb-01", expires_at="1")
    queues.send_raw(
        "q.dlq", b"{}", message_id="m",
        headers={"x-eco-queue": "q.api", "x-eco-reason": "odd", "x-eco-message-id": "lost", "type": "late"},
    )  # fmt: skip
    assert dlq(queues, "replay", "--all")[0] == 0
    first, second = queues.take("q.api")
    assert first[0] == {
        "x-eco-task-id": "one", "x-eco-task-name": "test.echo", "x-eco-generation": "4",
        "x-eco-traceparent": "00-aa-bb-01",
    }  # fmt: skip
    assert second[0] == {"x-eco-task-id": "lost", "x-eco-task-name": "late", "x-eco-generation": "1"}


def test_what_cannot_be_sent_stays_and_is_named(queues: Queues) -> None:
    letter(queues, "nowhere", queue="q.gone")
    letter(queues, "round", queue="q.dlq")
    letter(queues, "cut", body_bytes="9000000")
    letter(queues, "odd", generation="many")
    letter(queues, "fine")
    code, _, said = dlq(queues, "replay", "--all")
    assert code == 1
    assert {line.split(":")[1].strip() for line in said.splitlines() if line.startswith("kept")} == {
        "nowhere", "round", "cut", "odd",
    }  # fmt: skip
    assert sorted(listed(queues)) == ["cut", "nowhere", "odd", "round"]
    assert queues.ready("q.api") == 1


def test_what_the_broker_dead_lettered_goes_back_where_it_was(worker: WorkerProcess, queues: Queues) -> None:
    """A message that waited longer than its time: the broker tells where and when in a header of its own."""
    queues.send_raw(
        "q.api", b'[[], {"n": 1}, {}]', message_id="c1", expiration="1", content_type="application/json",
        headers={"task": "test.echo", "id": "celery-1", "lang": "py", "retries": 0, "expires": "2020-01-01T00:00:00"},
    )  # fmt: skip
    wait_for(lambda: queues.ready("q.dlq") == 1, "expired")
    _, out, _ = dlq(queues, "list", "--json")
    [entry] = json.loads(out)["matched"]
    assert (entry["task_id"], entry["name"], entry["queue"]) == ("celery-1", "test.echo", "q.api")
    assert entry["reason"] == "expired by the broker"
    assert entry["failed_at"] == pytest.approx(time.time(), abs=60)
    assert dlq(queues, "replay", "--id", "celery-1")[0] == 0
    worker.start()
    worker.wait_for(lambda r: r.counts.completed == 1, "completed", timeout_s=WITHIN_S)
    assert queues.ready("q.dlq") == 0


def test_a_delivery_that_was_refused_runs_once_an_image_knows_its_name(worker: WorkerProcess, queues: Queues) -> None:
    """Its generation is kept: a task that was given back before is no duplicate where it came from."""
    stranger = WorkerProcess(worker.directory.parent / "stranger", queues.url, index=1, queues="q.api")
    stranger.start()
    try:
        stranger.wait_ready()
        queues.send_raw(
            "q.api", b"{}", message_id="r1",
            headers={"x-eco-task-id": "r1", "x-eco-task-name": "test.echo", "x-eco-generation": "2"},
        )  # fmt: skip
        wait_for(lambda: queues.ready("q.dlq") == 1, "refused")
    finally:
        stranger.kill()
    code, out, _ = dlq(queues, "list", "--json", "--reason", "not known to this image")
    [entry] = json.loads(out)["matched"]
    assert (code, entry["task_id"], entry["generation"]) == (0, "r1", 2)
    assert dlq(queues, "replay", "--id", "r1")[0] == 0
    worker.start()
    worker.wait_for(lambda r: r.counts.completed == 1, "completed", timeout_s=WITHIN_S)


def test_a_broker_that_is_away_and_a_missing_url_are_said_in_one_line() -> None:
    away = Queues("amqp://guest:hunter2@127.0.0.1:9/")
    code, _, said = dlq(away, "list")
    assert (code, len(said.splitlines()), "hunter2" in said) == (1, 1, False)
    code, _, said = dlq(Queues(""), "list")
    assert (code, said.startswith("eco-worker: RABBITMQ_URL: missing")) == (2, True)
