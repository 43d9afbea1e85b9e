"""How a call that blocks its thread leaves other greenlets running, where gevent has made threads of them."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from wd_di._concurrency.outcome import Outcome
from wd_di.errors import ScopeError

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")

NATIVE_THREADS = 32
"""Blocking calls at once, in each thread that has a hub; further ones wait, and each takes a fraction of a second."""


def yielding(call: Callable[[], R]) -> R:
    """Make a blocking call of librdkafka's, which knows no greenlets: on a native thread, if threads are greenlets.

    Interrupted by ``kill`` or ``gevent.Timeout``, it waits for the call's end: an abandoned one would go on using what
    its greenlet has given back.
    """
    if not threads_are_greenlets():
        return call()
    outcome: Outcome[R] = Outcome()
    try:
        task = _native_threads().spawn(outcome.of, call)  # what it raises gevent would print
    except RuntimeError:  # no more threads: the interpreter exits, where blocking hurts nobody
        return call()
    interrupt: BaseException | None = None
    while not task.ready():
        try:
            task.wait()
        except BaseException as error:  # noqa: BLE001  (raised when the call has ended)
            interrupt = error
    if interrupt is not None:
        raise interrupt
    return outcome.get()


def current_greenlet() -> object | None:
    """Return the greenlet that runs, unless it is its thread's own: several can be at work in one thread, in turns."""
    greenlet = sys.modules.get("greenlet")
    if greenlet is None:
        return None
    current: Any = greenlet.getcurrent()
    return None if current.parent is None else current


def threads_are_greenlets() -> bool:
    """Whether gevent has patched threading; it is never imported for that."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and getattr(monkey, "is_module_patched", bool)("threading") is True


def refuse_eventlet(what: str) -> None:
    """Refuse to work where eventlet has made greenlets of threads: all of them would stand still at every wait.

    Raises:
        ScopeError: It has patched threading.
    """
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and getattr(patcher, "is_monkey_patched", bool)("thread") is True:
        raise ScopeError(
            f"{what}: eventlet has made greenlets of threads, and all of them would stand still while one waits for "
            "Kafka: use gevent, or eventlet.monkey_patch(thread=False) and eventlet.tpool.execute for what produces"
        )


def _native_threads() -> Any:
    """The hub's own pool is small, and it resolves names."""
    gevent: Any = sys.modules["gevent"]
    hub = gevent.get_hub()
    pid, threads = getattr(hub, "_wd_di_threads", (None, None))
    if pid != os.getpid():
        threads = importlib.import_module("gevent.threadpool").ThreadPool(NATIVE_THREADS, hub=hub)
        hub._wd_di_threads = (os.getpid(), threads)  # noqa: SLF001  (lives as long as the hub)
    return threads
