"""How a thread and a task wait to be woken, side by side."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class ThreadWaiter:
    """Lets one thread wait for one wake-up: a bare lock, which costs a sixth of a ``threading.Event``."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> bool:
        """Let the waiting thread go on."""
        try:
            self._lock.release()
        except RuntimeError:  # it was told already
            return True
        return True

    def wake_later(self, batches: object) -> None:  # noqa: ARG002  (a thread needs no loop's turn)
        """Let the waiting thread go on, now."""
        self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds``; whether the wake-up came."""
        return self._lock.acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX))


class Alarm:
    """Ends a nap: a bare lock, since an Event stays locked for ever when Ctrl-C comes at a bad moment inside of it."""

    __slots__ = ("_quiet",)

    def __init__(self) -> None:
        self._quiet = threading.Lock()
        self._quiet.acquire()

    def ring(self) -> None:
        """End the present nap, or else the next one."""
        try:
            self._quiet.release()
        except RuntimeError:  # it rings already
            return

    def silence(self) -> None:
        """Forget that it rang."""
        self._quiet.acquire(blocking=False)

    def nap(self, seconds: float) -> None:
        """Sleep until it rings, at most ``seconds``."""
        self._quiet.acquire(timeout=seconds)


Batches = dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]]
"""Who is to be woken, by loop: one wake-up for each loop, however many wait there."""


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


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _resolve_all(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        _resolve(future)
