"""When a worker acks, seen from the broker: `Completed` at the end of each task, `Replicated` behind the bucket."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from eco_workers.runtime.replication import restore_base
from eco_workers.runtime.worker import EXIT_JOURNAL
from tests.integration.test_worker import Broker, command, jobs, lines
from tests.support import broker as servers
from tests.support.objectstore import ObjectStore, make_bucket
from tests.support.parts import require
from tests.support.processes import wait_for
from tests.support.proxy import Mode, Proxy
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.slow
WITHIN_S = 60.0
OWN = "tests.support.own_tasks"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Broker]:
    require(servers.is_available(), "a RabbitMQ server (rabbitmq-server, or the lab's image)")
    made = servers.Broker(tmp_path_factory.mktemp("broker"))
    made.directory.parent.chmod(0o755)
    made.start()
    yield made
    made.close()


@pytest.fixture
def broker(server: servers.Broker) -> Broker:
    made = Broker(server.url)
    made.clean()
    return made


Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(tmp_path: Path, broker: Broker) -> Iterator[Start]:
    made: list[WorkerProcess] = []

    def begin(policy: str = "Completed", *, wait: bool = True, **env: str) -> WorkerProcess:
        env = {"ECO_ACK_POLICY": policy, "ECO_CONCURRENCY": "3", **env}
        worker = WorkerProcess(tmp_path / "shard", broker.url, queues="q.api", modules=OWN, env=env)
        made.append(worker)
        worker.start()
        if wait:
            worker.wait_ready()
        return worker

    yield begin
    for worker in made:
        worker.kill()


def unacked(server: servers.Broker) -> tuple[int, int]:
    """Messages of q.api that are ready, and that are with a consumer."""
    text = server.control("list_queues", "name", "messages_ready", "messages_unacknowledged")
    for line in text.splitlines():
        parts = line.split("\t")
        if parts[0] == "q.api":
            return int(parts[1]), int(parts[2])
    return 0, 0


def test_as_many_are_taken_as_can_run_and_each_is_acked_at_its_end(
    start: Start, broker: Broker, server: servers.Broker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = start()
    broker.send(*jobs("test.hold", 8, gate=gate))
    worker.wait_for(lambda r: r.counts.running == 3, "three run", timeout_s=WITHIN_S)
    wait_for(lambda: unacked(server) == (5, 3), "five wait at the broker, three are with the worker")
    gate.touch()
    worker.wait_for(lambda r: r.counts.completed == 8, "all done", timeout_s=WITHIN_S)
    wait_for(lambda: unacked(server) == (0, 0), "all acked")


def test_a_stop_lets_what_runs_end_and_acks_it(
    start: Start, broker: Broker, server: servers.Broker, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    messages = jobs("test.echo", 300, ledger=ledger)
    worker = start()
    broker.send(*messages)
    worker.wait_for(lambda r: r.counts.completed >= 20, "some done", timeout_s=WITHIN_S)
    assert worker.terminate(timeout_s=60) == 0
    done = len(lines(ledger, "run"))
    wait_for(lambda: unacked(server) == (300 - done, 0), "what did not end is back at the broker, no more")
    worker.start()
    worker.wait_for(lambda r: r.counts.completed == 300, "all done", timeout_s=WITHIN_S)
    assert Counter(line[1] for line in lines(ledger, "run")) == Counter(message.task_id for message in messages)


def test_what_does_not_end_in_time_goes_back_by_its_channel(
    start: Start, broker: Broker, server: servers.Broker, tmp_path: Path
) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    worker = start(ECO_GRACE_PERIOD_S="2")
    broker.send(*jobs("test.hold", 2, ledger=ledger, gate=gate))
    wait_for(lambda: len(lines(ledger, "begin")) == 2, "both begin")
    assert worker.terminate(timeout_s=10) == 0
    wait_for(lambda: unacked(server) == (2, 0), "both are back")
    gate.touch()
    worker.start()
    worker.wait_for(lambda r: r.counts.completed == 2 and not r.counts.outbox_unsent, "done", timeout_s=WITHIN_S)
    assert len(broker.take("q.ai")) == 2


def test_a_fence_gives_back_what_it_held_and_a_resume_takes_it_again(
    start: Start, broker: Broker, server: servers.Broker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = start()
    broker.send(*jobs("test.hold", 3, gate=gate))
    worker.wait_for(lambda r: r.counts.running == 3, "all run", timeout_s=WITHIN_S)
    assert command(worker, "fence") == (200, {"fenced": True, "released": 3})
    wait_for(lambda: unacked(server) == (3, 0), "all are back at the broker")
    worker.wait_for(lambda r: r.counts.waiting == 3 and not r.counts.due, "nothing runs unasked", timeout_s=WITHIN_S)
    gate.touch()
    command(worker, "resume")
    worker.wait_for(lambda r: r.counts.completed == 3 and not r.counts.waiting, "done", timeout_s=WITHIN_S)


def test_another_policy_takes_over_what_the_old_one_left_unacked(
    start: Start, broker: Broker, server: servers.Broker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = start()
    broker.send(*jobs("test.hold", 3, gate=gate))
    worker.wait_for(lambda r: r.counts.running == 3, "all run", timeout_s=WITHIN_S)
    worker.kill()
    worker = start("Journaled")
    worker.wait_for(lambda r: r.counts.running == 3, "taken again", timeout_s=WITHIN_S)
    wait_for(lambda: unacked(server) == (0, 0), "acked, though none has ended")
    gate.touch()
    worker.wait_for(lambda r: r.counts.completed == 3, "done", timeout_s=WITHIN_S)


@dataclass
class Bucket:
    """A bucket behind a proxy."""

    proxy: Proxy
    name: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}", "S3_BUCKET": self.name,
            "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        }  # fmt: skip

    def go_away(self) -> None:
        self.proxy.set(Mode.REFUSE)
        self.proxy.cut()

    def come_back(self) -> None:
        self.proxy.set(Mode.PASS)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    store = ObjectStore(tmp_path / "store")
    store.start()
    with Proxy(store.port) as proxy:
        yield Bucket(proxy, asyncio.run(make_bucket(store)))
    store.close()


def test_while_the_bucket_is_away_what_is_here_ends_and_nothing_new_is_acked(
    start: Start, broker: Broker, server: servers.Broker, bucket: Bucket, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = start("Replicated", **bucket.env)
    broker.send(*jobs("test.hold", 2, gate=gate))
    worker.wait_for(lambda r: r.counts.running == 2, "both run", timeout_s=WITHIN_S)
    wait_for(lambda: unacked(server) == (0, 0), "both acked")
    bucket.go_away()
    gate.touch()
    worker.wait_for(lambda r: r.counts.completed == 2 and bool(r.last_error), "both ended", timeout_s=WITHIN_S)
    broker.send(*jobs("test.echo", 3))
    wait_for(lambda: sum(unacked(server)) == 3 and unacked(server)[1] > 0, "delivered, and not acked")
    bucket.come_back()
    worker.wait_for(lambda r: r.counts.completed == 5, "all done", timeout_s=WITHIN_S)
    wait_for(lambda: unacked(server) == (0, 0), "all acked")


def test_a_start_without_the_bucket_leaves_the_queue_alone(
    start: Start, broker: Broker, server: servers.Broker, bucket: Bucket
) -> None:
    """Refused again and again, a message would come to the queue's delivery limit while the bucket is away."""
    bucket.go_away()
    worker = start("Replicated", wait=False, **bucket.env)
    worker.wait_for(lambda r: "not yet claimed" in r.last_error, "it says so", timeout_s=WITHIN_S)
    worker.wait_for(lambda r: not r.consuming, "it takes nothing", timeout_s=WITHIN_S)
    broker.send(*jobs("test.echo", 3))
    wait_for(lambda: unacked(server) == (3, 0), "they stay at the broker")
    assert broker.ready("q.api") == 3
    bucket.come_back()
    worker.wait_for(lambda r: r.counts.completed == 3, "all done", timeout_s=WITHIN_S)


def test_a_worker_whose_journal_was_restored_elsewhere_ends_and_acks_nothing_more(
    start: Start, broker: Broker, server: servers.Broker, bucket: Bucket, tmp_path: Path
) -> None:
    worker = start("Replicated", **bucket.env)
    broker.send(*jobs("test.echo", 2))
    worker.wait_for(lambda r: r.counts.completed == 2, "done", timeout_s=WITHIN_S)
    assert asyncio.run(restore_base(worker.settings, tmp_path / "base.db")) is not None
    broker.send(*jobs("test.echo", 1))
    wait_for(lambda: not worker.is_running, "it ends", timeout_s=WITHIN_S)
    assert worker.exit_code == EXIT_JOURNAL
    wait_for(lambda: unacked(server) == (1, 0), "the last one is still the broker's")
