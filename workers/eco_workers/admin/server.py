"""Routes and their server. Answers are small, requests are bounded, tokens are compared in constant time."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import web

from eco_crds.wal import WalReport
from eco_workers import logs

log = logs.get(__name__)
REQUEST_BYTES_MAX: Final = 64 * 1024
SHUTDOWN_S: Final = 2.0
TOKEN_BYTES_MAX: Final = 4096
COMMANDS: Final = ("sync", "drain", "checkpoint", "fence", "resume")


class Control(Protocol):
    """What the surface asks of the worker behind it."""

    async def wal(self) -> WalReport | None:
        """The health report of this moment; None while the journal is being opened."""

    def is_live(self) -> bool:
        """Whether the process does its work or rightly waits; false asks the kubelet for a new one."""

    async def is_ready(self) -> tuple[bool, str]:
        """Whether it takes and runs work, and if not, why."""

    async def render_metrics(self) -> tuple[bytes, str]:
        """The text that Prometheus scrapes, and its content type."""

    async def command(self, name: str) -> Mapping[str, Any]:
        """Do one of `COMMANDS`; what to answer."""


class AdminServer:
    """Serves the routes on one port."""

    def __init__(self, control: Control, *, host: str, port: int, token_file: Path) -> None:
        self._control = control
        self._host = host
        self._port = port
        self._token_file = token_file
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; another than asked for when that was 0."""
        if self._runner is None or not self._runner.addresses:
            return self._port
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Listen; raises OSError when the port is taken."""
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/wal", self._wal)
        for name in COMMANDS:
            app.router.add_post(f"/wal/{name}", self._command(name))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, reuse_address=True).start()
        log.info("admin listens", host=self._host, port=self.port)

    async def close(self) -> None:
        """Stop listening."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        live = self._control.is_live()
        return web.Response(text="live\n" if live else "a part has died\n", status=200 if live else 503)

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready, why = await self._control.is_ready()
        return web.Response(text="ready\n" if ready else f"{why}\n", status=200 if ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        body, content_type = await self._control.render_metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _wal(self, _request: web.Request) -> web.Response:
        report = await self._control.wal()
        if report is None:
            return _json({"error": "the journal is being opened"}, 503)
        return web.Response(text=report.model_dump_json(), content_type="application/json")

    def _command(self, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.Response:
            if not await self._is_allowed(request):
                return _json({"error": "want `Authorization: Bearer <token>` with this worker's token"}, 401)
            log.info("command", name=name, peer=request.remote)
            try:
                return _json(await self._control.command(name), 200)
            except Exception as error:
                # Whatever it is, the operator must be told, and the worker goes on.
                log.exception("command failed", name=name)
                return _json({"error": f"{type(error).__name__}: {error}"[:1000]}, 500)

        return handle

    async def _is_allowed(self, request: web.Request) -> bool:
        token = await asyncio.to_thread(self._token)
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        # Without a token nothing is allowed: an empty one must not match an empty header.
        return bool(token) and kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token)

    def _token(self) -> bytes:
        # Read each time: the mounted Secret may be rotated.
        try:
            with self._token_file.open("rb") as file:
                return file.read(TOKEN_BYTES_MAX).strip()
        except OSError:
            return b""


def _json(document: Mapping[str, Any], status: int) -> web.Response:
    return web.Response(text=json.dumps(document), status=status, content_type="application/json")
