"""`python -m eco_crds` writes what is generated from the models; `--check` compares instead, and writes nothing."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from eco_crds import argocd, conditions
from eco_crds.chart_readme import with_values
from eco_crds.schema import KINDS, Kind, Node, custom_resource_definition
from eco_crds.values_schema import values_schema, with_definitions

TABLE_BEGIN = "<!-- conditions: written by `python -m eco_crds` -->\n"
TABLE_END = "\n<!-- end of conditions -->"
HEADER = "# Generated from crds/eco_crds by `python -m eco_crds`; change the models, not this file.\n"


class _Dumper(yaml.SafeDumper):
    """Every mapping in full: an alias would save a line and puzzle the reader."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the signature is PyYAML's
        return True


def render(kind: Kind) -> str:
    """The file of a kind, byte for byte as it is committed."""
    document = custom_resource_definition(kind)
    return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)


def with_table(readme: str) -> str:
    """The README with the table of conditions as the code has it now."""
    before, _, rest = readme.partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    return f"{before}{TABLE_BEGIN}{conditions.as_markdown()}{TABLE_END}{after}"


def manifests(directory: Path) -> dict[Path, str]:
    """The definitions of both kinds, as files of a directory."""
    return {directory / f"{kind.crd_name}.yaml": render(kind) for kind in KINDS}


def generated(root: Path) -> dict[Path, str]:
    """Every generated file of the tree below `root` with the text it must have."""
    charts = root / "charts"
    readme = root / "crds" / "README.md"
    files = manifests(root / "crds" / "manifests") | manifests(charts / "eco-operator" / "files" / "crds")
    files[readme] = with_table(readme.read_text(encoding="utf-8"))
    scripts = charts / "eco-operator" / "argocd"
    files[scripts / argocd.PATCH] = argocd.patch(scripts)
    for chart in sorted(charts.glob("*/Chart.yaml")):
        text = (chart.parent / "README.md").read_text(encoding="utf-8")
        values = (chart.parent / "values.yaml").read_text(encoding="utf-8")
        files[chart.parent / "README.md"] = with_values(text, values)
        schema = chart.parent / "values.schema.json"
        if chart.parent.name == "eco-worker":
            files[schema] = _json(values_schema())
        elif '"ecoWorkerSpec"' in (written := schema.read_text(encoding="utf-8")):
            files[schema] = _json(with_definitions(json.loads(written)))
    return files


def _json(document: Node) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write all files, or compare them, and name each."""
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(prog="python -m eco_crds", description="Write what is generated from the models.")
    where = "write only the two definitions, and there"
    parser.add_argument("directory", nargs="*", type=Path, help=where)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when a file is out of date")
    asked = parser.parse_args(arguments)
    files: dict[Path, str] = {}
    for directory in asked.directory:
        files |= manifests(directory)
    if not asked.directory:
        files = generated(root)
    if asked.check:
        stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
        sys.stdout.writelines(f"out of date: {path}; run `python -m eco_crds`\n" for path in stale)
        return 1 if stale else 0
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
