"""The operator's own metrics; counters are kept here, states are read from their owners when Prometheus asks."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SERIES_MAX: Final = 256
"""So many series are remembered by their labels."""
REGISTRY: Final = CollectorRegistry()

RECONCILES: Final = Counter(
    "eco_operator_reconciles", "Looks at one object, by how they ended.", ["kind", "result"], registry=REGISTRY
)
RECONCILE_SECONDS: Final = Histogram(
    "eco_operator_reconcile_duration_seconds",
    "Seconds from taking a key off the queue to the end of all writes.",
    ["kind"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
STEPS: Final = Counter("eco_operator_steps", "Steps acted upon, by name.", ["step"], registry=REGISTRY)
REQUESTS: Final = Counter(
    "eco_operator_api_requests",
    "Requests to the API server; code 0 is no answer.",
    ["verb", "kind", "code"],
    registry=REGISTRY,
)
REQUEST_SECONDS: Final = Histogram(
    "eco_operator_api_request_duration_seconds",
    "Seconds until the API server had answered.",
    ["verb"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)
WATCH_EVENTS: Final = Counter("eco_operator_watch_events", "Events the watches delivered.", ["kind"], registry=REGISTRY)
WATCH_FAILURES: Final = Counter(
    "eco_operator_watch_failures",
    "Failures after which a watch began anew, or all of them, with a list.",
    registry=REGISTRY,
)
RESYNCS: Final = Counter(
    "eco_operator_resyncs", "Full lists of everything, by how they ended.", ["result"], registry=REGISTRY
)


@lru_cache(maxsize=SERIES_MAX)
def watch_events(kind: str) -> Counter:
    """Counts the events of one kind. The library finds a series by its labels anew each time, under a lock."""
    return WATCH_EVENTS.labels(kind)


def observe_request(verb: str, kind: str, code: int, seconds: float) -> None:
    """Count one request to the API server."""
    _requests(verb, kind, code).inc()
    _request_seconds(verb).observe(seconds)


@lru_cache(maxsize=SERIES_MAX)
def _requests(verb: str, kind: str, code: int) -> Counter:
    return REQUESTS.labels(verb, kind, str(code))


@lru_cache(maxsize=SERIES_MAX)
def _request_seconds(verb: str) -> Histogram:
    return REQUEST_SECONDS.labels(verb)


class Gauge:
    """A state that its owner knows: its name, its help text, and how to read it when asked."""

    def __init__(self, name: str, text: str, read: Callable[[], float | None]) -> None:
        self.name = name
        self.text = text
        self.read = read


class States(Collector):
    """Reads every gauge at the moment Prometheus asks."""

    def __init__(self, gauges: list[Gauge], labelled: Callable[[], list[GaugeMetricFamily]]) -> None:
        self._gauges = gauges
        self._labelled = labelled

    def collect(self) -> Iterator[Metric]:
        """What each owner says now; a state that is not known is left out."""
        for gauge in self._gauges:
            value = gauge.read()
            if value is not None:
                yield GaugeMetricFamily(gauge.name, gauge.text, value=value)
        yield from self._labelled()
