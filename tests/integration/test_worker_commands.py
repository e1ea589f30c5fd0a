"""The commands of `eco-worker` as a person types them."""

import os
import subprocess
import sys
from pathlib import Path

import aiormq
import pytest

from eco_workers.broker.topology import TOPOLOGY, declare
from tests.support.debian import REDIS
from tests.support.parts import require
from tests.support.redis import Redis

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "120", "PYTHONPATH": str(ROOT), **env}
    argv = [sys.executable, "-m", "eco_workers", *words]
    return subprocess.run(argv, env=given, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


COMMANDS = "run, check, tasks, send, status, job, job drain, job sync, job recover, dlq, dlq list, dlq show, dlq replay"


@pytest.mark.parametrize("command", [*COMMANDS.split(", "), "dlq drop"])
def test_each_command_explains_itself_with_an_example(command: str) -> None:
    shown = run(*command.split(), "--help")
    assert shown.returncode == 0
    assert "xample" in shown.stdout
    assert "eco-worker" in shown.stdout


def test_the_tasks_of_a_module_of_ones_own_are_listed_beside_the_roles() -> None:
    shown = run("tasks", ECO_TASK_MODULES="tests.support.own_tasks")
    assert shown.returncode == 0
    assert {line.split()[0] for line in shown.stdout.splitlines() if "x  " in line} >= {"image.store", "test.echo"}


def test_a_module_that_is_not_there_is_named_in_one_line() -> None:
    shown = run("tasks", ECO_TASK_MODULES="no.such.module")
    assert (shown.returncode, len(shown.stderr.splitlines())) == (2, 1)
    assert "no.such.module" in shown.stderr


def test_every_setting_is_listed_with_an_example() -> None:
    shown = run("check", "--settings")
    assert shown.returncode == 0
    assert "RABBITMQ_URL" in shown.stdout
    assert "required" in shown.stdout


def test_a_check_names_each_part_that_fails_and_no_password(tmp_path: Path) -> None:
    shown = run(
        "check", RABBITMQ_URL="amqp://u:hunter2@127.0.0.1:9/", WAL_DB_PATH=str(tmp_path / "none" / "journal.db"),
        POSTGRES_HOST="127.0.0.1", POSTGRES_PORT="9", POSTGRES_PASSWORD="hunter3",
        S3_ENDPOINT_URL="http://127.0.0.1:9", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="hunter4",
    )  # fmt: skip
    assert shown.returncode == 1
    assert [line.split()[:2] for line in shown.stdout.splitlines() if line.startswith("FAIL")] == [
        ["FAIL", "volume"], ["FAIL", "broker:"], ["FAIL", "database"], ["FAIL", "bucket"],
    ]  # fmt: skip
    assert "hunter" not in shown.stdout + shown.stderr


def test_a_check_asks_redis_with_its_password_and_its_database(tmp_path: Path) -> None:
    require(REDIS.prefix, "Redis (`python -m tests.support.debian`)")
    server = Redis(tmp_path / "redis")
    server.start()
    try:
        answers = {}
        for url in (server.url, server.url[:-1] + "99", server.url.replace("test-only", "wrong")):
            shown = run("check", RABBITMQ_URL="amqp://x:9/", REDIS_URL=url, WAL_DB_PATH=str(tmp_path / "journal.db"))
            [answers[url]] = [line for line in shown.stdout.splitlines() if line[6:].startswith("redis")]
            assert "test-only" not in shown.stdout + shown.stderr
    finally:
        server.close()
    sound, no_database, no_login = answers.values()
    assert sound.split() == ["ok", "redis"]
    assert "SELECT: -ERR" in no_database
    assert "AUTH: -WRONGPASS" in no_login
    shown = run("check", RABBITMQ_URL="amqp://x:9/", REDIS_URL=server.url, WAL_DB_PATH=str(tmp_path / "journal.db"))
    assert "FAIL  redis: Connect" in shown.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("send", "act", "{broken"), "payload: not JSON"),
        (("send", "act", "[1]"), "want an object"),
        (("send", "act"), "RABBITMQ_URL: missing"),
        (("status", "--url", "http://127.0.0.1:9"), "no report from http://127.0.0.1:9"),
        (("status", "--url", "file:///etc/passwd"), "want http"),
    ],
)
def test_what_a_person_gets_wrong_is_said_in_one_line(words: tuple[str, ...], said: str) -> None:
    shown = run(*words)
    assert shown.returncode in {1, 2}
    assert said in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.broker
async def test_a_task_that_was_sent_is_on_its_queue(amqp_url: str) -> None:
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    await declare(channel, TOPOLOGY)
    await channel.queue_purge("q.sched")
    shown = run("send", "act", '{"a": 1}', "--queue", "q.sched", "--id", "mine", RABBITMQ_URL=amqp_url)
    assert (shown.returncode, shown.stdout.strip()) == (0, "mine")
    found = await channel.basic_get("q.sched", no_ack=True)
    await connection.close()
    assert (found.body, found.header.properties.message_id, found.header.properties.message_type) == (
        b'{"a":1}', "mine", "act",
    )  # fmt: skip
    shown = run("send", "act", "{}", "--queue", "q.nowhere", RABBITMQ_URL=amqp_url)
    assert shown.returncode == 1
    assert "q.nowhere" in shown.stderr
