"""Appointments of the loop: it looks also at what no event will tell. Time is the event loop's, and virtual."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from eco_crds import contract
from eco_operator import kinds, watch_event
from eco_operator.cache import Child, Key
from eco_operator.loop import Loop
from eco_operator.probes import _Memory
from eco_operator.settings import Settings
from eco_operator.shards import ShardKey
from tests.support.cases import merge, valid
from tests.support.observed import KEY, NAMESPACE, InMemory, fields_of

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

SYNC = Key(kinds.WAL_SYNC.kind, NAMESPACE, "results")


class Server:
    """An API server that takes every status."""

    def __init__(self) -> None:
        self.version = 1000
        self.statuses: list[dict[str, Any]] = []
        self.bodies: dict[tuple[str, str], dict[str, Any]] = {}

    async def apply(self, desired: dict[str, Any], *, force: bool, subresource: str | None = None) -> dict[str, Any]:
        assert force
        assert subresource == "status"
        self.statuses.append(desired)
        self.version += 1
        written = {**self.bodies[desired["kind"], desired["metadata"]["name"]], "status": desired["status"]}
        answer: dict[str, Any] = merge(written, {"metadata": {"resourceVersion": str(self.version)}})
        return answer


def synced_world() -> InMemory:
    world = InMemory()
    world.put(
        kinds.WAL_SYNC,
        {
            "apiVersion": contract.API_VERSION,
            "kind": "WalSync",
            "metadata": {"name": "results", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1},
            "spec": {"ecoWorkers": {"names": [KEY.name]}, "database": "results"},
        },
    )
    world.ready(1)
    return world


@pytest.mark.parametrize("gone", ["pod", "process"])
async def test_a_walsync_hears_of_a_worker_that_fell_silent_without_the_next_resync(gone: str) -> None:
    world, server = synced_world(), Server()
    server.bodies = world.bodies
    settings = Settings(default_worker_image="registry.example/worker:1")
    loop = Loop(server, settings, cache=world.cache)  # type: ignore[arg-type]  # as much of a cluster as it takes
    loop._started_at = -1000.0
    report = world.probes["storage-0"].report
    pod = world.bodies[(kinds.POD.kind, "storage-0-pod")]
    known = _Memory(report=report, received_at=asyncio.get_running_loop().time(), pod_uid=pod["metadata"]["uid"])
    loop.prober._memory[ShardKey(NAMESPACE, KEY.name, "storage-0")] = known
    if gone == "pod":
        world.remove(kinds.POD, "storage-0-pod")
    else:
        main = pod["status"]["containerStatuses"][0]
        waiting = {**main, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
        world.put(kinds.POD, merge(pod, {"status": {"containerStatuses": [waiting]}}))
    await loop._look(KEY)
    async with asyncio.timeout(1):  # at once: not only when its last report has grown old
        while await loop.queue.get() != SYNC:
            pass
    await loop._look(SYNC)
    ready = next(it for it in server.statuses[-1]["status"]["conditions"] if it["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "Unknown")


class Lists:
    """An API server of which it is known how many lists were on their way at once."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    async def list(self, kind: kinds.Kind, *_: Any, **__: Any) -> AsyncIterator[tuple[list[dict[str, Any]], int]]:
        self.begun.append(kind.kind)
        await asyncio.sleep(1)
        yield [], 1


async def test_watches_that_begin_anew_and_the_resync_list_one_after_the_other() -> None:
    """A list remembers what is deleted under it, and the end of another would have it forget."""
    server = Lists()
    loop = Loop(server, Settings())  # type: ignore[arg-type]  # as much of a cluster as it takes
    await asyncio.gather(loop.list_everything(), loop.list_everything())
    once = [kind.kind for kind in kinds.WATCHED]
    assert server.begun == [*once, *once]


async def test_others_get_their_turn_between_looks_that_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a resync of a fleet at rest, the Lease would else be renewed when the last of them is over."""
    looks = turns = 0

    async def look(*_: object) -> tuple[bool, float | None]:
        nonlocal looks
        looks += 1
        return False, None

    monkeypatch.setattr(Loop, "_look", look)
    loop = Loop(Lists(), Settings())  # type: ignore[arg-type]  # as much of a cluster as it takes
    for number in range(100):
        loop.queue.add(Key(kinds.ECO_WORKER.kind, NAMESPACE, f"w{number}"))
    working = asyncio.create_task(loop._work())
    while looks < 100:
        await asyncio.sleep(0)
        turns += 1
    working.cancel()
    assert turns >= 100


class Maker(Server):
    """An API server that makes what it is asked for, and knows in which order it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []
        self.takes_s: dict[str, float] = {}
        self.on_made: Callable[[dict[str, Any]], None] = lambda _: None
        self.is_gone = False

    async def find(self, kind: kinds.Kind, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace) == (kinds.ECO_WORKER, NAMESPACE)
        self.asked.append(("find", name))
        return None if self.is_gone else self.bodies[kind.kind, name]

    async def make(self, desired: dict[str, Any]) -> dict[str, Any]:
        worker = desired["metadata"]["labels"][contract.LABEL_WORKER]
        self.asked.append(("make", worker))
        await asyncio.sleep(self.takes_s.get(worker, 0.0))
        made = await self.answer(desired, "Update")
        asyncio.get_running_loop().call_soon(self.on_made, made)
        return made

    async def answer(self, desired: dict[str, Any], operation: str) -> dict[str, Any]:
        self.version += 1
        owned = fields_of({name: value for name, value in desired.items() if name not in {"apiVersion", "kind"}})
        entry = {"manager": contract.FIELD_MANAGER, "operation": operation, "fieldsV1": owned}
        metadata = {"uid": f"uid-{self.version}", "resourceVersion": str(self.version), "managedFields": [entry]}
        made: dict[str, Any] = merge(desired, {"metadata": metadata})
        return made

    async def create_event(self, body: dict[str, Any]) -> None:
        self.asked.append(("event", body["involvedObject"]["name"]))

    async def own(self, kind: kinds.Kind, target: Child) -> None:
        assert target.is_as_created, kind

    async def apply(self, desired: dict[str, Any], *, force: bool, subresource: str | None = None) -> dict[str, Any]:
        if subresource is None:
            self.asked.append(("change", desired["metadata"]["labels"][contract.LABEL_WORKER]))
            return await self.answer(desired, "Apply")
        self.asked.append(("status", desired["metadata"]["name"]))
        return await super().apply(desired, force=force, subresource=subresource)


def loop_with(server: Maker, *names: str) -> Loop:
    """A loop that has just heard of these EcoWorkers."""
    settings = Settings(default_worker_image="registry.example/worker:1")
    loop = Loop(server, settings)  # type: ignore[arg-type]  # as much of a cluster as it takes
    loop._started_at = 0.0
    for number, name in enumerate(names):
        metadata = {"name": name, "namespace": NAMESPACE, "uid": name, "resourceVersion": str(number), "generation": 1}
        body = merge(valid("ecoworkers"), {"metadata": metadata})
        server.bodies[kinds.ECO_WORKER.kind, name] = body
        loop.see(kinds.ECO_WORKER, "ADDED", body)
    return loop


async def test_every_new_ecoworker_gets_its_objects_before_anything_is_said_of_one() -> None:
    server, names = Maker(), ["one", "two", "three"]
    loop = loop_with(server, *names)
    working = asyncio.create_task(loop._work())
    await asyncio.sleep(5)  # virtual
    working.cancel()
    said = [it for it in server.asked if it[0] != "make"]
    # Nobody is left to wait for when the last one has its objects.
    assert said == [(what, name) for name in ("three", "one", "two") for what in ("event", "status")]
    makes = [name for what, name in server.asked if what == "make"]
    assert list(dict.fromkeys(makes)) == names
    assert server.asked[: len(makes)] == [("make", name) for name in makes]


async def test_nothing_is_said_of_a_new_ecoworker_while_another_gets_its_objects() -> None:
    server = Maker()
    loop = loop_with(server, "quick", "slow")
    server.takes_s["slow"] = 1.0
    working = [asyncio.create_task(loop._work()) for _ in range(4)]
    await asyncio.sleep(20)  # virtual
    for task in working:
        task.cancel()
    last = max(at for at, (what, _) in enumerate(server.asked) if what == "make")
    assert all(what == "make" for what, _ in server.asked[:last])
    assert sorted(server.asked[last + 1 :]) == [(what, it) for what in ("event", "status") for it in ("quick", "slow")]


@pytest.mark.parametrize("what", ["edited", "selected", "losing one"])
async def test_a_new_ecoworker_to_which_something_happens_while_it_gets_its_objects_is_not_put_last(what: str) -> None:
    server = Maker()
    loop = loop_with(server, "one", "other")
    server.takes_s["one"] = 1.0
    one = await loop.queue.get()
    looking = asyncio.create_task(loop._look(one))
    await asyncio.sleep(2.5)
    if what == "edited":
        body = server.bodies[kinds.ECO_WORKER.kind, "one"]
        edit = {"metadata": {"resourceVersion": "900", "generation": 2}, "spec": {"concurrency": 5}}
        loop.see(kinds.ECO_WORKER, "MODIFIED", merge(body, edit))
    elif what == "selected":
        metadata = {"name": "results", "namespace": NAMESPACE, "uid": "results", "resourceVersion": "900"}
        body = merge(valid("walsyncs"), {"metadata": metadata})
        selects = {"ecoWorkers": {"names": ["one"]}, "database": loop_database(loop)}
        loop.see(kinds.WAL_SYNC, "ADDED", {**body, "spec": selects})
    else:
        secret = loop.cache.children(NAMESPACE, "one", kinds.SECRET)[0]
        metadata = {"name": secret.name, "namespace": NAMESPACE, "uid": secret.uid, "resourceVersion": "1900"}
        gone = {"metadata": {**metadata, "deletionTimestamp": "2026-01-01T00:00:00Z", "labels": secret.labels}}
        loop.see(kinds.SECRET, "MODIFIED", gone)
    await looking
    loop.queue.done(one)
    assert not server.statuses
    found = []
    for _ in range(loop.queue.statistics().ready):
        found.append(await loop.queue.get())
        loop.queue.hold_back_last(found[-1])
    assert one in found


def loop_database(loop: Loop) -> str:
    """The first database of the EcoWorkers of a loop."""
    spec = loop.cache.all_owned(kinds.ECO_WORKER)[0].body["spec"]
    return str(spec["databases"][0]["name"])


@pytest.mark.parametrize("times", [1, 1000])
async def test_a_new_ecoworker_that_loses_an_object_gets_it_again_and_is_told_of_although_another_is_made(
    times: int,
) -> None:
    """However often that happens: it is put off once."""
    server = Maker()
    loop = loop_with(server, "one", "slow")
    server.takes_s["slow"] = 10.0
    deletions = 0

    def delete(made: dict[str, Any]) -> None:
        nonlocal deletions
        if (
            made["kind"] != "Service"
            or made["metadata"]["labels"][contract.LABEL_WORKER] != "one"
            or deletions >= times
        ):
            return
        deletions += 1
        server.version += 1
        loop.see(kinds.SERVICE, "DELETED", merge(made, {"metadata": {"resourceVersion": str(server.version)}}))

    server.on_made = delete
    working = [asyncio.create_task(loop._work()) for _ in range(4)]
    await asyncio.sleep(1)  # virtual
    for task in working:
        task.cancel()
    assert server.asked.count(("make", "one")) > len(loop.cache.children(NAMESPACE, "one"))
    assert ("status", "one") in server.asked
    assert ("status", "slow") not in server.asked


def take_a_field(loop: Loop, server: Maker) -> None:
    """Somebody else changes what is ours of the Service of EcoWorker `one`."""
    service = next(it for it in loop.cache.children(NAMESPACE, "one", kinds.SERVICE))
    taken: dict[str, Any] = {"f:metadata": {"f:annotations": {f"f:{contract.ANNOTATION_HASH}": {}}}}
    entry = {"manager": contract.FIELD_MANAGER, "operation": "Update", "fieldsV1": taken}
    metadata = {
        "name": service.name,
        "namespace": NAMESPACE,
        "uid": service.uid,
        "resourceVersion": "2000",
        "labels": dict(service.labels),
        "annotations": {contract.ANNOTATION_HASH: service.desired_hash},
        "managedFields": [entry],
    }
    server.version = 2000
    loop.see(kinds.SERVICE, "MODIFIED", {"metadata": metadata})


@pytest.mark.parametrize("is_restarted", [False, True], ids=["the same operator", "the next operator"])
async def test_a_new_ecoworker_that_somebody_fights_over_is_told_of_although_others_wait(is_restarted: bool) -> None:
    server = Maker()
    loop = loop_with(server, "one", "two")
    one = await loop.queue.get()
    await loop._look(one)
    assert not server.statuses
    take_a_field(loop, server)
    assert loop.queue.has_others(one)
    if is_restarted:
        loop._actor._untold.clear()
    await loop._look(one)
    assert ("change", "one") in server.asked
    assert [it["metadata"]["name"] for it in server.statuses] == ["one"]


async def test_a_deletion_is_news_whatever_its_version() -> None:
    server = Maker()
    loop = loop_with(server, "one")
    await loop._look(await loop.queue.get())
    child = loop.cache.children(NAMESPACE, "one", kinds.SERVICE)[0]
    metadata = {"name": child.name, "namespace": NAMESPACE, "uid": child.uid, "resourceVersion": str(child.version)}
    told = {
        it: watch_event.read("/services", json.dumps({"type": it, "object": {"metadata": metadata}}).encode())
        for it in ("ADDED", "DELETED")
    }
    assert loop.knows(kinds.SERVICE, told["ADDED"])
    assert not loop.knows(kinds.SERVICE, told["DELETED"])


async def loop_that_lost_a_secret(server: Maker) -> Loop:
    """A loop whose EcoWorker is told of and has just lost its Secret."""
    loop = loop_with(server, "one")
    one = await loop.queue.get()
    await loop._look(one)
    loop.queue.done(one)
    assert server.statuses
    secret = loop.cache.children(NAMESPACE, "one", kinds.SECRET)[0]
    server.version += 1
    metadata = {"name": secret.name, "namespace": NAMESPACE, "uid": secret.uid, "resourceVersion": str(server.version)}
    loop.see(kinds.SECRET, "DELETED", {"metadata": {**metadata, "labels": secret.labels}})
    server.asked.clear()
    return loop


async def test_an_object_is_made_again_for_an_ecoworker_that_is_there() -> None:
    server = Maker()
    loop = await loop_that_lost_a_secret(server)
    await loop._look(await loop.queue.get())
    assert server.asked[:2] == [("find", "one"), ("make", "one")]


@pytest.mark.parametrize("how", ["gone", "going", "another"])
async def test_nothing_is_made_again_for_an_ecoworker_whose_end_the_watch_has_yet_to_tell(how: str) -> None:
    server = Maker()
    loop = await loop_that_lost_a_secret(server)
    changes = {"going": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "another": {"uid": "another"}, "gone": {}}
    body = server.bodies[kinds.ECO_WORKER.kind, "one"]
    changed = merge(body, {"metadata": {**changes[how], "resourceVersion": "5000"}})
    server.bodies[kinds.ECO_WORKER.kind, "one"], server.is_gone = changed, how == "gone"
    one = await loop.queue.get()
    await loop._look(one)
    loop.queue.done(one)
    assert server.asked == [("find", "one")]
    owned = loop.cache.owned(one)
    assert (owned.uid if owned is not None else "") == {"gone": "", "going": "one", "another": "another"}[how]
    assert owned is None or owned.is_deleting == (how == "going")
    assert loop.queue.statistics().ready == 1


async def test_the_server_is_not_asked_whether_an_ecoworker_is_there_when_nothing_is_made_for_it() -> None:
    server = Maker()
    loop = loop_with(server, "one")
    one = await loop.queue.get()
    await loop._look(one)
    loop.queue.done(one)
    server.asked.clear()
    take_a_field(loop, server)
    await loop._look(await loop.queue.get())
    assert ("change", "one") in server.asked
    assert ("find", "one") not in server.asked
