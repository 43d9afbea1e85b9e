"""The first page: every snippet runs, prints what the page shows, and its tables agree with the code."""

from __future__ import annotations

import inspect
import re
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from examples.departures import report
from examples.departures.publishing import Score
from examples.departures.readers import Seen
from tests.pages import ROOT, SOURCE, Page, blocks, dead_links, in_folder, relative_links
from wd_di import PoolSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = ROOT / "README.md"
TESTS = re.findall(r"^def (test_\w+)", README.read_text(), re.MULTILINE)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files in a folder from which they can be imported."""
    with in_folder(README, tmp_path, monkeypatch) as folder:
        yield folder


def test_snippets_print_what_the_page_shows(shop, mock_kafka, capsys):
    """Every block runs, in the order of the page, and prints exactly the block of text below it."""
    page = Page(README, mock_kafka, capsys)

    page.run()

    assert 5 == page.compared


@pytest.mark.parametrize("name", TESTS)
def test_its_tests_pass(name, shop, request):
    """The page's own tests pass, with the fixtures that they name."""
    source = next(source for source in blocks(README, "python") if f"def {name}(" in source)
    names: dict[str, Any] = {}
    exec(compile(source, str(README), "exec"), names)  # noqa: S102  (our own page)

    names[name](*map(request.getfixturevalue, inspect.signature(names[name]).parameters))


def test_the_demos_table_is_real():
    """The table on the page is the one that the demo prints for its day."""
    score = Score()
    score.committed, score.aborted = 458, 472
    out = StringIO()
    Console(file=out, width=80).print(report.counts(score, Seen(read_committed=916, read_uncommitted=1860)))

    [shown] = [text for text in blocks(README, "text") if "by the application" in text]

    assert _lines(out.getvalue()) == _lines(shown)


def test_the_settings_table_is_complete():
    """The table lists every field of PoolSettings in its order, with its default."""
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \|$", README.read_text(), re.MULTILINE)

    assert [(name, repr(field.default)) for name, field in PoolSettings.model_fields.items()] == rows


def test_its_figures_are_those_of_the_tables():
    """What it says of speed is in the tables of `make bench` on the page that it links to."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| (\d+\.\d\d) \(", (ROOT / "docs" / "when.md").read_text(), re.MULTILINE)
    tables: dict[str, list[str]] = {}
    for way, ratio in rows:
        tables.setdefault(way, []).append(ratio)
    said = " ".join(README.read_text().partition("## When not to use a pool")[2].partition("\n## ")[0].split())

    (raw, raws), (own, owns), (shared, shareds) = (
        tables[way] for way in ("one for each thread, flushed", "wd_di: size=threads", "wd_di: size=1, share=32")
    )
    assert f"each of 8 threads that wait for each record had {raw} times the throughput, and {own} times" in said
    assert f"each of 32 threads {raws} and {owns} times" in said
    assert f"`share=32`. That had {shared} times the throughput with 8 threads and {shareds} times with 32" in said
    one, three = map(float, tables["8 threads, wd_di: size=8"])
    assert f"commit {one:.1f} times" in said
    assert f"on three brokers {three:.0f} times" in said


def test_links_lead_somewhere():
    """What the page links to in the repository is there, and so is the heading if it names one."""
    assert [] == dead_links(README)


def test_links_work_on_the_package_index():
    """The page stands there, too, where a relative link leads nowhere."""
    assert [] == relative_links(README)


def test_the_first_screen_has_its_picture():
    """The life of a transaction is there for light and for dark pages, served as a picture and not as a page."""
    shown = re.findall(r'(?:src|srcset)="([^"]+)"', README.read_text().partition("\n## ")[0])

    assert [f"{SOURCE}/raw/main/docs/pictures/transaction-{theme}.svg" for theme in ("dark", "light")] == shown


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]
