"""What Argo CD is given to read: repositories with commits, and its own settings."""

import subprocess
from pathlib import Path

import pytest

from eco_crds import contract
from eco_lab import argocd
from eco_lab.errors import CommandError
from eco_lab.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(cache=tmp_path / "cache", state=tmp_path / "state")
    argocd.repositories(made).mkdir(parents=True)
    return made


@pytest.fixture
def content(tmp_path: Path) -> Path:
    made = tmp_path / "content"
    (made / "charts").mkdir(parents=True)
    (made / "charts" / "values.yaml").write_text("replicas: 1\n")
    return made


def commits(url: str) -> list[str]:
    command = ["git", f"--git-dir={url.removeprefix('file://')}", "log", "--format=%s", "main"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def shown(url: str, path: str) -> str:
    command = ["git", f"--git-dir={url.removeprefix('file://')}", "show", f"main:{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_each_change_is_a_commit_on_top_of_the_last(paths: Paths, content: Path) -> None:
    url = argocd.publish(paths, "waste", content, message="First")
    (content / "charts" / "values.yaml").write_text("replicas: 2\n")
    (content / "charts" / "new.yaml").write_text("{}\n")
    assert argocd.publish(paths, "waste", content, message="Second") == url
    assert commits(url) == ["Second", "First"]
    assert shown(url, "charts/values.yaml") == "replicas: 2\n"
    (content / "charts" / "new.yaml").unlink()
    argocd.publish(paths, "waste", content, message="Third")
    with pytest.raises(subprocess.CalledProcessError):
        shown(url, "charts/new.yaml")


def test_the_same_content_makes_no_commit(paths: Paths, content: Path) -> None:
    url = argocd.publish(paths, "waste", content, message="First")
    argocd.publish(paths, "waste", content, message="Again")
    assert commits(url) == ["First"]


def test_a_repository_that_cannot_be_read_is_an_error_that_says_so(paths: Paths, content: Path) -> None:
    (argocd.repositories(paths) / "waste.git").write_text("no repository")
    with pytest.raises(CommandError, match="git"):
        argocd.publish(paths, "waste", content, message="First")


def test_the_settings_know_the_health_of_our_kinds_and_no_password() -> None:
    found = {item["kind"]: item for item in argocd.settings({f"resource.customizations.health.{contract.GROUP}_X": ""})}
    assert set(found) == {"ConfigMap", "Secret", "AppProject"}
    assert all(item["metadata"]["namespace"] == argocd.NAMESPACE for item in found.values())
    assert f"resource.customizations.health.{contract.GROUP}_X" in found["ConfigMap"]["data"]
