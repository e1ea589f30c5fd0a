"""Stages for whole stories: a namespace with workers on the lab, the operator installed by its chart."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest

from eco_lab import environment
from eco_lab.demo.narration import silent
from eco_lab.demo.services import drop_bucket, drop_database, drop_virtual_host
from eco_lab.demo.story import Plan, Stage, set_up
from eco_lab.environment import LabEnvironment
from tests.support.parts import require

OpenStage = Callable[[Plan], AbstractAsyncContextManager[Stage]]


@pytest.fixture(scope="session")
def full_lab(lab: LabEnvironment) -> LabEnvironment:
    """A lab with nodes, services, Helm, and images built from the tree as it is now."""
    if lab.managed:
        require(os.geteuid() == 0, "root, to bring the lab's images up to date")
        lab = environment.up(nodes=max(1, len(lab.nodes)), with_programs=("helm",))
    require(lab.nodes, "a node in the lab")
    require(lab.helm, "helm")
    require(lab.worker_image and lab.operator_image, "the worker's and the operator's image")
    return lab


@pytest.fixture(scope="session")
def open_stage(full_lab: LabEnvironment) -> OpenStage:
    """Opens a stage: operator installed, a clean namespace, clean servers, uploads in the bucket."""

    @asynccontextmanager
    async def opened(plan: Plan) -> AsyncIterator[Stage]:
        async with AsyncExitStack() as stack:
            stage = await set_up(full_lab, plan, silent(), stack)
            yield stage
            if os.environ.get("ECO_KEEP_STAGE"):  # for whoever wants to look at what a failed test left
                return
            await stage.kubectl.delete("namespace", plan.name, timeout_s=120)
            await drop_virtual_host(stage.services)
            await drop_database(stage.services)
            await drop_bucket(stage.services)

    return opened
