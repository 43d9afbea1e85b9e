"""The pool's own threads: all daemons, none of them ever waited for without a bound."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from wd_di._forks import renew_in_child
from wd_di.events import log_error

if TYPE_CHECKING:
    from collections.abc import Callable

from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.waiters import Alarm, ThreadWaiter

LINGER = 1.0
"""Seconds that a worker without a job stays."""


SHORT_NAP = 0.01
"""Seconds of a nap that nobody needs to end."""


class Workers:
    """Runs jobs on at most ``limit`` threads that start on demand and end when idle.

    ``concurrent.futures`` won't do: its threads are joined at interpreter exit, and a job that talks to a dead broker
    would hang the exit.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self._limit = limit
        self.renew()
        _all_workers.add(self)

    def renew(self) -> None:
        """Start without jobs and threads; again in a child after a fork, which inherits neither."""
        self._jobs: deque[Callable[[], object]] = deque()
        self._mutex = threading.RLock()
        self._threads = 0
        self._idle: list[ThreadWaiter] = []  # a bare lock for each: a Condition would cost as much as a short job

    def submit(self, job: Callable[[], object]) -> None:
        """Run the job soon; here and now if the interpreter no longer starts threads, and never once it ends itself.

        Then all pools are closed, and a thread that is started waits for ever for its beginning (Python 3.11).
        """
        if sys.is_finalizing():
            return
        counted: list[bool] = []
        try:
            with self._mutex:
                self._jobs.append(job)
                if self._idle:
                    self._idle[-1].wake()  # first: interrupted, it stays in the list, and takes itself off
                    self._idle.pop()
                    return
                if self._threads >= self._limit:
                    return
                self._threads += 1
                counted.append(True)
            self._start(counted)
        except BaseException:  # a signal's: the thread may have begun, or never will
            with self._mutex:
                self._threads -= _taken(counted)
            raise

    def spare(self) -> None:
        """Go on without a thread whose job may never end: let another one take its place."""
        with self._mutex:
            self._limit += 1

    def _start(self, counted: list[bool]) -> None:
        try:
            threading.Thread(target=self._work, args=(counted,), name=self.name, daemon=True).start()
        except RuntimeError:  # "can't create new thread at interpreter shutdown" (cpython#113964)
            self._work(counted, linger=0.0)

    def _work(self, counted: list[bool], linger: float = LINGER) -> None:
        if not _taken(counted):  # who wanted this thread doesn't count it any more
            return
        while (job := self._next(linger)) is not None:
            try:
                job()
            except BaseException as error:  # noqa: BLE001  (a worker outlives its jobs, also a listener's sys.exit)
                log_error(f"{self.name}.job", f"{self.name}: a background job failed", error)
            del job  # an idle worker must not keep a pool alive

    def _next(self, linger: float) -> Callable[[], object] | None:
        deadline = Deadline(linger)
        while True:
            with self._mutex:
                if self._jobs:
                    return self._jobs.popleft()
                if deadline.passed:
                    self._threads -= 1
                    return None
                waiter = ThreadWaiter()
                self._idle.append(waiter)
            waiter.wait(deadline.left)
            with self._mutex:
                if waiter in self._idle:
                    self._idle.remove(waiter)


def _taken(counted: list[bool]) -> bool:
    """Whether it was still there; each once, whoever asks first."""
    try:
        return counted.pop()
    except IndexError:
        return False


_all_workers: weakref.WeakSet[Workers] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for workers in tuple(_all_workers):
        workers.renew()


renew_in_child("workers", _after_fork_in_child)


class Poller:
    """One thread that calls ``round`` again and again, napping in between for as long as it says.

    It holds the owner of ``round`` weakly, and ends with it: a forgotten pool can be collected.
    """

    def __init__(self, name: str, round_: weakref.WeakMethod[Callable[[], float]]) -> None:
        self.napping = False
        self.refused = False  # the system had no thread for it
        self._name = name
        self._round = round_
        self._alarm = Alarm()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, if there is one to be had: at the interpreter's exit there isn't, and else maybe later."""
        if self._stopped or sys.is_finalizing() or (self._thread is not None and self._thread.ident is not None):
            return
        self.refused = False
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # see Workers._start
            self._thread = None
            self.refused = True

    def wake(self) -> None:
        """End the present nap."""
        self.napping = False
        self._alarm.ring()

    def stop(self, seconds: float) -> None:
        """End the thread and wait for it at most ``seconds``; called by itself it doesn't wait."""
        self._stopped = True
        self.wake()
        if self._thread is not None and self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        while not self._stopped:
            self._alarm.silence()
            self.napping = True  # before the round: what comes up behind its back must end the nap
            nap = self._one_round()
            if nap is None:
                return
            if nap > SHORT_NAP:
                self._alarm.nap(nap)
            else:
                time.sleep(nap)

    def _one_round(self) -> float | None:
        round_: Any = self._round()
        if round_ is None:
            return None
        try:
            return float(round_())
        except BaseException as error:  # noqa: BLE001  (deliveries must go on being served)
            log_error(f"{self._name}.round", f"{self._name}: a polling round failed", error)
            return 0.1
