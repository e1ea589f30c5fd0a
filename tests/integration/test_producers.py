"""Whoever sends: an unmodified Celery client, plain AMQP, and our own client. What arrives runs, or says why not."""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain
from kombu import Queue

from eco_workers.client import Client, NewMessage
from eco_workers.errors import BrokerUnavailableError, InvalidTaskError
from tests.support.processes import wait_for
from tests.support.queues import Queues
from tests.support.worker_process import WorkerProcess

pytestmark = [pytest.mark.broker, pytest.mark.slow]
WITHIN_S = 30.0


@pytest.fixture
def queues(amqp_url: str) -> Queues:
    made = Queues(amqp_url)
    made.clean()
    return made


@pytest.fixture
def worker(tmp_path: Path, queues: Queues) -> Iterator[WorkerProcess]:
    made = WorkerProcess(tmp_path / "shard-0", queues.url, queues="q.api", modules="tests.support.own_tasks")
    made.start()
    made.wait_ready()
    yield made
    made.kill()


@pytest.fixture
def celery(queues: Queues) -> Iterator[Celery]:
    """A producer as it stands in many a service: it knows the name of the queue, and that it is not its to declare."""
    app = Celery("producer", broker=queues.url, set_as_current=False)
    app.conf.task_queues = [Queue("q.api", no_declare=True)]
    yield app
    app.close()


def ended(worker: WorkerProcess, **counts: int) -> None:
    def as_wanted(report: Any) -> bool:
        return all(getattr(report.counts, name) == count for name, count in counts.items())

    worker.wait_for(lambda r: as_wanted(r) and not r.counts.outbox_unsent, f"{counts}", timeout_s=WITHIN_S)


def runs(ledger: Path) -> list[str]:
    return [line.split()[1] for line in ledger.read_text().splitlines()] if ledger.exists() else []


def letters(queues: Queues, count: int) -> dict[str, str]:
    """Reason of each dead letter, by the id that the task had."""
    wait_for(lambda: queues.ready("q.dlq") == count, f"{count} dead letters", timeout_s=12)
    return {headers.get("x-eco-task-id") or headers["x-eco-message-id"]: headers["x-eco-reason"]
            for headers, _, _ in queues.take("q.dlq")}  # fmt: skip


def test_tasks_of_an_unmodified_celery_client_complete(
    worker: WorkerProcess, queues: Queues, celery: Celery, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"

    @celery.task(name="test.echo", ignore_result=True)
    def echo(**_: Any) -> None:
        raise AssertionError("runs in the worker, not here")

    payload = {"ledger": str(ledger), "umlaut": "\u00e4\u2620", "nested": {"list": [1, 2.5, None]}}
    sent = [
        celery.send_task("test.echo", kwargs=payload, queue="q.api").id,
        celery.send_task("test.echo", args=[payload], queue="q.api").id,
        # By the exchange that leads to every queue, with nothing configured at all.
        Celery("bare", broker=queues.url, set_as_current=False)
        .send_task("test.echo", kwargs=payload, exchange="eco.tasks", routing_key="q.api").id,
        echo.apply_async(kwargs=payload, queue="q.api").id,
        echo.apply_async(kwargs=payload, queue="q.api", task_id="my-own-id", priority=3).id,
        echo.s(**payload).set(queue="q.api").apply_async().id,
    ]  # fmt: skip
    ended(worker, completed=len(sent))
    assert sorted(runs(ledger)) == sorted(sent)
    assert (sent[4], queues.ready("q.dlq")) == ("my-own-id", 0)


def test_eta_and_countdown_are_waited_for_and_expires_ends_a_task(
    worker: WorkerProcess, queues: Queues, celery: Celery, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    payload = {"ledger": str(ledger)}
    began = time.time()
    soon = celery.send_task("test.echo", kwargs=payload, queue="q.api", countdown=2).id
    later = celery.send_task(
        "test.echo", kwargs=payload, queue="q.api", eta=datetime.now(UTC) + timedelta(hours=1), expires=7200
    ).id
    alive = celery.send_task("test.echo", kwargs=payload, queue="q.api", expires=600).id
    dead = celery.send_task(
        "test.echo", kwargs=payload, queue="q.api", expires=datetime.now(UTC) - timedelta(seconds=5)
    ).id
    worker.wait_for(lambda r: r.counts.waiting >= 1 and r.counts.completed >= 1, "some wait", timeout_s=WITHIN_S)
    assert runs(ledger) == [alive]
    ended(worker, completed=2, timeout=1, waiting=1)
    assert time.time() - began >= 2
    assert runs(ledger) == [alive, soon]
    reasons = letters(queues, 1)
    assert list(reasons) == [dead]
    assert "expire" in reasons[dead]
    assert later not in runs(ledger)


def test_what_celery_can_say_and_a_worker_cannot_do_is_refused_with_the_reason(
    worker: WorkerProcess, queues: Queues, celery: Celery
) -> None:
    echo = celery.signature("test.echo", kwargs={"n": 1}, queue="q.api")
    sent = {
        "chord": celery.send_task("test.echo", kwargs={}, queue="q.api", chord=echo).id,
        "callbacks": celery.send_task("test.echo", kwargs={}, queue="q.api", link=echo).id,
        "errbacks": celery.send_task("test.echo", kwargs={}, queue="q.api", link_error=echo).id,
        "chain": chain(echo.clone(), echo.clone(), app=celery).apply_async().parent.id,
        "positional": celery.send_task("test.echo", args=[1, 2], queue="q.api").id,
        "not JSON": celery.send_task("test.echo", kwargs={}, queue="q.api", serializer="pickle").id,
        "time limit": celery.send_task("test.echo", kwargs={}, queue="q.api", time_limit=5).id,
        "not known": celery.send_task("no.such.task", kwargs={}, queue="q.api").id,
    }
    reasons = letters(queues, len(sent))
    assert {word: word in reasons[task_id] for word, task_id in sent.items()} == dict.fromkeys(sent, True)
    celery.send_task("test.echo", kwargs={}, queue="q.api")
    ended(worker, completed=1, failed=0)


def test_plain_amqp_is_enough(worker: WorkerProcess, queues: Queues, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    body = json.dumps({"ledger": str(ledger)}).encode()
    queues.send_raw("q.api", body, headers={"task_id": "a", "task": "test.echo"})
    queues.send_raw("q.api", body, message_id="b", message_type="test.echo", content_type="application/json")
    later = str(time.time() + 1.5)
    queues.send_raw("q.api", body, message_id="c", message_type="test.echo", headers={"x-eco-not-before": later})
    ended(worker, completed=3)
    assert runs(ledger) == ["a", "b", "c"]


async def test_our_client_sends_many_and_the_same_again_is_harmless(
    worker: WorkerProcess, queues: Queues, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    payload = {"ledger": str(ledger)}
    run = uuid.uuid4().hex[:8]
    async with Client(queues.url) as client:
        messages = [NewMessage("test.echo", payload, "q.api", f"{run}-{number}") for number in range(200)]
        await client.send_many(messages)
        await client.send_many(messages)
        first = await client.send("test.echo", payload, queue="q.api", delay_s=1)
        with pytest.raises(InvalidTaskError, match=r"q\.nowhere"):
            await client.send("test.echo", payload, queue="q.nowhere")
        with pytest.raises(InvalidTaskError, match="payload"):
            await client.send("test.echo", {"bad": object()}, queue="q.api")
        with pytest.raises(InvalidTaskError, match="task_id"):
            await client.send("test.echo", payload, queue="q.api", task_id="no spaces")
        gone = await client.send("test.echo", payload, queue="q.api", expires_in_s=0)
        ended(worker, completed=201, timeout=1)
    assert len(runs(ledger)) == 201
    assert runs(ledger)[-1] == first
    assert gone not in runs(ledger)


async def test_our_client_says_when_a_broker_is_away() -> None:
    async with Client("amqp://guest:hunter2@127.0.0.1:9/") as client:
        with pytest.raises(BrokerUnavailableError) as caught:
            await client.send("test.echo", {}, queue="q.api")
    assert "hunter2" not in str(caught.value)
