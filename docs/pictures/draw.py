"""How a picture that is written as text becomes an SVG, one for light pages and one for dark: ``make pictures``.

A source looks like what it gives: boxes, lines and arrows of box-drawing characters, and words; what stands between
backticks is code. Below a line of dashes come the picture's title, what it says to those who can't see it, and which
boxes have a colour, by their first words, with commas between them. Nothing is measured and nothing is asked of the
machine, so that a source always gives the same bytes.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
COLUMNS, COLUMN, ROW = 50, 8, 18
WIDTH = COLUMNS * COLUMN
"""400 pixels, which a phone shows as they are."""

COLOURS = {  # of a box: its ground, its border, its words
    "light": {
        "plain": ("#f6f8fa", "#afb8c1", "#1f2328"),
        "green": ("#dafbe1", "#2da44e", "#0f5323"),
        "amber": ("#fff3c4", "#bf8700", "#633c01"),
        "red": ("#ffebe9", "#fa4549", "#82071e"),
    },
    "dark": {
        "plain": ("#1c2128", "#57606a", "#f0f3f6"),
        "green": ("#0f2d1a", "#2ea043", "#aff5b4"),
        "amber": ("#2f2308", "#bb8009", "#f8e3a1"),
        "red": ("#3a1416", "#f85149", "#ffdcd7"),
    },
}
BETWEEN = {"light": ("#6e7781", "#424a53"), "dark": ("#8b949e", "#c9d1d9")}
"""The lines and the words between the boxes."""
STYLE = (
    "<style>text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif}"
    ".first{font-weight:600}.code{font:12px ui-monospace,Menlo,Consolas,monospace}</style>"
)

UP, DOWN, LEFT, RIGHT = (-1, 0), (1, 0), (0, -1), (0, 1)
STROKES = {
    "│": (UP, DOWN),
    "─": (LEFT, RIGHT),
    "┌": (DOWN, RIGHT),
    "┐": (DOWN, LEFT),
    "└": (UP, RIGHT),
    "┘": (UP, LEFT),
    "├": (UP, DOWN, RIGHT),
    "┤": (UP, DOWN, LEFT),
    "┬": (DOWN, LEFT, RIGHT),
    "┴": (UP, LEFT, RIGHT),
}
HEADS = {"▼": DOWN, "▲": UP, "▶": RIGHT, "◀": LEFT}
LINE = "".join([*STROKES, *HEADS])
WORDS = re.compile(f"[^ {LINE}]+(?: [^ {LINE}]+)*")


class Place(NamedTuple):
    """A character's place in the source, or a point between two."""

    row: float
    column: float

    def towards(self, way: tuple[int, int], reach: float = 1) -> Place:
        """The place so far away from here."""
        return Place(self.row + way[0] * reach, self.column + way[1] * reach)

    @property
    def x(self) -> float:
        """Where its middle is in the picture, from the left."""
        return (self.column + 0.5) * COLUMN

    @property
    def y(self) -> float:
        """Where its middle is in the picture, from above."""
        return (self.row + 0.5) * ROW

    def __str__(self) -> str:
        return f"{self.x:g} {self.y:g}"


class Box(NamedTuple):
    """A rectangle, by the places of two corners."""

    start: Place
    end: Place

    def has(self, place: Place) -> bool:
        """Whether the place is inside of the border."""
        return self.start.row < place.row < self.end.row and self.start.column < place.column < self.end.column


class Picture:
    """A source that was read."""

    def __init__(self, source: str) -> None:
        drawing, _, notes = source.partition("\n---\n")
        self.rows = drawing.splitlines()
        if too_wide := [row for row in self.rows if len(row) > COLUMNS]:
            raise ValueError(f"wider than {COLUMNS} columns: {too_wide[0]}")
        self.notes = dict(line.split(": ", 1) for line in notes.splitlines())
        self.places = {Place(row, at): each for row, line in enumerate(self.rows) for at, each in enumerate(line)}
        self.boxes = [box for place, each in self.places.items() if each == "┌" and (box := self._box(place))]
        self.borders = {place for box in self.boxes for place in self._border(box)}

    def svg(self, theme: str) -> str:
        """Return the picture in the theme's colours."""
        height = len(self.rows) * ROW
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img">'
        )
        told = f"<title>{escape(self.notes['title'])}</title>\n<desc>{escape(self.notes['alt'])}</desc>"
        boxes = [self._rectangle(box, theme) for box in self.boxes]
        return "\n".join([head, told, STYLE, *boxes, self._lines(theme), *self._words(theme), "</svg>\n"])

    # -- boxes -------------------------------------------------------------------------------------

    def _box(self, start: Place) -> Box | None:
        """The box with this upper left corner; a line that turns there has none."""
        corner = self._follow(start.towards(RIGHT), RIGHT, "─")
        end = self._follow(corner.towards(DOWN), DOWN, "│")
        return Box(start, end) if self.places.get(corner) == "┐" and self.places.get(end) == "┘" else None

    def _follow(self, place: Place, way: tuple[int, int], stroke: str) -> Place:
        while self.places.get(place) == stroke:
            place = place.towards(way)
        return place

    def _border(self, box: Box) -> list[Place]:
        rows, columns = (range(int(a), int(b) + 1) for a, b in zip(*box, strict=True))
        return [place for row in rows for column in columns if not box.has(place := Place(row, column))]

    def _rectangle(self, box: Box, theme: str) -> str:
        ground, border, _ = COLOURS[theme][self._kind(box)]
        size = f'width="{box.end.x - box.start.x:g}" height="{box.end.y - box.start.y:g}"'
        at = f'x="{box.start.x:g}" y="{box.start.y:g}"'
        return f'<rect {at} {size} rx="6" fill="{ground}" stroke="{border}"/>'

    def _kind(self, box: Box) -> str:
        first = self.rows[int(box.start.row) + 1][int(box.start.column) + 1 : int(box.end.column)].strip()
        kinds = ("green", "amber", "red")
        return next((kind for kind in kinds if first in self.notes.get(kind, "").split(", ")), "plain")

    # -- lines and arrows --------------------------------------------------------------------------

    def _lines(self, theme: str) -> str:
        free = [(place, each) for place, each in self.places.items() if place not in self.borders]
        strokes = [f"M{place}L{self._end(place, way)}" for place, each in free for way in STROKES.get(each, ())]
        heads = [self._head(place, HEADS[each]) for place, each in free if each in HEADS]
        colour = BETWEEN[theme][0]
        return f'<path d="{"".join(strokes + heads)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    def _end(self, place: Place, way: tuple[int, int]) -> Place:
        """Where a stroke ends: half way to the next character, or at the border of a box."""
        return place.towards(way, 1 if place.towards(way) in self.borders else 0.5)

    def _head(self, place: Place, way: tuple[int, int]) -> str:
        tail, tip = self._end(place, (-way[0], -way[1])), self._end(place, way)
        back = 5 / (ROW if way[0] else COLUMN)
        aside = 4 / (COLUMN if way[0] else ROW)
        left, right = (tip.towards(way, -back).towards((way[1], way[0]), side) for side in (-aside, aside))
        return f"M{tail}L{tip}M{left}L{tip}L{right}"

    # -- words -------------------------------------------------------------------------------------

    def _words(self, theme: str) -> list[str]:
        found = [(row, words) for row, line in enumerate(self.rows) for words in WORDS.finditer(line)]
        return [self._text(row, words, theme) for row, words in found]

    def _text(self, row: int, words: re.Match[str], theme: str) -> str:
        """The words, in the middle of their box, or else where they are, at the line that they touch."""
        first, last = Place(row, words.start() - 0.5), Place(row, words.end() - 0.5)
        box = max((box for box in self.boxes if box.has(first)), default=None)
        colour, style = BETWEEN[theme][1], ""
        if box is not None:
            kind = self._kind(box)
            at, anchor, colour = Place(row, (box.start.column + box.end.column) / 2), "middle", COLOURS[theme][kind][2]
            style = ' class="first"' if kind != "plain" and row == box.start.row + 1 else ""
        elif self.rows[row][words.end() : words.end() + 2].strip():
            at, anchor = last, "end"
        else:
            at, anchor = first, "start"
        given = f'x="{at.x:g}" y="{at.y + 4.5:g}" text-anchor="{anchor}" fill="{colour}"{style}'
        return f"<text {given}>{_marked(words[0])}</text>"


def _marked(words: str) -> str:
    """The words with what stands between backticks as code."""
    return re.sub("`(.+?)`", r'<tspan class="code">\1</tspan>', escape(words, quote=False))


def draw(source: Path) -> dict[Path, str]:
    """Return a source's pictures by their files."""
    picture = Picture(source.read_text("utf-8"))
    return {source.with_name(f"{source.stem}-{theme}.svg"): picture.svg(theme) for theme in COLOURS}


if __name__ == "__main__":
    for source in sorted(HERE.glob("*.txt")):
        for path, svg in draw(source).items():
            path.write_text(svg, "utf-8")
            print(path)
