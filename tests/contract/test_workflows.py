"""The workflows on GitHub: pinned, with few rights, and made of steps that anybody can run."""

import importlib.machinery
import importlib.util
import os
import re
import stat
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import yaml

from tests.support.charts import CHARTS, by_kind, render

ROOT: Final = CHARTS.parent
SCRIPTS: Final = ROOT / ".ci"
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DIGEST: Final = "sha256:" + "c" * 64
RIGHTS: Final = {"contents": {"read", "write"}, "packages": {"write"}}


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def steps() -> list[tuple[str, dict[str, Any]]]:
    return [(path.name, step) for path in WORKFLOWS for job in read(path)["jobs"].values() for step in job["steps"]]


def test_every_action_is_pinned_by_its_commit_and_says_its_version() -> None:
    uses = [line.strip() for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert uses
    assert not [line for line in uses if not re.fullmatch(r"- uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)]


def test_every_step_is_a_target_or_a_script_of_this_tree() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, step in steps():
        for line in step.get("run", "").splitlines():
            made = re.match(r"(?:sudo --preserve-env=[\w,]+ )?make ([a-z-]+)$", line)
            script = re.match(r"(\.ci/[a-z-]+)", line)
            if made is not None:
                assert made[1] in targets, f"{name}: {line}"
            elif script is not None:
                assert (ROOT / script[1]).stat().st_mode & stat.S_IXUSR, f"{name}: {line}"
            else:
                assert line.startswith("docker login "), f"{name}: {line}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_few_rights_and_ends(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for scope, level in job.get("permissions", {}).items():
            assert level in RIGHTS[scope]
    writing = [name for name, job in workflow["jobs"].items() if job.get("permissions", {}).get("contents") == "write"]
    assert writing == (["bump"] if path.name == "images.yml" else [])


def test_nothing_from_outside_becomes_part_of_a_command() -> None:
    """An expression inside a script is text of whoever made the event; variables are not."""
    assert not [step for _, step in steps() if "${{" in step.get("run", "")]


def test_a_bump_does_not_set_off_the_workflow_that_made_it() -> None:
    # YAML 1.1 reads the key `on` as true.
    paths = read(ROOT / ".github" / "workflows" / "images.yml")[True]["push"]["paths"]  # type: ignore[index]  # see above
    assert not [path for path in paths if path.startswith(("charts", "*"))]


def bump() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("bump", str(SCRIPTS / "bump"))
    spec = importlib.util.spec_from_loader("bump", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(("chart", "kind"), [("waste", "EcoWorker"), ("eco-operator", "Deployment")])
def test_a_bumped_file_pins_the_image(tmp_path: Path, chart: str, kind: str) -> None:
    values = tmp_path / "values.yaml"
    existing = CHARTS / chart / "values-dev.yaml"
    values.write_text(existing.read_text() if existing.exists() else "")
    pinned = f"ghcr.io/example/image@{DIGEST}"
    for image in (f"ghcr.io/example/image@sha256:{'d' * 64}", pinned):
        subprocess.run([str(SCRIPTS / "bump"), str(values), image], check=True, timeout=20)
    text = yaml.safe_dump(by_kind(render(chart, "--values", str(values)), kind))
    assert pinned in text
    assert "d" * 64 not in text


@pytest.mark.parametrize(
    "before",
    [
        "",
        "# Why\nimage:\n  tag: one\n  # about the digest\n  digest: ''\n\n# Other\nother: 1\n",
        "other: 1\n",
        "image: {tag: one}\nother: 1\n",
        "other: 1\nimage:\n  tag: one\n",
    ],
)
def test_a_bump_changes_nothing_but_the_image(before: str) -> None:
    after = bump().bump(before, f"registry.example:5000/a/b@{DIGEST}")
    old = {key: value for key, value in (yaml.safe_load(before) or {}).items() if key != "image"}
    image = {"repository": "registry.example:5000/a/b", "digest": DIGEST}
    assert yaml.safe_load(after) == {**old, "image": image}
    assert ("# Other" in before) == ("# Other" in after)
    assert bump().bump(after, f"registry.example:5000/a/b@{DIGEST}") == after


@pytest.mark.parametrize("image", ["", "image:tag", "image@sha256:abc", "two words@" + DIGEST])
def test_an_image_without_a_digest_is_refused(image: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    command = [str(SCRIPTS / "bump"), str(path), image]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "digest" in done.stderr
    assert not path.exists()


DOCKER: Final = f"""#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$1 $2" in
  "image inspect") echo "elsewhere/x@{DIGEST}"; n=${{@: -1}}; echo "${{n%:*}}@{DIGEST}";;
esac
"""


def images(tmp_path: Path, **settings: str) -> tuple[str, list[str]]:
    """Run the script with a builder that only notes what it is asked for."""
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    calls = tmp_path / "calls"
    environ = {**os.environ, "DOCKER": str(docker), "CALLS": str(calls), "REGISTRY": "ghcr.io/Example", **settings}
    command = [str(SCRIPTS / "images")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, calls.read_text().splitlines()


def test_both_images_are_pushed_and_told_by_digest(tmp_path: Path) -> None:
    told, calls = images(tmp_path, TAG="one")
    pinned = {key: f"ghcr.io/example/eco-{key}@{DIGEST}" for key in ("operator", "worker")}
    assert dict(line.split("=", 1) for line in told.splitlines()) == pinned
    assert [call for call in calls if call.startswith("push")] == [
        "push ghcr.io/example/eco-operator:one",
        "push ghcr.io/example/eco-worker:one",
    ]


def test_a_pull_request_pushes_nothing(tmp_path: Path) -> None:
    told, calls = images(tmp_path, PUSH="false")
    assert told == ""
    assert [call.split()[0] for call in calls] == ["build", "build"]


def test_the_targets_that_are_built_are_in_the_dockerfiles(tmp_path: Path) -> None:
    _, calls = images(tmp_path, PUSH="false")
    for call in calls:
        words = call.split()
        dockerfile, target = (words[words.index(flag) + 1] for flag in ("--file", "--target"))
        assert f" AS {target}\n" in (ROOT / dockerfile).read_text()


def git(directory: Path, *words: str) -> str:
    told = ("-c", "user.name=tester", "-c", "user.email=tester@example.com", "-c", "init.defaultBranch=main")
    command = ["git", "-C", str(directory), *told, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def checkout(origin: Path, directory: Path) -> Path:
    git(origin, "clone", "--quiet", str(origin), str(directory))
    return directory / "charts" / "waste" / "values-dev.yaml"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with this tree's scripts and one values file, on its branch main."""
    seed, bare = tmp_path / "seed", tmp_path / "origin.git"
    (seed / ".ci").mkdir(parents=True)
    (seed / "charts" / "waste").mkdir(parents=True)
    for name in ("bump", "commit-pins"):
        (seed / ".ci" / name).write_bytes((SCRIPTS / name).read_bytes())
        (seed / ".ci" / name).chmod(0o755)
    (seed / "charts" / "waste" / "values-dev.yaml").write_text("environment: dev\n")
    git(seed, "init", "--quiet")
    git(seed, "add", ".")
    git(seed, "commit", "--quiet", "--message", "Begin")
    git(tmp_path, "clone", "--quiet", "--bare", str(seed), str(bare))
    return bare


def commit_pins(directory: Path) -> None:
    subprocess.run([str(directory / ".ci" / "commit-pins")], capture_output=True, timeout=30, check=True)


def test_pins_are_committed_even_when_somebody_else_pushed_in_between(origin: Path, tmp_path: Path) -> None:
    values = checkout(origin, tmp_path / "bot")
    other = checkout(origin, tmp_path / "other").parents[2]
    (other / "note").write_text("meanwhile\n")
    git(other, "add", "note")
    git(other, "commit", "--quiet", "--message", "Note")
    git(other, "push", "--quiet", "origin", "HEAD:main")
    subprocess.run([str(tmp_path / "bot" / ".ci" / "bump"), str(values), f"r/x@{DIGEST}"], check=True, timeout=20)
    commit_pins(tmp_path / "bot")
    assert git(origin, "log", "--format=%s", "main").splitlines()[0] == "Pin the images of dev by digest"
    assert DIGEST in git(origin, "show", "main:charts/waste/values-dev.yaml")
    assert git(origin, "show", "main:note") == "meanwhile\n"


def test_pins_that_did_not_change_make_no_commit(origin: Path, tmp_path: Path) -> None:
    checkout(origin, tmp_path / "bot")
    commit_pins(tmp_path / "bot")
    assert git(origin, "log", "--format=%s", "main").splitlines() == ["Begin"]
