"""`python -m eco_crds [DIRECTORY ...]` writes the CustomResourceDefinitions, one file a kind.

A chart can only carry files of its own directory, so they are written twice: for people and for the chart. Without a
directory the table of conditions in the README is written anew as well.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from eco_crds import conditions
from eco_crds.schema import KINDS, Kind, custom_resource_definition

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


def main(arguments: list[str] | None = None) -> int:
    """Write all manifests and name each file that was written."""
    root = Path(__file__).resolve().parents[2]
    everywhere = [root / "crds" / "manifests", root / "charts" / "eco-operator" / "files" / "crds"]
    parser = argparse.ArgumentParser(prog="python -m eco_crds", description="Write the CustomResourceDefinitions.")
    where = "where to; crds/manifests and the operator's chart when not given"
    parser.add_argument("directory", nargs="*", type=Path, default=everywhere, help=where)
    directories: list[Path] = parser.parse_args(arguments).directory
    if directories == everywhere:
        readme = root / "crds" / "README.md"
        readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            path = directory / f"{kind.crd_name}.yaml"
            path.write_text(render(kind), encoding="utf-8")
            sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
