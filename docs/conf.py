"""How Sphinx builds the documentation: ``make docs``. Without a network only links to other projects are missing."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import wd_di
from wd_di import errors, events, testing

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
PACKAGES = Path(wd_di.__file__).parent.parent  # this tree, or where its wheel is installed
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
COMMIT = os.environ.get("READTHEDOCS_GIT_COMMIT_HASH", "main")

project = "wd_di"
author = "the wd_di maintainers"
project_copyright = "The wd_di authors"
version = release = wd_di.__version__

extensions = [
    "myst_parser",
    "notfound.extension",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.linkcode",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxext.opengraph",
]
exclude_patterns = ["_build", "changes"]
nitpicky = True
default_role = "code"

html_theme = "furo"
html_title = f"wd_di {version}"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", URLS["Documentation"])
html_theme_options = {"source_repository": URLS["Source"], "source_branch": "main", "source_directory": "docs/"}

ogp_site_url = html_baseurl
ogp_site_name = project
ogp_social_cards = {"enable": False}  # they would need matplotlib

copybutton_selector = ":not(.highlight-text) > div.highlight > pre"  # what is printed isn't to be typed

notfound_urls_prefix = urlsplit(html_baseurl).path  # that page is shown at any address, so its links have all of theirs
notfound_context = {
    "title": "Not found",
    "body": "<h1>There is no such page</h1>"
    "<p>It may have been renamed. The list beside this text has all pages, and the search above it finds words.</p>",
}

myst_heading_anchors = 3
myst_enable_extensions = ["deflist", "colon_fence"]

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = False
python_use_unqualified_type_names = True

# A project whose list of names can't be had has an empty one instead: no links then, but no warning and no failure.
_NO_NAMES = Path(__file__).parent / "_build" / "no-names.inv"
_NO_NAMES.parent.mkdir(exist_ok=True)
_NO_NAMES.write_bytes(
    b"# Sphinx inventory version 2\n# Project: none\n# Version:\n"
    b"# The remainder of this file is compressed using zlib.\n" + zlib.compress(b"")
)
intersphinx_timeout = 10
intersphinx_mapping = {
    name: (url, (None, str(_NO_NAMES)))
    for name, url in {
        "python": "https://docs.python.org/3/",
        "dependency-injector": "https://python-dependency-injector.ets-labs.org/",
        "confluent-kafka": "https://docs.confluent.io/platform/current/clients/confluent-kafka-python/html/",
        "pydantic-settings": "https://docs.pydantic.dev/latest/",
    }.items()
}

_PUBLIC = [getattr(home, name) for home in (wd_di, testing) for name in home.__all__]

# Types of Python and of other packages have no page here; names of our own must lead somewhere.
_OURS = "|".join(re.escape(each.__name__) for each in _PUBLIC if isinstance(each, type))
nitpick_ignore_regex = [("py:.*", rf"(?!(.*\.)?({_OURS})$).*")]


def _public_name(app: Sphinx, env: Any, node: Element, text: Element) -> Element | None:
    """Lead from wherever a name is written to where it is public; errors and events have pages written by hand."""
    name = node.get("reftarget", "").rpartition(".")[2]
    for home in ("wd_di", "wd_di.testing"):
        found = env.domains["py"].objects.get(f"{home}.{name}")
        if found is not None:
            return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, text, name)
    for module, page in ((errors, "reference/errors"), (events, "reference/events")):
        if isinstance(getattr(module, name, None), type):
            anchor = name.lower() if module is errors else ""
            return make_refnode(app.builder, node["refdoc"], page, anchor, text, name)
    return None


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Where the source of a name is shown; what is only a value has none."""
    del domain
    found: object = importlib.import_module(info["module"])
    for part in info["fullname"].split("."):
        found = inspect.getattr_static(found, part, None) if isinstance(found, type) else getattr(found, part, None)
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    try:
        path = inspect.getsourcefile(inspect.unwrap(found))  # type: ignore[arg-type]
        lines, first = inspect.getsourcelines(inspect.unwrap(found))  # type: ignore[arg-type]
    except (TypeError, OSError):
        return None
    file = Path(path or "").relative_to(PACKAGES).as_posix()
    return f"{URLS['Source']}/blob/{COMMIT}/{file}#L{first}-L{first + len(lines) - 1}"


class PictureDirective(SphinxDirective):
    """``{picture} pool`` shows the picture of that name, the one that goes with the page's colours."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        name = self.arguments[0]
        alt = re.search(r"<desc>(.*)</desc>", (ROOT / "docs" / "pictures" / f"{name}-light.svg").read_text("utf-8"))
        return [
            nodes.image(uri=f"/pictures/{name}-{theme}.svg", alt=alt[1] if alt else name, classes=[f"only-{theme}"])
            for theme in ("light", "dark")
        ]


def _changes_so_far(app: Sphinx, docname: str, source: list[str]) -> None:
    """Show the changes that aren't released yet above those that are, from their fragments."""
    del app
    if docname == "changelog":
        command = [sys.executable, ROOT / "docs" / "changelog.py"]
        source[0] = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def _when_opened(*event: Any) -> None:
    """Show what a recipe raises when it is opened as what its method raises: napoleon knows one such section."""
    lines: list[str] = event[-1]
    lines[:] = [line.replace("Raises (when opened):", "Raises:") for line in lines]


def _typed_fields(*event: Any) -> None:
    """Show a field's type beside its name; napoleon writes it into a paragraph of its own."""
    lines: list[str] = event[-1]
    for at, line in reversed([*enumerate(lines)]):
        if line.startswith("   :type:"):
            start = max(index for index in range(at) if lines[index].startswith(".. attribute::"))
            lines.insert(start + 1, lines.pop(at))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("picture", PictureDirective)
    app.connect("source-read", _changes_so_far)
    app.connect("missing-reference", _public_name)
    app.connect("autodoc-process-docstring", _when_opened, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _typed_fields, priority=600)  # after it
