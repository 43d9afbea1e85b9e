"""Every consumer that a user may copy is the safe form: what it reads isn't lost, doubled or skipped."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from tests.pages import ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = ("examples", "tests/examples", "tests/testing")
NO_CONSUMERS = ROOT / "tests" / "testing" / "test_fake.py"  # a fake takes offsets from nowhere
CODE = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path != NO_CONSUMERS]
SOURCES = [
    *((path, source) for path in PAGES for source in blocks(path, "python")),
    *((path, path.read_text()) for path in sorted(CODE)),
]
WITH_CONSUMERS = [(path, source) for path, source in SOURCES if "Consumer(" in source or "send_offsets" in source]


def faults(source: str) -> list[str]:
    """Return what is unsafe about the consumers of a source."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    mentioned = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    messages = set(_messages(tree))
    found = [f"it commits by itself: {ast.unparse(node)}" for node in nodes if _commits_itself(node, tree)]
    found += [f"its truth is no answer: {ast.unparse(each)}" for each in _tested(tree) if _is_message(each, messages)]
    if "position" in mentioned:
        found.append("position() isn't the batch's")
    if any(_called(each) == "consumer_group_metadata" for node in nodes for each in _in_transaction(node)):
        found.append("the group's metadata is asked inside of the transaction, not with the batch")
    if any(_called(node) == "filter" and ast.unparse(node).startswith("filter(None") for node in nodes):
        found.append("filter() drops messages without a value")
    if messages and "error" not in mentioned:
        found.append("nobody looks at error()")
    if "send_offsets" in mentioned and "seek" not in mentioned:
        found.append("nobody seeks back after an abort")
    found += [
        f"seek() raises for a partition that was lost, in place of the reason: line {node.lineno}"
        for node in nodes
        if isinstance(node, ast.Attribute) and node.attr == "seek" and node not in set(_if_assigned(tree))
    ]
    if "send_offsets" in mentioned and "read_uncommitted" in source:
        found.append("committed() doesn't wait for what is in doubt")
    return found


def _commits_itself(node: ast.AST, tree: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or _name(node.func) != "Consumer":
        return False
    named = dict(_bound(tree))
    configs = [named.get(each.id, each) if isinstance(each, ast.Name) else each for each in node.args]
    pairs = [
        pair for each in configs if isinstance(each, ast.Dict) for pair in zip(each.keys, each.values, strict=True)
    ]
    return "enable.auto.commit=False" not in [
        f"{getattr(key, 'value', key)}={ast.unparse(value)}" for key, value in pairs
    ]


def _in_transaction(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.With | ast.AsyncWith) and any(
        _called(item.context_expr) == "transaction" for item in node.items
    ):
        yield from ast.walk(node)


def _if_assigned(tree: ast.AST) -> Iterator[ast.AST]:
    """What is done only for partitions that are still assigned, or for each of them."""
    known = {"assignment"}
    for node in ast.walk(tree):  # a name comes before its use, but for what is nested: there it's the other way round
        targets = [node.targets[0], node.value] if isinstance(node, ast.Assign) else []
        targets = [node.target, node.iter] if isinstance(node, ast.For | ast.comprehension) else targets
        if targets and _mentions(targets[1], known):
            known |= {each.id for each in ast.walk(targets[0]) if isinstance(each, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.For) and _mentions(
            node.test if isinstance(node, ast.If) else node.iter, known
        ):
            yield from (each for statement in node.body for each in ast.walk(statement))
        elif isinstance(node, ast.IfExp) and _mentions(node.test, known):
            yield from ast.walk(node.body)


def _mentions(node: ast.AST, names: set[str]) -> bool:
    return any(_name(each) in names for each in ast.walk(node))


def _messages(tree: ast.AST) -> Iterator[str]:
    """The names of messages: what ``poll`` returns, and each of what ``consume`` does."""
    batches = {name for name, value in _bound(tree) if _called(value) == "consume"}
    yield from (name for name, value in _bound(tree) if _called(value) == "poll")
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.comprehension) and (
            _called(node.iter) == "consume" or _name(node.iter) in batches
        ):
            yield ast.unparse(node.target)


def _bound(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.NamedExpr):
            yield node.target.id, node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _tested(tree: ast.AST) -> Iterator[ast.expr]:
    """What is asked for its truth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
            yield node.test
        elif isinstance(node, ast.BoolOp):
            yield from node.values
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.operand
        elif isinstance(node, ast.comprehension):
            yield from node.ifs
        elif isinstance(node, ast.Call) and _name(node.func) in {"bool", "filter"}:
            yield from node.args


def _is_message(tested: ast.expr, messages: set[str]) -> bool:
    value = tested.value if isinstance(tested, ast.NamedExpr) else tested
    return _called(value) == "poll" or _name(tested) in messages


def _called(node: ast.AST) -> str | None:
    return _name(node.func) if isinstance(node, ast.Call) else None


def _name(node: ast.AST) -> str | None:
    """Return the last part of a name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


@pytest.mark.parametrize(
    ("path", "source"), WITH_CONSUMERS, ids=[path.relative_to(ROOT).as_posix() for path, _ in WITH_CONSUMERS]
)
def test_it_is_the_safe_form(path: Path, source: str) -> None:
    """It commits nothing by itself, sends its batch's own offsets, looks at errors, takes no tombstone for the end."""
    assert [] == faults(source), path


def test_pages_speak_of_no_other_form() -> None:
    """Also where a page only mentions the calls, the metadata isn't asked for in the call."""
    assert [] == [path for path in PAGES if re.search(r"send_offsets\([^`]*?consumer_group_metadata", path.read_text())]


SAFE = """
with Consumer({"group.id": "g", "enable.auto.commit": False}) as consumer:
    message = consumer.poll(1)
    member = consumer.consumer_group_metadata()
    if message is not None and message.error() is None:
        with pool.transaction() as tx:
            tx.send_offsets([TopicPartition("orders", 0, message.offset() + 1)], member)
        if TopicPartition("orders", 0) in consumer.assignment():
            consumer.seek(message)
"""
UNSAFE = {
    "auto commit by default": (', "enable.auto.commit": False', ""),
    "auto commit on": ("False", "True"),
    "position": ('[TopicPartition("orders", 0, message.offset() + 1)]', "consumer.position(consumer.assignment())"),
    "late metadata": ("], member)", "], consumer.consumer_group_metadata())"),
    "no look at errors": (" and message.error() is None", ""),
    "old offsets": ("{", '{"isolation.level": "read_uncommitted", '),
    "no seek back": ("consumer.seek(message)", "print(message)"),
    "seek on what is lost": ("consumer.assignment()", "known"),
    "a second seek": (
        "            consumer.seek(message)",
        "            consumer.seek(message)\n        consumer.seek(message)",
    ),
    "a seek to be called": ("consumer.seek(message)", "pass\n        later.callback(consumer.seek, message)"),
    "a seek beside the look": (
        'if TopicPartition("orders", 0) in consumer.assignment():',
        "if consumer.assignment() or True: pass\n        if True:",
    ),
    "a seek on the others": ("consumer.seek(message)", "pass\n        else: consumer.seek(message)"),
    "truth": ("message is not None and", "message and"),
    "truth of a negation": ("message is not None and message.error() is None", "not message or message.error()"),
    "truth of an assignment": ("    message = consumer.poll(1)", "    while message := consumer.poll(1): pass"),
    "truth in a loop": ("    member =", "    while message: pass\n    member ="),
    "truth by filter": ("    member =", "    each = list(filter(None, consumer.consume(9)))\n    member ="),
    "truth of a batch's messages": ("    member =", "    each = [m for m in consumer.consume(9) if m]\n    member ="),
}


SAFE_SEEKS = {
    "one by one": """
        ours = [each for each in consumer.assignment() if each.partition == message.partition()]
        for each in consumer.committed(ours):
            consumer.seek(each)""",
    "an expression": """
        later.callback(lambda: consumer.seek(message) if place in consumer.assignment() else None)""",
    "a name": """
        ours = consumer.assignment()
        if place in ours:
            consumer.seek(message)""",
}


def test_the_safe_form_passes() -> None:
    """What is safe isn't complained of."""
    assert [] == faults(SAFE)


@pytest.mark.parametrize("name", SAFE_SEEKS)
def test_another_safe_form_of_seeking_passes(name: str) -> None:
    """However it is written that only what is assigned is sought."""
    start, _, _ = SAFE.partition("\n        if TopicPartition")

    assert [] == faults(start + SAFE_SEEKS[name])


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_form_is_found(name: str) -> None:
    """Each way to lose, to double or to skip a record is found."""
    safe, unsafe = UNSAFE[name]
    assert safe in SAFE

    assert 1 == len(faults(SAFE.replace(safe, unsafe)))
