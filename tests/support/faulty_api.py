"""A reverse proxy between the operator and a real API server that misbehaves on command.

It kills the operator once the server has carried out its n-th write in a namespace, with the answer still on its way;
it drops, repeats and reorders events of watches, serves lists that are out of date, and refuses, answers too late or
not at all. What it does is drawn from a seed, and every fault has a budget, so that the operator can come to an end.

Plain HTTP on the loopback interface to the operator, TLS to the server. It runs in the event loop of the test.
"""

import asyncio
import contextlib
import json
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from tests.support.apiserver import ApiServer

WRITING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HOP_BY_HOP: Final = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})
HANG_S_MAX: Final = 60.0
REORDER_S: Final = 0.2
STALE_LISTS_MAX: Final = 8


class Fault(StrEnum):
    """How the API server misbehaves."""

    DROP_EVENTS = "drop events"
    REPEAT_EVENTS = "repeat events"
    REORDER_EVENTS = "reorder events"
    SILENT_WATCHES = "watches that say nothing any more"
    CUT_WATCHES = "watches cut"
    STALE_LISTS = "stale lists"
    GONE = "410"
    CONFLICT = "409"
    TOO_MANY = "429 with Retry-After"
    ERROR = "500"
    ERROR_AFTER = "500 for what was done"
    LOST_ANSWER = "done, and the answer lost"
    TIME_OUT = "no answer at all"


REFUSALS: Final = {
    Fault.CONFLICT: (409, "Conflict", "the object has been modified; please apply your changes to the latest version"),
    Fault.TOO_MANY: (429, "TooManyRequests", "the server has received too many requests"),
    Fault.ERROR: (500, "InternalError", "etcdserver: leader changed"),
    Fault.GONE: (410, "Expired", "The provided continue parameter is too old"),
}
IN_THE_WATCH: Final = frozenset(
    {Fault.DROP_EVENTS, Fault.REPEAT_EVENTS, Fault.REORDER_EVENTS, Fault.SILENT_WATCHES, Fault.GONE}
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as far as faults tell requests apart."""

    method: str
    namespace: str
    plural: str
    name: str
    subresource: str
    is_watch: bool

    @property
    def is_write(self) -> bool:
        """Whether it may change something."""
        return self.method in WRITING

    @property
    def is_list(self) -> bool:
        """Whether it lists a kind."""
        return self.method == "GET" and bool(self.plural) and not self.name and not self.is_watch

    @property
    def is_spared(self) -> bool:
        """Whether no fault touches it: the Lease is leadership's, and without discovery there is no operator."""
        return self.plural in {"", "leases"}

    def __str__(self) -> str:
        return " ".join(filter(None, (self.method, self.plural, self.name, self.subresource)))


@dataclass(slots=True)
class FaultyApi:
    """Passes requests on, but for the faults that are switched on."""

    server: ApiServer
    kill_operator: Callable[[], None]
    """Ends the operator at once. It is called with a write carried out whose answer the operator never gets."""
    crash_at: dict[str, int] = field(default_factory=dict)
    """By namespace: the number of the write after which the operator is killed, once."""
    writes: Counter[str] = field(default_factory=Counter)
    """Writes that the server carried out, by namespace, since the last `begin`."""
    crashed_at: dict[str, str] = field(default_factory=dict)
    injected: int = 0
    """Faults done since the last `begin`."""
    url: str = ""
    _fault: Fault | None = None
    _budget: int = 0
    _probability: float = 0.0
    _rng: random.Random = field(default_factory=random.Random)
    _lists: dict[str, list[bytes]] = field(default_factory=dict)
    _watches: set[asyncio.Task[Any]] = field(default_factory=set)
    _session: aiohttp.ClientSession | None = None

    def begin(self, fault: Fault | None = None, *, seed: int = 0, budget: int = 0, probability: float = 0.5) -> None:
        """Forget what was counted and misbehave in this way from now on, at most `budget` times."""
        self.crash_at, self.crashed_at, self.injected = {}, {}, 0
        self.writes.clear()
        self._fault, self._budget, self._probability = fault, budget, probability
        self._rng = random.Random(seed)

    def end(self) -> None:
        """Behave from now on."""
        self._fault, self.crash_at = None, {}

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return sum(not task.done() for task in self._watches)

    def cut_watches(self) -> int:
        """Close every watch in mid-stream; how many there were."""
        found = [task for task in self._watches if not task.done()]
        for task in found:
            task.cancel()
        return len(found)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        call = call_of(request)
        body = await request.read()
        if (refusal := await self._refuse(call)) is not None:
            return refusal
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        target = f"https://127.0.0.1:{self.server.port}{request.path_qs}"
        passed_on = self._session.request(request.method, target, data=body or None, headers=headers)
        try:
            async with passed_on as answer:
                if call.is_watch and answer.status == 200:
                    return await self._pass_watch(request, answer)
                content = await answer.read()
                status, kind = answer.status, answer.headers.get("Content-Type", "")
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=str(error))
        if call.is_list and status == 200:
            content = self._perhaps_stale(request.path_qs, content)
        if call.is_write and status < 300:
            await self._after_write(call, request)
        return web.Response(status=status, body=content, headers={"Content-Type": kind})

    async def _refuse(self, call: Call) -> web.Response | None:
        fault = self._fault
        if fault is None or call.is_spared:
            return None
        if fault is Fault.CUT_WATCHES and call.is_write and self._strikes():
            self.cut_watches()
        if fault is Fault.TIME_OUT and call.is_write and self._strikes():
            await asyncio.sleep(HANG_S_MAX)
        meant = {
            Fault.CONFLICT: call.is_write,
            Fault.TOO_MANY: True,
            Fault.ERROR: True,
            Fault.GONE: call.is_list or call.is_watch,
        }
        if not meant.get(fault) or not self._strikes():
            return None
        code, reason, message = REFUSALS[fault]
        headers = {"Retry-After": "1"} if fault is Fault.TOO_MANY else {}
        return web.json_response(_status(code, reason, message), status=code, headers=headers)

    async def _after_write(self, call: Call, request: web.Request) -> None:
        """Do what happens between the deed and its answer."""
        if not call.is_spared:
            self.writes[call.namespace] += 1
            if self.crash_at.get(call.namespace) == self.writes[call.namespace]:
                del self.crash_at[call.namespace]
                self.crashed_at[call.namespace] = str(call)
                self.kill_operator()
                raise web.HTTPServiceUnavailable(text="nobody is there to read this")
            if self._fault is Fault.ERROR_AFTER and self._strikes():
                raise web.HTTPInternalServerError(
                    text=json.dumps(_status(*REFUSALS[Fault.ERROR])), content_type="application/json"
                )
            if self._fault is Fault.LOST_ANSWER and self._strikes() and request.transport is not None:
                request.transport.abort()

    def _perhaps_stale(self, path: str, content: bytes) -> bytes:
        """What this list said a while ago, when lists are stale; what it says now is kept for later."""
        known = self._lists.setdefault(path, [])
        known.append(content)
        del known[:-STALE_LISTS_MAX]
        if self._fault is Fault.STALE_LISTS and len(known) > 1 and self._strikes():
            return self._rng.choice(known[:-1])
        return content

    async def _pass_watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        out = web.StreamResponse(headers={"Content-Type": answer.headers.get("Content-Type", "application/json")})
        await out.prepare(request)
        task = asyncio.create_task(self._pump(answer, out))
        self._watches.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if not task.done():
                task.cancel()
                raise  # It is this request that was cancelled: the operator is gone.
        except (aiohttp.ClientError, OSError):
            pass  # The server or the operator ended the watch, and the operator sees it end.
        finally:
            self._watches.discard(task)
        return out

    async def _pump(self, answer: aiohttp.ClientResponse, out: web.StreamResponse) -> None:
        """Pass events on, but for the faults. A watch that has gone silent stays so until faults end."""
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        reading = asyncio.create_task(_read(answer, lines))
        silent = False
        try:
            while line := await lines.get():
                fault = self._fault
                strikes = fault in IN_THE_WATCH and not silent and self._strikes()
                silent = fault is Fault.SILENT_WATCHES and (silent or strikes)
                if silent:
                    continue
                if strikes and fault is Fault.GONE:
                    await out.write(_error_event())
                    return
                for one in await self._treated(line, lines) if strikes else [line]:
                    await out.write(one)
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError):
                await reading

    async def _treated(self, line: bytes, following: asyncio.Queue[bytes]) -> list[bytes]:
        """What becomes of an event that is struck, and of those close behind it."""
        match self._fault:
            case Fault.DROP_EVENTS:
                return []
            case Fault.REPEAT_EVENTS:
                return [line] * self._rng.randint(2, 4)
            case Fault.REORDER_EVENTS:
                await asyncio.sleep(REORDER_S)
                held = [line]
                while not following.empty():
                    held.append(following.get_nowait())
                if not held[-1]:
                    following.put_nowait(held.pop())  # The stream ends here.
                self._rng.shuffle(held)
                return held
        return [line]

    def _strikes(self) -> bool:
        if self._budget <= 0 or self._rng.random() >= self._probability:
            return False
        self._budget -= 1
        self.injected += 1
        return True


@asynccontextmanager
async def faulty_api(server: ApiServer, kill_operator: Callable[[], None]) -> AsyncIterator[FaultyApi]:
    """One that listens on a free port."""
    made = FaultyApi(server, kill_operator)
    application = web.Application(client_max_size=16 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", made.serve)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    connector = aiohttp.TCPConnector(ssl=_trusting(server), limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=4 * 1024 * 1024) as session:
        made._session = session
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield made
        finally:
            await runner.cleanup()


def kubeconfig_through(api: FaultyApi, place: Path) -> Path:
    """The server's kubeconfig with the proxy in the server's place."""
    config = json.loads(api.server.kubeconfig.read_text())
    config["clusters"][0]["cluster"] = {"server": api.url}
    file = place / "kubeconfig"
    file.write_text(json.dumps(config))
    file.chmod(0o600)
    return file


def call_of(request: web.Request) -> Call:
    """What a request is about."""
    parts = request.path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource = (*parts, "", "", "")[:3]
    is_watch = request.query.get("watch", "") in {"1", "true"}
    return Call(request.method, namespace, plural, name, subresource, is_watch)


async def _read(answer: aiohttp.ClientResponse, lines: asyncio.Queue[bytes]) -> None:
    try:
        async for line in answer.content:
            lines.put_nowait(line)
    finally:
        lines.put_nowait(b"")


def _trusting(server: ApiServer) -> ssl.SSLContext:
    config = json.loads(server.kubeconfig.read_text())
    return ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"])


def _error_event() -> bytes:
    gone = _status(410, "Expired", "too old resource version")
    return json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
