"""The way to the cluster: kubectl, as the user has set it up."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any, Final

TIMEOUT_S: Final = 60


class KubectlError(Exception):
    """kubectl is not there, did not answer in time, or refused; says what it said."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl with the options that choose cluster and namespace."""

    program: str = "kubectl"
    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    all_namespaces: bool = False

    def run(self, *arguments: str) -> str:
        """Run it; what it printed. Raises `KubectlError`."""
        options = []
        for name, value in (("kubeconfig", self.kubeconfig), ("context", self.context), ("namespace", self.namespace)):
            options += [f"--{name}={value}"] if value else []
        try:
            done = subprocess.run(  # noqa: S603  # no shell, and what follows are the user's own words
                [self.program, *options, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KubectlError(f"{self.program} cannot be run: {error}") from None
        if done.returncode:
            raise KubectlError(done.stderr.strip() or f"{self.program} ended with status {done.returncode}")
        return done.stdout

    def get(self, resource: str, *names: str, selector: str = "") -> list[dict[str, Any]]:
        """Objects of a kind, those of some names or all."""
        arguments = ["get", resource, *names, "-o", "json"]
        if selector:
            arguments += ["--selector", selector]
        if self.all_namespaces and not names:
            arguments += ["--all-namespaces"]
        found = json.loads(self.run(*arguments))
        items: list[dict[str, Any]] = found["items"] if found.get("kind") == "List" else [found]
        return items

    def annotate(self, target: str, annotation: str, value: str | None) -> None:
        """Set an annotation of `kind/name`, or take it off when there is no value."""
        change = f"{annotation}-" if value is None else f"{annotation}={value}"
        self.run("annotate", "--overwrite", target, change)
