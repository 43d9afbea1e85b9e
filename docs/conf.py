"""How Sphinx builds the documentation: ``make docs``. Nothing is fetched."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sphinx.util.nodes import make_refnode

import wd_di
from wd_di import errors, events, testing

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx

project = "wd_di"
author = "the wd_di maintainers"
version = release = wd_di.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "changes"]
nitpicky = True
default_role = "code"

html_theme = "furo"
html_title = f"wd_di {version}"
html_show_sourcelink = False
html_copy_source = False

myst_heading_anchors = 3
myst_enable_extensions = ["deflist", "colon_fence"]

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = True

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


def _when_opened(*event: Any) -> None:
    """Show what a recipe raises when it is opened as what its method raises: napoleon knows one such section."""
    lines: list[str] = event[-1]
    lines[:] = [line.replace("Raises (when opened):", "Raises:") for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", _public_name)
    app.connect("autodoc-process-docstring", _when_opened, priority=400)  # before napoleon
