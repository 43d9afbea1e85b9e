"""How librdkafka is asked to end a transaction: by one call that has all the time there is, and none is made again.

Each call of ``commit_transaction`` puts several questions to librdkafka's own thread, which notes one answer at a time,
for whichever call waits then. A call that gives up may leave a question or an answer in that thread's queue. The next
one takes that for its own, is one ahead from there on, and is told of an end that hasn't come. Then the broker's yes
may count as one to an abort, and librdkafka ends the process ("Invalid transaction state transition", seen in 2.16.0).
What is said of resuming such a call (``retry call to resume``) holds only while that thread is never late.
"""

from __future__ import annotations

import _thread
import sys
from functools import partial
from typing import TYPE_CHECKING

from wd_di._concurrency.errands import Errand
from wd_di._concurrency.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable


class OneCall:
    """A call that an own thread makes, since whoever waits for it may be interrupted, and the call can't be.

    No code but librdkafka's and ours runs on that thread: what the call has served is told by whoever waits.

    Args:
        name: Of the call.
        call: The call; what it raises is given to whoever waits, as often as they ask.

    Attributes:
        name: As given.
    """

    __slots__ = ("_call", "_errand", "_outcome", "name")

    def __init__(self, name: str, call: Callable[[], object]) -> None:
        self.name: str = name
        self._call = call
        self._outcome: Outcome[object] = Outcome()  # not the errand's, which is told once
        self._errand: Errand[None] | None = None

    @property
    def over(self) -> bool:
        """Whether it is known what became of it."""
        return self._outcome.known

    def answered(self, seconds: float) -> bool:
        """Wait at most so many seconds for it; whether it has succeeded.

        Raises:
            BaseException: What it has raised.
        """
        errand = self._errand
        if errand is None or (errand.over and not self.over):  # a signal came before it was on its way
            errand = self._errand = Errand(partial(self._outcome.of, self._call))
            errand.run_on(_OwnThread)
        errand.known(seconds)
        if self.over:
            self._outcome.get()
        return self.over


class _OwnThread:
    """Does a job on a new thread, or here and now if there is none to be had."""

    @staticmethod
    def submit(job: Callable[[], object]) -> None:
        if sys.is_finalizing():  # on Python 3.11 its beginning would never come
            job()
            return
        try:
            _thread.start_new_thread(job, ())  # Thread.start has a lock, which a signal's handler may meet
        except RuntimeError:  # "can't start new thread"
            job()
