"""Structured logs: one JSON object a line in containers, plain text for people. Bound fields travel along.

On the standard library, so that lines of libraries and of users' tasks come out in the same form, with the task's id
and attempt on them. Values whose key names a secret are replaced, and passwords inside URLs are cut out, whoever put
them there.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal

_SECRET_KEYS: Final = re.compile(r"(password|secret|token|authorization|credential|access_key|api_key)", re.IGNORECASE)
_URL_PASSWORD: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+@")
VALUE_CHARACTERS_MAX: Final = 2000
TRACE_CHARACTERS_MAX: Final = 16_000
_FIELDS: Final = "eco_fields"
_bound: ContextVar[Mapping[str, Any]] = ContextVar("eco_workers_log_fields", default={})  # noqa: B039  # never changed in place


class Log:
    """A logger whose lines are an event and its fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """For whoever looks for a defect."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What happens in the normal course."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """What goes wrong and is dealt with."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """What somebody must look at."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error with the trace of the exception at hand."""
        self._write(logging.ERROR, event, fields, trace=True)

    def _write(self, level: int, event: str, fields: dict[str, Any], *, trace: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, exc_info=trace, extra={_FIELDS: fields}, stacklevel=3)


def get(name: str) -> Log:
    """The log of a module."""
    return Log(name)


def bind(**fields: Any) -> None:
    """Put fields on every line written from here on in this asyncio task, by libraries and by what it starts too."""
    _bound.set({**_bound.get(), **fields})


def configure(*, form: Literal["json", "text"], level: str, shard: str) -> None:
    """Set up logging of the whole process, our own lines and those of libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(form, shard))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # The connection's own lines repeat ours at every attempt; what they say reaches us as an exception.
    for name in ("aiormq", "aiohttp.access", "botocore", "aiobotocore", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Formatter(logging.Formatter):
    """A record as one line: time, level, event, then the fields."""

    def __init__(self, form: Literal["json", "text"], shard: str) -> None:
        super().__init__()
        self._form = form
        self._shard = shard

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        line: dict[str, Any] = {
            "time": moment,
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "shard": self._shard,
            **_bound.get(),
            **getattr(record, _FIELDS, {"logger": record.name}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)[-TRACE_CHARACTERS_MAX:]
        line = redact(line)
        if self._form == "json":
            return json.dumps(line, ensure_ascii=False, default=str)
        trace = line.pop("trace", "")
        head = f"{line.pop('time')} {line.pop('level'):<7} {line.pop('event')}"
        text = "".join(f"  {key}={value}" for key, value in line.items())
        return f"{head}{text}" + (f"\n{trace}" if trace else "")


def redact(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without secrets."""
    return {
        key: "[redacted]"
        if _SECRET_KEYS.search(key)
        else clean(value, TRACE_CHARACTERS_MAX if key == "trace" else VALUE_CHARACTERS_MAX)
        if isinstance(value, str)
        else value
        for key, value in fields.items()
    }


def clean(text: str, characters_max: int = VALUE_CHARACTERS_MAX) -> str:
    """A text without the passwords of URLs in it, cut to a bound."""
    short = text if len(text) <= characters_max else text[:characters_max] + "…"
    return _URL_PASSWORD.sub(r"\1[redacted]@", short)
