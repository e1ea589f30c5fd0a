"""The only module that talks to the API server.

Objects are made by a create and changed by server-side applies, both under a field manager of ours; deletions have a
precondition on the uid. An answer that is no success becomes one of the errors of `eco_operator.errors`. Nothing is
retried here: the queue does that, with its back-off, and looks at the world anew before.
"""

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode
from urllib.request import getproxies_environment

import aiohttp
import msgspec
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from eco_crds import contract
from eco_operator import errors, kinds, watch_event
from eco_operator.cache import Child
from eco_operator.kinds import Kind
from eco_operator.managed_fields import to_applied
from eco_operator.watch_event import WatchEvent

APPLY_PATCH: Final = "application/apply-patch+yaml"
JSON: Final = "application/json"
JSON_PATCH: Final = "application/json-patch+json"
REQUEST_TIMEOUT_S: Final = 20.0
LIST_CHUNK_OBJECTS: Final = 50
REQUESTS_MAX: Final = 32
WATCH_S_MAX: Final = 600
"""After so long the server ends a watch."""
WATCH_SILENCE_S_MAX: Final = 70.0
"""A watch that says nothing for so long is begun anew: the server sends a bookmark each minute."""
CONNECT_TIMEOUT_S: Final = 10.0
OURS: Final = f"{contract.LABEL_MANAGED_BY}={contract.MANAGED_BY}"
"""Selects what the operator built, or what came of it."""
TLS_RECORD_BYTES_MAX: Final = 16_384
"""One read of a TLS connection never gives more (RFC 8446, 5.1)."""
QUERIES_MAX: Final = 64
"""So many queries are kept as they go into an address: an apply has one of four."""

TEST_FAILED: Final = "rejected our request due to an error in our request"
"""So the server answers, in general terms and with status 422, when a test in a JSON patch fails."""
UNCHECKED: Final = {"fieldValidation": "Ignore"}
"""Have the server not look for fields it does not know: it would read a body twice, and say so in a header that nobody
reads. Tests hold every manifest against the schemas. Measured: a sixth to a third of what an apply costs the server."""

# What YAML does not take as it stands, or takes for the end of a line.
_ESCAPED: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

Object = Mapping[str, Any]
RequestObserver = Callable[[str, str, int, float], None]
"""Called after each request with verb, kind, HTTP status (0: no answer) and seconds."""

_METHODS: Final = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "apply": "PATCH",
    "patch": "PATCH",
    "delete": "DELETE",
    "create": "POST",
    "replace": "PUT",
}
_CONTENT_TYPES: Final = {"apply": APPLY_PATCH, "patch": JSON_PATCH}


async def connect(observer: RequestObserver = lambda *_: None) -> "Cluster":
    """A cluster reached by `KUBECONFIG` when that is set, else by the pod's service account."""
    configuration = kubernetes_client.Configuration()
    try:
        if os.environ.get("KUBECONFIG"):
            await kubernetes_config.load_kube_config(os.environ["KUBECONFIG"], client_configuration=configuration)  # type: ignore[no-untyped-call]  # no annotations in the client
        else:
            kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # no annotations in the client
    except (kubernetes_config.ConfigException, OSError) as error:
        raise errors.ConfigurationError(
            f"no way to an API server: {error}. Run inside a pod, or set KUBECONFIG to the path of a kubeconfig."
        ) from None
    # Requests are bounded by `REQUESTS_MAX`; each watch has a connection of its own beside them.
    configuration.connection_pool_maxsize = 0
    # Trusting the environment has the client look for a password in ~/.netrc, in a thread, before each request.
    configuration.client_session_kwargs = {
        "trust_env": bool(getproxies_environment()),
        "cookie_jar": aiohttp.DummyCookieJar(),
    }
    return Cluster(configuration, observer)


class _Records(ssl.SSLObject):
    """Reads a record at a time. The event loop asks for 256 KiB at each read, for which the C library maps memory."""

    def read(self, len: int = TLS_RECORD_BYTES_MAX, buffer: Any = None) -> bytes:  # noqa: A002  # the base's name
        """Up to a record of what has arrived."""
        return super().read(min(len, TLS_RECORD_BYTES_MAX), buffer)


class Cluster:
    """A connection to one API server."""

    def __init__(self, configuration: kubernetes_client.Configuration, observer: RequestObserver) -> None:
        self._client = kubernetes_client.ApiClient(configuration)
        self._client.user_agent = contract.FIELD_MANAGER
        self._client.rest_client.ssl_context.sslobject_class = _Records
        self._observe = observer
        self._slots = asyncio.Semaphore(REQUESTS_MAX)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]  # no annotations in the client

    async def get(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any]:
        """One object, of no namespace where its kind has none; raises `NotFoundError`."""
        return await self._request("get", kind, kind.path(namespace, name))

    async def find(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """The object of that name as the server has it now, by the right to list alone; None when there is none."""
        query = {"fieldSelector": f"metadata.name={name}"}
        answer = await self._request("list", kind, kind.path(namespace), query=query)
        return next(iter(answer.get("items") or ()), None)

    async def list(
        self, kind: Kind, namespaces: Sequence[str] = (), *, label_selector: str = ""
    ) -> AsyncIterator[tuple[list[dict[str, Any]], int]]:
        """Every object in chunks, each with the resource version of its list; no namespaces: the whole cluster.

        Raises `ExpiredError` when the list got too old between two chunks: begin again.
        """
        for namespace in namespaces or (None,):
            token = ""
            while True:
                query = {"limit": str(LIST_CHUNK_OBJECTS)}
                if label_selector:
                    query["labelSelector"] = label_selector
                if token:
                    query["continue"] = token
                answer = await self._request("list", kind, kind.path(namespace), query=query)
                metadata = answer.get("metadata", {})
                items: list[dict[str, Any]] = answer.get("items") or []
                yield items, int(metadata.get("resourceVersion") or 0)
                token = metadata.get("continue") or ""
                if not token:
                    break

    async def watch(
        self, kind: Kind, namespace: str | None, *, version: str, label_selector: str
    ) -> AsyncIterator[WatchEvent]:
        """Each event since that version, until the server, the network or silence ends the watch.

        Raises `ExpiredError` when the version is too old, and other errors when the server has them: list again.
        """
        path = kind.path(namespace)
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_S_MAX),
            "labelSelector": label_selector,
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=WATCH_SILENCE_S_MAX)
        try:
            answer = await self._send("watch", f"{path}?{urlencode(query)}", None, limits=limits)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.TransientError("watch", path, message=str(error) or type(error).__name__) from error
        try:
            if answer.status != 200:
                raise errors.of_answer(
                    "watch", path, answer.status, await answer.read(), answer.headers.get("Retry-After")
                )
            async for line in answer.content:
                event = watch_event.read(path, line)
                if event.type == "ERROR":
                    told = event.body()
                    raise errors.of_status("watch", path, int(told.get("code") or 500), told)
                yield event
        except (aiohttp.ClientError, TimeoutError, OSError):
            return
        finally:
            answer.close()

    async def apply(self, desired: Object, *, force: bool, subresource: str | None = None) -> dict[str, Any]:
        """Server-side apply. Without `force` a field that somebody else owns is a `ConflictError`."""
        kind = kinds.BY_NAME[desired["kind"]]
        metadata = desired["metadata"]
        manager = contract.STATUS_FIELD_MANAGER if subresource == "status" else contract.FIELD_MANAGER
        path = kind.path(metadata["namespace"], metadata["name"], subresource)
        return await self._apply(kind, path, desired, manager=manager, force=force)

    async def make(self, desired: Object) -> dict[str, Any]:
        """Create an object; a `ConflictError` when its name is taken.

        It costs the server less than an apply. Its fields belong to a manager of kind Update, which no apply takes them
        from: see `own`.
        """
        kind = kinds.BY_NAME[desired["kind"]]
        query = {"fieldManager": contract.FIELD_MANAGER, **UNCHECKED}
        return await self._request(
            "create", kind, kind.path(desired["metadata"]["namespace"]), query=query, body=desired
        )

    async def own(self, kind: Kind, target: Child) -> None:
        """Have what our create set belong to us as if it had been applied: so the next apply may take it away.

        Raises `ConflictError` when what is ours of the object has changed meanwhile, or it is another object.
        """
        path = kind.path(target.namespace, target.name)
        metadata = (await self._request("get", kind, path))["metadata"]
        if not (patch := to_applied(target.uid, metadata.get("managedFields") or ())):
            return
        query = {"fieldManager": contract.FIELD_MANAGER, **UNCHECKED}
        try:
            await self._request("patch", kind, path, query=query, body=patch)
        except errors.RejectedError as error:
            if TEST_FAILED not in error.message:
                raise
            message = "somebody else changed what is ours of it meanwhile"
            raise errors.ConflictError("patch", path, status=error.status, message=message) from error

    async def annotate(self, kind: Kind, target: Child, annotations: Mapping[str, str], manager: str) -> dict[str, Any]:
        """Own exactly these annotations of an object that exists, under a field manager of their own."""
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {
                "name": target.name,
                "namespace": target.namespace,
                "uid": target.uid,
                "annotations": dict(annotations),
            },
        }
        return await self._apply(kind, kind.path(target.namespace, target.name), body, manager=manager)

    async def release(self, kind: Kind, target: Child, manager: str) -> dict[str, Any]:
        """Have a field manager own nothing of an object that exists; what nobody else owns goes."""
        metadata = {"name": target.name, "namespace": target.namespace, "uid": target.uid}
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
        return await self._apply(kind, kind.path(target.namespace, target.name), body, manager=manager)

    async def _apply(self, kind: Kind, path: str, body: Object, *, manager: str, force: bool = True) -> dict[str, Any]:
        query = {"fieldManager": manager, "force": "true" if force else "false", **UNCHECKED}
        return await self._request("apply", kind, path, query=query, body=body)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> dict[str, Any] | None:
        """Delete the object with that uid; one that is gone, or another by now, is no error.

        Returns the object as long as something holds it up, a `Status` when it has gone at once, and None when there
        was nothing to delete.
        """
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        body["propagationPolicy"] = "Background"
        try:
            return await self._request("delete", kind, kind.path(namespace, name), body=body)
        except errors.NotFoundError:
            return None
        except errors.ConflictError as error:
            if "uid" not in error.message.lower():
                raise
            return None

    async def create_event(self, event: Object) -> None:
        """Post an event; one of the same name is there already when this is a repetition."""
        try:
            await self._request("create", kinds.EVENT, kinds.EVENT.path(event["metadata"]["namespace"]), body=event)
        except errors.ConflictError:
            return

    async def can_list(self, kind: Kind, namespaces: Sequence[str]) -> None:
        """Try the smallest list of a kind; raises what stands in the way."""
        for namespace in namespaces or (None,):
            await self._request("list", kind, kind.path(namespace), query={"limit": "1"})

    async def _request(
        self,
        verb: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | Sequence[Object] | None = None,
    ) -> dict[str, Any]:
        target = f"{path}?{_encoded(tuple(query.items()))}" if query else path
        loop = asyncio.get_running_loop()
        started, status = loop.time(), 0
        try:
            async with self._slots, asyncio.timeout(REQUEST_TIMEOUT_S):
                answer = await self._send(verb, target, body, limits=aiohttp.ClientTimeout(REQUEST_TIMEOUT_S))
                status = answer.status
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            message = str(error) or type(error).__name__
            raise errors.TransientError(verb, path, status=status, message=message) from error
        finally:
            self._observe(verb, kind.kind, status, loop.time() - started)
        if 200 <= status < 300:
            result: dict[str, Any] = msgspec.json.decode(content)
            return result
        raise errors.of_answer(verb, path, status, content, answer.headers.get("Retry-After"))

    async def _send(
        self, verb: str, target: str, body: Object | Sequence[Object] | None, *, limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """Send a request; returns the answer as soon as its head is there."""
        method, is_apply = _METHODS[verb], verb == "apply"
        headers = {**self._client.default_headers, "Accept": JSON, "Content-Type": _CONTENT_TYPES.get(verb, JSON)}
        # What the client does before, it does for bodies that are models: it copies a dictionary whole, and writes it
        # by the standard library.
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], target, method, None)
        content = None if body is None else _yaml(body) if is_apply else msgspec.json.encode(body)
        return await self._session().request(
            method,
            f"{self._client.configuration.host}{target}",
            data=content,
            headers=headers,
            timeout=limits,
            server_hostname=self._client.configuration.tls_server_name,
            proxy=self._client.configuration.proxy,
            proxy_headers=self._client.configuration.proxy_headers,
        )

    def _session(self) -> aiohttp.ClientSession:
        """The client's own, with its connections and trust; it makes one at its first request."""
        rest = self._client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()  # noqa: SLF001  # what the client has for this purpose
        session: aiohttp.ClientSession = rest.pool_manager
        return session


class LeaseStore:
    """The Lease of the leader, as `eco_operator.leader` wants it."""

    def __init__(self, cluster: Cluster, *, namespace: str, name: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name

    async def get_lease(self) -> Object:
        """The Lease as it is."""
        return await self._cluster.get(kinds.LEASE, self._namespace, self._name)

    async def create_lease(self, spec: Mapping[str, Any]) -> Object:
        """Make it."""
        return await self._cluster._request(  # noqa: SLF001  # two halves of one module
            "create",
            kinds.LEASE,
            kinds.LEASE.path(self._namespace),
            query={"fieldManager": contract.FIELD_MANAGER},
            body={
                "apiVersion": kinds.LEASE.api_version,
                "kind": kinds.LEASE.kind,
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": dict(spec),
            },
        )

    async def replace_lease(self, lease: Object, spec: Mapping[str, Any]) -> Object:
        """Give the Lease that was read a new spec; its resource version makes that safe."""
        return await self._cluster._request(  # noqa: SLF001  # two halves of one module
            "replace",
            kinds.LEASE,
            kinds.LEASE.path(self._namespace, self._name),
            query={"fieldManager": contract.FIELD_MANAGER},
            body={**lease, "spec": dict(spec)},
        )


@lru_cache(maxsize=QUERIES_MAX)
def _encoded(query: tuple[tuple[str, str], ...]) -> str:
    return urlencode(query)


def _yaml(body: Object | Sequence[Object]) -> bytes:
    """The body as JSON that is YAML too.

    The server reads a server-side apply as YAML, which refuses the pair of escapes that JSON writes for a character
    beyond the first 65,536: with them a single emoji in a spec would keep every write of that object from arriving.
    """
    content = msgspec.json.encode(body)
    if content.isascii() and b"\x7f" not in content:
        return content
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", content.decode()).encode()
