"""A Kubernetes API server for tests, asked through kubectl as a user would.

`ECO_TEST_KUBECONFIG` names one of the developer's own (etcd and kube-apiserver are enough); else a bare one is started:
definitions that a test puts into the lab's cluster would be in the way of a release of the chart.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eco_crds.schema import KINDS
from tests.support.apiserver import bare_api_server
from tests.support.parts import require

REQUEST_TIMEOUT_S = 60
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Answer:
    """What kubectl said."""

    accepted: bool
    text: str


@dataclass(frozen=True, slots=True)
class Api:
    """One API server."""

    kubectl: str
    kubeconfig: str
    namespace: str = "default"

    def run(self, *arguments: str, given: Any = None) -> Answer:
        """Run kubectl; `given` goes to its standard input as YAML."""
        done = subprocess.run(
            [self.kubectl, "--kubeconfig", self.kubeconfig, "-n", self.namespace, *arguments],
            input=None if given is None else yaml.safe_dump(given),
            capture_output=True,
            text=True,
            timeout=REQUEST_TIMEOUT_S,
            check=False,
        )
        return Answer(done.returncode == 0, done.stdout + done.stderr)

    def must(self, *arguments: str, given: Any = None) -> str:
        """Run kubectl and fail the test when it fails."""
        answer = self.run(*arguments, given=given)
        assert answer.accepted, f"kubectl {' '.join(arguments)}: {answer.text}"
        return answer.text

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get` of one object, parsed."""
        found: dict[str, Any] = json.loads(self.must("get", *arguments, "-o", "json"))
        return found


@contextmanager
def api_server() -> Iterator[Api]:
    """The server that the environment names, else a bare one that is gone afterwards."""
    own = os.environ.get("ECO_TEST_KUBECONFIG")
    if own:
        kubectl = shutil.which("kubectl")
        require(kubectl, "kubectl on the PATH")
        yield Api(str(kubectl), own)
        return
    with bare_api_server() as server:
        yield Api(str(server.kubectl), str(server.kubeconfig))


def install_definitions(api: Api) -> None:
    """Let the server know both kinds."""
    api.must("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds/manifests"))
    for kind in KINDS:
        api.must("wait", "--for=condition=Established", f"crd/{kind.crd_name}", "--timeout=30s")
