"""Watches of everything the operator looks at, as Kopf's low-level event handlers."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from eco_crds import contract
from eco_operator import kinds
from eco_operator.kinds import Kind

Sink = Callable[[Kind, str | None, Mapping[str, Any]], None]
"""Takes kind, type of the event (None: listed) and the object. Must be quick and must not fail."""

LIST_CHUNK_OBJECTS: Final = 50
INACTIVITY_TIMEOUT_S: Final = 70.0
IDLE_WORKER_S: Final = 0.1


class NoDiffs(kopf.DiffBaseStorage):
    """Takes no copy of an object to tell its next state from: nobody here asks how an object changed.

    Kopf copies every object of every event for it whole, which was most of what an event cost.
    """

    def build(self, **_: object) -> kopf.BodyEssence:
        """Nothing."""
        return {}

    def fetch(self, **_: object) -> None:
        """There is none."""

    def store(self, **_: object) -> None:
        """Keep none."""


class NoMemories(ResourceMemories):
    """Keeps nothing of an object between two events: what is known of it is in the cache.

    Kopf would keep some kilobytes for each, for handlers that we do not have. It takes the store as an argument and has
    no public name for it.
    """

    async def recall(self, *arguments: Any, **named: Any) -> ResourceMemory:
        """A new one each time."""
        return await super().recall(*arguments, **{**named, "ephemeral": True})


def registry(sink: Sink) -> kopf.OperatorRegistry:
    """Handlers that feed `sink` with each event of each watched kind."""
    handlers = kopf.OperatorRegistry()
    kopf.on.startup(registry=handlers, id="configure")(_configure)
    kopf.on.login(registry=handlers, id="login")(_login)
    for kind in kinds.WATCHED:
        door = kopf.on.event(kind.group, kind.version, kind.plural, registry=handlers, id=f"see-{kind.plural}")
        door(_door(kind, sink))
    return handlers


async def watch(
    sink: Sink, *, namespaces: Sequence[str], stop: asyncio.Event, on_spawned: Callable[[], None] = lambda: None
) -> None:
    """Watch until `stop` is set. Returns early only when watching has become impossible.

    Kopf takes over the process's signals while it starts; `on_spawned` is the moment to take them back.
    """
    ignored = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry(sink),
        settings=kopf.OperatorSettings(),
        memories=NoMemories(),
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
        standalone=True,
    )
    on_spawned()
    await kopf.run_tasks(tasks, ignored=ignored)


def _door(kind: Kind, sink: Sink) -> Callable[..., Any]:
    async def see(event: Mapping[str, Any], **_: object) -> None:
        sink(kind, event["type"], event["object"])

    return see


async def _configure(settings: kopf.OperatorSettings, **_: object) -> None:
    settings.posting.enabled = False
    settings.peering.standalone = True
    # Kinds are fixed, and watching CRDs and namespaces would ask for rights over the whole cluster.
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = NoDiffs()
    settings.watching.chunk_size = LIST_CHUNK_OBJECTS
    settings.watching.server_timeout = 10 * 60
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = INACTIVITY_TIMEOUT_S
    # One task per object lives on for this long after its event; a fleet has thousands of objects.
    settings.queueing.idle_timeout = IDLE_WORKER_S
    settings.queueing.exit_timeout = 0.5
    settings.networking.request_timeout = 30
    settings.process.ultimate_exiting_timeout = 10
    ours = f"{contract.LABEL_MANAGED_BY}={contract.MANAGED_BY}"
    for kind in kinds.CHILDREN:
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = ours


async def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    # The same order as `cluster.connect`, so that watches and writes never go to different clusters.
    if os.environ.get("KUBECONFIG"):
        return kopf.login_with_kubeconfig(**arguments)
    return kopf.login_with_service_account(**arguments)
