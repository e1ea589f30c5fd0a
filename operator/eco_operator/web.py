"""/livez, /readyz and /metrics.

`/livez` fails when a part of the operator that should move does not: the loop leaves a key lying, the prober or the
resync has stopped, or the watch keeps missing what the lists show. That this server answers proves only itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily

from eco_operator import fleet_metrics, kinds, metrics
from eco_operator.leader import Elector
from eco_operator.loop import LOOK_TIMEOUT_S, Loop
from eco_operator.settings import Settings

READY_KEY_WAITS_S_MAX: Final = LOOK_TIMEOUT_S + 60.0
WATCH_BEHIND_RESYNCS_MAX: Final = 2
STANDBY_SILENCE_S_MAX: Final = 60.0


@dataclass(slots=True)
class Health:
    """What is well and what is not, told from how the parts move."""

    settings: Settings
    elector: Elector | None
    loop: Loop

    def ailments(self) -> list[str]:
        """Everything that should move and does not; none: the process is alive."""
        if self.elector is not None and not self.elector.is_leader:
            attempted_ago_s = self.elector.statistics().attempted_ago_s
            if attempted_ago_s is not None and attempted_ago_s > STANDBY_SILENCE_S_MAX:
                return [f"no attempt to lead for {attempted_ago_s:.0f} s"]
            return []
        found = []
        oldest_s = self.loop.queue.statistics().oldest_ready_s
        if oldest_s > READY_KEY_WAITS_S_MAX:
            found.append(f"a key waits for {oldest_s:.0f} s")
        round_ago_s = self.loop.prober.statistics().last_round_ago_s
        targets = self.loop.prober.statistics().targets
        rounds_s = self.settings.probe_timeout_s * (1 + targets / self.settings.probe_concurrency)
        if round_ago_s is not None and round_ago_s > 60 + 3 * self.settings.probe_interval_s + rounds_s:
            found.append(f"no round of probes for {round_ago_s:.0f} s")
        state = self.loop.statistics()
        if state.resynced_ago_s is not None and state.resynced_ago_s > 5 * self.settings.resync_interval_s + 300:
            found.append(f"no resync for {state.resynced_ago_s:.0f} s")
        if state.watch_behind_resyncs > WATCH_BEHIND_RESYNCS_MAX:
            found.append(f"the watch was behind in {state.watch_behind_resyncs} resyncs in a row")
        return found

    def missing(self) -> list[str]:
        """What is still to come before the operator can be of use; a standby is of use."""
        if self.elector is not None and not self.elector.is_leader:
            return [] if self.elector.statistics().attempted_ago_s is not None else ["the Lease was not read yet"]
        return [] if self.loop.statistics().resynced_ago_s is not None else ["the first lists are not in yet"]


def application(health: Health) -> web.Application:
    """The server's routes."""
    metrics.REGISTRY.register(metrics.States(_gauges(health), lambda: _labelled(health)))

    async def livez(_: web.Request) -> web.Response:
        return _answer(health.ailments())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(health.ailments() + health.missing())

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    server = web.Application()
    server.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    return server


async def serve(health: Health) -> web.AppRunner:
    """Start the server; `cleanup` of what comes back stops it."""
    runner = web.AppRunner(application(health), access_log=None, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, health.settings.http_host, health.settings.http_port).start()
    return runner


def _answer(problems: list[str]) -> web.Response:
    if problems:
        return web.json_response({"ok": False, "problems": problems}, status=503)
    return web.json_response({"ok": True})


def _gauges(health: Health) -> list[metrics.Gauge]:
    loop, elector = health.loop, health.elector

    def of_queue(field: str) -> Callable[[], float]:
        return lambda: float(getattr(loop.queue.statistics(), field))

    def of_prober(field: str) -> Callable[[], float | None]:
        return lambda: getattr(loop.prober.statistics(), field)

    return [
        metrics.Gauge(
            "eco_operator_leader",
            "1 while this process leads.",
            lambda: float(elector.is_leader) if elector is not None else 1.0,
        ),
        metrics.Gauge(
            "eco_operator_lease_renewal_age_seconds",
            "Seconds since the Lease was last renewed by this process.",
            lambda: elector.statistics().renewed_ago_s if elector is not None else None,
        ),
        metrics.Gauge("eco_operator_queue_depth", "Keys that wait to be looked at.", of_queue("ready")),
        metrics.Gauge("eco_operator_queue_delayed", "Keys with an appointment.", of_queue("delayed")),
        metrics.Gauge("eco_operator_queue_failing", "Keys whose last look failed.", of_queue("failing")),
        metrics.Gauge(
            "eco_operator_queue_oldest_seconds", "How long the first key has waited.", of_queue("oldest_ready_s")
        ),
        metrics.Gauge("eco_operator_probe_targets", "Workers that are asked for their journal.", of_prober("targets")),
        metrics.Gauge("eco_operator_probe_answering", "Workers that answered when last asked.", of_prober("answering")),
        metrics.Gauge(
            "eco_operator_probe_round_seconds", "How long the last round took.", of_prober("last_round_took_s")
        ),
        metrics.Gauge(
            "eco_operator_probe_oldest_answer_seconds", "Age of the oldest report.", of_prober("oldest_answer_s")
        ),
        metrics.Gauge(
            "eco_operator_watch_missing_objects",
            "Objects known from a list that the watch has not mentioned.",
            lambda: loop.cache.statistics().unwatched,
        ),
        metrics.Gauge(
            "eco_operator_resync_age_seconds",
            "Seconds since everything was last listed.",
            lambda: loop.statistics().resynced_ago_s,
        ),
    ]


def _labelled(health: Health) -> list[GaugeMetricFamily]:
    objects = GaugeMetricFamily("eco_operator_objects", "Objects remembered, by kind.", labels=["kind"])
    for kind, count in sorted(health.loop.cache.statistics().objects.items()):
        objects.add_metric([kind], count)
    shards = GaugeMetricFamily("eco_operator_shards", "Shards by the health of their journal.", labels=["wal"])
    for state, count in sorted(health.loop.shards_by_state().items()):
        shards.add_metric([state], count)
    claims = GaugeMetricFamily(
        "eco_operator_kept_claims",
        "Claims that no shard uses, by why, and by what the last job on each left in the journal.",
        labels=["cause", "journal"],
    )
    for (cause, journal), count in sorted(health.loop.kept_claims_by_state().items()):
        claims.add_metric([cause, journal], count)
    cache = health.loop.cache
    owned = [*cache.all_owned(kinds.ECO_WORKER), *cache.all_owned(kinds.WAL_SYNC)]
    return [objects, shards, claims, *fleet_metrics.families(owned)]
