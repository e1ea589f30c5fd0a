"""Measured figures: one JSON line each in `build/figures.jsonl`, and a table for whoever watches.

A figure is a name, a value and, where one was promised, the target it is held against. The file is appended to and
never rewritten, so several suites may run side by side; the last line of a name is its newest measurement.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

# This package runs from its checkout (an editable install): three folders up is the root of the tree.
ROOT: Final = Path(__file__).resolve().parents[3]
FILE: Final = Path(os.environ.get("ECO_FIGURES", ROOT / "build" / "figures.jsonl"))


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value beside its target and its peer."""

    name: str
    value: float
    unit: str
    target: str | None
    """The bound as text, `>= 0.75` for one; None for a figure that is only reported."""
    ok: bool | None
    """Whether the target was met; None without a target."""
    peer: str | None
    """What the value was measured against in the same run."""
    when: str


_rows: list[Figure] = []


def record(
    name: str, value: float, unit: str, target: str | None = None, ok: bool | None = None, *, peer: str | None = None
) -> Figure:
    """Append one figure to the file and keep it for the table of this run.

    With a target of the form `<op> <number>` and no `ok`, the verdict is worked out from the two.
    """
    if ok is None and target is not None:
        ok = meets(value, target)
    figure = Figure(name, value, unit, target, ok, peer, datetime.now(UTC).isoformat(timespec="seconds"))
    FILE.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(figure), ensure_ascii=False) + "\n"
    # One write of one short line in append mode: lines of two suites do not mix.
    with FILE.open("ab", buffering=0) as out:
        out.write(line.encode())
    _rows.append(figure)
    return figure


def meets(value: float, target: str) -> bool:
    """Whether a value keeps a target such as `>= 0.75`, `<= 3` or `== 0`."""
    operator, _, bound = target.partition(" ")
    limit = float(bound.replace(",", "").replace("_", ""))
    match operator:
        case ">=":
            return value >= limit
        case "<=":
            return value <= limit
        case "==":
            return value == limit
    raise ValueError(f"target {target!r}: want '>= n', '<= n' or '== n'")


def rows() -> tuple[Figure, ...]:
    """Figures recorded by this process, in order."""
    return tuple(_rows)


def missed() -> tuple[Figure, ...]:
    """Figures of this process whose target was not met."""
    return tuple(figure for figure in _rows if figure.ok is False)


def table(figures: tuple[Figure, ...] | None = None) -> str:
    """Figures as aligned text, one line each."""
    lines = [("figure", "value", "unit", "target", "", "peer")]
    for figure in rows() if figures is None else figures:
        verdict = {True: "ok", False: "MISSED", None: ""}[figure.ok]
        lines.append((figure.name, _number(figure.value), figure.unit, figure.target or "", verdict, figure.peer or ""))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    text = (
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {unit:<{widths[2]}}  {target:<{widths[3]}}  "
        f"{verdict:<{widths[4]}}  {peer}".rstrip()
        for name, value, unit, target, verdict, peer in lines
    )
    return "\n".join(text)


def _number(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
