"""What is called when a process ends, also when it is a child that multiprocessing has forked."""

from __future__ import annotations

import atexit
import sys

from wd_di._forks import renew_in_child

TYPE_CHECKING = False  # as in _forks
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread

LAST = -100
"""Priority among multiprocessing's finalizers: others may still produce."""

_known: set[Callable[[], object]] = set()


def at_exit(fn: Callable[[], object]) -> None:
    """Call ``fn()`` once all that isn't a daemon thread has ended; more than once, if the process ends in two ways.

    A child that multiprocessing has forked, itself or by its fork server, ends by ``os._exit``: up to Python 3.12 none
    of the interpreter's exit handlers runs there, and later none from before the fork. It has finalizers instead,
    which it forgets when it begins. ``multiprocessing`` is never imported here: without it there is no such child.
    """
    atexit.register(fn)
    _at_child_exit(fn)
    renew_in_child("exit", lambda: _at_child_exit(fn))


def _at_child_exit(fn: Callable[[], object]) -> None:
    """Take part in the end of such a child, should this process be one, or be about to become one."""
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        return
    if fn not in _known:  # a fork inherits it
        _known.add(fn)
        util.register_after_fork(fn, _finalize)
    _finalize(fn)


def _finalize(fn: Callable[[], object]) -> None:
    """Also by a child's own fork: a finalizer counts only in the process that has made it."""
    multiprocessing = sys.modules["multiprocessing"]
    spawned = multiprocessing.get_start_method(allow_none=True) == "spawn"  # that one ends as every program does
    if multiprocessing.parent_process() is not None and not spawned:
        multiprocessing.util.Finalize(None, _after_others, (fn,), exitpriority=LAST)


def _after_others(fn: Callable[[], object]) -> None:
    """Finalizers run before the threads are waited for that aren't daemons, and those may still produce."""
    if not _others():
        fn()
        return
    from threading import Thread  # noqa: PLC0415  (loaded by then)

    try:
        Thread(target=_outlast, args=(fn,), name="wd_di-exit", daemon=False).start()
    except RuntimeError:  # no more threads
        fn()


def _outlast(fn: Callable[[], object]) -> None:
    while others := _others():
        others[0].join()
    fn()


def _others() -> list[Thread]:
    import threading  # noqa: PLC0415  (as above)

    apart = (threading.current_thread(), threading.main_thread())
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in apart]
