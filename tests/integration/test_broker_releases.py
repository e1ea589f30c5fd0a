"""What the worker needs of a broker, on the oldest RabbitMQ that it runs on and on the one that it is made for."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eco_workers.broker.topology import TOPOLOGY, definitions
from eco_workers.client import NewMessage
from tests.support import broker as brokers
from tests.support import debian
from tests.support.broker import Broker
from tests.support.job_process import JobProcess
from tests.support.parts import require
from tests.support.processes import scratch_directory, wait_for
from tests.support.queues import Queues
from tests.support.worker_process import ROOT, WorkerProcess

pytestmark = [pytest.mark.broker, pytest.mark.slow]
OLDEST = "3.10"
TARGET = "4."
WITHIN_S = 60.0
LOOKS = 25
"""More than RabbitMQ 4 lets a message come back where no policy says otherwise."""


def made(release: str, directory: Path) -> Broker:
    """A broker of that release; the test is skipped, or fails in CI, where there is none."""
    if release == OLDEST:
        prefix = debian.RABBITMQ.prefix
        require(prefix, f"RabbitMQ {OLDEST} (`python -m tests.support.debian`)")
        found = Broker(directory, prefix=prefix)
    else:
        require(brokers.is_available(), f"a RabbitMQ {TARGET}x")
        found = Broker(directory)
    require(found.version().startswith(release), f"RabbitMQ {release}; found {found.version()}")
    return found


@pytest.fixture(scope="module", params=[OLDEST, TARGET])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker without any policy: what holds here holds wherever an administrator has set none."""
    started = made(request.param, scratch_directory() / "broker")
    started.start()
    yield started
    started.close()


@pytest.fixture
def queues(broker: Broker) -> Queues:
    found = Queues(broker.url)
    found.clean()
    return found


@pytest.fixture
def worker(tmp_path: Path, queues: Queues) -> Iterator[WorkerProcess]:
    started = WorkerProcess(tmp_path / "shard-0", queues.url, queues="q.api", modules="tests.support.own_tasks")
    yield started
    started.kill()


def dlq(queues: Queues, *words: str) -> str:
    env = {"PATH": os.environ["PATH"], "RABBITMQ_URL": queues.url}
    argv = [sys.executable, "-m", "eco_workers", "dlq", *words]
    done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tasks_are_taken_acked_run_and_dead_lettered_and_a_replay_completes(
    worker: WorkerProcess, queues: Queues, tmp_path: Path
) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    worker.start()
    worker.wait_ready()
    echoes = [NewMessage("test.echo", {"ledger": str(ledger)}, "q.api") for _ in range(300)]
    queues.send(*echoes, NewMessage("test.gated", {"gate": str(gate)}, "q.api", "gated"))
    queues.send_raw("q.api", b"no task", message_id="odd", message_type="test.echo")
    worker.wait_for(
        lambda r: r.counts.completed == 300 and r.counts.failed == 1 and not r.counts.outbox_unsent,
        "all ended", timeout_s=WITHIN_S,
    )  # fmt: skip
    wait_for(lambda: queues.ready("q.dlq") == 2, "two letters")
    assert len(ledger.read_text().splitlines()) == 300
    gate.touch()
    dlq(queues, "replay", "--id", "gated")
    worker.wait_for(lambda r: r.counts.completed == 301, "replayed", timeout_s=WITHIN_S)
    assert worker.terminate(timeout_s=30) == 0
    # Every delivery was acked: nothing comes back to a queue without a consumer.
    assert (queues.ready("q.api"), queues.ready("q.dlq")) == (0, 1)


def test_a_killed_broker_loses_nothing(worker: WorkerProcess, queues: Queues, broker: Broker, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    worker.start()
    worker.wait_ready()
    sent = [NewMessage("test.echo", {"ledger": str(ledger)}, "q.api") for _ in range(200)]
    queues.send(*sent[:100])
    broker.kill()
    broker.start()
    wait_for(lambda: queues.ready("q.api") >= 0, "the queues are back")
    queues.send(*sent[100:])
    worker.wait_for(lambda r: r.counts.completed == 200 and r.consuming, "all ran", timeout_s=WITHIN_S)
    assert {line.split()[1] for line in ledger.read_text().splitlines()} == {message.task_id for message in sent}


def test_a_drained_shard_gives_its_tasks_back(
    worker: WorkerProcess, queues: Queues, broker: Broker, tmp_path: Path
) -> None:
    queues.send(*(NewMessage("test.hold", {"gate": str(tmp_path / "never")}, "q.api") for _ in range(50)))
    worker.start()
    worker.wait_for(lambda r: r.counts.due + r.counts.running == 50, "all taken", timeout_s=WITHIN_S)
    # Taken is not acked yet: killed in between, the worker would leave its tasks with the broker as well.
    wait_for(lambda: "q.api\t0" in broker.control("list_queues", "name", "messages"), "every ack has arrived")
    worker.kill()
    code, report = JobProcess(worker).run("drain")
    assert (code, report.empty, report.republished) == (0, True, 50)
    assert queues.ready("q.api") == 50


def test_no_letter_is_lost_by_looking_at_it(queues: Queues) -> None:
    for number in range(3):
        queues.send_raw("q.dlq", b"{}", message_id=f"m{number}", headers={"x-eco-queue": "q.api", "a": number})
    for _ in range(LOOKS):
        assert len(json.loads(dlq(queues, "list", "--json", "--limit", "2"))["matched"]) == 2
    found = queues.take("q.dlq")
    assert sorted(message_id for _, _, message_id in found) == ["m0", "m1", "m2"]
    # As they were, but for what the queue itself counts.
    assert {headers["a"] for headers, _, _ in found} == {0, 1, 2}
    assert {key for headers, _, _ in found for key in headers} <= {"x-eco-queue", "a", "x-delivery-count"}


def test_the_policies_are_accepted_and_a_letter_comes_through_the_exchange(queues: Queues, broker: Broker) -> None:
    """The last one, since its policies stay: a message that waits too long goes to the dead letters at least once."""
    broker.define(definitions("/", TOPOLOGY))
    policies = broker.control("list_policies", "--formatter", "json")
    assert {entry["name"] for entry in json.loads(policies)} == {f"eco-{queue.name}" for queue in TOPOLOGY.queues}
    queues.send_raw("q.api", b"{}", message_id="late", message_type="test.echo", expiration="1")
    wait_for(lambda: queues.ready("q.dlq") == 1, "expired", timeout_s=WITHIN_S)
    [entry] = json.loads(dlq(queues, "list", "--json"))["matched"]
    assert (entry["task_id"], entry["queue"], entry["reason"]) == ("late", "q.api", "expired by the broker")
    assert entry["failed_at"] == pytest.approx(time.time(), abs=120)
    dlq(queues, "replay", "--id", "late")
    assert (queues.ready("q.api"), queues.ready("q.dlq")) == (1, 0)
