"""`python -m eco_crds [DIRECTORY ...]` writes the CustomResourceDefinitions, one file a kind.

A chart can only carry files of its own directory, so they are written twice: for people and for the chart.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from eco_crds.schema import KINDS, Kind, custom_resource_definition

HEADER = "# Generated from crds/eco_crds by `python -m eco_crds`; change the models, not this file.\n"


class _Dumper(yaml.SafeDumper):
    """Every mapping in full: an alias would save a line and puzzle the reader."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the signature is PyYAML's
        return True


def render(kind: Kind) -> str:
    """The file of a kind, byte for byte as it is committed."""
    document = custom_resource_definition(kind)
    return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)


def main(arguments: list[str] | None = None) -> int:
    """Write all manifests and name each file that was written."""
    root = Path(__file__).resolve().parents[2]
    everywhere = [root / "crds" / "manifests", root / "charts" / "eco-operator" / "files" / "crds"]
    parser = argparse.ArgumentParser(prog="python -m eco_crds", description="Write the CustomResourceDefinitions.")
    where = "where to; crds/manifests and the operator's chart when not given"
    parser.add_argument("directory", nargs="*", type=Path, default=everywhere, help=where)
    for directory in parser.parse_args(arguments).directory:
        directory.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            path = directory / f"{kind.crd_name}.yaml"
            path.write_text(render(kind), encoding="utf-8")
            sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
