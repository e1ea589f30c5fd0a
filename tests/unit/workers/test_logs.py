import pytest

from eco_workers.logs import clean, redact


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
    assert redact(None, "", {key: "hunter2", "event": "x"})[key] == "[redacted]"


def test_a_line_is_bounded() -> None:
    assert len(clean("x" * 100_000)) < 2100
