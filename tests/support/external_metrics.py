"""A metric for the cluster's own autoscaler: an API service that answers with whatever number a proof says.

The autoscaler, the scale subresource and what follows are the cluster's; only the number's source is ours. It listens
on this machine's address on the lab's bridge.
"""

import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from eco_lab import network
from eco_lab.demo.kubectl import Kubectl
from tests.support import certificates

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"
NAME: Final = f"{VERSION}.{GROUP}"
METRIC: Final = "unfinished-tasks"
_ADDRESS: Final = f"{network.MACHINES}.1"
_SERVICE: Final = "external-metrics"
_NAMESPACE: Final = "default"
_PRIORITIES: Final = {"groupPriorityMinimum": 100, "versionPriority": 100}


@asynccontextmanager
async def served(kubectl: Kubectl, value: Callable[[], int]) -> AsyncIterator[None]:
    """Have the API server ask us for `METRIC`, in every namespace, as long as the body runs."""
    base = f"/apis/{GROUP}/{VERSION}"
    application = web.Application()

    async def resources(_: web.Request) -> web.Response:
        return web.json_response(
            {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": []}
        )

    async def values(request: web.Request) -> web.Response:
        if request.match_info["metric"] != METRIC:
            raise web.HTTPNotFound
        item = {"metricName": METRIC, "metricLabels": {}, "timestamp": _stamp(), "value": str(value())}
        return web.json_response(
            {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": [item]}
        )

    application.router.add_get(base, resources)
    application.router.add_get(f"{base}/namespaces/{{namespace}}/{{metric}}", values)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, _ADDRESS, 0, ssl_context=_context())
    await site.start()
    port = runner.addresses[0][1]
    try:
        await kubectl.apply(_registration(port))
        yield
    finally:
        await kubectl.delete("apiservice", NAME)
        await kubectl.delete("service", _SERVICE, "-n", _NAMESPACE)
        await kubectl.delete("endpointslice", _SERVICE, "-n", _NAMESPACE)
        await runner.cleanup()


def _registration(port: int) -> list[dict[str, Any]]:
    named = {"name": _SERVICE, "namespace": _NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": named, "spec": {"ports": [{"name": "https", "port": 443}]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**named, "labels": {"kubernetes.io/service-name": _SERVICE}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [_ADDRESS]}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": NAME},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "service": {**named, "port": 443},
                "insecureSkipTLSVerify": True,
                **_PRIORITIES,
            },
        },
    ]


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        made = certificates.make(Path(directory), _SERVICE)
        context.load_cert_chain(made.certificate, made.key)
    return context
