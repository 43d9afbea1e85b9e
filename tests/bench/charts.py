"""How a comparison becomes a picture: a bar for each way's ratio, and a mark where its target is.

The pictures are text, one for light pages and one for dark. Nothing is asked of the machine, so that the same figures
always give the same bytes; they are 400 pixels wide, which a phone shows as they are.
"""

from __future__ import annotations

import re
import textwrap
from html import escape
from typing import TYPE_CHECKING

from tests.bench.showing import BOUNDS, MARKS, asked, column, heading, number, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.bench.comparing import Comparison, Row, Verdict
    from tests.bench.report import Report

WIDTH, EDGE, LINE, BAR, GAP = 400, 8, 18, 14, 10
PLOT = 316
"""Pixels of the longest bar; the rest of the width is for the number behind it."""
CUT = 5
"""How many times longer than what matters a bar is at most."""
TITLE_COLUMNS, WAY_COLUMNS = 52, 58
THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {"words": "#1f2328", "less": "#57606a", "base": "#afb8c1", "bar": "#54aeff", "spread": "#0a3069",
              "kept": "#1a7f37", "missed": "#cf222e"},
    "dark": {"words": "#f0f3f6", "less": "#c9d1d9", "base": "#57606a", "bar": "#1f6feb", "spread": "#c2dfff",
             "kept": "#3fb950", "missed": "#ff7b72"},
}  # fmt: skip
STYLE = (
    "<style>text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif}"
    ".title{font-size:13px;font-weight:600}.way{font-size:13px}</style>"
)


def draw(report: Report, folder: Path) -> dict[Path, str]:
    """Return the pictures of a report by their files."""
    return {
        folder / f"{name(each)}-{theme}.svg": svg(each, theme)
        for each in report.comparisons
        for theme in THEMES
        if len(each.rows) > 1
    }


def name(comparison: Comparison) -> str:
    """Return what the files are called, but for the theme."""
    return re.sub(r"[^a-z0-9]+", "-", heading(comparison).lower().replace(",", "")).strip("-")


def svg(comparison: Comparison, theme: str) -> str:
    """Return the picture in the theme's colours."""
    colours = THEMES[theme]
    scale = PLOT / _longest(comparison)
    parts: list[str] = []
    y = EDGE
    for part in textwrap.wrap(heading(comparison), TITLE_COLUMNS):
        parts.append(_text(EDGE, y + 13, part, colours["words"], "title"))
        y += LINE
    for part in textwrap.wrap(_measure(comparison), WAY_COLUMNS):
        parts.append(_text(EDGE, y + 12, part, colours["less"]))
        y += LINE
    for row in comparison.rows:
        y += GAP
        for part in textwrap.wrap(row.way, WAY_COLUMNS):
            parts.append(_text(EDGE, y + 12, part, colours["words"], "way"))
            y += LINE
        parts += _bar(row, y, scale, colours, "base" if row is comparison.rows[0] else "bar")
        limits = list(_limits(comparison, row))
        parts += [_mark(limit, verdict, y, scale, colours) for limit, verdict in limits if limit * scale <= PLOT]
        y += BAR
        for limit, verdict in limits:
            for part in textwrap.wrap(_asked(limit, verdict), WAY_COLUMNS):
                parts.append(_text(EDGE, y + 14, part, colours["kept" if verdict.kept else "missed"]))
                y += LINE
    height = y + EDGE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">'
    )
    told = f"<title>{escape(heading(comparison))}</title>\n<desc>{escape(_told(comparison))}</desc>"
    return "\n".join([head, told, STYLE, *parts, "</svg>\n"])


def _measure(comparison: Comparison) -> str:
    better = "more is better" if comparison.figure == "rate" else "less is better"
    base = comparison.rows[0]
    value = number(base.figures[comparison.figure].median)
    return f"{column(comparison.figure, comparison.unit)}: the first has {value} and counts as 1; {better}"


def _longest(comparison: Comparison) -> float:
    """Return the ratio of the longest bar. What is many times longer than the ways that matter is cut off there."""
    first, *others = comparison.rows
    asked_of = {verdict.target.way for verdict in comparison.verdicts}
    matter = [row.ratio.median for row in others if row.way in asked_of or not asked_of]
    longest = max(row.ratio.median for row in comparison.rows)
    return min(longest, CUT * max([first.ratio.median, *matter]))


def _limits(comparison: Comparison, row: Row) -> Iterator[tuple[float, Verdict]]:
    """Give this way's targets as multiples of the first way; those of another figure have no place in the picture."""
    medians = {each.way: each.figures[comparison.figure].median for each in comparison.rows}
    base = medians[comparison.rows[0].way]
    for verdict in comparison.verdicts:
        target = verdict.target
        if target.way == row.way and target.figure == comparison.figure:
            if target.against is None:
                yield target.limit / base, verdict
            elif target.above:
                yield (medians[target.against] + target.limit) / base, verdict
            else:
                yield target.limit * medians[target.against] / base, verdict


def _bar(row: Row, y: int, scale: float, colours: Mapping[str, str], kind: str) -> list[str]:
    """Return the bar, a thin line from the least to the most of a round, and the number."""
    wide = min(max(1.0, row.ratio.median * scale), PLOT)
    parts = [f'<rect x="{EDGE}" y="{y}" width="{wide:.1f}" height="{BAR}" rx="2" fill="{colours[kind]}"/>']
    least, most = (min(each * scale, PLOT) for each in (row.ratio.least, row.ratio.most))
    if most - least > 1:
        path = f"M{EDGE + least:.1f} {y + BAR / 2:g}H{EDGE + most:.1f}"
        parts.append(f'<path d="{path}" stroke="{colours["spread"]}" stroke-width="1.5"/>')
    shown = number(row.ratio.median) + (" …" if row.ratio.median * scale > PLOT + 1 else "")
    return [*parts, _text(EDGE + max(wide, most) + 6, y + 11.5, shown, colours["words"])]


def _mark(limit: float, verdict: Verdict, y: int, scale: float, colours: Mapping[str, str]) -> str:
    """Return a line through the bar where the target is."""
    colour = colours["kept" if verdict.kept else "missed"]
    path = f"M{EDGE + limit * scale:.1f} {y - 3}V{y + BAR + 3}"
    return f'<path d="{path}" stroke="{colour}" stroke-width="2.5"/>'


def _asked(limit: float, verdict: Verdict) -> str:
    """Return what stands below the bar, as a multiple of the first way, too."""
    target = verdict.target
    said = f"{MARKS[verdict.kept]} asked: {BOUNDS[target.bound]} {number(limit)}"
    if target.against is None:
        return f"{said} (which is {number(target.limit)})"
    if target.above:
        return f"{said} ({number(target.limit)} above {target.against})"
    return said if target.limit == limit else f"{said} ({number(target.limit)} × {target.against})"


def _text(x: float, y: float, words: str, colour: str, kind: str = "") -> str:
    given = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:g}" fill="{colour}"{given}>{escape(words, quote=False)}</text>'


def _told(comparison: Comparison) -> str:
    """Return the same for those who can't see it."""
    ways = "; ".join(f"{row.way}: {spread(row.ratio)}" for row in comparison.rows)
    verdicts = "".join(
        f" Of {each.target.way} is asked: {asked(each.target, comparison.unit)}; it is "
        f"{spread(each.found)}, which is {'kept' if each.kept else 'missed'}."
        for each in comparison.verdicts
    )
    return f"{_measure(comparison)}. {ways}.{verdicts}"
