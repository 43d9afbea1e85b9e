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

from confluent_kafka import KafkaError, KafkaException

_LOSSY = sys.version_info < (3, 12)

thread_id = ctypes.pythonapi.PyThread_get_thread_ident  # gevent's get_ident, in its place, tells greenlets apart
thread_id.restype = ctypes.c_ulong

_LOST = "a fatal error, of which Python has lost the text; librdkafka's own line in the log has it"

held: dict[int, BaseException] = {}
"""What came up inside of a callback, by the thread whose call has served it."""


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
    of the client. A bare one stands for what was pending and is lost. On Python 3.11 that was Ctrl-C, or another
    handler's exception, where a callback was wrapped by somebody else. Later ones lose nothing but what confluent-kafka
    itself has pending, a fatal error, if the garbage collector calls a weak reference's callback at the call's end.
    """
    if not isinstance(raised, SystemError):
        return raised
    if raised.__cause__ is not None:
        return raised.__cause__
    lost: BaseException
    if not _LOSSY:
        if not str(raised).endswith("without setting an exception"):
            return raised
        lost = KafkaException(KafkaError(KafkaError._FATAL, _LOST, fatal=True))  # noqa: SLF001  (its name)
    elif threading.current_thread() is threading.main_thread():
        lost = KeyboardInterrupt()
    else:
        return raised
    lost.__cause__ = raised
    return lost


def is_lost(error: BaseException) -> bool:
    """Whether all that is known of a client's error is that it is fatal."""
    return isinstance(error, KafkaException) and bool(error.args[0].str() == _LOST)
