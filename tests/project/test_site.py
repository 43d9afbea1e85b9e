"""The documentation as a site: it builds without a network, and shows what its readers need."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import wd_di
from tests.pages import ROOT

EXTENSIONS = ("sphinx", "furo", "myst_parser", "sphinx_copybutton", "sphinx_design", "notfound", "sphinxext.opengraph")
REFUSED = "http://127.0.0.1:9"

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        any(find_spec(name.partition(".")[0]) is None for name in EXTENSIONS), reason="needs what `make docs` installs"
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with warnings as errors, where the package is elsewhere and no other host can be reached."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "docs", tree / "docs", ignore=shutil.ignore_patterns("_build"))
    for name in ("CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    out = tree / "site"
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--nitpicky",
        "--fail-on-warning",
        "--quiet",
        str(tree / "docs"),
        str(out),
    ]
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), REFUSED)
    built = subprocess.run(
        command, env=os.environ | nowhere | {"no_proxy": ""}, capture_output=True, text=True, timeout=150, check=False
    )
    assert 0 == built.returncode, built.stderr
    return out


@pytest.fixture(scope="module")
def api(site) -> str:
    """The text of the API's page."""
    return _text(site / "reference" / "api.html")


@pytest.mark.parametrize("kind", ["CloseReport", "Totals", "Holder", "PoolStats"])
def test_fields_are_listed(kind, api):
    """What a report has is told with its fields and their types."""
    fields = getattr(wd_di, kind).__dataclass_fields__
    entry = api.partition(f"class wd_di.{kind}[source]")[2].partition("class wd_di.")[0]

    assert list(fields) == [name for name in re.findall(r"(?<=\n)(\w+):", entry) if name in fields]


def test_types_have_their_public_names(api):
    """No signature names a module that nobody may import from."""
    assert "held: tuple[Holder, ...]" in api
    assert [] == re.findall(r"wd_di\._(?!_)\w+", api)


def test_what_is_public_leads_to_its_source(site):
    """Each class and function has a link to its lines in the repository."""
    page = (site / "reference" / "api.html").read_text()

    assert re.search(r'href="https://github.com/wd-di-kafka/wd-di-kafka/blob/\w+/wd_di/pool.py#L\d+-L\d+"', page)


def test_the_changelog_shows_what_comes_next(site):
    """The fragments of changes that aren't released yet stand under the next version."""
    changelog = _text(site / "changelog.html")

    assert f"[{wd_di.__version__}] - unreleased" in changelog
    assert "Added" in changelog
    assert "Fixed" in changelog


def test_a_wrong_address_has_a_page(site):
    """A link that has gone leads to a page that says so, with the list of all pages."""
    page = (site / "404.html").read_text()
    styles = re.findall(r'<link [^>]*rel="stylesheet"[^>]*href="([^"?]+)', page)

    assert "There is no such page" in _text(site / "404.html")
    assert "/_static/site.css" in styles
    assert [] == [style for style in styles if not (site / style.removeprefix("/")).is_file()]


@pytest.mark.parametrize("page", ["index.html", "howto/transactions.html"])
def test_pages_can_be_shared_and_copied_from(page, site):
    """A page has what others show of a link to it, buttons that copy code, and says whose it is."""
    source = (site / page).read_text()

    assert '<meta property="og:title"' in source
    assert '<meta property="og:description"' in source
    assert "copybutton.js" in source
    assert "Copyright &#169; The wd_di authors" in source


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("index", "transaction"),
        ("howto/transactions", "transaction"),
        ("howto/transactions", "record"),
        ("when", "pool"),
        ("performance", "2-8-threads-over-4-each-holds-for-2-ms"),
        ("how-it-works", "map"),
        ("how-it-works", "slot"),
        ("how-it-works", "inside"),
        ("how-it-works", "phases"),
    ],
)
def test_pages_have_their_pictures(page, name, site):
    """A picture is there for light and for dark, and is told to those who can't see it."""
    source = (site / f"{page}.html").read_text()

    for theme in ("light", "dark"):
        [tag] = re.findall(rf'<img [^>]*src="[^"]*{name}-{theme}.svg"[^>]*>', source)
        assert f"only-{theme}" in tag
        assert re.search('alt="[^"]{100,}"', tag)


def _text(page: Path) -> str:
    return html.unescape(re.sub("<[^>]+>", "", page.read_text()))
