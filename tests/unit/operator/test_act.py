"""Acting on a plan: what fails keeps back only what needs it, and nothing that is not ours is ever written."""

import base64
import copy
from dataclasses import replace
from typing import Any

import pytest

from eco_crds import contract
from eco_crds.wal import JournalMode
from eco_operator import errors, kinds
from eco_operator.act import Actor, event
from eco_operator.cache import Cache, Child
from eco_operator.kinds import Kind
from eco_operator.reconcile.plan import Announce, Apply, Command, Delete, ObjectRef, Plan, Release
from eco_operator.shards import ShardKey, Target
from tests.support.observed import KEY, InMemory, fields_of


class Server:
    """As much of an API server as acting needs; each request may be made to fail."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.failures: dict[tuple[str, str], errors.ApiError] = {}
        self.applied: list[tuple[str, bool]] = []
        self.events: list[dict[str, Any]] = []
        self.drops_fields = False
        self.create_owns_labels = True
        self.bodies: dict[tuple[str, str], dict[str, Any]] = {}
        self.deleted: list[str] = []
        self.holds_deleted = False
        self.released: list[tuple[str, list[str]]] = []

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        if (kind.kind, name) not in self.objects:
            raise errors.NotFoundError("get", f"{namespace}/{name}", status=404)
        return self.objects[(kind.kind, name)]

    async def apply(self, desired: dict[str, Any], *, force: bool, subresource: str | None = None) -> dict[str, Any]:
        assert subresource is None
        identity = (desired["kind"], desired["metadata"]["name"])
        if identity in self.failures:
            raise self.failures[identity]
        body = copy.deepcopy(desired)
        owned = fields_of({key: value for key, value in body.items() if key not in {"apiVersion", "kind"}})
        if self.drops_fields:
            owned["f:metadata"].pop("f:labels")
        body["metadata"].setdefault("uid", f"uid-{identity[0]}-{identity[1]}")
        body["metadata"]["resourceVersion"] = str(len(self.applied) + 1)
        entry = {"manager": contract.FIELD_MANAGER, "operation": "Apply", "fieldsV1": owned}
        created = [it for it in self._entries(identity) if it["operation"] == "Update"]
        body["metadata"]["managedFields"] = [entry, *created]
        self.objects[identity] = body
        self.applied.append(("/".join(identity), force))
        return body

    def _entries(self, identity: tuple[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.objects.get(identity, {"metadata": {}})["metadata"].get("managedFields", [])
        return found

    async def make(self, desired: dict[str, Any]) -> dict[str, Any]:
        identity = (desired["kind"], desired["metadata"]["name"])
        if identity in self.objects and identity not in self.failures:
            raise errors.ConflictError("create", "/".join(identity), status=409)
        made = await self.apply(desired, force=False)
        (entry,) = made["metadata"]["managedFields"]
        entry["operation"] = "Update"
        if not self.create_owns_labels:
            entry["fieldsV1"]["f:metadata"].pop("f:labels")
        return made

    async def own(self, kind: Kind, target: Child) -> None:
        entries = self._entries((kind.kind, target.name))
        assert len(entries) == 1
        entries[0]["operation"] = "Apply"

    async def release(self, kind: Kind, target: Child, manager: str) -> dict[str, Any]:
        entries = self._entries((kind.kind, target.name))
        self.released.append((target.name, [it["operation"] for it in entries if it["manager"] == manager]))
        return self.objects[kind.kind, target.name]

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> dict[str, Any] | None:
        self.deleted.append(f"{kind.kind}/{name}")
        assert namespace == KEY.namespace
        found = self.bodies.get((kind.kind, name))
        if found is None or found["metadata"]["uid"] != uid:
            return None
        if self.holds_deleted:
            metadata = {**found["metadata"], "resourceVersion": "1000", "deletionTimestamp": "2026-01-01T00:00:00Z"}
            return {**found, "kind": kind.kind, "metadata": metadata}
        del self.bodies[(kind.kind, name)]
        return {"kind": "Status", "status": "Success"}

    async def create_event(self, body: dict[str, Any]) -> None:
        self.events.append(body)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def world() -> InMemory:
    made = InMemory()
    made.apply_worker(replicas=2)
    return made


class Workers:
    """What workers are told; each command may be made to fail."""

    def __init__(self, failure: str = "") -> None:
        self.told: list[tuple[str, str, str]] = []
        self.failure = failure

    async def command(self, target: Target, name: str, *, token: str) -> None:
        if self.failure:
            raise errors.CommandError(self.failure)
        self.told.append((target.shard.shard, name, token))


def actor(server: Server, cache: Cache | None = None, workers: Workers | None = None) -> Actor:
    cluster: Any = server  # as much of a cluster as acting needs
    return Actor(cluster, cache or Cache(), "test", workers or Workers())


async def test_a_whole_plan_is_applied_in_order_and_told_of(server: Server, world: InMemory) -> None:
    acted = await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    assert acted.changed == 8
    assert [name.partition("/")[0] for name, _ in server.applied][:5] == [
        "Secret",
        "Service",
        "PodDisruptionBudget",
        "ControllerRevision",
        "PersistentVolumeClaim",
    ]
    assert [it["reason"] for it in server.events] == ["Created"]
    assert server.events[0]["message"].split(". ") == [
        "Made Secret storage-admin-token",
        "Made Service storage",
        "Made PodDisruptionBudget storage",
        "Made PersistentVolumeClaim wal-storage-0",
        "Made Deployment storage-0",
        "Made PersistentVolumeClaim wal-storage-1",
        "Made Deployment storage-1.",
    ]


async def test_an_object_made_by_itself_has_an_event_by_itself(server: Server, world: InMemory) -> None:
    plan = world.plan()
    first = next(step for step in plan.steps if isinstance(step, Apply) and step.desired["kind"] == "Deployment")
    await actor(server).act(KEY, Plan((first,)), is_current=lambda: True)
    assert [it["reason"] for it in server.events] == ["ShardCreated"]


async def test_an_event_of_many_objects_says_how_many_it_does_not_name(server: Server, world: InMemory) -> None:
    world.apply_worker(replicas=30)
    await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    told = server.events[0]["message"]
    assert len(told) <= 1024
    *named, left = told.split(". ")
    assert left == f"And {63 - len(named)} more."


async def test_what_was_made_is_told_although_the_next_step_ended_the_work(server: Server, world: InMemory) -> None:
    going = errors.DeniedError("apply", "x", status=403, message="unable to create: namespace is being terminated")
    server.failures[("PodDisruptionBudget", "storage")] = going
    await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    assert [it["message"] for it in server.events] == ["Made Secret storage-admin-token. Made Service storage."]


async def test_a_new_object_is_never_forced_upon_a_name(server: Server, world: InMemory) -> None:
    await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    assert not any(forced for _, forced in server.applied)


async def test_an_object_that_is_not_ours_is_reported_and_not_written(server: Server, world: InMemory) -> None:
    theirs = {"metadata": {"name": "storage", "labels": {}}}
    server.objects[("Service", "storage")] = theirs
    acted = await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    assert acted.outcome.foreign == ("Service/storage",)
    assert server.objects[("Service", "storage")] is theirs


async def test_a_shard_whose_claim_is_not_ours_is_not_started_and_the_other_is(server: Server, world: InMemory) -> None:
    server.objects[("PersistentVolumeClaim", "wal-storage-0")] = {"metadata": {"name": "wal-storage-0"}}
    await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    names = [name for name, _ in server.applied]
    assert "Deployment/storage-0" not in names
    assert "Deployment/storage-1" in names


async def test_a_claim_that_could_not_be_made_keeps_its_shard_back(server: Server, world: InMemory) -> None:
    failure = errors.DeniedError("apply", "x/wal-storage-1", status=403, message="exceeded quota")
    server.failures[("PersistentVolumeClaim", "wal-storage-1")] = failure
    acted = await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    assert acted.outcome.failed == ("wal-storage-1: exceeded quota",)
    assert "Deployment/storage-1" not in [name for name, _ in server.applied]
    assert "Deployment/storage-0" in [name for name, _ in server.applied]


async def test_a_claim_that_may_not_grow_is_told_apart_from_a_missing_right(server: Server, world: InMemory) -> None:
    """The words are the API server's own; tests/integration/test_operator_growth.py hears them from it."""
    world.ready(1)
    world.apply_worker(wal={"size": "20Gi"})
    words = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support"
    failure = errors.DeniedError("apply", "x/wal-storage-0", status=403, message=f"{words} resize")
    server.failures[("PersistentVolumeClaim", "wal-storage-0")] = failure
    acted = await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    assert acted.outcome.unexpandable == ("PersistentVolumeClaim/wal-storage-0",)
    assert acted.outcome.failed == ()
    assert acted.is_troubled
    assert [it["reason"] for it in server.events] == ["VolumeNotExpandable"]


async def test_a_refused_object_is_told_apart_from_one_to_try_again(server: Server, world: InMemory) -> None:
    refusal = errors.RejectedError("apply", "x/storage", status=422, message="spec.ports: wrong")
    server.failures[("Service", "storage")] = refusal
    acted = await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    assert acted.outcome.rejected == ("storage: spec.ports: wrong",)
    assert acted.outcome.failed == ()


async def test_the_server_s_wish_for_rest_is_passed_on(server: Server, world: InMemory) -> None:
    busy = errors.TransientError("apply", "x/storage", status=429)
    busy.retry_after_s = 7.0
    server.failures[("Service", "storage")] = busy
    acted = await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    assert acted.retry_after_s == 7.0


async def test_a_namespace_that_goes_ends_the_work_without_noise(server: Server, world: InMemory) -> None:
    going = errors.DeniedError("apply", "x", status=403, message="unable to create: namespace is being terminated")
    server.failures[("Secret", "storage-admin-token")] = going
    acted = await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    assert server.applied == []
    assert acted.outcome.failed == ()


async def test_nothing_more_is_done_for_an_ecoworker_that_is_gone(server: Server, world: InMemory) -> None:
    acted = await actor(server).act(KEY, world.plan(), is_current=lambda: len(server.applied) < 2)
    assert acted.changed == 2


async def test_what_was_created_belongs_to_no_create_once_it_has_been_changed(server: Server, world: InMemory) -> None:
    """Else no apply could take away what an earlier spec had set."""
    mine = actor(server, world.cache)
    await mine.act(KEY, world.plan(), is_current=lambda: True)
    assert {it["operation"] for it in server._entries(("Deployment", "storage-0"))} == {"Update"}
    world.apply_worker(replicas=2, concurrency=9)
    await mine.act(KEY, world.plan(), is_current=lambda: True)
    assert [it["operation"] for it in server._entries(("Deployment", "storage-0"))] == ["Apply"]


async def test_a_create_that_does_not_own_all_that_is_wanted_is_followed_by_an_apply(
    server: Server, world: InMemory
) -> None:
    server.create_owns_labels = False
    mine = actor(server, world.cache)
    await mine.act(KEY, world.plan(), is_current=lambda: True)
    again = [it for it in world.plan().steps if isinstance(it, Apply)]
    assert {it.why for it in again} == {"metadata.labels is not ours"}
    await mine.act(KEY, world.plan(), is_current=lambda: True)
    assert [it["operation"] for it in server._entries(("Deployment", "storage-0"))] == ["Apply"]
    # There is no right to change these, nor a need.
    revision = next(name for kind, name in server.objects if kind == "ControllerRevision")
    assert [it["operation"] for it in server._entries(("ControllerRevision", revision))] == ["Update"]
    assert not [it for it in world.plan().steps if isinstance(it, Apply)]


async def test_what_is_given_up_is_owned_by_an_apply_before(server: Server, world: InMemory) -> None:
    """An apply of nothing gives up what applies own, and leaves what a create does."""
    mine = actor(server, world.cache)
    await mine.act(KEY, world.plan(), is_current=lambda: True)
    child = world.cache.children(KEY.namespace, KEY.name, kinds.SERVICE)[0]
    step = Release(child, contract.FIELD_MANAGER, "somebody else applies it")
    await mine.act(KEY, Plan((step,)), is_current=lambda: True)
    assert server.released == [("storage", ["Apply"])]


async def test_nothing_is_taken_from_another_whose_object_could_not_be_applied(server: Server, world: InMemory) -> None:
    mine, plan = actor(server, world.cache), world.plan()
    apply = next(it for it in plan.steps if isinstance(it, Apply) and it.desired["kind"] == "Service")
    await mine.act(KEY, plan, is_current=lambda: True)
    child = world.cache.children(KEY.namespace, KEY.name, kinds.SERVICE)[0]
    server.failures[("Service", "storage")] = errors.TransientError("apply", "x/storage", status=500)
    release = Release(child, contract.ARGOCD_FIELD_MANAGER, "we apply it")
    await mine.act(KEY, Plan((replace(apply, existing=child), release)), is_current=lambda: True)
    assert server.released == []


async def test_a_token_is_made_once_and_is_long(server: Server, world: InMemory) -> None:
    await actor(server).act(KEY, world.plan(), is_current=lambda: True)
    token = server.objects[("Secret", "storage-admin-token")]["data"][contract.TOKEN_KEY]
    assert len(token) >= 43
    other = Server()
    await actor(other).act(KEY, world.plan(), is_current=lambda: True)
    assert other.objects[("Secret", "storage-admin-token")]["data"][contract.TOKEN_KEY] != token


async def test_an_object_that_the_server_keeps_other_than_applied_is_not_applied_for_ever(
    server: Server, world: InMemory
) -> None:
    server.drops_fields = True
    mine = actor(server, world.cache)
    await mine.act(KEY, world.plan(), is_current=lambda: True)
    again = world.plan()
    assert [it for it in again.steps if isinstance(it, Apply)], "the difference is seen"
    await mine.act(KEY, again, is_current=lambda: True)
    # Once more with force, for an object that is there; then it is accepted as it is.
    acted = await mine.act(KEY, world.plan(), is_current=lambda: True)
    assert acted.changed == 0


@pytest.mark.parametrize("is_held_up", [False, True])
async def test_what_is_not_wanted_is_deleted_and_told_of_once_before_the_watch_says_so(
    server: Server, world: InMemory, is_held_up: bool
) -> None:
    world.ready(2)
    world.apply_worker(replicas=1)
    world.report("storage-1", mode=JournalMode.DRAINING)
    server.bodies, server.holds_deleted = dict(world.bodies), is_held_up
    mine = actor(server, world.cache)
    assert (await mine.act(KEY, world.plan(), is_current=lambda: True)).changed == 1
    assert not [it for it in world.plan().steps if isinstance(it, Delete)]
    assert server.deleted == ["Deployment/storage-1"]
    assert [it["reason"] for it in server.events] == ["ShardRemoved"]


async def test_what_has_gone_already_is_not_told_of(server: Server, world: InMemory) -> None:
    world.ready(2)
    world.apply_worker(replicas=1)
    world.report("storage-1", mode=JournalMode.DRAINING)
    acted = await actor(server, world.cache).act(KEY, world.plan(), is_current=lambda: True)
    assert server.deleted == ["Deployment/storage-1"]
    assert acted.changed == 0
    assert server.events == []


def test_an_event_told_once_has_the_same_name_each_time() -> None:
    about = ObjectRef("v1", kinds.CLAIM.kind, "shop", "wal-storage-0", "uid-1")
    once = [event(Announce(about, "ClaimKept", "x", once="o"), "me")["metadata"]["name"] for _ in range(2)]
    often = [event(Announce(about, "ClaimKept", "x"), "me")["metadata"]["name"] for _ in range(2)]
    assert once[0] == once[1]
    assert often[0] != often[1]


TARGET = Target(ShardKey(KEY.namespace, KEY.name, "storage-0"), "uid-pod", "c1", "10.0.0.1")


async def test_a_worker_is_told_with_the_token_of_its_secret(server: Server) -> None:
    token = base64.b64encode(b"s3cret").decode()
    server.objects[("Secret", "storage-admin-token")] = {"data": {contract.TOKEN_KEY: token}}
    workers = Workers()
    plan = Plan((Command(TARGET, "drain", "test"),))
    acted = await actor(server, workers=workers).act(KEY, plan, is_current=lambda: True)
    assert workers.told == [("storage-0", "drain", "s3cret")]
    assert (acted.outcome.commanded, acted.changed) == (("drain storage-0",), 0)


async def test_a_worker_that_does_not_obey_is_told_again_later_and_holds_nothing_else_up(server: Server) -> None:
    server.objects[("Secret", "storage-admin-token")] = {"data": {contract.TOKEN_KEY: ""}}
    about = ObjectRef("v1", "Pod", KEY.namespace, "x", "uid")
    plan = Plan((Command(TARGET, "drain", "test"), Announce(about, "Went", "on")))
    acted = await actor(server, workers=Workers("drain storage-0: HTTP 500")).act(KEY, plan, is_current=lambda: True)
    assert acted.outcome.failed == ("drain storage-0: HTTP 500",)
    assert acted.outcome.commanded == ()
    assert [it["reason"] for it in server.events] == ["Went"]
