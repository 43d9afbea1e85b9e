"""How a pool's slots are closed: what is waited for, what is taken by force, and what is reported."""

from __future__ import annotations

import _thread
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wd_di._concurrency.deadline import Deadline
from wd_di._slots.housekeeping import inherited
from wd_di._slots.slots import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._slots.housekeeping import Housekeeper
    from wd_di._slots.stats import Holder

FORCE_PATIENCE = 0.15
"""Seconds after the deadline of a close that ending what is taken by force may take."""


@dataclass(frozen=True, slots=True)
class CloseReport:
    """What became of a pool's producers and messages.

    Attributes:
        pool: The pool's name.
        flushed: Messages that were still unanswered when the close began, and were answered before its end.
        purged: Messages given up; those that were in flight may still arrive.
        held: Who still holds a producer; it closes when it comes back.
        abandoned: Indices of producers whose closing hadn't ended in time; it goes on in the background.
        duration_ms: How long the close took.
    """

    pool: str
    flushed: int
    purged: int
    held: tuple[Holder, ...]
    abandoned: tuple[int, ...]
    duration_ms: float

    @property
    def clean(self) -> bool:
        """Whether nothing was lost and nothing is left."""
        return not (self.purged or self.held or self.abandoned)


class Closing:
    """The one close of a pool, which others may join.

    Args:
        house: Who closes.
        deadline: For the whole.
        finish: Called with the report at its end.
    """

    def __init__(self, house: Housekeeper, deadline: Deadline, finish: Callable[[CloseReport], object]) -> None:
        self._house = house
        self._deadline = deadline
        self._finish = finish
        self._started = time.monotonic()
        self._purged, self._undecided = house.fate()
        self._report: CloseReport | None = None
        self._ended = threading.Event()
        house.close_producers(deadline)

    def run(self, mine: int, *, force: bool) -> CloseReport:
        """Wait for the holders, and report.

        Args:
            mine: How many slots the caller holds itself: those are waited for by nobody.
            force: Whether to take what is held at the deadline.
        """
        try:
            self._await_holders(self._deadline, mine, force=force)
        finally:  # Ctrl-C ends the waiting, not the closing
            self._report = report = self._make_report(self._started, self._undecided, self._purged)
            if not self.left():
                self._house.stop(FORCE_PATIENCE)
            self._ended.set()
            self._finish(report)
        return report

    def join(self, deadline: Deadline, mine: int, *, force: bool) -> CloseReport:
        """Wait for the end of the close; what it left with its holders can be taken by force later."""
        started, purged = time.monotonic(), self._house.purged
        self._ended.wait(deadline.left)
        report = self._report
        if force and self._house.table.holders():
            self._await_holders(deadline, mine, force=True)
            report = None
        return report or self._make_report(started, 0, purged)

    def left(self) -> int:
        """How many slots aren't closed yet."""
        table = self._house.table
        return table.policy.size - len(table.in_state(State.EMPTY))

    def _await_holders(self, deadline: Deadline, mine: int, *, force: bool) -> None:
        house = self._house
        house.wait_until(lambda: self.left() <= mine, deadline)
        if force and self.left():
            house.seize(FORCE_PATIENCE)
        if self.left() > len(house.table.holders()):
            house.wait_until(lambda: not self.left(), Deadline(FORCE_PATIENCE))

    def _make_report(self, started: float, undecided: int, purged: int) -> CloseReport:
        table, (given_up, unanswered) = self._house.table, self._house.fate()
        lost = given_up - purged
        return CloseReport(
            pool=self._house.name,
            flushed=max(0, undecided - lost - unanswered),
            purged=lost,
            held=table.holders(),
            abandoned=(*table.in_state(State.CREATING, State.RETIRING), *self._house.given_up()),
            duration_ms=(time.monotonic() - started) * 1000,
        )


_forgotten: weakref.WeakSet[Housekeeper] = weakref.WeakSet()
"""What pools have left behind that were collected unclosed; kept alive by the threads that close it."""


def leave_behind(house: Housekeeper) -> bool:
    """Close what a pool has left that was collected; whether there is anything."""
    house.forget()
    if house.table.closing or not house.table.inhabited:
        return False
    _forgotten.add(house)
    with suppress(RuntimeError):  # no more threads
        # Not threading's start, which waits: the collector may be at work inside of that module's own locks.
        _thread.start_new_thread(_close_forgotten, (house,))
    return True


def _close_forgotten(house: Housekeeper) -> None:
    """What was produced is still sent, though nobody could ask for it any more."""
    house.close_producers(Deadline(house.plan.settings.close_timeout_ms / 1000))


def end_forgotten(deadline: Deadline) -> None:
    """Close all that was left behind, when the process ends."""
    for house in tuple(_forgotten):
        _end(house, deadline)


def _end(house: Housekeeper, deadline: Deadline) -> None:
    house.wait_until(lambda: not house.table.in_state(State.IDLE, State.RETIRING), deadline)
    house.seize(FORCE_PATIENCE)
    house.wait_until(lambda: not house.table.inhabited, Deadline(FORCE_PATIENCE))


def forget_parents() -> None:
    """In a forked child: what the parent's pools have, and have left behind, is the parent's."""
    _forgotten.clear()
    inherited()
