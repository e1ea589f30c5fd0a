"""One question to a Redis: does it answer, with this password, and is the database there? No client is needed for that.

The worker itself keeps nothing in a Redis; its tasks may, and get the address from their settings.
"""

import asyncio
import contextlib
import ssl
from typing import Final
from urllib.parse import unquote, urlsplit

from eco_workers.errors import EcoWorkerError

PORT: Final = 6379
ANSWER_BYTES_MAX: Final = 1024


class RedisUnavailableError(EcoWorkerError):
    """Redis does not answer as it should. Says to which command."""


async def ping(url: str) -> None:
    """Connect, log in, select the database and ask for an answer; raises RedisUnavailableError or OSError."""
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "rediss" else None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or PORT, ssl=tls, limit=ANSWER_BYTES_MAX)
    commands: list[tuple[str, ...]] = [("SELECT", parts.path.strip("/") or "0"), ("PING",)]
    if parts.password:
        # Without a user it is the default one.
        commands.insert(0, ("AUTH", unquote(parts.username or "default"), unquote(parts.password)))
    try:
        for command in commands:
            await _ask(reader, writer, command)
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: tuple[str, ...]) -> None:
    """Send one command and want a plain answer: https://redis.io/docs/latest/develop/reference/protocol-spec/."""
    words = [word.encode() for word in command]
    writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    await writer.drain()
    try:
        answer = await reader.readline()
    except ValueError:
        answer = b"more than it should"
    if not answer.startswith(b"+"):
        said = answer.decode("utf-8", "replace").strip()[:200] or "nothing, the connection was closed"
        raise RedisUnavailableError(f"{command[0]}: {said}")
