"""A Kubernetes API server for tests, asked through kubectl as a user would.

`ECO_TEST_KUBECONFIG` names one of the developer's own (etcd and kube-apiserver are enough); else the lab's is used.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def connect(request: pytest.FixtureRequest) -> Api:
    """The server that the environment names, else the lab's."""
    own = os.environ.get("ECO_TEST_KUBECONFIG")
    if own:
        kubectl = shutil.which("kubectl")
        require(kubectl, "kubectl on the PATH")
        return Api(str(kubectl), own)
    lab = request.getfixturevalue("lab")
    return Api(str(lab.kubectl), str(lab.kubeconfig))
