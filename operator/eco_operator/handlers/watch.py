"""Watches of everything the operator looks at: its own kinds by Kopf's low-level event handlers, others beside them.

Kopf takes a failure of one watch for the end of the program: a 410 in the middle of a list, an event that is no JSON,
an error that outlasts its own eight attempts. Here it is the end of that round of watches, and the next one begins
after a pause with everything listed anew. Nothing else of the process takes notice.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from itertools import product
from typing import Any, Final

import kopf
import structlog
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from eco_operator import errors, kinds, metrics
from eco_operator.cluster import LIST_CHUNK_OBJECTS, WATCH_S_MAX, WATCH_SILENCE_S_MAX
from eco_operator.failing import Failing
from eco_operator.kinds import Kind

logger = structlog.get_logger(__name__)

Sink = Callable[[Kind, str | None, Mapping[str, Any]], None]
"""Takes kind, type of the event (None: listed) and the object. Must be quick and must not fail."""
Follow = Callable[[Kind, str | None], Coroutine[Any, Any, None]]
"""Watches a kind in a namespace, or in all, until it fails for good."""

IDLE_WORKER_S: Final = 0.1
FAILING_S_MAX: Final = 600.0
"""After so long without watches that were well another process may do better, on another node perhaps."""
END_TIMEOUT_S: Final = 2.0
WATCHER_NAME: Final = "watcher for "
"""How Kopf calls the task of a watch."""


class NoDiffs(kopf.DiffBaseStorage):
    """Takes no copy of an object to tell its next state from: nobody here asks how an object changed.

    For any other store Kopf copies the object of each event whole.
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

    Kopf would keep a record of each, for handlers that we do not have. It takes the store as an argument and has
    no public name for it.
    """

    async def recall(self, *arguments: Any, **named: Any) -> ResourceMemory:
        """A new one each time."""
        return await super().recall(*arguments, **{**named, "ephemeral": True})


def registry(sink: Sink) -> kopf.OperatorRegistry:
    """Handlers that feed `sink` with each event of each kind of our own."""
    handlers = kopf.OperatorRegistry()
    kopf.on.startup(registry=handlers, id="configure")(_configure)
    kopf.on.login(registry=handlers, id="login")(_login)
    for kind in kinds.OWNED:
        door = kopf.on.event(kind.group, kind.version, kind.plural, registry=handlers, id=f"see-{kind.plural}")
        door(_door(kind, sink))
    return handlers


async def watch(
    sink: Sink,
    *,
    namespaces: Sequence[str],
    stop: asyncio.Event,
    list_everything: Callable[[], Awaitable[None]],
    follow: Follow,
    on_spawned: Callable[[], None] = lambda: None,
) -> None:
    """Watch until `stop` is set. Everything has been listed before, and is listed again after a failure.

    Raises what ended the watches when a right or the login is lost, or once they have failed for `FAILING_S_MAX`.
    Kopf takes over the process's signals whenever it starts; `on_spawned` is the moment to take them back.
    """
    failing = Failing()
    while not stop.is_set():
        begun_s = _now()
        try:
            if failing.failures:
                await list_everything()
            await _watch_once(sink, follow, namespaces, stop, on_spawned)
        except Exception as error:
            failing_s = failing.note(begun_s, _now())
            if _is_final(error) or failing_s >= FAILING_S_MAX:
                raise
            metrics.WATCH_FAILURES.inc()
            pause_s = failing.pause_s()
            logger.warning(
                "the watches failed", error=repr(error), pause_s=round(pause_s, 1), failing_s=round(failing_s)
            )
            await _rest(stop, pause_s)


async def _watch_once(
    sink: Sink, follow: Follow, namespaces: Sequence[str], stop: asyncio.Event, on_spawned: Callable[[], None]
) -> None:
    """Watch until `stop` is set; raises what ended the watches before."""
    kopfs = await kopf.spawn_tasks(
        registry=registry(sink),
        settings=kopf.OperatorSettings(),
        memories=NoMemories(),
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
        standalone=True,
    )
    on_spawned()
    ours = (asyncio.create_task(follow(*it)) for it in product(kinds.CHILDREN, namespaces or (None,)))
    tasks = [*kopfs, *ours]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(tasks)
    if stop.is_set():
        return
    for task in ended:
        task.result()
    raise errors.OperatorError("the watches have ended without saying why")


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """End every task of Kopf's, and nobody else's.

    `kopf.run_tasks` would end whatever has been started since Kopf was, with the reconciling itself among it. And the
    root tasks are not enough: when one watch fails, Kopf forgets about the others, which go on. To clear up they need
    tasks of their own, so that everything else of Kopf's goes after them.
    """
    watchers = {task for task in asyncio.all_tasks() if task.get_name().startswith(WATCHER_NAME)}
    await _cancel({*tasks, *watchers})
    await _cancel({task for task in asyncio.all_tasks() if _is_kopfs(task)})


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    ended, stuck = await asyncio.wait(tasks, timeout=END_TIMEOUT_S)
    for task in ended:
        if not task.cancelled():
            task.exception()  # Taken note of, so that nobody complains that it was not.
    if stuck:
        logger.warning("parts of Kopf do not end", parts=sorted(task.get_name() for task in stuck))


def _is_kopfs(task: asyncio.Task[Any]) -> bool:
    """Whether a task that is not done runs a coroutine of Kopf's."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == kopf.__name__


def _is_final(error: Exception) -> bool:
    """Whether the login or a right is lost. Kopf has tried again for a minute before it says so, a list has not."""
    if isinstance(error, errors.ApiError):
        return False
    return isinstance(error, kopf.LoginError) or getattr(error, "status", 0) in {401, 403}


async def _rest(stop: asyncio.Event, pause_s: float) -> None:
    try:
        async with asyncio.timeout(pause_s):
            await stop.wait()
    except TimeoutError:
        return


def _now() -> float:
    return asyncio.get_running_loop().time()


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
    settings.watching.server_timeout = WATCH_S_MAX
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = WATCH_SILENCE_S_MAX
    # One task per object lives on for this long after its event.
    settings.queueing.idle_timeout = IDLE_WORKER_S
    settings.queueing.exit_timeout = 0.5
    settings.networking.request_timeout = 30
    # With one, Kopf kills the process that long after a failure, however well it has been mended meanwhile.
    settings.process.ultimate_exiting_timeout = None


async def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    # The same order as `cluster.connect`, so that watches and writes never go to different clusters.
    if os.environ.get("KUBECONFIG"):
        return kopf.login_with_kubeconfig(**arguments)
    return kopf.login_with_service_account(**arguments)
