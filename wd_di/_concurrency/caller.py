"""Who calls: which thread, task or greenlet, and whether it may block."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from asyncio import _get_running_loop

from wd_di._concurrency.greenlets import current_greenlet, threads_are_greenlets
from wd_di.errors import ScopeError

ON_A_THREAD = "move it to asyncio.to_thread"
"""A way out that whoever would block a loop always has."""


def refuse_outside_of_a_task(what: str) -> None:
    """Refuse a coroutine that no asyncio task runs: who holds what is told by the task.

    Raises:
        ScopeError: Another library runs it, such as trio, or it is driven by hand.
    """
    if _get_running_loop() is None or asyncio.current_task() is None:
        raise ScopeError(
            f"{what}: this needs asyncio, and here runs trio. With anyio, say anyio.run(main, backend='asyncio'), and "
            "in tests give a fixture anyio_backend that returns 'asyncio'"
            if in_trio()
            else f"{what}: this needs asyncio, and no task of asyncio's runs here: await it in one, as by asyncio.run()"
        )


def refuse_in_trio(what: str) -> None:
    """Refuse a block that other tasks of the same thread could enter meanwhile, and would take for theirs.

    Raises:
        ScopeError: This is a task of trio's.
    """
    if in_trio():
        raise ScopeError(
            f"{what}: trio runs in this thread, whose tasks can't be told apart: do all of it in one function, by "
            "trio.to_thread.run_sync"
        )


def on_loop() -> bool:
    """Whether an event loop runs in this thread, and would stand still while it blocks."""
    return _get_running_loop() is not None or ("trio.lowlevel" in sys.modules and in_trio())


def refuse_on_loop(what: str, pool: str, instead: str = f"use 'async with' and await its calls, {ON_A_THREAD}") -> None:
    """Refuse a call that would block the event loop which runs in this thread.

    Raises:
        ScopeError: One does.
    """
    if on_loop():
        raise ScopeError(
            f"{pool}: {what} would block the event loop that runs in this thread: {instead}, or set "
            "allow_blocking_in_loop=True in a notebook"
        )


def caller() -> object:
    """Who asks: the running task, else the greenlet, else the thread. Not their numbers, since those are used again.

    A task is told by its one weak reference: if its loop is closed under it, it is collected, and so gives back.
    """
    if _get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return weakref.ref(task)
    if "greenlet" in sys.modules:
        return current_greenlet() or threading.current_thread()
    return threading.current_thread()


def interruptible() -> bool:
    """Whether a signal's handler, or a greenlet's kill, may want to come while this thread blocks."""
    return threading.current_thread() is threading.main_thread() or threads_are_greenlets()


def in_trio() -> bool:
    """Whether trio runs this thread; it is never imported for that."""
    lowlevel = sys.modules.get("trio.lowlevel")
    return lowlevel is not None and getattr(lowlevel, "in_trio_run", bool)() is True
