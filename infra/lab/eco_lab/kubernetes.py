"""Talking to the cluster: kubectl for what people would type, plain HTTPS for what is asked many times a second."""

import base64
import http.client
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import yaml

from eco_lab.errors import CommandError
from eco_lab.processes import run

MERGE_PATCH: Final = "application/merge-patch+json"
_REQUEST_S: Final = 10.0


class Kubectl:
    """kubectl bound to one kubeconfig."""

    def __init__(self, program: Path, kubeconfig: Path) -> None:
        self.program = program
        self.kubeconfig = kubeconfig

    def __call__(self, *words: str, stdin: str | None = None, timeout_s: float = 60) -> str:
        """Run one command and return its output."""
        command: list[str | Path] = [self.program, f"--kubeconfig={self.kubeconfig}", *words]
        return run(command, what=f"kubectl {' '.join(words[:4])}", stdin=stdin, timeout_s=timeout_s)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects server-side; those that are as wanted stay untouched."""
        documents = yaml.safe_dump_all(objects, sort_keys=False)
        self("apply", "--server-side", "--force-conflicts", "--field-manager=eco-lab", "-f", "-", stdin=documents)

    def get(self, *words: str) -> Any:
        """An object or a list as parsed JSON."""
        return json.loads(self("get", *words, "-o", "json"))

    def is_established(self, definition: str) -> bool:
        """Whether the API server serves the kind of a CustomResourceDefinition, named `plural.group`."""
        # One that was made a moment ago has no conditions yet, which `kubectl wait` takes for an error.
        found = self.get(f"crd/{definition}").get("status", {}).get("conditions") or ()
        return any(it["type"] == "Established" and it["status"] == "True" for it in found)

    def wait_rollout(self, namespace: str, *names: str, timeout_s: float) -> None:
        """Wait until workloads run what was applied."""
        for name in names:
            words = ("-n", namespace, "rollout", "status", name, f"--timeout={timeout_s:g}s")
            self(*words, timeout_s=timeout_s + 10)


class ApiClient:
    """A small HTTPS client for the API server, authenticated by the kubeconfig's certificate."""

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        self.server = server
        self._context = context

    @classmethod
    def from_kubeconfig(cls, file: Path) -> Self:
        """Read address and credentials from a kubeconfig that this package wrote."""
        config = yaml.safe_load(file.read_text())
        cluster = config["clusters"][0]["cluster"]
        user = config["users"][0]["user"]
        context = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
        with tempfile.NamedTemporaryFile("w") as pair:
            pair.write(_decoded(user["client-certificate-data"]) + _decoded(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        return cls(cluster["server"], context)

    @cached_property
    def host(self) -> str:
        """Host and port of the server."""
        return self.server.removeprefix("https://")

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """One request; returns the parsed answer. Raises urllib.error.HTTPError for an answer of 400 and above."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the address is the lab's own API server
            self.server + path, data=data, method=method, headers={"Content-Type": content_type}
        )
        with urllib.request.urlopen(request, context=self._context, timeout=_REQUEST_S) as answer:  # noqa: S310 - as above
            return json.loads(answer.read() or b"{}")

    def is_ready(self) -> bool:
        """Whether the server answers that it is ready."""
        return answers(f"{self.server}/readyz", self._context)

    def watch(self, path: str, *, timeout_s: int) -> http.client.HTTPResponse:
        """Open a watch that the server ends after `timeout_s`; each line of the answer is one event."""
        connection = http.client.HTTPSConnection(self.host, context=self._context, timeout=timeout_s + 10)
        connection.request("GET", f"{path}?watch=true&timeoutSeconds={timeout_s}")
        answer = connection.getresponse()
        if answer.status != 200:
            raise CommandError(f"watch {path}", f"HTTP status {answer.status}")
        return answer


def is_ready(item: Mapping[str, Any]) -> bool:
    """Whether an object's condition `Ready` is true."""
    conditions = item.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    """Whether a URL answers 200 within a second."""
    try:
        with urllib.request.urlopen(url, context=context, timeout=1) as answer:  # noqa: S310 - only URLs of the lab
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


def unverified() -> ssl.SSLContext:
    """For the health pages of daemons that make a certificate of their own at each start."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
