"""The tree keeps its own rules: layout, names, reasons, links."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"operator", "crds", "workers", "charts", "infra", "tests", "changes", "build"}
FILES = {
    "pyproject.toml",
    "README.md",
    "Makefile",
    "requirements.lock",
    "LICENSE",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "uv.lock",
}


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_the_operator_folder_never_shadows_the_standard_library() -> None:
    """`operator/__init__.py` would be imported in place of the standard library's `operator` and break Python."""
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_the_top_level_holds_only_what_it_should() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in found if not name.startswith(".")} <= FOLDERS | FILES


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in tracked("*.py") if path.stem in vague or set(path.parent.parts) & vague]


def test_each_exception_to_a_rule_carries_its_reason() -> None:
    """`# noqa: X` and `# type: ignore[x]` are followed by half a line that says why."""
    bare = re.compile(r"#\s*(?:noqa(?::\s*[A-Z0-9, ]+)?|type:\s*ignore(?:\[[\w\-, ]+\])?)\s*$")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]
    assert not found


def test_every_package_says_what_belongs_in_it() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked("*__init__.py")
        if "tests" not in path.parts and not path.read_text().lstrip().startswith('"""')
    ]
    assert not silent


def links(text: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in target]


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    assert not [target for target in links(page.read_text()) if not (page.parent / target).exists()]


def test_no_test_sleeps_for_a_fixed_time_in_the_unit_layer() -> None:
    sleeping = re.compile(r"\btime\.sleep\(")
    assert not [path for path in tracked("tests/unit/*.py") if sleeping.search(path.read_text())]


def test_the_commands_of_the_readme_exist() -> None:
    """Each `make NAME` of the README is a target of the Makefile."""
    wanted = set(re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / "README.md").read_text()))
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z -]*):", makefile, re.MULTILINE))
    names = {name for line in targets for name in line.split()}
    prefixes = tuple(re.findall(r"^([a-z-]+-)%:", makefile, re.MULTILINE))
    assert not {name for name in wanted if name not in names and not name.startswith(prefixes)}
