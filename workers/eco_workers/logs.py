"""Structured logs: one JSON object a line in containers, plain text for people. Bound task id and attempt travel along.

Values whose key names a secret are replaced, and passwords inside URLs are cut out, whoever put them there.
"""

import logging
import re
import sys
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRET_KEYS: Final = re.compile(r"(password|secret|token|authorization|credential|access_key|api_key)", re.IGNORECASE)
_URL_PASSWORD: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+@")
VALUE_CHARACTERS_MAX: Final = 2000


def configure(*, form: Literal["json", "text"], level: str, shard: str) -> None:
    """Set up logging of the whole process, our own lines and those of libraries."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _Shard(shard),
        redact,
    ]
    last: Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        ),
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # The connection's own lines repeat ours at every attempt; what they say reaches us as an exception.
    for name in ("aiormq", "aiohttp.access", "botocore", "aiobotocore", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)


class _Shard:
    def __init__(self, shard: str) -> None:
        self._shard = shard

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("shard", self._shard)
        return event


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Cut secrets out of an event."""
    for key, value in event.items():
        if _SECRET_KEYS.search(key):
            event[key] = "[redacted]"
        elif isinstance(value, str):
            event[key] = clean(value)
    return event


def clean(text: str) -> str:
    """A text without the passwords of URLs in it, cut to a bound."""
    short: Any = text if len(text) <= VALUE_CHARACTERS_MAX else text[:VALUE_CHARACTERS_MAX] + "…"
    return _URL_PASSWORD.sub(r"\1[redacted]@", short)
