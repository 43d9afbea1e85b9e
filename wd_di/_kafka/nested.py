"""No call into a client from inside one of its own callbacks: confluent-kafka would end the process."""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import cimpl

from wd_di._concurrency.outcome import Outcome
from wd_di._kafka.interrupts import held, hold, thread_id
from wd_di._kafka.kept import forget_frames, unhandled

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._kafka.kept import Kept

R = TypeVar("R")

PATIENCE = 0.5
"""Seconds that another thread has for a nested call beyond its own time: it may need a lock that the callback holds."""


class NestedCallError(RuntimeError):
    """A call came from inside another one of the same client, and can't be made now."""


class Calls:
    """The calls of one client that serve callbacks, each noted for the thread that makes it.

    confluent-kafka keeps what a callback needs once per thread and client. A second call from inside of a callback
    wipes that out, and the next callback of the first call aborts the process (confluent-kafka-python#457). Callbacks
    of ours only note what came; but a signal's handler, a logger or a finalizer may run inside of them, and may well
    produce. So such a call is made on a thread of its own: librdkafka itself has nothing against it.
    """

    __slots__ = ("_inside", "_left")

    def __init__(self) -> None:
        self._inside: set[int] = set()
        self._left: threading.Thread | None = None

    @property
    def inside(self) -> bool:
        """Whether this thread is in one of them."""
        return thread_id() in self._inside

    def make(self, call: Callable[[Any], R], kept: Kept, seconds: float) -> R:
        """Make the call of what is kept, which takes about so many seconds at most.

        Raises:
            NestedCallError: It is nested, and no other thread could make it in time.
            BaseException: What came up in one of its callbacks, in place of its own answer.
        """
        thread = thread_id()
        if thread in self._inside:
            return self._make_elsewhere(partial(self.make, call, kept, seconds), seconds)
        try:
            self._inside.add(thread)
            return call(kept[0]) if sys.exception() is None else unhandled(call, kept)
        except BaseException as error:
            if isinstance(error, SystemError):
                hold(error)
            if type(kept[0]) is not cimpl.Producer:
                forget_frames(error)
            raise
        finally:
            try:
                self._inside.discard(thread)
            finally:
                if held and (raised := held.pop(thread, None)) is not None:
                    if type(kept[0]) is not cimpl.Producer:
                        forget_frames(raised)
                    raise raised

    def _make_elsewhere(self, job: Callable[[], R], seconds: float) -> R:
        """Wait for another thread to make it; one that is stuck behind the callback goes on when that has returned."""
        outcome: Outcome[R] = Outcome()
        here = thread_id()

        def make() -> R:
            if thread_id() == here:  # a greenlet, which would only try again
                raise NestedCallError("called while a callback of this producer waits")
            return job()

        if self._left is not None and self._left.is_alive():
            raise NestedCallError("called from inside of a callback of this producer, which must return first")
        thread = threading.Thread(target=outcome.of, args=(make,), name="wd_di-nested", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # see Workers._start
            raise NestedCallError("called from inside of a callback of this producer") from error
        thread.join(seconds + PATIENCE)
        if not outcome.known:
            self._left = thread
            raise NestedCallError("called from inside of a callback of this producer, which must return first")
        return outcome.get()
