import asyncio
import json
import logging

import pytest

from eco_workers import logs
from eco_workers.logs import Formatter, clean, redact


@pytest.mark.parametrize(
    "text",
    ["amqp://user:hunter2@rabbitmq:5672/", "connect to postgresql://u:hunter2@db/x failed", "https://a:hunter2@b"],
)
def test_a_password_in_a_url_is_cut_out(text: str) -> None:
    assert "hunter2" not in clean(text)
    assert "[redacted]" in clean(text)


def test_a_url_without_a_password_stays_as_it_is() -> None:
    assert clean("http://s3:9000/bucket") == "http://s3:9000/bucket"


@pytest.mark.parametrize("key", ["password", "postgres_password", "aws_secret_access_key", "token", "Authorization"])
def test_a_value_under_a_secret_name_is_replaced(key: str) -> None:
    assert redact({key: "hunter2", "event": "x"})[key] == "[redacted]"


def test_a_line_is_bounded() -> None:
    assert len(clean("x" * 100_000)) < 2100


@pytest.fixture
def lines() -> list[str]:
    """What a log writes while the test runs."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    handler = Keep()
    handler.setFormatter(Formatter("json", "storage-0"))
    logger = logging.getLogger("test_logs")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel("INFO")
    return found


def test_a_line_is_one_json_object_with_its_fields(lines: list[str]) -> None:
    logs.get("test_logs").info("done", rows=3, url="amqp://u:hunter2@x/")
    found = json.loads(lines[0])
    assert (found["event"], found["level"], found["shard"], found["rows"]) == ("done", "info", "storage-0", 3)
    assert "hunter2" not in lines[0]


def test_a_trace_stays_on_one_line(lines: list[str]) -> None:
    try:
        int("amqp://u:hunter2@x/")
    except ValueError:
        logs.get("test_logs").exception("oops")
    assert "ValueError" in json.loads(lines[0])["trace"]
    assert "\n" not in lines[0]
    assert "hunter2" not in lines[0]


async def test_what_a_task_binds_is_on_its_lines_and_on_nobody_elses(lines: list[str]) -> None:
    async def work(name: str) -> None:
        logs.bind(task_id=name)
        await asyncio.sleep(0)
        # A library that knows nothing of ours.
        logging.getLogger("test_logs").info("from %s", name)

    await asyncio.gather(asyncio.create_task(work("a")), asyncio.create_task(work("b")))
    assert [(json.loads(line)["task_id"], json.loads(line)["event"]) for line in lines] == [
        ("a", "from a"),
        ("b", "from b"),
    ]


def test_a_level_that_is_off_costs_nothing(lines: list[str]) -> None:
    logs.get("test_logs").debug("quiet")
    assert lines == []
