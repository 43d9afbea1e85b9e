"""How results are shown to people: a table for each workload, one of all targets, and what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from tests.bench.workloads import CALLS, Figure

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import RenderableType

    from tests.bench.comparing import Comparison, Spread, Verdict
    from tests.bench.report import Report
    from tests.bench.workloads import Target

UNITS = {"time": "time, µs", "cpu": "CPU, µs", **{name: f"{name}, ms" for name in CALLS}}
"""Of the figures that have a unit by themselves; a rate has that of its workload, and others have it in their names."""
PLAIN: dict[str, Any] = {"title_justify": "left", "box": SIMPLE, "pad_edge": False}
BOUNDS = {"at most": "≤", "at least": "≥"}
MARKS = {True: "✓", False: "✗"}


def table(result: Comparison | Figure) -> RenderableType:
    """Return a comparison's table with its verdicts below, or a figure's line."""
    if isinstance(result, Figure):
        return line(result)
    shown = Table(title=heading(result), **PLAIN)
    shown.add_column("way")
    names = list(dict.fromkeys(name for row in result.rows for name in row.figures if name not in _hidden(result)))
    for name in (column(name, result.unit) for name in names):
        shown.add_column(name, justify="right")
    shown.add_column("ratio", justify="right", no_wrap=True)
    for row in result.rows:
        found = [row.figures.get(name) for name in names]
        shown.add_row(row.way, *("" if each is None else number(each.median) for each in found), spread(row.ratio))
    return Group(shown, *(told(each, result.unit) for each in result.verdicts), "")


def _hidden(result: Comparison) -> Collection[str]:
    """Return what says the same as another figure, or nothing where a way's own figures count."""
    return {"rate": ["time"], "time": ["rate"], "cpu": ["rate"]}.get(result.figure, ["rate", "time"])


def heading(result: Comparison) -> str:
    """Return the title with the number of the row."""
    return f"{result.number}. {result.title}" if result.number else result.title


def column(name: str, unit: str) -> str:
    """Return what heads a figure's column."""
    if name == "rate":
        return f"{unit}/s"
    return UNITS.get(name, name)


def line(figure: Figure) -> str:
    """Return a figure with its spread."""
    value, least, most = (f"{each:,.2f}" for each in (figure.value, figure.least, figure.most))
    return f"{figure.name}: {value} {figure.unit}" + (f" ({least} to {most})" if least != most else "")


def number(value: float) -> str:
    """Return the number with as many digits as one reads."""
    size = abs(value)
    if 0 < size < 0.1:
        return f"{value:.2g}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def spread(found: Spread) -> str:
    """Return the median, and the extremes if there are any."""
    median, least, most = (number(each) for each in (found.median, found.least, found.most))
    return median if median == least == most else f"{median} ({least} to {most})"


def asked(target: Target, unit: str) -> str:
    """Return what is asked of a way, without the way."""
    name = column(target.figure, unit)
    limit = f"{BOUNDS[target.bound]} {number(target.limit)}"
    if target.against is None:
        return f"{name} {limit}"
    return f"{name} {limit} {'above' if target.above else '×'} {target.against}"


def told(verdict: Verdict, unit: str) -> str:
    """Return a line with what was asked, what was found, and the mark."""
    target = verdict.target
    return f"{MARKS[verdict.kept]} {target.way}: {asked(target, unit)}: {spread(verdict.found)}"


def summary(report: Report) -> Table:
    """Return one table with a line for each target."""
    shown = Table(title="all targets", **PLAIN)
    for name in ("row", "workload", "way"):
        shown.add_column(name)
    for name in ("found", "target"):
        shown.add_column(name, justify="right")
    shown.add_column("")
    for each in report.in_order():
        for verdict in each.verdicts:
            target = verdict.target
            found = spread(verdict.found)
            shown.add_row(
                str(each.number or ""), each.title, target.way, found, asked(target, each.unit), MARKS[verdict.kept]
            )
    return shown


def before_and_after(before: Report, after: Report) -> Table:
    """Return one table with a line for each target that both runs have."""
    earlier = {(each.title, verdict.target): verdict for each in before.comparisons for verdict in each.verdicts}
    shown = Table(title="before and after", **PLAIN)
    for name in ("row", "workload", "way", "target", "before", "after", ""):
        shown.add_column(name)
    for each in after.in_order():
        for verdict in each.verdicts:
            if (old := earlier.get((each.title, verdict.target))) is not None:
                found = spread(old.found), spread(verdict.found), MARKS[verdict.kept]
                shown.add_row(
                    str(each.number or ""), each.title, verdict.target.way, asked(verdict.target, each.unit), *found
                )
    return shown
