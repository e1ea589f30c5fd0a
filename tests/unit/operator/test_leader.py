"""Leadership: only one leads, and one that cannot renew stops before another may start."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from eco_operator.errors import ApiError, ConflictError, LeaseLostError, NotFoundError, TransientError
from eco_operator.leader import Elector

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


class Store:
    """A Lease in memory, with the API server's optimistic locking and its failures."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.failure: ApiError | None = None
        self.hangs = False

    async def get_lease(self) -> Mapping[str, Any]:
        await self._trouble()
        if self.lease is None:
            raise NotFoundError("get", "lease", status=404)
        return self.lease

    async def create_lease(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._trouble()
        if self.lease is not None:
            raise ConflictError("create", "lease", status=409)
        return self._store(spec)

    async def replace_lease(self, lease: Mapping[str, Any], spec: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._trouble()
        if self.lease is None:
            raise NotFoundError("replace", "lease", status=404)
        if lease["metadata"]["resourceVersion"] != self.version:
            raise ConflictError("replace", "lease", status=409)
        return self._store(spec)

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""

    def _store(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        self.version += 1
        self.lease = {"metadata": {"resourceVersion": self.version}, "spec": dict(spec)}
        return self.lease

    async def _trouble(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure


def elector(store: Store, identity: str = "a") -> Elector:
    return Elector(store, identity=identity)


async def test_the_first_candidate_leads_at_once() -> None:
    store = Store()
    first = elector(store)
    await first.acquire()
    assert first.is_leader
    assert store.holder == "a"


async def test_a_second_candidate_waits_while_the_first_renews() -> None:
    store = Store()
    first, second = elector(store), elector(store, "b")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(60)
    assert not second.is_leader
    assert first.is_leader
    for task in (holding, waiting):
        task.cancel()
    await asyncio.gather(holding, waiting, return_exceptions=True)


async def test_a_dead_leader_is_followed_after_the_lease_has_run_out_and_not_before() -> None:
    store, loop = Store(), asyncio.get_running_loop()
    await elector(store).acquire()
    died = loop.time()
    second = elector(store, "b")
    await second.acquire()
    assert 15 <= loop.time() - died <= 18
    assert store.lease is not None
    assert store.lease["spec"]["leaseTransitions"] == 1


async def test_a_released_lease_is_taken_within_three_seconds() -> None:
    store, loop = Store(), asyncio.get_running_loop()
    first, second = elector(store), elector(store, "b")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(5)
    await first.release()
    released = loop.time()
    await waiting
    assert loop.time() - released <= 3
    assert not first.is_leader


async def test_a_renewal_that_hangs_ends_the_leadership_before_the_lease_runs_out() -> None:
    """The request itself never ends; the deadline must not depend on it."""
    store, loop = Store(), asyncio.get_running_loop()
    first = elector(store)
    await first.acquire()
    begun = loop.time()
    store.hangs = True
    with pytest.raises(LeaseLostError):
        await first.hold()
    assert loop.time() - begun <= 10.1
    assert not first.is_leader


async def test_a_server_that_fails_for_a_while_does_not_end_the_leadership() -> None:
    store = Store()
    first = elector(store)
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    store.failure = TransientError("replace", "lease", status=500)
    await asyncio.sleep(7)
    store.failure = None
    await asyncio.sleep(20)
    assert first.is_leader
    assert not holding.done()
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)


async def test_a_server_that_fails_for_longer_than_the_deadline_ends_it() -> None:
    store = Store()
    first = elector(store)
    await first.acquire()
    store.failure = TransientError("replace", "lease", status=500)
    with pytest.raises(LeaseLostError):
        await first.hold()


async def test_somebody_else_in_the_lease_ends_it() -> None:
    store = Store()
    first = elector(store)
    await first.acquire()
    await store.replace_lease(await store.get_lease(), {"holderIdentity": "b", "renewTime": "x"})
    with pytest.raises(LeaseLostError, match="taken by b"):
        await first.hold()


async def test_a_renewal_whose_answer_was_lost_is_no_loss_of_leadership() -> None:
    store = Store()
    first = elector(store)
    await first.acquire()
    lease = await store.get_lease()
    await store.replace_lease(lease, dict(lease["spec"]))  # applied, but the answer never came
    holding = asyncio.create_task(first.hold())
    await asyncio.sleep(30)
    assert not holding.done()
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)


async def test_a_renewal_that_was_cut_off_does_not_hinder_the_release() -> None:
    store = Store()
    first, second = elector(store), elector(store, "b")
    await first.acquire()
    lease = await store.get_lease()
    await store.replace_lease(lease, dict(lease["spec"]))  # applied, but nobody was left to take the answer
    await first.release()
    assert store.holder == ""
    async with asyncio.timeout(3):
        await second.acquire()


async def test_a_lease_that_somebody_else_took_is_not_released() -> None:
    store = Store()
    first = elector(store)
    await first.acquire()
    await store.replace_lease(await store.get_lease(), {"holderIdentity": "b", "renewTime": "x"})
    await first.release()
    assert store.holder == "b"


async def test_a_deleted_lease_ends_it() -> None:
    store = Store()
    first = elector(store)
    await first.acquire()
    store.lease = None
    with pytest.raises(LeaseLostError):
        await first.hold()


async def test_a_clock_that_is_wrong_by_an_hour_makes_no_difference() -> None:
    """The times in the Lease are never compared with our own clock."""
    store, loop = Store(), asyncio.get_running_loop()
    await elector(store).acquire()
    assert store.lease is not None
    store.lease["spec"]["renewTime"] = "2000-01-01T00:00:00.000000Z"
    begun = loop.time()
    second = elector(store, "b")
    await second.acquire()
    assert loop.time() - begun >= 15


async def test_a_standby_looks_again_as_soon_as_the_lease_may_have_run_out() -> None:
    """Not at its next turn: that would be up to a period later."""
    loop = asyncio.get_running_loop()
    for _ in range(20):
        store = Store()
        first, second = elector(store), elector(store, "b")
        await first.acquire()
        died_at = loop.time()
        await second.acquire()
        assert loop.time() - died_at <= 15.25
