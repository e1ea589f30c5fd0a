"""The command `eco-operator`."""

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import structlog
import uvloop

from eco_operator import errors, kinds, metrics, web
from eco_operator import settings as operator_settings
from eco_operator.cluster import Cluster, LeaseStore, connect
from eco_operator.following import follow
from eco_operator.handlers.watch import watch
from eco_operator.leader import Elector
from eco_operator.loop import Loop
from eco_operator.settings import Settings

logger = structlog.get_logger("eco_operator")

FIRST_LIST_ATTEMPTS_MAX: Final = 30
FIRST_LIST_PAUSE_S: Final = 2.0
STOP_TIMEOUT_S: Final = 5.0
COLLECTION_THRESHOLDS: Final = (10_000, 10, 20)
"""When cycles are looked for: of a fleet's objects there are many, and they have none."""

EXAMPLES: Final = """examples:
  eco-operator check                            is everything there that the operator needs?
  eco-operator run                              inside a pod, with its service account
  KUBECONFIG=~/.kube/config ECO_OPERATOR_LEADER_ELECTION=false eco-operator run
                                                from a shell, against the current context
  ECO_OPERATOR_NAMESPACES=shop,blog eco-operator run
                                                serve two namespaces only

Settings are environment variables that begin with ECO_OPERATOR_; `eco-operator settings` lists them.
"""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="eco-operator",
        description="Runs queue workers with local write-ahead journals: sets EcoWorkers and WalSyncs right.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="watch and set right until SIGTERM")
    commands.add_parser("check", help="look whether settings, API server, kinds and rights are as needed, and exit")
    commands.add_parser("settings", help="list every setting with its meaning and its value")
    command = parser.parse_args().command
    try:
        settings = operator_settings.load()
        _configure_logging(settings)
        if command == "settings":
            _print_settings(settings)
            return
        # What the imports made stays for good, and is not to be looked through each time.
        gc.freeze()
        gc.set_threshold(*COLLECTION_THRESHOLDS)
        sys.exit(uvloop.run(_check(settings) if command == "check" else _run(settings)))
    except errors.ConfigurationError as error:
        print(f"eco-operator: {error}", file=sys.stderr)  # noqa: T201  # for whoever reads the pod's last words
        sys.exit(2)


async def _run(settings: Settings) -> int:
    """Lead, then watch and act, until a signal or a part that ends. Returns the exit status."""
    stop = asyncio.Event()
    _on_signals(stop)
    async with await connect(metrics.observe_request) as cluster:
        store = LeaseStore(cluster, namespace=settings.lease_namespace, name=settings.lease_name)
        elector = Elector(
            store,
            identity=settings.identity,
            lease_duration_s=settings.lease_duration_s,
            renew_deadline_s=settings.renew_deadline_s,
            retry_period_s=settings.retry_period_s,
        )
        loop = Loop(cluster, settings)
        health = web.Health(settings, elector if settings.leader_election else None, loop)
        server = await web.serve(health)
        try:
            return await _lead(settings, elector, loop, stop)
        finally:
            await server.cleanup()


async def _lead(settings: Settings, elector: Elector, loop: Loop, stop: asyncio.Event) -> int:
    stopping = asyncio.create_task(stop.wait(), name="stop")
    if settings.leader_election:
        ended = await _first_of(stopping, elector.acquire())
        if stopping in ended:
            await elector.release()  # Taken in the same moment, if at all.
            return 0
    acting = [asyncio.create_task(_act(loop), name="acting")]
    if settings.leader_election:
        acting.append(asyncio.create_task(elector.hold(), name="lease"))
    watch_stop = asyncio.Event()
    watching = asyncio.create_task(
        _watch_once_listed(loop, settings, watch_stop, on_spawned=lambda: _on_signals(stop)), name="watch"
    )
    done, _ = await asyncio.wait([stopping, watching, *acting], return_when=asyncio.FIRST_COMPLETED)
    # Nothing may be written once the Lease is gone, so acting ends before it is released.
    await _cancel(acting)
    await elector.release()
    watch_stop.set()
    await asyncio.wait([watching], timeout=STOP_TIMEOUT_S)
    await _cancel([watching])
    return _verdict(done - {stopping})


def _verdict(ended: set[asyncio.Task[Any]]) -> int:
    for task in ended:
        error = None if task.cancelled() else task.exception()
        logger.error("ended and should not have", part=task.get_name(), error=repr(error), exc_info=error)
    return 1 if ended else 0


async def _act(loop: Loop) -> None:
    await loop.wait_listed()
    await loop.run()


async def _watch_once_listed(
    loop: Loop, settings: Settings, stop: asyncio.Event, *, on_spawned: Callable[[], None]
) -> None:
    """Get every list in before anything is decided, then let Kopf watch."""
    for attempt in range(1, FIRST_LIST_ATTEMPTS_MAX + 1):
        try:
            await loop.list_everything()
            break
        except errors.ApiError as error:
            logger.warning("first lists not in yet", attempt=attempt, error=str(error))
            if attempt == FIRST_LIST_ATTEMPTS_MAX:
                raise
            await asyncio.sleep(FIRST_LIST_PAUSE_S)
    await watch(
        loop.see,
        namespaces=settings.namespaces,
        stop=stop,
        list_everything=loop.list_everything,
        follow=partial(follow, loop.cluster, loop),
        on_spawned=on_spawned,
    )


async def _first_of(stopping: asyncio.Task[Any], part: Coroutine[Any, Any, None]) -> set[asyncio.Task[Any]]:
    task = asyncio.create_task(part)
    done, _ = await asyncio.wait([stopping, task], return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        task.result()
    else:
        await _cancel([task])
    return done


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.wait_for(task, STOP_TIMEOUT_S)


def _on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _check(settings: Settings) -> int:
    """Say of each thing the operator needs whether it is there; 1 when something is missing."""
    missing = 0
    async with await connect() as cluster:
        for kind in kinds.WATCHED:
            missing += not await _try(f"list {kind.plural}", cluster.can_list(kind, settings.namespaces))
        if settings.leader_election:
            what = f"read Lease {settings.lease_namespace}/{settings.lease_name}"
            missing += not await _try(what, _read_lease(cluster, settings))
    return 1 if missing else 0


async def _read_lease(cluster: Cluster, settings: Settings) -> None:
    with contextlib.suppress(errors.NotFoundError):
        await cluster.get(kinds.LEASE, settings.lease_namespace, settings.lease_name)


async def _try(what: str, attempt: Coroutine[Any, Any, None]) -> bool:
    try:
        await attempt
    except errors.NotFoundError:
        print(f"missing  {what}: the API server does not know the kind; install the CRDs")  # noqa: T201  # the answer
        return False
    except errors.ApiError as error:
        print(f"missing  {what}: {error.message or error}")  # noqa: T201  # the answer
        return False
    print(f"ok       {what}")  # noqa: T201  # the answer
    return True


def _print_settings(settings: Settings) -> None:
    for name, field in Settings.model_fields.items():
        variable = f"{operator_settings.ENV_PREFIX}{name.upper()}"
        print(f"{variable}={getattr(settings, name)!s}\n    {field.description}")  # noqa: T201  # the answer


def _configure_logging(settings: Settings) -> None:
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    is_json = settings.log_format == "json"
    renderer = structlog.processors.JSONRenderer() if is_json else structlog.dev.ConsoleRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Kopf tells of every event it delivers; what it does with them is ours to log.
    logging.getLogger("kopf").setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    main()
