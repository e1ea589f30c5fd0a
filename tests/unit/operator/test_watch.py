"""The watches outlive their failures. Kopf is a stand-in here, and time is the event loop's, and virtual."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import kopf
import pytest
from kopf._cogs.aiokits import aiotasks

from eco_operator import errors, failing, kinds, metrics
from eco_operator.handlers import watch as doors

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

Round = Callable[[], Coroutine[Any, Any, None]]


class RefusedError(Exception):
    """As Kopf raises it for an answer of the API server."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with {status}")
        self.status = status


@dataclass
class Kopf:
    """Its tasks end as told, one round after another; what is told last goes for all that follow."""

    rounds: list[Round]
    spawned_at_s: list[float] = field(default_factory=list)
    listed: int = 0
    lists: list[Exception] = field(default_factory=list)
    """How the first lists after a failure fail."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    followed: list[tuple[str, str | None]] = field(default_factory=list)
    """Kind and namespace of each watch beside Kopf's."""
    follower: Round = field(default_factory=lambda: goes_on)
    """How each of them goes in the first round; later ones go on."""

    async def spawn_tasks(self, **_: Any) -> list[asyncio.Task[Any]]:
        self.spawned_at_s.append(asyncio.get_running_loop().time())
        self.begun.put_nowait(None)
        how = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        return [asyncio.create_task(how()), asyncio.create_task(self.stop.wait())]

    async def list_everything(self) -> None:
        self.listed += 1
        if self.lists:
            raise self.lists.pop(0)

    async def follow(self, kind: kinds.Kind, namespace: str | None) -> None:
        self.followed.append((kind.kind, namespace))
        await (self.follower if len(self.spawned_at_s) == 1 else goes_on)()

    async def watch(self, monkeypatch: pytest.MonkeyPatch, namespaces: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(kopf, "spawn_tasks", self.spawn_tasks)
        await doors.watch(
            lambda *_: None,
            namespaces=namespaces,
            stop=self.stop,
            list_everything=self.list_everything,
            follow=self.follow,
        )

    async def until_rounds(self, number: int, *, within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            for _ in range(number):
                await self.begun.get()


def fails(error: Exception, after_s: float = 0.0) -> Round:
    """A round that ends with an error."""

    async def fail() -> None:
        await asyncio.sleep(after_s)
        raise error

    return fail


async def goes_on() -> None:
    """A round that lasts."""
    await asyncio.Event().wait()


async def ends() -> None:
    """A round that ends without a word."""


def failures() -> float:
    value = metrics.REGISTRY.get_sample_value("eco_operator_watch_failures_total")
    assert value is not None
    return value


@pytest.mark.parametrize(
    "how", [fails(RefusedError(410)), fails(ValueError("no JSON")), ends], ids=["410", "no JSON", "no word"]
)
async def test_watches_that_fail_are_started_again_with_everything_listed_anew(
    monkeypatch: pytest.MonkeyPatch, how: Round
) -> None:
    made, before = Kopf([how, goes_on]), failures()
    watching = asyncio.create_task(made.watch(monkeypatch))
    await made.until_rounds(2)
    assert made.listed == 1
    assert failures() == before + 1
    assert not watching.done()
    made.stop.set()
    await asyncio.wait_for(watching, 1)


async def test_a_watch_beside_kopfs_that_fails_for_good_has_all_of_them_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = errors.DeniedError("watch", "pods", status=403)
    made, before = Kopf([goes_on], follower=fails(lost, after_s=1)), failures()
    watching = asyncio.create_task(made.watch(monkeypatch))
    await made.until_rounds(2)
    assert (made.listed, failures() - before) == (1, 1)
    await asyncio.sleep(1)
    assert len(made.followed) == 2 * len(kinds.CHILDREN)
    made.stop.set()
    await asyncio.wait_for(watching, 1)


@pytest.mark.parametrize("namespaces", [(), ("shop", "blog")])
async def test_each_kind_is_watched_in_each_namespace(
    monkeypatch: pytest.MonkeyPatch, namespaces: tuple[str, ...]
) -> None:
    """Our own by Kopf, the others beside it."""
    made = Kopf([goes_on])
    watching = asyncio.create_task(made.watch(monkeypatch, namespaces))
    await asyncio.sleep(1)
    by_kopf = {handler.id for handler in doors.registry(lambda *_: None)._watching.get_all_handlers()}
    assert by_kopf == {"see-ecoworkers", "see-walsyncs"}
    assert sorted(made.followed, key=str) == sorted(
        ((kind.kind, namespace) for kind in kinds.CHILDREN for namespace in namespaces or (None,)), key=str
    )
    made.stop.set()
    await asyncio.wait_for(watching, 1)


async def test_the_first_watches_begin_without_another_list(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Kopf([goes_on])
    watching = asyncio.create_task(made.watch(monkeypatch))
    await made.until_rounds(1)
    assert made.listed == 0
    made.stop.set()
    await asyncio.wait_for(watching, 1)


async def test_a_list_that_fails_is_one_more_failure_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 403 too: an API server that has just started refuses everybody for a moment."""
    made, before = Kopf([fails(RefusedError(410)), goes_on]), failures()
    made.lists = [errors.TransientError("list", "pods"), errors.DeniedError("list", "pods", status=403)]
    watching = asyncio.create_task(made.watch(monkeypatch))
    await made.until_rounds(2)
    assert (made.listed, failures() - before) == (3, 3)
    made.stop.set()
    await asyncio.wait_for(watching, 1)


async def test_pauses_grow_to_a_bound_and_in_the_end_the_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Kopf([fails(RefusedError(410))])
    with pytest.raises(RefusedError, match="410"):
        await made.watch(monkeypatch)
    pauses = [later - sooner for sooner, later in pairwise(made.spawned_at_s)]
    assert pauses[0] <= failing.PAUSE_S_MIN
    assert 0.75 * failing.PAUSE_S_MAX <= max(pauses) <= failing.PAUSE_S_MAX
    assert doors.FAILING_S_MAX <= asyncio.get_running_loop().time() < doors.FAILING_S_MAX + failing.PAUSE_S_MAX


async def test_watches_that_were_well_for_long_in_between_are_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    well_s = failing.WELL_S + 1
    made = Kopf([fails(RefusedError(410), after_s=well_s)])
    watching = asyncio.create_task(made.watch(monkeypatch))
    await made.until_rounds(50, within_s=20 * doors.FAILING_S_MAX)
    assert not watching.done()
    rounds = [later - sooner for sooner, later in pairwise(made.spawned_at_s)]
    assert max(rounds) < well_s + 2 * failing.PAUSE_S_MIN
    made.stop.set()
    await asyncio.wait_for(watching, 1)


@pytest.mark.parametrize("lost", [kopf.LoginError("no credentials"), RefusedError(401), RefusedError(403)], ids=str)
async def test_a_login_or_a_right_that_is_lost_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, lost: Exception
) -> None:
    made, before = Kopf([fails(lost)]), failures()
    with pytest.raises(type(lost)):
        await made.watch(monkeypatch)
    assert len(made.spawned_at_s) == 1
    assert failures() == before


async def test_a_pause_does_not_keep_the_process_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Kopf([fails(RefusedError(410))])
    watching = asyncio.create_task(made.watch(monkeypatch))
    await asyncio.sleep(doors.FAILING_S_MAX / 2)
    begun_s = asyncio.get_running_loop().time()
    made.stop.set()
    await watching
    assert asyncio.get_running_loop().time() == begun_s


async def one_of_many() -> None:
    """A watch that clears up as Kopf's do: the scheduler of its workers has tasks of its own, and it needs them."""
    scheduler = aiotasks.Scheduler()
    try:
        await scheduler.spawn(asyncio.sleep(3600))
        await asyncio.Event().wait()
    finally:
        closing = asyncio.create_task(scheduler.close())
        while not closing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(closing)


@pytest.mark.parametrize("name", ["watcher for pods.v1@None", "another part"])
async def test_a_round_that_failed_ends_kopfs_other_tasks_and_nobody_elses(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Kopf ends whatever has been started since it was itself: that would be the reconciling and the probes."""
    made = Kopf([fails(RefusedError(410), after_s=1), goes_on])
    watching = asyncio.create_task(made.watch(monkeypatch))
    await asyncio.sleep(0.5)
    other = asyncio.create_task(asyncio.sleep(3600))
    part = one_of_many() if name.startswith(doors.WATCHER_NAME) else asyncio.sleep(3600)
    forgotten = aiotasks.create_guarded_task(part, name)
    await made.until_rounds(2)
    assert forgotten.done()
    first_s, second_s = made.spawned_at_s
    assert second_s - first_s < 1 + 2 * failing.PAUSE_S_MIN, "it was waited for in vain"
    assert not other.done()
    other.cancel()
    made.stop.set()
    await asyncio.wait_for(watching, 10)


async def test_kopf_never_kills_the_process_for_a_failure_that_was_mended() -> None:
    settings = kopf.OperatorSettings()
    await doors._configure(settings)
    assert settings.process.ultimate_exiting_timeout is None


async def test_kopf_copies_and_remembers_no_object() -> None:
    settings = kopf.OperatorSettings()
    await doors._configure(settings)
    body: Any = {"metadata": {"uid": "u", "name": "n"}, "spec": {"replicas": 1}}
    assert settings.persistence.diffbase_storage.build(body=body) == {}
    memories = doors.NoMemories()
    await memories.recall(body, noticed_by_listing=True)
    assert list(memories.iter_all_memories()) == []
