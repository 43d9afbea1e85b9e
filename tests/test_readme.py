"""The first page: every snippet runs, prints what the page shows, and its tables agree with the code."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from examples.departures import report
from examples.departures.publishing import Score
from examples.departures.readers import Seen
from wd_di import PoolSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di.testing import MockKafka

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PLACEHOLDER = "localhost:9092"
FILE = re.compile(r"# (\S+\.py)\n")
TESTS = re.findall(r"^def (test_\w+)", README.read_text(), re.MULTILINE)


class Page:
    """Runs the page's blocks in their order, and keeps what the last one printed.

    A block that begins with a file's name is a file; ``localhost:9092`` is the mock cluster.
    """

    def __init__(self, kafka: MockKafka, capsys: pytest.CaptureFixture[str]) -> None:
        self._kafka = kafka
        self._capsys = capsys
        self._printed: str | None = None
        self.compared = 0

    def python(self, example: Example) -> None:
        self._nothing_left()
        if not FILE.match(example.parsed):
            exec(compile(self._located(example), str(README), "exec"), {})  # noqa: S102  (our own page)
            self._printed = self._capsys.readouterr().out or None

    def console(self, example: Example) -> None:
        self._nothing_left()
        lines = self._located(example).replace("python ", f"'{sys.executable}' ")
        shell = subprocess.run(["/bin/sh", "-ec", lines], capture_output=True, text=True, timeout=30, check=False)
        assert (0, "") == (shell.returncode, shell.stderr)
        self._printed = shell.stdout

    def text(self, example: Example) -> None:
        if self._printed is not None:
            assert self._printed.splitlines() == example.parsed.splitlines()
            self._printed = None
            self.compared += 1

    def _located(self, example: Example) -> str:
        return str(example.parsed).replace(PLACEHOLDER, self._kafka.bootstrap_servers)

    def _nothing_left(self) -> None:
        assert self._printed is None, "the page doesn't show what this block prints"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files in a folder from which they can be imported."""
    for source in _blocks("python"):
        if named := FILE.match(source):
            path = tmp_path / named[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def test_snippets_print_what_the_page_shows(shop, mock_kafka, capsys):
    """Every block runs, in the order of the page, and prints exactly the block of text below it."""
    page = Page(mock_kafka, capsys)
    languages = {"python": page.python, "console": page.console, "text": page.text}
    document = Sybil([CodeBlockParser(name, evaluate) for name, evaluate in languages.items()]).parse(README)

    for example in document.examples():
        example.evaluate()

    assert 3 == page.compared


@pytest.mark.parametrize("name", TESTS)
def test_its_tests_pass(name, shop, request):
    """The page's own tests pass, with the fixtures that they name."""
    source = next(source for source in _blocks("python") if f"def {name}(" in source)
    names: dict[str, Any] = {}
    exec(compile(source, str(README), "exec"), names)  # noqa: S102  (our own page)

    names[name](*map(request.getfixturevalue, inspect.signature(names[name]).parameters))


def test_the_demos_table_is_real():
    """The table on the page is the one that the demo prints for its day."""
    score = Score()
    score.committed, score.aborted = 458, 472
    out = StringIO()
    Console(file=out, width=80).print(report.counts(score, Seen(read_committed=916, read_uncommitted=1860)))

    [shown] = [text for text in _blocks("text") if "by the application" in text]

    assert _lines(out.getvalue()) == _lines(shown)


def test_the_settings_table_is_complete():
    """The table lists every field of PoolSettings in its order, with its default."""
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \|$", README.read_text(), re.MULTILINE)

    assert [(name, repr(field.default)) for name, field in PoolSettings.model_fields.items()] == rows


def test_links_lead_somewhere():
    """What the page links to in the repository is there."""
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", README.read_text())

    assert [] == [target for target in targets if not (ROOT / target).exists()]


def _blocks(language: str) -> list[str]:
    parsed = Sybil([CodeBlockParser(language, lambda _: None)]).parse(README)
    return [str(example.parsed) for example in parsed.examples()]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]
