"""Classes are looked at where the operator may, now and then, and what it cannot see it does not claim to know."""

import asyncio
from typing import Any

import pytest

from eco_operator import errors, kinds
from eco_operator.kinds import Kind
from eco_operator.storage_classes import StorageClasses

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

CLASSES: dict[str, dict[str, Any]] = {
    "elastic": {"allowVolumeExpansion": True},
    "rigid": {"allowVolumeExpansion": False},
    "silent": {},
}


class Server:
    """As much of an API server as a look at classes needs."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failure: errors.ApiError | None = None

    async def get(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any]:
        assert kind is kinds.STORAGE_CLASS
        assert namespace is None
        self.asked.append(name)
        await asyncio.sleep(1)  # of a virtual clock
        if self.failure is not None:
            raise self.failure
        if name not in CLASSES:
            raise errors.NotFoundError("get", name, status=404)
        return CLASSES[name]


def classes(server: Server, *, may_look: bool = True, keep_s: float = 60.0) -> StorageClasses:
    cluster: Any = server
    return StorageClasses(cluster, may_look=may_look, keep_s=keep_s)


async def test_a_class_says_whether_its_volumes_grow_and_a_missing_one_has_none_that_do() -> None:
    found = classes(Server())
    await found.look(["elastic", "rigid", "silent", "gone"])
    assert found.known == {"elastic": True, "rigid": False, "silent": False, "gone": False}


async def test_without_the_right_nothing_is_asked() -> None:
    assert classes(Server(), may_look=False).unknown({"elastic"}) == set()


async def test_a_class_is_looked_at_again_after_a_while_and_not_before() -> None:
    found = classes(Server())
    assert found.unknown({"elastic"}) == {"elastic"}
    await found.look(["elastic"])
    assert found.unknown({"elastic", "rigid"}) == {"rigid"}
    await asyncio.sleep(61)
    assert found.unknown({"elastic"}) == {"elastic"}


@pytest.mark.parametrize("failure", [errors.DeniedError, errors.TransientError])
async def test_what_cannot_be_looked_at_is_not_known_and_not_asked_at_every_turn(
    failure: type[errors.ApiError],
) -> None:
    server = Server()
    found = classes(server)
    await found.look(["rigid"])
    server.failure = failure("get", "rigid", status=403)
    await asyncio.sleep(61)
    await found.look(["rigid"])
    assert found.known == {}
    assert found.unknown({"rigid"}) == set()


async def test_two_that_ask_at_once_get_one_answer() -> None:
    server = Server()
    found = classes(server)
    await asyncio.gather(found.look({"rigid"}), found.look({"rigid"}))
    assert server.asked == ["rigid"]
    assert found.known == {"rigid": False}
