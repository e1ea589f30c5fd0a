"""`python -m eco_crds [DIRECTORY]` writes the CustomResourceDefinitions, one file a kind."""

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
    parser = argparse.ArgumentParser(prog="python -m eco_crds", description="Write the CustomResourceDefinitions.")
    default = Path(__file__).resolve().parent.parent / "manifests"
    parser.add_argument("directory", nargs="?", type=Path, default=default, help="where to (default: %(default)s)")
    directory: Path = parser.parse_args(arguments).directory
    directory.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        path = directory / f"{kind.crd_name}.yaml"
        path.write_text(render(kind), encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
