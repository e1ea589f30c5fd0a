"""Stages for whole stories: a namespace with workers on the lab, the operator installed by its chart."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest

from eco_lab import environment
from eco_lab.demo.kubectl import Kubectl
from eco_lab.demo.narration import silent
from eco_lab.demo.services import Services, drop_bucket, drop_database, drop_virtual_host
from eco_lab.demo.story import Plan, Stage, remove_namespace, set_up
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


async def clear(lab: LabEnvironment, name: str) -> None:
    """Remove all that a run made. `ECO_KEEP_STAGE=1` leaves it for whoever wants to see why a test failed."""
    if os.environ.get("ECO_KEEP_STAGE"):
        return
    services = Services(name, lab)
    await remove_namespace(Kubectl(lab.kubectl, lab.kubeconfig), name)
    await drop_virtual_host(services)
    await drop_database(services)
    await drop_bucket(services)


@pytest.fixture(scope="session")
def open_stage(full_lab: LabEnvironment) -> OpenStage:
    """Opens a stage: operator installed, a clean namespace, clean servers, uploads in the bucket."""

    @asynccontextmanager
    async def opened(plan: Plan) -> AsyncIterator[Stage]:
        async with AsyncExitStack() as stack:
            stage = await set_up(full_lab, plan, silent(), stack)
            try:
                yield stage
            finally:
                await clear(full_lab, plan.name)

    return opened
