"""How a thread and a task wait to be woken, side by side."""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextlib import suppress

from wd_di._concurrency.greenlets import threads_are_greenlets
from wd_di._concurrency.uninterrupted import uninterrupted


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
        self.wake()

    def wake_in_call(self) -> None:
        """Let the waiting thread go on, also from inside of librdkafka's call: that only releases a lock.

        A greenlet, whose lock is gevent's, goes on behind the call: that is made on a thread without a hub.
        """
        if not threads_are_greenlets():
            self.wake()

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

    def wake_in_call(self) -> None:
        """Not yet: see :meth:`wake_later`."""

    def wake_later(self, batches: Batches) -> None:
        """Let the task go on with the others of its loop."""
        batches.setdefault(self._loop, []).append(self._future)

    async def wait(self, seconds: float) -> None:
        """Wait at most ``seconds``; ask whoever should have woken it whether it did."""
        if seconds >= BY_ROUNDS:
            await self.timed(seconds)
            return
        timer = self._loop.call_later(max(0.0, seconds), _resolve, self._future)
        try:
            await self._future
        finally:
            timer.cancel()

    def timed(self, seconds: float) -> asyncio.Future[None]:
        """Return what to await: it ends after ``seconds``, or up to :data:`ROUND` later."""
        _rounds_of(self._loop).until[self._future] = self._loop.time() + seconds
        return self._future


BY_ROUNDS = 0.5
"""Seconds from which on a wait may end a little late."""
ROUND = 0.025


class _Rounds:
    """Ends the long waits of one loop by one timer: of its own, each would cost more than the rest of an awaited call.

    Nobody but that timer keeps it, nor so the loop and whoever waits there: all are gone when the loop is closed.

    Attributes:
        loop: The loop.
        until: When the futures are to be resolved, in its time; those that are over go with the next round.
    """

    __slots__ = ("__weakref__", "loop", "until")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.until: dict[asyncio.Future[None], float] = {}
        loop.call_later(ROUND, self._look)

    @uninterrupted
    def _look(self) -> None:
        try:
            now = self.loop.time()
            self.until = {future: at for future, at in self.until.items() if not future.done()}
            for future, at in self.until.items():
                if at <= now:
                    _resolve(future)
        finally:  # also when a signal's exception came, which asyncio only logs
            if self.until:
                self.loop.call_later(ROUND, self._look)


_rounds: weakref.WeakValueDictionary[int, _Rounds] = weakref.WeakValueDictionary()
"""By the loop's number, for the loop itself would be kept; a number may be used again."""


def _rounds_of(loop: asyncio.AbstractEventLoop) -> _Rounds:
    rounds = _rounds.get(id(loop))
    if rounds is None or rounds.loop is not loop:
        rounds = _rounds[id(loop)] = _Rounds(loop)
    return rounds


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
