"""What most tests of the operator stand on; a file that needs another server or world has its own of that name."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer
from tests.support.operator_world import World, operator_world, server_with_kinds


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with server_with_kinds() as running:
        yield running


@pytest.fixture
async def world(server: ApiServer, tmp_path: Path) -> AsyncIterator[World]:
    async with operator_world(server, tmp_path) as made:
        yield made
