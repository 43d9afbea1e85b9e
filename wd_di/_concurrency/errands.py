"""How a call is made that may take longer than its caller waits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from wd_di._concurrency.outcome import Outcome
from wd_di._concurrency.waiters import TaskWaiter

if TYPE_CHECKING:
    from collections.abc import Callable


R = TypeVar("R")

_TAKEN: Outcome[Any] = Outcome()
_TAKEN.of(lambda: None)


class Runner(Protocol):
    """Runs jobs on threads of its own."""

    def submit(self, job: Callable[[], object]) -> None: ...


class Errand(Generic[R]):
    """A job that a worker does to its end, whoever has stopped waiting for it.

    Args:
        job: What is to be done; what it raises is for whoever waits.
        afterwards: Done next by the same worker, while nobody waits for it.
        endless: Whether it may take for ever, and nobody should wait for that.

    Attributes:
        endless: As given.
        over: Whether nothing of it is still to be done, as before anybody was asked to.
    """

    __slots__ = ("_afterwards", "_first", "_job", "_known", "_lock", "_outcome", "_then", "endless", "over")

    def __init__(
        self, job: Callable[[], R], afterwards: Callable[[], object] | None = None, *, endless: bool = False
    ) -> None:
        self.endless: bool = endless
        self.over: bool = True
        self._job: Callable[[], R] | None = job
        self._afterwards = afterwards
        self._outcome: Outcome[R] = Outcome()
        self._first: dict[Callable[[], object], None] = {}
        self._then: list[Callable[[], object]] = []
        self._lock = threading.RLock()
        self._known = threading.Lock()  # a bare one, see Alarm; free when the outcome is known
        self._known.acquire()

    def run_on(self, workers: Runner) -> None:
        """Let one of them do it; if a signal's handler raises meanwhile and it hasn't begun, nobody does."""
        try:
            self.over = False
            workers.submit(self._run)
        except BaseException:  # others would wait for the end of what may be in the queue without a thread for it
            if self._taken() is not None:
                self._known.release()
                self._end()
            raise

    def known(self, seconds: float) -> bool:
        """Wait at most so many seconds for the outcome; whether it is there."""
        if not self._outcome.known and self._known.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            self._known.release()  # for the next one who waits
        return self._outcome.known

    async def known_async(self, seconds: float) -> bool:
        """Wait as :meth:`known` does, while the loop goes on."""
        waiter = TaskWaiter()
        if self.when_known(waiter.wake):
            try:
                await waiter.wait(seconds)
            finally:
                with self._lock:
                    self._first.pop(waiter.wake, None)
        return self._outcome.known

    def get(self) -> R:
        """Return what the job gave, or raise what it raised, once; for whoever has seen that it is known."""
        outcome, self._outcome = self._outcome, _TAKEN  # a traceback leads to the borrower's frames
        return outcome.get()

    def when_known(self, call: Callable[[], object]) -> bool:
        """Let the worker call this as soon as the outcome is known; false if it is known already."""
        with self._lock:
            if not self._outcome.known:
                self._first[call] = None
                return True
            return False

    def then(self, call: Callable[[], object]) -> bool:
        """Let the worker call this when it is over; false if it is over already."""
        with self._lock:
            if not self.over:
                self._then.append(call)
            return not self.over

    def _run(self) -> None:
        job = self._taken()
        if job is None:  # called off
            return
        try:
            self._outcome.of(job)
            del job
            self._known.release()
            with self._lock:
                first, self._first = self._first, {}
            for call in first:
                call()
            if self._afterwards is not None:
                self._afterwards()
        finally:
            self._end()

    def _taken(self) -> Callable[[], R] | None:
        """The job, for the first who asks."""
        with self._lock:
            job, self._job = self._job, None
            return job

    def _end(self) -> None:
        self._afterwards = None
        with self._lock:
            self.over = True
        for call in self._then:
            call()
        self._then.clear()
