"""The figures of the pages are those of `make bench`: what its JSON gives stands there, in words and in pictures."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from rich.console import Console

from tests.bench import charts, pages, showing
from tests.bench.comparing import Comparison, Row, Spread, Verdict
from tests.bench.report import Report
from tests.bench.workloads import Figure, Target
from tests.pages import ROOT

DOCS = ROOT / "docs"
CHARTS = DOCS / "pictures" / "bench"
MEASURED = Report.read(DOCS / "performance.json")
SHOWN = [DOCS / "performance.md", DOCS / "when.md"]
NUMBERS = range(1, 19)


def report(found: float = 2.0) -> Report:
    """A small one: a base, and a way of which three things are asked."""
    asked = [
        Target("ours", "cpu", 2.5, "at most", against="base"),
        Target("ours", "cpu", 3, "at most", against="base", above=True),
        Target("ours", "share", 0.5, "at least"),
    ]
    one = Spread(1, 1, 1)
    rows = [
        Row("base", one, {"rate": Spread(10, 9, 11), "cpu": Spread(4, 4, 4), "share": one}),
        Row(
            "ours",
            Spread(found, 1.5, 3),
            {"rate": Spread(5, 4, 6), "cpu": Spread(8, 6, 12), "share": Spread(0.4, 0.3, 1)},
        ),
    ]
    verdicts = [
        Verdict(each, spread)
        for each, spread in zip(asked, (Spread(found, 1.5, 3), Spread(4, 2, 8), Spread(0.4, 0.3, 1)), strict=True)
    ]
    compared = Comparison(7, "doing & undoing", "deeds", "cpu", rows, verdicts)
    return Report({"cores": 2}, [compared], [Figure("a start", "ms", 3.0, 2.0, 4.0)])


@pytest.mark.parametrize("page", SHOWN, ids=lambda path: path.stem)
def test_the_pages_say_what_was_measured(page):
    """Who measures anew runs `make figures` and commits what it gives."""
    text = page.read_text("utf-8")

    assert pages.filled(text, MEASURED) == text


def test_the_charts_show_what_was_measured():
    """None is missing, none is old, and none is left over."""
    drawn = charts.draw(MEASURED, CHARTS)

    assert drawn == {path: path.read_text("utf-8") for path in sorted(CHARTS.glob("*.svg"))}


def test_the_page_has_every_row():
    """Nothing is measured that isn't shown, and nothing was left out when it was measured."""
    marks = re.findall("<!-- bench: (.+?) -->", (DOCS / "performance.md").read_text("utf-8"))

    assert {*map(str, NUMBERS)} == {each for each in marks if each.isdigit()}
    assert {*NUMBERS} == {each.number for each in MEASURED.comparisons if each.number}


@pytest.mark.parametrize("compared", MEASURED.comparisons, ids=charts.name)
@pytest.mark.parametrize("theme", charts.THEMES)
def test_charts_fit_a_phone_and_are_told_to_who_cannot_see_them(compared, theme):
    """They are XML, 400 pixels wide, and have a title and a description."""
    root = ET.fromstring(charts.svg(compared, theme))  # noqa: S314  (our own)

    assert "400" == root.attrib["width"]
    assert all(root.findtext(f"{{http://www.w3.org/2000/svg}}{name}") for name in ("title", "desc"))


def test_a_chart_has_a_bar_for_each_way_and_a_mark_for_each_target():
    """A mark stands where the target is in multiples of the first way; a target of another figure has none."""
    [compared] = report().comparisons
    drawn = charts.svg(compared, "light")
    marks = [float(x) for x in re.findall(r'<path d="M([\d.]+) [\d.]+V', drawn)]

    assert [charts.PLOT / 2, charts.PLOT] == [float(wide) for wide in re.findall(r'<rect .*? width="([\d.]+)"', drawn)]
    assert [charts.EDGE + charts.PLOT * 1.75 / 2] == marks
    assert "✓ asked: ≤ 2.50" in drawn
    assert "✗ asked: ≤ 1.75 (3.00 above base)" in drawn
    assert "doing &amp; undoing" in drawn
    assert charts.svg(compared, "light") == drawn


def test_what_is_far_longer_than_what_matters_is_cut_off():
    """Otherwise one could see nothing else."""
    [compared] = report(found=1.0).comparisons
    slow = Row("slow", Spread(100, 90, 110), compared.rows[0].figures)
    drawn = charts.svg(replace(compared, rows=[*compared.rows, slow]), "dark")

    assert ">100 …</text>" in drawn
    assert f'width="{charts.PLOT:.1f}"' in drawn


def test_a_report_outlives_its_file(tmp_path):
    """What was written is read again."""
    (tmp_path / "report.json").write_text(json.dumps(report().plain()))

    assert report() == Report.read(tmp_path / "report.json")


def test_a_page_gets_the_figures_between_its_marks():
    """What stood there goes, and what stands around it stays."""
    text = "before\n<!-- bench: 7 -->\nold\n<!-- bench: end -->\nafter <!-- bench: costs -->\n<!-- bench: end -->"
    page = pages.filled(text, report())

    assert page.startswith("before\n<!-- bench: 7 -->\n\nDoing & undoing:\n\n\n| way | CPU, µs | ratio | share |")
    assert "| ours | 8.00 | 2.00 (1.50 to 3.00) | 0.40 |" in page
    assert "- ✗ ours: share ≥ 0.50: 0.40 (0.30 to 1.00)" in page
    assert "```{picture} bench/7-doing-undoing" in page
    assert "| a start | 3.00 ms (2.00 to 4.00) |" in page
    assert "old" not in page
    assert pages.filled(page, report()) == page


def test_a_mark_of_what_was_not_measured_is_an_error():
    """A page would lose its table without a word."""
    with pytest.raises(ValueError, match="'9'"):
        pages.filled("<!-- bench: 9 -->\n<!-- bench: end -->", report())


def test_before_and_after_are_set_side_by_side():
    """By workload and target; what one of them doesn't have is left out."""
    console = Console(width=200)
    with console.capture() as said:
        console.print(showing.before_and_after(report(found=9.0), report()))
        console.print(showing.summary(report()))
        console.print(showing.table(report().comparisons[0]))

    assert "9.00 (1.50 to 3.00)   2.00 (1.50 to 3.00)" in said.get()
    assert "✗ ours: CPU, µs ≤ 3.00 above base: 4.00 (2.00 to 8.00)" in said.get()
    assert 3 == said.get().count("≤ 2.50 × base")
