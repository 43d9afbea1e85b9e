"""The mutants of a file: each is the file with one small mistake, as a person might make it."""

from __future__ import annotations

import ast
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import CodeType

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
}
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any", "popleft": "pop", "pop": "popleft"}

LARGE = 10
"""From here on a number is doubled or halved: one more is no mistake that a person makes."""
LONG = 90

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NOT_RUN = ("annotation", "returns", "decorator_list", "bases", "format_spec")
"""Fields that decide nothing while the program runs, or are words for people."""

Change = tuple[str, ast.AST]
"""What is another way, in words, and what stands there then."""


@dataclass(frozen=True)
class Inside:
    """Where in a file a node is.

    Attributes:
        where: The outermost function, or the class, or the name that is defined.
        function: Whether the node is in the body of a function, so that its code is all that differs.
        lines: Those of its statement; of the whole function, if the node is one of its defaults.
        names: What is defined outside of a function.
    """

    where: str = ""
    function: bool = False
    lines: range = range(0)
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Place:
    """A field of a node, which has one or several others in it."""

    parent: ast.AST
    field: str
    index: int | None

    @contextmanager
    def having(self, node: ast.AST) -> Iterator[None]:
        """Have another node there for a while."""
        there = getattr(self.parent, self.field)
        other = node if self.index is None else [*there[: self.index], node, *there[self.index + 1 :]]
        setattr(self.parent, self.field, other)
        try:
            yield
        finally:
            setattr(self.parent, self.field, there)


@dataclass(frozen=True, eq=False)
class Mutant:
    """One mistake.

    Attributes:
        source: The file.
        number: Its place among the file's mutants.
        inside: Where it is.
        what: What stands there, and what instead; a second one of the kind in the same function ends in ``#2``.
        line: The first line of what is another way.
    """

    source: Source
    number: int
    inside: Inside
    what: str
    line: int
    place: Place
    instead: ast.AST

    def code(self) -> CodeType:
        """Compile the file with the mistake."""
        with self.place.having(self.instead):
            return compile(self.source.tree, self.source.path, "exec")


class Source:
    """A file, and its mutants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module = ".".join(path.with_suffix("").parts)
        self.tree = ast.parse(path.read_text("utf-8"))
        self.mutants: list[Mutant] = []
        self._seen: Counter[tuple[str, str]] = Counter()
        self._visit(self.tree, Inside())

    def lines_with(self, names: frozenset[str]) -> set[int]:
        """In which lines of functions one of the names is used."""
        functions = [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS)]
        inner = [node for function in functions for node in ast.walk(function)]
        used = {node.lineno for node in inner if isinstance(node, ast.Name) and node.id in names}
        return used | {node.lineno for node in inner if isinstance(node, ast.Attribute) and node.attr in names}

    def _visit(self, parent: ast.AST, inside: Inside) -> None:
        for field, value in ast.iter_fields(parent):
            if field in NOT_RUN:
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(node, ast.AST) or _says_nothing(node, parent):
                    continue
                here = _inside(node, parent, inside)
                for what, instead in _changes(node, parent):
                    ast.fix_missing_locations(ast.copy_location(instead, node))
                    named = self._named(here, what)
                    line = getattr(node, "lineno", here.lines.start)
                    place = Place(parent, field, index)
                    self.mutants.append(Mutant(self, len(self.mutants), here, named, line, place, instead))
                self._visit(node, here)

    def _named(self, inside: Inside, what: str) -> str:
        key = (inside.where, what)
        self._seen[key] += 1
        return f"{what} #{self._seen[key]}" if self._seen[key] > 1 else what


def _inside(node: ast.AST, parent: ast.AST, outer: Inside) -> Inside:
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        end = body[0].lineno - 1 if body else node.end_lineno or node.lineno
        lines = range(node.lineno, max(node.lineno, end) + 1)
        if outer.function:
            return Inside(outer.where, True, lines)
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            where = f"{outer.where}.{node.name}".lstrip(".")
            whole = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            return Inside(where, isinstance(node, FUNCTIONS), whole)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = frozenset(target.id for target in targets if isinstance(target, ast.Name))
        return Inside(f"{outer.where}.{min(names, default='')}".strip("."), False, lines, names)
    if isinstance(node, ast.arguments) and isinstance(parent, FUNCTIONS):
        return Inside(outer.where, False, outer.lines)  # its defaults
    return outer


def _says_nothing(node: ast.AST, parent: ast.AST) -> bool:
    """Whether the node is for people or for mypy alone."""
    match node:
        case (
            ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.If(test=ast.Name(id="TYPE_CHECKING"))
        ):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__")]):
            return True
        case ast.Call(func=ast.Name(id="TypeVar")) | ast.Subscript(value=ast.Name(id="Literal")):
            return True
        case ast.Constant():
            return isinstance(parent, ast.JoinedStr)
        case ast.Assign():  # a member of an enumeration, of which nothing is asked but which one it is
            return isinstance(parent, ast.ClassDef) and any(_text(base).startswith("enum.") for base in parent.bases)
    return False


def _changes(node: ast.AST, parent: ast.AST) -> Iterator[Change]:
    match node:
        case ast.stmt():
            yield from _statements(node)
        case ast.Constant():
            yield from _constants(node, parent)
        case ast.Compare():
            yield from _comparisons(node)
        case ast.BoolOp():
            yield from _conditions(node)
        case ast.UnaryOp(operand=operand):
            yield _change(node, operand)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in CALCULATED:
            yield _change(node, ast.BinOp(left, CALCULATED[type(operator)](), right))
        case ast.Call():
            yield from _twins(node)
        case ast.IfExp(test=test, body=body, orelse=other):
            yield _change(node, ast.IfExp(test, other, body))
        case ast.comprehension():
            yield from _filters(node)


def _comparisons(node: ast.Compare) -> Iterator[Change]:
    for at, operator in enumerate(node.ops):
        for other in COMPARED[type(operator)]:
            operators = [*node.ops[:at], other(), *node.ops[at + 1 :]]
            yield _change(node, ast.Compare(node.left, operators, node.comparators))


def _conditions(node: ast.BoolOp) -> Iterator[Change]:
    conjunction = isinstance(node.op, ast.And)
    yield _change(node, ast.BoolOp(ast.Or() if conjunction else ast.And(), node.values))
    for at, value in enumerate(node.values):
        rest = [*node.values[:at], *node.values[at + 1 :]]
        word = "and" if conjunction else "or"
        yield f"{word} {_text(value)} → left out", ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0]


def _statements(node: ast.stmt) -> Iterator[Change]:
    match node:
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript() | ast.Tuple(elts=[ast.Attribute(), *_]), *_]):
            yield _change(node, ast.Pass())
        case ast.AnnAssign(target=ast.Attribute(), value=ast.expr()):
            yield _change(node, ast.Pass())
        case ast.AugAssign(op=operator, target=target, value=value):
            yield _change(node, ast.Pass())
            yield _change(node, ast.AugAssign(target, CALCULATED[type(operator)](), value))
        case ast.Expr() | ast.Raise() | ast.Return(value=None) | ast.Break() | ast.Continue() | ast.Delete():
            yield _change(node, ast.Pass())
        case ast.Return(value=ast.Constant() | ast.Compare() | ast.BoolOp() | ast.UnaryOp()):
            pass  # what it returns has mutants enough
        case ast.Return():
            yield _change(node, ast.Return(ast.Constant(None)))
        case ast.If(test=test) | ast.While(test=test) if _is_plain(test):
            turned = ast.UnaryOp(ast.Not(), test)
            yield f"{type(node).__name__.lower()} {_text(test)} → not", _with_test(node, turned)


def _with_test(node: ast.If | ast.While, test: ast.expr) -> ast.stmt:
    return type(node)(test, node.body, node.orelse)


def _is_plain(test: ast.expr) -> bool:
    """Whether the condition has no mutants that turn it round."""
    return not isinstance(test, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Constant))


def _filters(node: ast.comprehension) -> Iterator[Change]:
    for at, test in enumerate(node.ifs):
        if _is_plain(test):
            turned = [*node.ifs[:at], ast.UnaryOp(ast.Not(), test), *node.ifs[at + 1 :]]
            yield f"if {_text(test)} → not", ast.comprehension(node.target, node.iter, turned, node.is_async)


def _constants(node: ast.Constant, parent: ast.AST) -> Iterator[Change]:
    values: list[str | float] = []
    if isinstance(node.value, bool):
        values = [not node.value]
    elif isinstance(node.value, int):
        values = [node.value + 1, node.value - 1] if node.value else [1]
        if node.value >= LARGE:
            values = [node.value * 2, node.value // 2]
    elif isinstance(node.value, float):
        values = [node.value * 2, node.value / 2] if node.value else [1.0]
    elif isinstance(node.value, str) and node.value:
        values = [""]
    around = f" in {_text(parent)}" if isinstance(parent, (ast.expr, ast.stmt, ast.keyword, ast.arguments)) else ""
    for value in values:
        yield f"{node.value!r} → {value!r}{around}", ast.Constant(value)


def _twins(node: ast.Call) -> Iterator[Change]:
    if isinstance(node.func, ast.Name) and node.func.id in TWINS:
        other: ast.expr = ast.Name(TWINS[node.func.id], ast.Load())
    elif isinstance(node.func, ast.Attribute) and node.func.attr in TWINS and not node.args:
        other = ast.Attribute(node.func.value, TWINS[node.func.attr], ast.Load())
    else:
        return
    yield _change(node, ast.Call(other, node.args, node.keywords))


def _change(node: ast.AST, instead: ast.AST) -> Change:
    return f"{_text(node)} → {_text(instead)}", instead


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= LONG else f"{text[: LONG - 1]}…"
