"""The pictures of the documentation: they are what their sources say, and fit a phone."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from tests.pages import ROOT

FOLDER = ROOT / "docs" / "pictures"
SOURCES = sorted(FOLDER.glob("*.txt"))
spec = spec_from_file_location("draw", FOLDER / "draw.py")
assert spec is not None
assert spec.loader is not None
draw = module_from_spec(spec)
spec.loader.exec_module(draw)

NOTES = "\n---\ntitle: A title\nalt: What it says & more\n"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_committed_pictures_are_what_their_source_gives(source):
    """Who changes a source runs `make pictures` and commits what it gives."""
    drawn = draw.draw(source)

    assert 2 == len(drawn)
    assert drawn == {path: path.read_text("utf-8") for path in drawn}


def test_every_picture_has_a_source():
    """No picture stays behind when its source goes."""
    assert {path for source in SOURCES for path in draw.draw(source)} == set(FOLDER.glob("*.svg"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_pictures_fit_a_phone_and_are_told_to_who_cannot_see_them(source):
    """They are XML, 400 pixels wide, and have a title and a description."""
    for svg in draw.draw(source).values():
        root = ET.fromstring(svg)  # noqa: S314  (our own)

        assert "400" == root.attrib["width"]
        assert all(root.findtext(f"{{http://www.w3.org/2000/svg}}{name}") for name in ("title", "desc"))


def test_boxes_lines_and_words_are_found():
    """A box becomes a rectangle with its words in the middle; a line that turns like a corner stays a line."""
    svg = draw.Picture("┌───┐\n│ a │──┐ b\n└───┘  ▼" + NOTES).svg("light")

    assert 1 == svg.count("<rect ")
    assert '<rect x="4" y="9" width="32" height="36"' in svg
    assert re.search(r'<text x="20" y="31.5" text-anchor="middle" .*>a</text>', svg)
    assert re.search(r'<text x="72" y="31.5" text-anchor="start" .*>b</text>', svg)
    assert "What it says &amp; more" in svg


def test_code_and_colours():
    """Backticks mark code, and boxes have the colour that their first words are given."""
    boxes = "┌──────┐┌────┐\n│ `ok` ││ up │\n└──────┘└────┘"
    svg = draw.Picture(boxes + NOTES + "green: `ok`, up\n").svg("dark")

    assert '<tspan class="code">ok</tspan>' in svg
    assert 2 == svg.count(draw.COLOURS["dark"]["green"][0])


def test_what_would_be_cut_off_is_refused():
    """A line that is wider than the picture is an error that shows it."""
    with pytest.raises(ValueError, match=r"wider than 50 columns: x{51}$"):
        draw.Picture("x" * 51 + NOTES)
