"""Argo CD beside the cluster: its controller, its repository server and their Redis, as daemons of the control machine.

Repositories are bare ones in a directory of the lab's state and are read as `file://`: nothing has to serve them. The
health checks and actions of our kinds come from the operator's chart, as a user of Argo CD would take them.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from eco_lab import network
from eco_lab.kubernetes import Kubectl, answers
from eco_lab.machines import Machine
from eco_lab.paths import TREE, Paths
from eco_lab.processes import run, wait_until
from eco_lab.progress import step

NAMESPACE: Final = "argocd"
DESTINATION: Final = "https://kubernetes.default.svc"
"""What an Application names as its cluster; it is this one."""
RESYNC_S: Final = 10
"""How often a repository is asked for new commits."""
PACKAGES: Final = {"git": "git", "redis-check-rdb": "redis-tools", "gpg": "gpg"}
"""Program → Debian package that has it. Redis is one program with several names, and only one of them is a package's
that starts no server of its own."""
_CUSTOMIZATIONS: Final = TREE / "charts" / "eco-operator" / "argocd" / "argocd-cm.yaml"
_PART: Final = {"app.kubernetes.io/part-of": "argocd"}
_METRICS_PORT: Final = 8082
_REPOSITORIES_PORT: Final = 8084
_START_S: Final = 60.0


def repositories(paths: Paths) -> Path:
    """Directory of the bare repositories."""
    return paths.state / "argocd" / "repositories"


class ArgoCd:
    """The lab's Argo CD."""

    def __init__(self, paths: Paths, programs: Path, kubectl: Kubectl) -> None:
        self._paths = paths
        self._programs = programs
        self._kubectl = kubectl
        self._machine = Machine(network.CONTROL, paths)
        self._home = paths.state / "argocd"

    def start(self, helm: Path) -> None:
        """Start what does not run and wait until it serves."""
        with step("Argo CD"):
            self._use_helm(helm)
            repositories(self._paths).mkdir(parents=True, exist_ok=True)
            self._define()
            self._start_daemons()
            for name, port in (("repo-server", _REPOSITORIES_PORT), ("application-controller", _METRICS_PORT)):
                url = f"http://{self._machine.address}:{port}/metrics"
                wait_until(f"Argo CD's {name}", partial(answers, url), timeout_s=_START_S, log=self._log(name))

    def _define(self) -> None:
        names = []
        for kind in ("application", "applicationset", "appproject"):
            file = self._programs / "crds" / f"{kind}-crd.yaml"
            self._kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file))
            names.append(f"{kind}s.argoproj.io")
        wait_until("Argo CD's definitions", lambda: all(map(self._kubectl.is_established, names)), timeout_s=_START_S)
        self._kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self._kubectl.apply(*settings(yaml.safe_load(_CUSTOMIZATIONS.read_text())["data"]))

    def _start_daemons(self) -> None:
        # Redis looks at the name it is called by.
        redis = self._home / "redis-server"
        if not redis.exists():
            redis.symlink_to(shutil.which("redis-check-rdb") or "/usr/bin/redis-check-rdb")
        for name in ("tls", "ssh", "gpg/source", "gpg/home", "tmp"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        (self._home / "gpg" / "home").chmod(0o700)
        (self._home / "ssh" / "ssh_known_hosts").touch()
        self._start("redis", redis, "--bind", "127.0.0.1", "--port", "6379", "--save", "", "--appendonly", "no")
        self._start(
            "repo-server",
            self._programs / "argocd-repo-server",
            "--redis=127.0.0.1:6379",
            "--address=127.0.0.1",
            "--disable-tls",
            "--client-ca-path=",
            "--logformat=text",
        )
        self._start(
            "application-controller",
            self._programs / "argocd-application-controller",
            f"--kubeconfig={self._paths.kubeconfig}",
            f"--namespace={NAMESPACE}",
            "--redis=127.0.0.1:6379",
            "--repo-server=127.0.0.1:8081",
            "--repo-server-plaintext",
            "--logformat=text",
        )

    def _start(self, name: str, program: Path, *arguments: str) -> None:
        helm = self._home / "bin" / "helm"
        variables = {
            "PATH": f"{self._programs}:{helm.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": self._home,
            "TMPDIR": self._home / "tmp",
            "KUBECONFIG": self._paths.kubeconfig,
            "ARGOCD_FAKE_IN_CLUSTER": "true",
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_TLS_DATA_PATH": self._home / "tls",
            "ARGOCD_SSH_DATA_PATH": self._home / "ssh",
            "ARGOCD_GNUPGHOME": self._home / "gpg" / "home",
            "ARGOCD_ASK_PASS_SOCK": self._home / "ask-pass.sock",
            "ARGOCD_RECONCILIATION_TIMEOUT": f"{RESYNC_S}s",
            "ARGOCD_RECONCILIATION_JITTER": "0s",
        }
        words = [f"{key}={value}" for key, value in variables.items()]
        self._machine.start(f"argocd-{name}", ["env", *words, program, *arguments])

    def _log(self, name: str) -> Path:
        return self._machine.log(f"argocd-{name}")

    def _use_helm(self, program: Path) -> None:
        """Let the repository server find Helm, which it calls by name."""
        link = self._home / "bin" / "helm"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(program)


def settings(customizations: dict[str, str]) -> list[dict[str, Any]]:
    """Argo CD's own configuration: the health checks of our kinds, a secret, a project that allows all."""
    labelled = {"namespace": NAMESPACE, "labels": _PART}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "argocd-cm", **labelled},
            "data": customizations,
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "argocd-secret", **labelled},
            "stringData": {"server.secretkey": "of-a-lab-without-a-server"},
        },
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "AppProject",
            "metadata": {"name": "default", "namespace": NAMESPACE},
            "spec": {
                "sourceRepos": ["*"],
                "destinations": [{"namespace": "*", "server": "*"}],
                "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
            },
        },
    ]


def publish(paths: Paths, name: str, directory: Path, *, message: str) -> str:
    """Commit a directory's content as the whole of a repository's branch `main`; returns the repository's URL.

    The repository is made when there is none. A content that is the last commit's makes no new one.
    """
    bare, work = repositories(paths) / f"{name}.git", paths.state / "argocd" / "checkouts" / name
    who = ("-c", "user.name=eco-lab", "-c", "user.email=eco-lab@localhost", "-c", "safe.directory=*")
    if not bare.exists():
        run(["git", "init", "--quiet", "--bare", "--initial-branch=main", bare])
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(directory, work)
    run(["git", "init", "--quiet", "--initial-branch=main"], cwd=work)
    run(["git", *who, "remote", "add", "origin", str(bare)], cwd=work)
    run(["git", *who, "fetch", "--quiet", "origin"], cwd=work)
    if run(["git", *who, "for-each-ref", "refs/remotes/origin/main"], cwd=work):
        run(["git", *who, "reset", "--quiet", "--soft", "origin/main"], cwd=work)
    run(["git", *who, "add", "--all", "--force"], cwd=work)
    if run(["git", *who, "status", "--porcelain"], cwd=work):
        run(["git", *who, "commit", "--quiet", "--message", message], cwd=work)
        run(["git", *who, "push", "--quiet", "origin", "HEAD:main"], cwd=work)
    return f"file://{bare}"
