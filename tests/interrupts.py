"""An exception at every place where CPython may call a signal's handler, one after the other."""

from __future__ import annotations

import dis
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

ENOUGH = 3
"""Calls in a row that reach their end before they could be interrupted."""
OUTSIDE = ("wd_di._kafka.memory", "wd_di._records.delivery", "wd_di._records.in_flight")
"""Where not to interrupt: a record's answer would be lost with it, and an abort waits a second for that."""


class Interrupt(BaseException):
    """What a signal's handler raises."""


class _At:
    """Raises once, at the place with this number.

    CPython looks for signals where a function of Python's begins, where a call of anything else ends, and where a loop
    starts again; in between no handler is ever called, so an exception there would prove nothing.
    """

    def __init__(self, number: int) -> None:
        self.place: str | None = None
        self._left = number
        self._before = sys.gettrace()  # that of coverage

    def start(self) -> None:
        sys.settrace(self._trace)
        sys.setprofile(self._profile)

    def stop(self) -> None:
        sys.setprofile(None)
        sys.settrace(self._before)

    def _profile(self, frame: FrameType, event: str, what: Any) -> None:
        del what  # whoever keeps the interrupt would keep it: it may be a method of what should be gone
        made = event == "return" and frame.f_code.co_name == "__init__"  # the call of its class ends
        if event in ("call", "c_return") or made:
            self._pass(frame)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and frame.f_lasti in _jumps(frame.f_code):
            self._pass(frame)
        return self._trace

    def _pass(self, frame: FrameType) -> None:
        if frame.f_code.co_name == "<genexpr>":  # CPython itself drops what is raised in a generator that it closes
            return
        module = _module(frame)
        if frame.f_back is not None and _module(frame.f_back) == "weakref":  # nor what is raised in its callback
            return
        if module == "threading" and frame.f_back is not None:
            module = _module(frame.f_back)
        if not module.startswith("wd_di.") or module in OUTSIDE:
            return
        self._left -= 1
        if self._left == 0:
            self.stop()
            self.place = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
            raise Interrupt(self.place)


def interrupt_everywhere(fn: Callable[[], object]) -> Iterator[str]:
    """Call ``fn()`` again and again, and interrupt it one place later each time; where that was, when it is over.

    It takes fewer steps when there is nothing to wait for; so one call that wasn't interrupted isn't the end.
    """
    number, whole = 1, 0
    while whole < ENOUGH:
        place = interrupt_at(number, fn)
        if place is None:
            whole += 1
            continue
        yield f"{number} {place}"
        number, whole = number + 1, 0


def interrupt_at(number: int, fn: Callable[[], object]) -> str | None:
    """Call ``fn()``, and interrupt it at the place with this number, from 1; where that was, if it has so many."""
    at = _At(number)
    at.start()
    try:
        fn()
    except Interrupt:
        pass
    finally:
        at.stop()
    return at.place


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


@cache
def _jumps(code: CodeType) -> frozenset[int]:
    return frozenset(each.offset for each in dis.get_instructions(code) if each.opname.startswith("JUMP_BACKWARD"))
