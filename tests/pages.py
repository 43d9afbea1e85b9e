"""How a page of the documentation is run: its files are written, its blocks executed, its output compared."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from wd_di import SettingsWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pytest

    from wd_di.testing import MockKafka

ROOT = Path(__file__).parent.parent
PLACEHOLDER = "localhost:9092"
VARIES = "…"
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
HOMES = (f"{SOURCE}/blob/main/", f"{SOURCE}/raw/main/")
"""Where the repository's files are shown, and where they are served as they are, which pictures need."""
WIDTH = 88
"""How many characters of code the site shows in its column, and GitHub in a window of half a screen."""
WRAPPED = re.compile(r"\n {4}(?=\S)")
CODE = re.compile(r"^ *```(.*)\n((?:.*\n)*?) *```$", re.MULTILINE)
BROUGHT = ("wd_di", "confluent_kafka", "dependency_injector", "pydantic", "pydantic_settings")
INSTALLED = {*sys.stdlib_module_names, *BROUGHT}
"""Modules that whoever has installed wd_di has."""
FILE = re.compile(r"# (\S+\.(?:py|env))\n")


class Page:
    """Runs a page's blocks in their order, and keeps what the last one printed.

    A block that begins with a file's name is a file; ``localhost:9092`` is the mock cluster. What is printed, the
    warnings about settings, and the last line of a traceback must stand in the block of text below, where ``…`` stands
    for what varies, and a line that is indented by four spaces goes on with the one before.
    """

    def __init__(self, path: Path, kafka: MockKafka, capsys: pytest.CaptureFixture[str]) -> None:
        self._path = path
        self._servers = kafka.bootstrap_servers
        self._capsys = capsys
        self._printed: str | None = None
        self._names: dict[str, Any] = {}
        self.ran = 0
        self.compared = 0

    def run(self) -> None:
        """Run all blocks."""
        languages = {"python": self._python, "console": self._console, "text": self._text}
        try:
            for example in _examples(self._path, languages):
                example.evaluate()
        finally:
            self._names.clear()  # a producer that lives longer than the mock complains
        self._nothing_left()

    def _python(self, example: Example) -> None:
        self._nothing_left()
        if named := FILE.match(example.parsed):
            Path(named[1]).write_text(self._located(example))
        else:
            code = compile(self._located(example), str(self._path), "exec", dont_inherit=True)
            raised = self._exec(code)
            self._keep(self._capsys.readouterr().out + raised)

    def _exec(self, code: Any) -> str:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("error")
            warnings.simplefilter("always", SettingsWarning)
            try:
                exec(code, self._names)  # noqa: S102  (our own page)
            except Exception as error:  # noqa: BLE001  (the page says which)
                return f"{_name(type(error))}: {error}\n"
            return "".join(f"{each.category.__name__}: {each.message}\n" for each in seen)

    def _console(self, example: Example) -> None:
        self._nothing_left()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "COLUMNS": "80"}
        command = ["/bin/sh", "-ec", self._located(example)]
        shell = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
        last = shell.stderr.splitlines()[-1:] if shell.returncode else []
        self._keep("\n".join([*shell.stdout.splitlines(), *last]))

    def _text(self, example: Example) -> None:
        if self._printed is not None and not FILE.match(example.parsed):
            assert shows(example.parsed, self._printed), _differ(example.parsed, self._printed)
            self._printed = None
            self.compared += 1

    def _keep(self, printed: str) -> None:
        self.ran += 1
        self._printed = printed.replace(self._servers, PLACEHOLDER)

    def _located(self, example: Example) -> str:
        return str(example.parsed).replace(PLACEHOLDER, self._servers)

    def _nothing_left(self) -> None:
        assert not self._printed, f"{self._path.name} doesn't show what this block prints: {self._printed}"


def blocks(path: Path, language: str) -> list[str]:
    """Return the page's blocks of one language."""
    return [str(example.parsed) for example in _examples(path, {language: lambda _: None})]


def files(path: Path) -> dict[str, str]:
    """Return the files that the page shows, by name; a file without code begins with its name too."""
    sources = [source for language in ("python", "text", "ini") for source in blocks(path, language)]
    return {named[1]: source for source in sources if (named := FILE.match(source))}


@contextmanager
def in_folder(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder that has the page's files, and from which they can be imported."""
    write_files(page, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    monkeypatch.syspath_prepend(folder)
    _forget_modules(page)
    yield folder
    _forget_modules(page)


def write_files(path: Path, folder: Path) -> None:
    """Write the page's files to a folder."""
    for name, source in files(path).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source)


def _forget_modules(path: Path) -> None:
    """Forget what was imported of the page's files."""
    tops = {name.partition("/")[0].removesuffix(".py") for name in files(path)}
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]


def shows(shown: str, printed: str) -> bool:
    """Whether the page shows what was printed; ``…`` on the page is whatever varies, and four spaces go on a line."""
    shown, printed = (WRAPPED.sub(" ", text.strip()) for text in (shown, printed))
    return re.fullmatch(".*".join(map(re.escape, shown.split(VARIES))), printed, re.DOTALL) is not None


def shown(page: Path) -> str:
    """Return the page's code and output."""
    return "".join(dedent(block) for opening, block in CODE.findall(page.read_text()) if not opening.startswith("{"))


def too_wide(page: Path) -> list[str]:
    """Return the lines of a page's code and output that its reader would have to scroll sideways."""
    return [line for line in shown(page).splitlines() if len(line) > WIDTH]


def needed(page: Path) -> set[str]:
    """Return the packages without which the page's code can't run, but for those that come with wd_di."""
    names = {name for source in blocks(page, "python") for name in _imported(source)}
    for command in blocks(page, "console"):
        names |= set(re.findall(r"python -m (\w+)", command))
        names |= {"pytest-asyncio"} if "asyncio_mode" in command else set()
    return names - INSTALLED - {name.partition("/")[0].removesuffix(".py") for name in files(page)}


def installed(page: Path) -> set[str]:
    """Return the packages that the page tells to install."""
    lines = re.findall(r"^pip install ([^#\n]+)", shown(page), re.MULTILINE)
    return {re.split(r"\[|=|<|>|~", word)[0] for line in lines for word in shlex.split(line)}


def _imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def dead_links(page: Path) -> list[str]:
    """Return the page's links into the repository that lead to nothing, or to a heading that isn't there."""
    return [target for target in _links(page) if not _is_there(page, target)]


def relative_links(page: Path) -> list[str]:
    """Return the page's links that lead nowhere when it is shown elsewhere, as on the package index."""
    return [target for target in _links(page) if not target.startswith(("https:", "#"))]


def _links(page: Path) -> list[str]:
    found = re.findall(r'\]\(([^)]+)\)|(?:src|srcset|href)="([^"]+)"', page.read_text())
    targets = [markdown or html for markdown, html in found]
    return [target for target in targets if target.startswith(HOMES) or not target.startswith(("http:", "https:"))]


def _is_there(page: Path, target: str) -> bool:
    name, _, heading = target.partition("#")
    home = next((home for home in HOMES if name.startswith(home)), None)
    path = ROOT / name.removeprefix(home) if home else page.parent / name if name else page
    return path.exists() and (not heading or heading in _headings(path))


def _headings(page: Path) -> list[str]:
    return [_slug(heading) for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)]


def _slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _examples(path: Path, languages: Mapping[str, Callable[[Example], None]]) -> Iterator[Example]:
    parsers = [CodeBlockParser(name, evaluate) for name, evaluate in languages.items()]
    return iter(Sybil(parsers).parse(path).examples())


def _differ(shown: str, printed: str) -> str:
    return f"the page shows:\n{shown}\nbut this was printed:\n{printed}"


def _name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
