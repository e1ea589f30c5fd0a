"""The table of values in a chart's README, made from the comments of its `values.yaml`.

A comment stands above its value. A mapping that has entries is opened and its entries are listed, unless it has a
comment of its own and none of its entries has one: then it is one value to the reader.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

BEGIN: Final = "<!-- values: written by `python -m eco_crds` from values.yaml -->\n"
END: Final = "<!-- end of values -->"
DEFAULT_LENGTH_MAX: Final = 60
_KEY: Final = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")


def with_values(readme: str, values: str) -> str:
    """The README with the table as `values.yaml` has it now; a README without the marks is left as it is."""
    before, begin, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{begin}{table(values)}{END}{after}" if begin else readme


def table(values: str) -> str:
    """The table of all values."""
    rows = [f"| `{path}` | {default} | {meaning} |\n" for path, default, meaning in _rows(values)]
    return "| Value | Default | Meaning |\n|---|---|---|\n" + "".join(rows)


def _rows(values: str) -> Iterator[tuple[str, str, str]]:
    document = yaml.safe_load(values)
    comments = _comments(values)
    for path, value in _leaves(document, comments, ""):
        yield path, _shown(value), comments.get(path, "")


def _leaves(node: dict[str, Any], comments: dict[str, str], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        path = f"{prefix}{name}"
        told_below = any(known.startswith(f"{path}.") for known in comments)
        if isinstance(value, dict) and value and (told_below or path not in comments):
            if path in comments:
                yield path, ...
            yield from _leaves(value, comments, f"{path}.")
        else:
            yield path, value


def _shown(value: Any) -> str:
    if value is ... or value is None or value == "":
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if len(text) <= DEFAULT_LENGTH_MAX else "see `values.yaml`"


def _comments(values: str) -> dict[str, str]:
    """Comment of each value by its path."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in values.splitlines():
        matched = _KEY.match(line)
        if line.lstrip().startswith("#"):
            comment.append(line.strip(" #"))
        elif matched is None:
            comment = []
        else:
            indent = len(matched[1])
            path = [it for it in path if it[0] < indent] + [(indent, matched[2])]
            if comment:
                found[".".join(name for _, name in path)] = " ".join(comment).replace("|", "\\|")
            comment = []
    return found
