"""Which figures does a page show? What stands between its marks is written from a report, so it says what was measured.

``<!-- bench: 6 -->`` begins the tables of that row, and ``<!-- bench: end -->`` ends them. Instead of a number it is a
comparison's title, ``targets`` for all targets, ``costs`` for what is compared with nothing, or ``machine``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.bench import charts
from tests.bench.showing import MARKS, asked, column, number, spread, told

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.bench.comparing import Comparison
    from tests.bench.report import Report

MARKED = re.compile(r"(<!-- bench: (?!end)(.+?) -->\n).*?(<!-- bench: end -->)", re.DOTALL)
LEFT_OUT = ("longest",)
"""Figures that only the terminal shows."""


def filled(page: str, report: Report) -> str:
    """Return the page with the report's figures; a mark of what wasn't measured is an error."""
    return MARKED.sub(lambda found: found[1] + "\n".join([*_block(found[2], report), found[3]]), page)


def _block(asked_for: str, report: Report) -> list[str]:
    if asked_for == "targets":
        return _targets(report)
    if asked_for == "costs":
        return _table(
            ["what", "measured"],
            (
                [each.name, f"{number(each.value)} {each.unit}".strip() + _span(each.least, each.most)]
                for each in report.figures
            ),
        )
    if asked_for == "machine":
        return _table(["what", "which"], ([name, str(value)] for name, value in report.machine.items()))
    found = [each for each in report.comparisons if asked_for in (str(each.number), each.title)]
    if not found:
        raise ValueError(f"the report has nothing for the mark {asked_for!r}")
    return [line for each in found for line in _comparison(each)]


def _comparison(comparison: Comparison) -> list[str]:
    names = list(dict.fromkeys(name for row in comparison.rows for name in row.figures))
    hidden = {"rate", "time", comparison.figure, *LEFT_OUT}
    others = [name for name in names if name not in hidden]
    heads = [column(name, comparison.unit) for name in (comparison.figure, *others)]
    rows = [
        [
            row.way,
            number(row.figures[comparison.figure].median),
            spread(row.ratio),
            *(number(row.figures[name].median) if name in row.figures else "" for name in others),
        ]
        for row in comparison.rows
    ]
    said = [f"- {told(each, comparison.unit)}" for each in comparison.verdicts]
    title = comparison.title[0].upper() + comparison.title[1:]
    return [
        "",
        f"{title}:",
        "",
        *_table(["way", heads[0], "ratio", *heads[1:]], rows),
        *(said and [*said, ""]),
        f"```{{picture}} bench/{charts.name(comparison)}",
        "```",
        "",
    ]


def _targets(report: Report) -> list[str]:
    rows = (
        [
            str(each.number or ""),
            each.title,
            verdict.target.way,
            asked(verdict.target, each.unit),
            f"{spread(verdict.found)} {MARKS[verdict.kept]}",
        ]
        for each in report.in_order()
        for verdict in each.verdicts
    )
    return _table(["row", "workload", "way", "target", "found"], rows)


def _span(least: float, most: float) -> str:
    return f" ({number(least)} to {number(most)})" if least != most else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["", *(f"| {' | '.join(line)} |" for line in lines), ""]
