"""Whether a new producer reaches a broker, asked for no longer than anybody has patience."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.outcome import Outcome
from wd_di._kafka.port import SLICE, Fault

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from wd_di._kafka.port import Client

SECONDS = 1.0
"""For the first answer: three round trips, six with TLS and SASL."""


class Probe:
    """One question to the brokers, put on a thread of its own, since nothing else ends it early.

    Args:
        client: The new producer; unless a broker answers, that thread closes it, which nobody else may meanwhile.
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
            unwanted = self._given_up or answer.raised is not None or not answer.get()
            self._changed.notify_all()
        if unwanted:
            self._client.close()

    def reached(self, patience: Callable[[], float]) -> bool:
        """Wait for the answer, for as long as ``patience()`` gives seconds; false if none came.

        Raises:
            Fault: A broker doesn't let it in.
            BaseException: What else the question failed with, other than for want of a broker.
        """
        deadline = Deadline(SECONDS)
        while (left := min(deadline.left, patience())) > 0 and not self._answered(min(left, SLICE)):
            if left > SLICE:
                with suppress(Fault):  # closed meanwhile, for want of an answer
                    self._client.poll(0)  # who isn't let in hears of it here, long before
                if self._client.fault is not None:
                    break
        with self._changed:
            self._given_up = not self._answers
        answered = not self._given_up and self._answers[0].get()
        if not answered and self._client.fault is not None:
            raise self._client.fault
        return answered

    def _answered(self, seconds: float) -> bool:
        """Wait for the answer, or for a change of what there is patience for; whether it has come."""
        with self._changed:
            if not self._answers:
                self._changed.wait(seconds)
            return bool(self._answers)

    def _reaches(self) -> bool:
        try:
            self._client.probe(SECONDS)
        except Fault:
            return False
        return True
