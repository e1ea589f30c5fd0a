"""Building programs from their Go modules, for machines that reach a module proxy but no download server.

`go install module@version` refuses a module with `replace` lines, and Kubernetes and Helm have them. So each set gets
a small module of its own that requires them and takes their replacements over.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from eco_lab import versions
from eco_lab.errors import MissingError
from eco_lab.processes import run
from eco_lab.progress import step

_BUILD_S: Final = 3600
_INSTALL_S: Final = 600
_COREDNS_PLUGINS: Final = ("cache", "errors", "health", "kubernetes", "loadbalance", "log", "ready", "template")
_STAGING: Final = re.compile(r"^\s+(k8s\.io/[a-z0-9-]+) v0\.0\.0$", re.MULTILINE)
_MODULE: Final = re.compile(r"^module .*$", re.MULTILINE)
_LOCAL_REPLACE: Final = re.compile(r"^.*=> \./.*$\n", re.MULTILINE)


class GoToolchain:
    """A Go toolchain that is new enough."""

    def __init__(self, scratch: Path) -> None:
        """Use the machine's own, else one from a Python package, kept below `scratch`."""
        own = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
        self._program = own if own is not None and _is_new_enough(own) else _packaged(scratch)

    def __call__(self, *words: str, cwd: Path, timeout_s: float = 900) -> str:
        """Run one go command in a module's directory."""
        environ = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false", "GOTOOLCHAIN": "local"}
        return run([self._program, *words], what=f"go {words[0]}", cwd=cwd, environ=environ, timeout_s=timeout_s)

    def module(self, name: str, version: str, cwd: Path) -> dict[str, str]:
        """Download one module; `Dir` is its source, `GoMod` its go.mod."""
        found: dict[str, str] = json.loads(self("mod", "download", "-json", f"{name}@{version}", cwd=cwd))
        return found


def _is_new_enough(program: str) -> bool:
    found = re.search(r"go(\d+)\.(\d+)", run([program, "version"]))
    return found is not None and (int(found[1]), int(found[2])) >= versions.GO_MINIMUM


def _packaged(scratch: Path) -> str:
    """A toolchain that comes as a Python package, installed by uv into an environment of its own."""
    directory = scratch / "go"
    program = directory / "bin" / "go"
    # The program alone is no sign: an installation cut off may have come that far.
    mark = directory / "complete"
    if not mark.exists():
        # pip installs for a user who need not have that directory on PATH.
        uv = shutil.which("uv") or shutil.which(str(Path.home() / ".local" / "bin" / "uv"))
        wanted = ".".join(map(str, versions.GO_MINIMUM))
        if uv is None:
            hint = f"put Go {wanted} or newer on PATH, or install uv: the lab fetches a toolchain with it"
            raise MissingError("build from source", f"neither Go {wanted} nor uv is on PATH", hint=hint)
        with step("Go toolchain", announce=True):
            shutil.rmtree(directory, ignore_errors=True)
            run([uv, "venv", "--quiet", directory])
            words = ("pip", "install", "--quiet", f"--python={directory / 'bin' / 'python'}", versions.GO_PACKAGE)
            run([uv, *words], timeout_s=_INSTALL_S)
            mark.touch()
    return str(program)


def kubernetes(names: tuple[str, ...], target: Path, scratch: Path) -> None:
    """Build Kubernetes' programs, etcd and CoreDNS into `target`.

    All in one module and one command, at versions that agree on their dependencies: shared packages compile once.
    """
    go = GoToolchain(scratch)
    source = scratch / f"kubernetes-{versions.KUBERNETES}"
    _prepare_kubernetes(go, source)
    version = "k8s.io/component-base/version"
    major, minor, _ = versions.KUBERNETES.split(".")
    stamps = {"gitVersion": f"v{versions.KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    flags = "-s -w " + " ".join(f"-X {version}.{key}={value}" for key, value in stamps.items())
    packages = {name: f"k8s.io/kubernetes/cmd/{name}" for name in names}
    packages |= {"etcd": "go.etcd.io/etcd/server/v3", "coredns": "./coredns"}
    wanted = [packages[name] for name in names]
    go("build", "-trimpath", "-ldflags", flags, "-o", f"{target}/", *wanted, cwd=source, timeout_s=_BUILD_S)
    # Go names a program after the last element of its package.
    (target / "server").rename(target / "etcd")


def _prepare_kubernetes(go: GoToolchain, source: Path) -> None:
    if (source / "go.sum").exists():
        return
    shutil.rmtree(source, ignore_errors=True)
    (source / "coredns").mkdir(parents=True)
    # The order of CoreDNS' plugins is fixed when it is compiled; only these are wanted.
    imports = "".join(f'\t_ "github.com/coredns/coredns/plugin/{name}"\n' for name in _COREDNS_PLUGINS)
    main = f'package main\n\nimport (\n{imports}\n\t"github.com/coredns/coredns/coremain"\n)\n'
    (source / "coredns" / "main.go").write_text(main + "\nfunc main() { coremain.Run() }\n")
    tools = ("go.etcd.io/etcd/server/v3", "k8s.io/kubernetes/cmd/kubelet")
    lines = "".join(f'\t_ "{package}"\n' for package in tools)
    (source / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\nimport (\n{lines})\n")
    upstream = Path(go.module("k8s.io/kubernetes", f"v{versions.KUBERNETES}", source)["GoMod"]).read_text()
    kept = [line for line in upstream.splitlines() if line.startswith(("go ", "godebug "))]
    kept.append(f"require k8s.io/kubernetes v{versions.KUBERNETES}")
    # Kubernetes points its staging modules at its own tree; outside of it each is published as v0.x.
    published = f"v0.{versions.KUBERNETES.removeprefix('1.')}"
    for module in sorted(set(_STAGING.findall(upstream))):
        kept += [f"require {module} {published}", f"replace {module} => {module} {published}"]
    (source / "go.mod").write_text("module eco-lab/kubernetes\n\n" + "\n".join(kept) + "\n")
    modules = (f"go.etcd.io/etcd/server/v3@v{versions.ETCD}", f"github.com/coredns/coredns@v{versions.COREDNS}")
    go("get", *modules, cwd=source)


def helm(target: Path, scratch: Path) -> None:
    """Build Helm into `target`."""
    flags = f"-X helm.sh/helm/v4/internal/version.version=v{versions.HELM}"
    _program("helm.sh/helm/v4", versions.HELM, target / "helm", scratch, flags=flags)


def helm_unittest(target: Path, scratch: Path) -> None:
    """Build the runner of the charts' unit tests into `target`; it works without Helm beside it."""
    _program("github.com/helm-unittest/helm-unittest", versions.HELM_UNITTEST, target / "helm-unittest", scratch)


def argocd(target: Path, scratch: Path) -> None:
    """Build Argo CD into `target`, with its definitions and the script that its repository server calls beside it.

    One program is all of its parts: it looks at the name by which it is called.
    """
    module = "github.com/argoproj/argo-cd/v3"
    engine = "github.com/argoproj/argo-cd/gitops-engine"
    flags = f"-X {module}/common.version={versions.ARGOCD}"
    replaced = {engine: f"{engine}@{versions.GITOPS_ENGINE}"}
    program = target / "argocd"
    _program(module, versions.ARGOCD, program, scratch, flags=flags, package="cmd", replaced=replaced)
    upstream = Path(GoToolchain(scratch).module(module, f"v{versions.ARGOCD}", scratch)["Dir"])
    script = target / "git-verify-wrapper.sh"
    shutil.copyfile(upstream / "hack" / script.name, script)
    script.chmod(0o755)
    for part in ("application-controller", "repo-server"):
        (target / f"argocd-{part}").symlink_to(program.name)
    (target / "crds").mkdir()
    for file in (upstream / "manifests" / "crds").glob("*-crd.yaml"):
        shutil.copyfile(file, target / "crds" / file.name)


def prometheus(target: Path, scratch: Path) -> None:
    """Build Prometheus, its operator with the reloader that goes into its pods, and their definitions, into `target`.

    Of Prometheus' ways to find targets only those of a cluster: the others are the clouds' libraries, minutes each.
    """
    module = "github.com/prometheus-operator/prometheus-operator"
    for name, package in (("prometheus-operator", "cmd/operator"), ("prometheus-config-reloader", "")):
        _program(module, versions.PROMETHEUS_OPERATOR, target / name, scratch, package=package)
    tags = "remove_all_sd,enable_kubernetes_sd"
    _program("github.com/prometheus/prometheus", versions.PROMETHEUS, target / "prometheus", scratch, tags=tags)
    upstream = Path(GoToolchain(scratch).module(module, f"v{versions.PROMETHEUS_OPERATOR}", scratch)["Dir"])
    shutil.copytree(upstream / "example" / "prometheus-operator-crd", target / "crds", copy_function=shutil.copyfile)
    # The module cache is read-only, and copytree takes the mode of a directory over.
    (target / "crds").chmod(0o755)


def _program(
    module: str,
    version: str,
    program: Path,
    scratch: Path,
    *,
    flags: str = "",
    package: str = "",
    tags: str = "",
    replaced: Mapping[str, str] | None = None,
) -> None:
    """Build `package` (`cmd/NAME`) of a published module, with the replacements of that module that are published too.

    `replaced` names others for those that are directories of the module's own repository.
    """
    go = GoToolchain(scratch)
    source = scratch / f"{program.name}-{version}"
    if not (source / "go.sum").exists():
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        upstream = Path(go.module(module, f"v{version}", source)["GoMod"]).read_text()
        own = f"module eco-lab/{program.name}"
        (source / "go.mod").write_text(_MODULE.sub(own, _LOCAL_REPLACE.sub("", upstream), count=1))
        go("mod", "edit", "-require", f"{module}@v{version}", cwd=source)
        for name, other in (replaced or {}).items():
            go("mod", "edit", "-replace", f"{name}={other}", cwd=source)
    wanted = f"{module}/{package or f'cmd/{program.name}'}"
    words = ("-trimpath", f"-tags={tags}", "-ldflags", f"-s -w {flags}".rstrip(), "-o", str(program), wanted)
    go("build", *words, cwd=source, timeout_s=_BUILD_S)


def pause(target: Path, scratch: Path) -> None:
    """Compile `pause`, the reaper of orphans: its C source travels in the Kubernetes module."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise MissingError("compile pause", "no C compiler on PATH", hint="apt-get install gcc libc6-dev")
    scratch.mkdir(parents=True, exist_ok=True)
    source = Path(GoToolchain(scratch).module("k8s.io/kubernetes", f"v{versions.KUBERNETES}", scratch)["Dir"])
    code = source / "build" / "pause" / "linux" / "pause.c"
    run([compiler, "-Os", "-static", "-s", "-DVERSION=eco-lab", "-o", target / "pause", code])
