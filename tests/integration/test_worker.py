"""A worker as a process of its own against real servers: kills, stops, servers that go away, and what is left."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import boto3
import pytest
from PIL import Image
from skimage import data

from eco_crds import contract
from eco_crds.wal import JournalMode
from eco_workers.client import NewMessage
from tests.support import figures
from tests.support.lab import S3Target
from tests.support.processes import wait_for
from tests.support.proxy import Mode, Proxy
from tests.support.queues import Queues as Broker
from tests.support.worker_process import TOKEN, WorkerProcess, postgres_environment

pytestmark = [pytest.mark.broker, pytest.mark.slow]
WITHIN_S = 60.0
OWN = "tests.support.own_tasks"


@pytest.fixture
def broker(amqp_url: str) -> Broker:
    made = Broker(amqp_url)
    made.clean()
    return made


Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(tmp_path: Path, broker: Broker) -> Iterator[Start]:
    """Start a worker with the tasks of `own_tasks` on q.api; all are ended with the test."""
    made: list[WorkerProcess] = []

    def begin(*, url: str = "", wait: bool = True, index: int = 0, **env: str) -> WorkerProcess:
        worker = WorkerProcess(
            tmp_path / f"shard-{index}", url or broker.url, index=index, queues="q.api", modules=OWN, env=env
        )
        made.append(worker)
        worker.start()
        if wait:
            worker.wait_ready()
        return worker

    yield begin
    for worker in made:
        worker.kill()


def jobs(name: str, count: int, **payload: Any) -> list[NewMessage]:
    run = uuid.uuid4().hex[:8]
    return [NewMessage(name, {key: str(v) for key, v in payload.items()}, "q.api", f"{run}-{n}") for n in range(count)]


def lines(ledger: Path, what: str = "") -> list[list[str]]:
    found = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
    return [line for line in found if not what or line[0] == what]


def command(worker: WorkerProcess, name: str, token: str = TOKEN) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(  # the worker under test
        f"http://127.0.0.1:{worker.port}/wal/{name}", method="POST", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # the worker under test
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def get(worker: WorkerProcess, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def rss_mib(worker: WorkerProcess) -> float:
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def test_a_killed_worker_resumes_what_it_had_begun(start: Start, broker: Broker, tmp_path: Path) -> None:
    """SIGKILL in mid-work: the next process takes the same tasks up again, each ends once, none is lost."""
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    messages = jobs("test.hold", 20, ledger=ledger, gate=gate)
    worker = start()
    broker.send(*messages)
    worker.wait_for(
        lambda r: r.counts.due + r.counts.running == 20 and r.counts.running == 4, "all taken", timeout_s=WITHIN_S
    )
    assert broker.ready("q.api") == 0
    begun = {line[1] for line in lines(ledger, "begin")}
    worker.kill()
    gate.touch()
    worker.start()
    worker.wait_for(lambda r: r.counts.completed == 20 and not r.counts.outbox_unsent, "all done", timeout_s=WITHIN_S)
    report = worker.report()
    assert report is not None
    assert report.recovered == 20
    assert report.resumed_after_s is not None
    figures.record("worker.first_recovered_s", report.resumed_after_s, "s", "<= 1.5")
    assert Counter(line[1] for line in lines(ledger, "end")) == Counter(message.task_id for message in messages)
    again = {line[1] for line in lines(ledger, "begin") if line[2] == "2"}
    assert again == begun
    assert len({headers_and_id[2] for headers_and_id in broker.take("q.ai")}) == 20


def test_a_stop_under_load_loses_and_repeats_nothing(start: Start, broker: Broker, tmp_path: Path) -> None:
    """SIGTERM: what runs may end, the rest stays in the journal or with the broker; the next process does it once."""
    ledger = tmp_path / "ledger"
    messages = jobs("test.echo", 600, ledger=ledger)
    worker = start(ECO_CONCURRENCY="8")
    broker.send(*messages)
    worker.wait_for(lambda r: r.counts.completed >= 50, "some done", timeout_s=WITHIN_S)
    began = time.monotonic()
    assert worker.terminate(timeout_s=60) == 0
    figures.record("worker.stop_s", time.monotonic() - began, "s", "<= 60")
    worker.start()
    worker.wait_for(lambda r: r.counts.completed == 600, "all done", timeout_s=WITHIN_S)
    assert Counter(line[1] for line in lines(ledger, "run")) == Counter(message.task_id for message in messages)


def test_a_stop_gives_back_what_does_not_end_in_time(start: Start, broker: Broker, tmp_path: Path) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    worker = start(ECO_GRACE_PERIOD_S="2")
    broker.send(*jobs("test.hold", 1, ledger=ledger, gate=gate))
    wait_for(lambda: bool(lines(ledger, "begin")), "the task begins")
    assert worker.terminate(timeout_s=10) == 0
    gate.touch()
    worker.start()
    worker.wait_for(lambda r: r.counts.completed == 1, "done", timeout_s=WITHIN_S)
    # A stop is no failure: the second run is the first attempt again.
    assert [line[2] for line in lines(ledger, "begin")] == ["1", "1"]


def test_a_task_that_kills_its_process_uses_up_its_budget(start: Start, broker: Broker, tmp_path: Path) -> None:
    """Counted before it runs: three processes later it is in the dead-letter queue and the worker goes on."""
    ledger = tmp_path / "ledger"
    (message,) = jobs("test.poison", 1, ledger=ledger)
    worker = start()
    broker.send(message)
    for _ in range(3):
        wait_for(lambda: not worker.is_running, "the process dies")
        worker.start()
    worker.wait_for(lambda r: r.counts.failed == 1 and not r.counts.outbox_unsent, "given up", timeout_s=WITHIN_S)
    assert [line[2] for line in lines(ledger, "begin")] == ["1", "2", "3"]
    ((headers, _, _),) = broker.take("q.dlq")
    assert headers["x-eco-task-id"] == message.task_id
    assert headers["x-eco-attempts"] == "3"


def test_a_task_that_fails_each_time_ends_in_the_dead_letter_queue_with_its_history(
    start: Start, broker: Broker, tmp_path: Path
) -> None:
    (message,) = jobs("test.fail", 1, ledger=tmp_path / "ledger")
    worker = start()
    broker.send(message)
    worker.wait_for(lambda r: r.counts.failed == 1 and not r.counts.outbox_unsent, "given up", timeout_s=WITHIN_S)
    ((headers, body, _),) = broker.take("q.dlq")
    assert "nothing there" in headers["x-eco-reason"]
    assert (headers["x-eco-queue"], headers["x-eco-task-name"]) == ("q.api", "test.fail")
    assert json.loads(body) == dict(message.payload)


BAD: Sequence[tuple[str, bytes, dict[str, Any], str]] = [
    ("not JSON", b"hello", {}, "not JSON"),
    ("broken JSON", b'{"a": ', {}, "JSON"),
    ("no object", b"[1]", {}, "want an object"),
    ("no id", b"{}", {"message_id": None}, "task id: missing"),
    ("odd id", b"{}", {"message_id": "a b"}, "task id"),
    ("no name", b"{}", {"message_type": None}, "task name: missing"),
    ("unknown name", b"{}", {"message_type": "x.y"}, "not known to this image"),
    ("too large", b'{"a": "' + b"x" * 9000 + b'"}', {}, "want at most 8000"),
    ("deep", b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", {}, "payload: "),
    ("bytes", b"\xff\xfe\x00", {}, "not JSON"),
    ("NUL", b'{"a": "\\u0000"}', {}, "NUL"),
    ("encoding", b"{}", {"content_encoding": "gzip"}, "encoding"),
    ("headers", b"{}", {"headers": {"x-eco-generation": "?"}}, "number"),
]


def test_what_is_no_task_ends_in_the_dead_letter_queue_and_the_worker_goes_on(start: Start, broker: Broker) -> None:
    worker = start(ECO_MESSAGE_BYTES_MAX="8000")
    for name, body, properties, _ in BAD:
        given = {"message_id": f"id-{name.replace(' ', '-')}", "message_type": "test.echo"} | properties
        broker.send_raw("q.api", body, **given | {"headers": {"case": name, **properties.get("headers", {})}})
    broker.send(*jobs("test.echo", 3))
    worker.wait_for(
        lambda r: r.counts.completed == 3 and not r.counts.outbox_unsent, "the good ones", timeout_s=WITHIN_S
    )
    found = {headers["case"]: (headers["x-eco-reason"], body) for headers, body, _ in broker.take("q.dlq")}
    assert found.keys() == {name for name, *_ in BAD}
    for name, body, _, reason in BAD:
        assert reason in found[name][0], name
        assert name == "too large" or found[name][1] == body


def test_a_broker_that_goes_away_is_waited_for(start: Start, broker: Broker, amqp_url: str, tmp_path: Path) -> None:
    """The worker lives and works on what it has; when the broker is back it consumes and its messages go out."""
    parts = urlsplit(amqp_url)
    gate = tmp_path / "gate"
    with Proxy(parts.port or 5672, parts.hostname or "127.0.0.1") as proxy:
        url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl()
        worker = start(url=url)
        broker.send(*jobs("test.hold", 3, gate=gate))
        worker.wait_for(lambda r: r.counts.running == 3, "all run", timeout_s=WITHIN_S)
        proxy.set(Mode.REFUSE)
        proxy.cut()
        gate.touch()
        worker.wait_for(
            lambda r: r.counts.completed == r.counts.outbox_unsent == 3 and not r.consuming and bool(r.last_error),
            "done, nothing sent", timeout_s=WITHIN_S,
        )  # fmt: skip
        assert get(worker, "/livez")[0] == 200
        assert get(worker, "/readyz")[0] == 503
        proxy.set(Mode.PASS)
        worker.wait_for(lambda r: not r.counts.outbox_unsent and r.consuming, "sent", timeout_s=WITHIN_S)
        assert get(worker, "/readyz")[0] == 200
    assert len(broker.take("q.ai")) == 3


def test_acks_that_are_lost_repeat_a_delivery_and_not_a_run(
    start: Start, broker: Broker, amqp_url: str, tmp_path: Path
) -> None:
    parts = urlsplit(amqp_url)
    ledger = tmp_path / "ledger"
    messages = jobs("test.echo", 50, ledger=ledger)
    with Proxy(parts.port or 5672, parts.hostname or "127.0.0.1") as proxy:
        url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl()
        worker = start(url=url)
        proxy.set(Mode.DEAF)
        broker.send(*messages)
        worker.wait_for(lambda r: r.counts.completed == 50, "all done, no ack arrived", timeout_s=WITHIN_S)
        proxy.cut()
        wait_for(lambda: broker.ready("q.api") == 50, "all back on the queue")
        proxy.set(Mode.PASS)
        wait_for(lambda: broker.ready("q.api") == 0, "taken again")
        worker.wait_for(lambda r: r.consuming and r.counts.completed == 50, "acked", timeout_s=WITHIN_S)
    assert Counter(line[1] for line in lines(ledger)) == Counter(message.task_id for message in messages)


def test_the_journal_does_not_swallow_the_queue(start: Start, broker: Broker, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    broker.send(*jobs("test.hold", 200, gate=gate))
    worker = start(wait=False, ECO_MAX_UNFINISHED="20", ECO_PREFETCH_MESSAGES="10")
    worker.wait_for(lambda r: r.counts.due + r.counts.running > 20 and not r.consuming, "closed", timeout_s=WITHIN_S)
    report = worker.report()
    assert report is not None
    taken = report.counts.due + report.counts.running
    assert taken <= 20 + 2 * 10
    assert broker.ready("q.api") == 200 - taken
    gate.touch()
    worker.wait_for(lambda r: r.counts.completed == 200, "opened again", timeout_s=WITHIN_S)


def test_commands_need_the_token(start: Start) -> None:
    worker = start()
    for token in ("", "wrong", TOKEN + "x", TOKEN[:-1]):
        assert command(worker, "checkpoint", token)[0] == 401
    status, answer = command(worker, "checkpoint")
    assert status == 200
    assert answer["pages"] >= 0
    (worker.directory / "token").unlink()
    assert command(worker, "checkpoint")[0] == 401
    assert command(worker, "checkpoint", "")[0] == 401


def test_a_drain_gives_everything_back_and_lasts_over_a_restart(start: Start, broker: Broker, tmp_path: Path) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    messages = jobs("test.hold", 20, ledger=ledger, gate=gate)
    worker = start()
    broker.send(*messages)
    worker.wait_for(lambda r: r.counts.due + r.counts.running == 20, "all taken", timeout_s=WITHIN_S)
    assert command(worker, "drain") == (200, {"draining": True})
    worker.wait_for(
        lambda r: r.mode is JournalMode.DRAINING and not r.counts.due and not r.counts.outbox_unsent,
        "pending ones given back", timeout_s=WITHIN_S,
    )  # fmt: skip
    assert broker.ready("q.api") == 16
    gate.touch()
    worker.wait_for(
        lambda r: r.counts.completed == 4 and not r.counts.running, "running ones ended", timeout_s=WITHIN_S
    )
    worker.kill()
    worker.start()
    worker.wait_for(lambda r: r.mode is JournalMode.DRAINING, "still draining", timeout_s=WITHIN_S)
    assert broker.ready("q.api") == 16
    assert command(worker, "resume")[0] == 200
    worker.wait_for(lambda r: r.counts.completed == 20, "the rest comes back", timeout_s=WITHIN_S)
    assert Counter(line[1] for line in lines(ledger, "end")) == Counter(message.task_id for message in messages)


def test_a_fenced_worker_neither_takes_nor_runs(start: Start, broker: Broker) -> None:
    worker = start()
    assert command(worker, "fence")[0] == 200
    broker.send(*jobs("test.echo", 2))
    worker.wait_for(lambda r: r.mode is JournalMode.FENCED and not r.consuming, "fenced", timeout_s=WITHIN_S)
    assert broker.ready("q.api") == 2
    assert get(worker, "/readyz") == (503, "fenced\n")
    assert command(worker, "resume")[0] == 200
    worker.wait_for(lambda r: r.counts.completed == 2, "both done", timeout_s=WITHIN_S)


def test_a_journal_that_is_not_the_known_one_is_lost_and_nothing_is_taken(
    start: Start, broker: Broker, tmp_path: Path
) -> None:
    shard = tmp_path / "shard-0" / "shard"
    shard.mkdir(parents=True)
    (shard / contract.JOURNAL_UUID_KEY).write_text(str(uuid.uuid4()))
    broker.send(*jobs("test.echo", 1))
    worker = start(wait=False)
    worker.wait_for(lambda r: r.mode is JournalMode.LOST, "lost", timeout_s=WITHIN_S)
    assert get(worker, "/livez")[0] == 200
    assert get(worker, "/readyz")[0] == 503
    assert command(worker, "sync")[0] == 500
    assert broker.ready("q.api") == 1
    assert worker.terminate(timeout_s=10) == 0


def test_a_damaged_journal_is_left_alone_and_said_so(start: Start, broker: Broker) -> None:
    worker = start()
    broker.send(*jobs("test.echo", 50))
    worker.wait_for(lambda r: r.counts.completed == 50, "some rows", timeout_s=WITHIN_S)
    assert worker.terminate(timeout_s=20) == 0
    damaged = bytearray(worker.journal.read_bytes())
    damaged[4096:] = os.urandom(len(damaged) - 4096)
    worker.journal.write_bytes(bytes(damaged))
    worker.start()
    worker.wait_for(
        lambda r: r.mode is JournalMode.QUARANTINED and bool(r.last_error), "quarantined", timeout_s=WITHIN_S
    )
    assert get(worker, "/readyz")[0] == 503
    assert worker.terminate(timeout_s=10) == 0
    assert worker.journal.read_bytes() == bytes(damaged)


@pytest.mark.parametrize(("name", "value"), [("ECO_CONCURRENCY", "none"), ("RABBITMQ_URL", "ftp://x")])
def test_a_wrong_setting_stops_the_start_with_its_name_and_an_example(name: str, value: str) -> None:
    env = {"PATH": os.environ["PATH"], "RABBITMQ_URL": "amqp://u:hunter2@x/", name: value}
    ended = subprocess.run(
        [sys.executable, "-m", "eco_workers", "run"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert f"{name}: " in ended.stderr
    assert f"Example: {name}=" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr


def test_metrics_have_the_names_that_dashboards_use(start: Start, broker: Broker) -> None:
    worker = start()
    broker.send(*jobs("test.echo", 2), *jobs("test.fail", 1))
    worker.wait_for(lambda r: r.counts.completed == 2 and r.counts.failed == 1, "done", timeout_s=WITHIN_S)
    status, text = get(worker, "/metrics")
    assert status == 200
    for wanted in (
        'wal_tasks_total{status="completed",task_name="test.echo"} 2.0',
        "wal_pending_tasks 0.0",
        "wal_sync_delay_seconds_count",
        'wal_file_size_bytes{file="database"}',
        'task_duration_seconds_count{queue="q.api",task_name="test.echo"} 2.0',
        'wal_tasks_total{status="failed",task_name="test.fail"} 1.0',
        'task_failures_total{kind="retry",queue="q.api",task_name="test.fail"} 1.0',
        'task_failures_total{kind="failed",queue="q.api",task_name="test.fail"} 1.0',
        'wal_sync_rows_total{outcome="committed"} 0.0',
    ):
        assert wanted in text


def test_each_line_about_a_task_bears_its_id_and_its_attempt(start: Start, broker: Broker) -> None:
    worker = start()
    [message] = jobs("test.fail", 1)
    broker.send(message)
    worker.wait_for(lambda r: r.counts.failed == 1, "failed", timeout_s=WITHIN_S)
    told = [json.loads(line) for line in worker.tail(1000).splitlines() if message.task_id in line]
    assert [(line["event"], line["task_id"], line["attempt"], line["shard"]) for line in told] == [
        ("task will be tried again", message.task_id, 1, "storage-0"),
        ("task failed, attempts used up", message.task_id, 2, "storage-0"),
    ]


def test_the_log_holds_no_password(start: Start, amqp_url: str) -> None:
    worker = start(ECO_LOG_LEVEL="debug")
    worker.terminate(timeout_s=20)
    password = urlsplit(amqp_url).password or ""
    text = worker.tail(10_000)
    assert "broker connected" in text
    assert f":{password}@" not in text


@pytest.mark.postgres
def test_results_reach_the_database_also_after_it_was_away(start: Start, broker: Broker, postgres_dsn: str) -> None:
    parts = urlsplit(postgres_dsn)
    with Proxy(parts.port or 5432, parts.hostname or "127.0.0.1") as proxy:
        netloc = f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"
        worker = start(**postgres_environment(parts._replace(netloc=netloc).geturl()))
        worker.sync_to(interval_s=1)
        worker.wait_for(lambda r: r.sync_target == "main", "the settings are read", timeout_s=WITHIN_S)
        first = jobs("test.echo", 30)
        broker.send(*first)
        worker.wait_for(lambda r: r.counts.completed == 30 and not r.counts.unsynced, "synced", timeout_s=WITHIN_S)
        proxy.set(Mode.REFUSE)
        proxy.cut()
        second = jobs("test.echo", 30)
        broker.send(*second)
        worker.wait_for(
            lambda r: r.counts.completed == 60 and r.counts.unsynced == 30 and bool(r.sync_error),
            "kept",
            timeout_s=WITHIN_S,
        )
        proxy.set(Mode.PASS)
        worker.wait_for(lambda r: not r.counts.unsynced and not r.sync_error, "synced", timeout_s=WITHIN_S)
        report = worker.report()
        assert report is not None
        assert report.counts.sync_parked == 0
        text = get(worker, "/metrics")[1]
        assert 'wal_sync_rows_total{outcome="committed"} 60.0' in text
        assert "wal_sync_delay_seconds_count 60.0" in text

    async def states() -> list[str]:
        connection = await asyncpg.connect(postgres_dsn)
        ids = [message.task_id for message in (*first, *second)]
        found = await connection.fetch("SELECT state FROM task_results WHERE task_id = ANY($1)", ids)
        await connection.execute("DELETE FROM task_results WHERE task_id = ANY($1)", ids)
        await connection.close()
        return [row["state"] for row in found]

    assert Counter(asyncio.run(states())) == {"completed": 60}


@pytest.mark.s3
def test_pictures_are_stored_upright_bare_and_once(start: Start, broker: Broker, s3: S3Target) -> None:
    """The role's own task: real photographs in, two sizes out, a follow-up message each, broken ones in q.dlq."""
    client = boto3.client(
        "s3", endpoint_url=s3.endpoint_url, region_name="us-east-1",
        aws_access_key_id=s3.access_key, aws_secret_access_key=s3.secret_key,
    )  # fmt: skip
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    photograph = Image.fromarray(data.astronaut())
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "52.5 N 13.4 E"
    uploads: dict[str, bytes] = {}
    for kind in ("JPEG", "PNG", "WEBP"):
        out = io.BytesIO()
        photograph.save(out, kind, exif=exif)
        uploads[f"uploads/{kind}"] = out.getvalue()
    bad = {"uploads/text": b"hello", "uploads/cut": uploads["uploads/JPEG"][:9000]}
    for key, body in (uploads | bad).items():
        client.put_object(Bucket=bucket, Key=key, Body=body)
    # The same picture twice, under two ids: the objects are there once.
    keys = [*uploads, "uploads/JPEG", *bad, "uploads/none"]
    messages = [NewMessage("image.store", {"key": key}, "q.api", f"{bucket}-{n}") for n, key in enumerate(keys)]
    worker = start(
        S3_ENDPOINT_URL=s3.endpoint_url, S3_BUCKET=bucket, AWS_REGION="us-east-1",
        AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key,
    )  # fmt: skip
    figures.record("worker.rss_mib", rss_mib(worker), "MiB", "<= 90")
    broker.send(*messages)
    worker.wait_for(
        lambda r: (r.counts.completed, r.counts.failed) == (4, 3) and not r.counts.outbox_unsent,
        "done",
        timeout_s=WITHIN_S,
    )
    figures.record("worker.rss_after_pictures_mib", rss_mib(worker), "MiB")
    follow_ups = [json.loads(body) for _, body, _ in broker.take("q.ai")]
    assert sorted(each["source"] for each in follow_ups) == sorted([*uploads, "uploads/JPEG"])
    made = {found["Key"] for found in client.list_objects_v2(Bucket=bucket)["Contents"]} - uploads.keys() - bad.keys()
    assert made == {each[size] for each in follow_ups for size in ("web", "thumbnail")}
    assert len(made) == 6
    for key in made:
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert b"52.5 N" not in body
        picture = Image.open(io.BytesIO(body))
        assert max(picture.size) == (512 if "/web/" in key else 320)
    reasons = {json.loads(body)["key"]: headers["x-eco-reason"] for headers, body, _ in broker.take("q.dlq")}
    assert "no picture" in reasons["uploads/text"]
    assert "broken picture" in reasons["uploads/cut"]
    assert "does not exist" in reasons["uploads/none"]


def test_a_signal_before_the_broker_is_reached_ends_it_cleanly(start: Start) -> None:
    worker = start(url="amqp://guest:guest@127.0.0.1:9/", wait=False)
    worker.wait_for(lambda r: r.mode is JournalMode.NORMAL, "open", timeout_s=WITHIN_S)
    worker.send(signal.SIGTERM)
    wait_for(lambda: not worker.is_running, "ended", timeout_s=30)
    assert worker.exit_code == 0
