"""Whether a new producer reaches a broker, asked for no longer than anybody has patience."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.outcome import Outcome
from wd_di._kafka.port import Fault

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from wd_di._kafka.port import Client

SECONDS = 1.0
"""For the first answer: three round trips, six with TLS and SASL."""


class Probe:
    """One question to the brokers, put on a thread of its own, since nothing else ends it early.

    Args:
        client: The new producer; without an answer that thread closes it.
        changed: Wakes who waits, also when somebody comes who has less patience.
    """

    def __init__(self, client: Client, changed: threading.Condition) -> None:
        self._client = client
        self._changed = changed
        self._answers: list[Outcome[bool]] = []
        self._given_up = False

    def ask(self) -> None:
        """Ask, and note what came of it."""
        answer: Outcome[bool] = Outcome()
        answer.of(self._reaches)
        with self._changed:
            self._answers.append(answer)
            unwanted = self._given_up or (answer.raised is None and not answer.get())
            self._changed.notify_all()
        if unwanted:
            self._client.close()

    def reached(self, patience: Callable[[], float]) -> bool:
        """Wait for the answer, for as long as ``patience()`` gives seconds; false if none came.

        Raises:
            BaseException: What the question failed with, other than for want of a broker.
        """
        deadline = Deadline(SECONDS)
        with self._changed:
            while not self._answers and (left := min(deadline.left, patience())) > 0:
                self._changed.wait(left)
            self._given_up = not self._answers
        if self._given_up:
            return False
        return self._answers[0].get()

    def _reaches(self) -> bool:
        try:
            self._client.probe(SECONDS)
        except Fault:
            return self._client.fault is not None  # it won't be better for another one
        return True
