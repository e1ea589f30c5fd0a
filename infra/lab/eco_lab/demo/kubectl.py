"""The cluster as the story sees it: kubectl for what a person would type, `kubectl proxy` for what is polled.

A poll several times a second must not cost a process each; the proxy speaks plain HTTP on a loopback port, with the
credentials of the kubeconfig, on any cluster.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from pydantic import ValidationError

from eco_crds.contract import ADMIN_PORT, COMPONENT_WORKER, LABEL_SHARD, LABEL_SHORT_COMPONENT
from eco_crds.wal import WalReport
from eco_lab.errors import CommandError, NotReadyError

FIELD_MANAGER: Final = "eco-lab-demo"
TIMEOUT_S: Final = 60.0
PROXY_START_S: Final = 15.0
POLL_TIMEOUT_S: Final = 1.0
STREAM_PAUSE_S: Final = 0.5
STREAM_LINE_BYTES_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Runs kubectl against one cluster."""

    program: Path
    kubeconfig: Path

    def command(self, *arguments: str) -> list[str]:
        """The argument list of a call."""
        return [str(self.program), f"--kubeconfig={self.kubeconfig}", *arguments]

    async def run(self, *arguments: str, stdin: str | None = None, timeout_s: float = TIMEOUT_S) -> str:
        """Output of `kubectl ARGUMENTS`; CommandError with its words when it fails or takes too long."""
        return await run_program(*self.command(*arguments), stdin=stdin, timeout_s=timeout_s)

    async def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Server-side apply, conflicts forced: the demo owns what it writes."""
        bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        await self.run(
            "apply", "--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}", "-f", "-", stdin=bundle
        )

    async def get(self, *arguments: str) -> Any:
        """Parsed JSON of `kubectl get ARGUMENTS`; None when the object does not exist."""
        text = await self.run("get", "--ignore-not-found", "-o", "json", *arguments)
        return json.loads(text) if text.strip() else None

    async def delete(self, *arguments: str, timeout_s: float = TIMEOUT_S) -> None:
        """`kubectl delete ARGUMENTS`, waiting until the objects are gone; absent ones are fine."""
        await self.run("delete", "--ignore-not-found", *arguments, timeout_s=timeout_s)


async def run_program(*command: str, stdin: str | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """Standard output of a program; its standard error is the cause of the CommandError when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    shown = " ".join([Path(command[0]).name, *(part for part in command[1:] if not part.startswith("--kubeconfig"))])
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(stdin.encode() if stdin is not None else None)
    except TimeoutError:
        raise CommandError(shown, f"did not end within {timeout_s:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise CommandError(shown, err.decode().strip() or f"exit status {process.returncode}")
    return out.decode()


@dataclass(frozen=True, slots=True)
class WorkerPod:
    """One pod of a shard, as the API server tells it."""

    name: str
    uid: str
    shard: str
    node: str
    running: bool
    ready: bool
    terminating: bool
    restarts: int

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "WorkerPod":
        """Read a Pod object."""
        meta, status = item["metadata"], item.get("status", {})
        containers = status.get("containerStatuses", [])
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            shard=meta.get("labels", {}).get(LABEL_SHARD, ""),
            node=item.get("spec", {}).get("nodeName", ""),
            running=any("running" in one.get("state", {}) for one in containers),
            ready=bool(containers) and all(one.get("ready") for one in containers),
            terminating="deletionTimestamp" in meta,
            restarts=sum(one.get("restartCount", 0) for one in containers),
        )


@dataclass(frozen=True, slots=True)
class ApiProxy:
    """The API server over a loopback port, for polling."""

    url: str
    session: aiohttp.ClientSession

    async def get(self, path: str) -> Any:
        """Parsed JSON of a path; None for 404, and for a pod behind the proxy that does not answer."""
        try:
            async with self.session.get(self.url + path) as response:
                if response.status in (404, 500, 502, 503, 504):
                    return None
                response.raise_for_status()
                return await response.json(content_type=None)
        except (TimeoutError, aiohttp.ClientConnectionError, json.JSONDecodeError):
            return None

    async def stream(self, path: str, *, accept: str) -> AsyncIterator[Any]:
        """Events of a watch, until the server ends it; then it is begun again."""
        while True:
            with contextlib.suppress(aiohttp.ClientConnectionError, TimeoutError):
                async with self.session.get(
                    self.url + path, headers={"Accept": accept}, timeout=aiohttp.ClientTimeout(total=None)
                ) as response:
                    response.raise_for_status()
                    async for line in response.content:
                        yield json.loads(line)
            await asyncio.sleep(STREAM_PAUSE_S)

    async def worker_pods(self, namespace: str) -> list[WorkerPod]:
        """Pods of all shards in a namespace, in the order of their names."""
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={LABEL_SHORT_COMPONENT}%3D{COMPONENT_WORKER}"
        found = await self.get(path)
        pods = [WorkerPod.of(item) for item in (found or {}).get("items", [])]
        return sorted(pods, key=lambda pod: (pod.shard, pod.name))

    async def wal(self, namespace: str, pod: str) -> WalReport | None:
        """The journal's report of one worker pod; None while nobody answers."""
        found = await self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}:{ADMIN_PORT}/proxy/wal")
        if found is None:
            return None
        try:
            return WalReport.model_validate(found)
        except ValidationError:
            return None


@asynccontextmanager
async def api_proxy(kubectl: Kubectl) -> AsyncIterator[ApiProxy]:
    """Run `kubectl proxy` on a free loopback port for as long as the body runs."""
    process = await asyncio.create_subprocess_exec(
        *kubectl.command("proxy", "--port=0", "--address=127.0.0.1"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        url = await _served_at(process)
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=POLL_TIMEOUT_S), read_bufsize=STREAM_LINE_BYTES_MAX
        ) as session:
            yield ApiProxy(url, session)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _served_at(process: asyncio.subprocess.Process) -> str:
    if process.stdout is None:
        raise NotReadyError("kubectl proxy", "its output cannot be read")
    try:
        async with asyncio.timeout(PROXY_START_S):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        line = ""
    found = re.search(r"127\.0\.0\.1:(\d+)", line)
    if found is None:
        raise NotReadyError("kubectl proxy", f"said {line.strip()!r} instead of where it serves")
    return f"http://127.0.0.1:{found.group(1)}"
