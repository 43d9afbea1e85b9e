"""How a task waits without blocking its loop: for a slot, for a delivery, for a job on a worker thread."""

from __future__ import annotations

import asyncio
import sys
from asyncio import _get_running_loop
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from wd_di.errors import ScopeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._threads import Workers

R = TypeVar("R")
Batches = dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]]
"""Who is to be woken, by loop: one wake-up for each loop, however many wait there."""


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
    return _get_running_loop() is not None or in_trio()


def in_trio() -> bool:
    """Whether trio runs this thread; it is never imported for that."""
    lowlevel = sys.modules.get("trio.lowlevel")
    return lowlevel is not None and getattr(lowlevel, "in_trio_run", bool)() is True


class TaskWaiter:
    """Lets one task wait for one wake-up, which may come from any thread.

    A bare future and ``call_later``: ``asyncio.wait_for`` and ``Condition`` lose cancellations on Python 3.11
    (cpython#86296).
    """

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> bool:
        """Let the task go on; false if its loop is closed, so that nobody will."""
        try:
            self._loop.call_soon_threadsafe(_resolve, self._future)
        except RuntimeError:
            return False
        return True

    def wake_later(self, batches: Batches) -> None:
        """Let the task go on with the others of its loop."""
        batches.setdefault(self._loop, []).append(self._future)

    async def wait(self, seconds: float) -> None:
        """Wait at most ``seconds``; ask whoever should have woken it whether it did."""
        timer = self._loop.call_later(max(0.0, seconds), _resolve, self._future)
        try:
            await self._future
        finally:
            timer.cancel()


def wake_all(batches: Batches) -> None:
    """Wake every loop once."""
    for loop, futures in batches.items():
        with suppress(RuntimeError):  # it is closed, and its tasks are gone
            loop.call_soon_threadsafe(_resolve_all, futures)


async def outwaited(workers: Workers, job: Callable[[], R]) -> R:
    """Run a job on a worker thread. A cancellation waits for its end, and then goes on.

    A job that was abandoned would go on using what its task has given back.
    """
    loop = _get_running_loop()
    if loop is None:
        workers.submit(job)
        raise GeneratorExit  # a forgotten task is collected after its loop's end: nobody is left to wait
    done: asyncio.Future[R] = loop.create_future()

    def work() -> None:
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001  (it is raised where the job is waited for)
            _tell(loop, done.set_exception, error)
        else:
            _tell(loop, done.set_result, result)

    workers.submit(work)
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        done.exception()  # seen: it is an event, and on the way to nobody
        raise cancelled
    return done.result()


def _tell(loop: asyncio.AbstractEventLoop, set_: Callable[[Any], None], value: Any) -> None:
    with suppress(RuntimeError):  # the loop was closed meanwhile; what had to be done is done
        loop.call_soon_threadsafe(set_, value)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _resolve_all(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        _resolve(future)
