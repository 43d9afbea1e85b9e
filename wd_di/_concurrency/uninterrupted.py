"""How a callback that nobody calls again begins, whatever a signal's handler raises."""

from __future__ import annotations

from opcode import opmap
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

_AFTER_AWAIT = 3  # as the compiler marks where a coroutine goes on


def uninterrupted(fn: F) -> F:
    """Let a function begin its work before a signal's handler is called.

    Where a function begins, CPython looks for signals, before any ``try`` of the function's own: what a handler raises
    would get out, and cost a record its answer, or a task its time-out. It doesn't look where a coroutine goes on
    behind an ``await``, which that first instruction says of itself; so this one says so, too. Behind it the function's
    own ``try`` counts.
    """
    code = fn.__code__
    start = code.co_code[:2]
    if start == bytes((opmap.get("RESUME", 0), 0)):
        fn.__code__ = code.replace(co_code=bytes((start[0], _AFTER_AWAIT)) + code.co_code[2:])
    return fn
