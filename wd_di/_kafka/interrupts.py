"""How an exception that comes up inside of a callback of librdkafka's gets out whole: mostly a signal handler's.

confluent-kafka gives it back with the call that has served the callback, in place of the call's own answer. But on
Python 3.11 it loses the traceback, and the type or the value of what was raised in C: of ``sys.exit(143)`` only a
SystemError is left, and of Ctrl-C nothing. So no callback of ours lets anything out: what came up is held until the
call has ended.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from opcode import opmap
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

_LOSSY = sys.version_info < (3, 12)
_AFTER_AWAIT = 3  # as the compiler marks where a coroutine goes on

thread_id = ctypes.pythonapi.PyThread_get_thread_ident  # gevent's get_ident, in its place, tells greenlets apart
thread_id.restype = ctypes.c_ulong

held: dict[int, BaseException] = {}
"""What came up inside of a callback, by the thread whose call has served it."""


def uninterrupted(fn: F) -> F:
    """Let a callback begin its work before a signal's handler is called.

    Where a function begins, CPython looks for signals, before any ``try`` of the function's own: what a handler raises
    would get out, and cost the record its answer. It doesn't look where a coroutine goes on behind an ``await``, which
    that first instruction says of itself; so this one says so, too. Behind it the function's own ``try`` counts.
    """
    code = fn.__code__
    start = code.co_code[:2]
    if start == bytes((opmap.get("RESUME", 0), 0)):
        fn.__code__ = code.replace(co_code=bytes((start[0], _AFTER_AWAIT)) + code.co_code[2:])
    return fn


def hold(raised: BaseException) -> None:
    """Keep what came up inside of a call until it has ended."""
    raised, thread = _hidden(raised), thread_id()
    before = held.get(thread)
    if raised.__context__ is None and before is not raised:
        raised.__context__ = before
    held[thread] = raised


def _hidden(raised: BaseException) -> BaseException:
    """Return what a SystemError stands for.

    A call of C raises one from what is pending already, although it has worked: in a callback that may be a fatal error
    of the client. And on Python 3.11 it is what is left of Ctrl-C, or of another handler's exception, where a callback
    was wrapped by somebody else.
    """
    if not isinstance(raised, SystemError):
        return raised
    if raised.__cause__ is not None:
        return raised.__cause__
    if _LOSSY and threading.current_thread() is threading.main_thread():
        lost = KeyboardInterrupt()
        lost.__cause__ = raised
        return lost
    return raised
