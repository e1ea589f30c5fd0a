"""Watches beside Kopf's. The API server is a stand-in, and time is the event loop's, and virtual."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from eco_operator import errors, failing, following, kinds, watch_event
from eco_operator.cluster import Cluster
from eco_operator.watch_event import WatchEvent

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

Event = tuple[str, dict[str, Any]]


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version)}}


@dataclass
class Server:
    """Watches end as told, one after another; the last one goes on for ever."""

    watches: list[list[Event | Exception]]
    listed: list[dict[str, Any]] = field(default_factory=list)
    list_error: Exception | None = None
    lists: int = 0
    watched_from: list[str] = field(default_factory=list)
    watched_at_s: list[float] = field(default_factory=list)

    async def list(self, *_: object, **__: object) -> AsyncIterator[tuple[list[dict[str, Any]], int]]:
        self.lists += 1
        if self.list_error is not None:
            raise self.list_error
        yield self.listed[:1], 100
        yield self.listed[1:], 100

    async def watch(self, *_: object, version: str, **__: object) -> AsyncIterator[WatchEvent]:
        self.watched_from.append(version)
        self.watched_at_s.append(asyncio.get_running_loop().time())
        told = self.watches.pop(0) if self.watches else [asyncio.CancelledError()]
        for event in told:
            if isinstance(event, asyncio.CancelledError):
                await asyncio.Event().wait()
            if isinstance(event, Exception):
                raise event
            event_type, body = cast("Event", event)
            yield watch_event.read("/pods", json.dumps({"type": event_type, "object": body}).encode())


@dataclass
class Sink:
    """Takes what it does not know."""

    known: tuple[str, ...] = ()
    found: list[tuple[str | None, str]] = field(default_factory=list)

    def knows(self, kind: kinds.Kind, event: WatchEvent) -> bool:
        assert kind == kinds.POD
        return event.metadata.name in self.known

    def see(self, kind: kinds.Kind, event_type: str | None, body: Mapping[str, Any]) -> None:
        assert kind == kinds.POD
        self.found.append((event_type, body["metadata"]["name"]))


async def seen(server: Server, *, for_s: float = 10.0, known: tuple[str, ...] = ()) -> list[tuple[str | None, str]]:
    """Type and name of what came out of it in a while."""
    sink = Sink(known)
    task = asyncio.create_task(following.follow(cast("Cluster", server), sink, kinds.POD, "shop"))
    await asyncio.wait([task], timeout=for_s)
    if task.done():
        task.result()
    task.cancel()
    return sink.found


async def test_what_is_listed_comes_first_and_then_what_is_watched() -> None:
    server = Server([[("ADDED", pod("c", 101)), ("DELETED", pod("a", 102))]], listed=[pod("a", 7), pod("b", 8)])
    assert await seen(server) == [(None, "a"), (None, "b"), ("ADDED", "c"), ("DELETED", "a")]


async def test_a_watch_that_ends_goes_on_from_the_last_version_without_a_list() -> None:
    """A bookmark is a version too, and nothing to tell."""
    server = Server([[("ADDED", pod("a", 101))], [("BOOKMARK", {"metadata": {"resourceVersion": "205"}})], []])
    assert await seen(server) == [("ADDED", "a")]
    assert (server.watched_from[:4], server.lists) == (["100", "101", "205", "205"], 1)


async def test_an_event_that_is_no_news_is_passed_over_and_the_watch_goes_on_behind_it() -> None:
    server = Server([[("ADDED", pod("a", 101)), ("ADDED", pod("b", 102)), ("ADDED", pod("a", 103))], []])
    assert await seen(server, known=("a",)) == [("ADDED", "b")]
    assert server.watched_from == ["100", "103", "103"][: len(server.watched_from)]


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON",
        b'{"type": "ADDED"}',
        b'{"type": "ADDED", "object": {"metadata": {"name": null}}}',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "1"}, "text": "\xff"}}',
    ],
)
async def test_an_event_that_is_none_is_a_failure_that_passes(line: bytes) -> None:
    with pytest.raises(errors.TransientError, match=r"no JSON|without a version"):
        watch_event.read("/pods", line).body()


async def test_a_failure_told_as_an_event_needs_no_version() -> None:
    told = watch_event.read("/pods", b'{"type": "ERROR", "object": {"code": 410}}')
    assert (told.type, told.body()) == ("ERROR", {"code": 410})


async def test_watches_that_end_at_once_are_not_begun_in_a_hurry() -> None:
    server = Server([[] for _ in range(1000)])
    await seen(server, for_s=10)
    assert len(server.watched_at_s) <= 10 / following.RECONNECT_PAUSE_S[0] + 1


@pytest.mark.parametrize("error", [errors.ExpiredError, errors.TransientError, errors.DeniedError])
async def test_a_watch_that_fails_begins_anew_with_a_list(error: type[errors.ApiError]) -> None:
    server = Server([[("ADDED", pod("a", 101)), error("watch", "pods")]], listed=[pod("a", 7)])
    assert await seen(server) == [(None, "a"), ("ADDED", "a"), (None, "a")]
    assert server.watched_from == ["100", "100"]
    assert server.watched_at_s[1] - server.watched_at_s[0] >= 0.75 * failing.PAUSE_S_MIN


async def test_what_keeps_failing_is_told_in_the_end() -> None:
    server = Server([], list_error=errors.TransientError("list", "pods", status=500))
    with pytest.raises(errors.TransientError, match="list pods"):
        await seen(server, for_s=10 * following.FAILING_S_MAX)
    assert following.FAILING_S_MAX <= asyncio.get_running_loop().time() < following.FAILING_S_MAX + failing.PAUSE_S_MAX
    assert server.lists < 12, "pauses grow"
