"""How the flights are spread over threads, and what became of them."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from examples.departures.services import FlightCancelledError, depart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from examples.departures.flights import Flight
    from wd_di import Event, Observer, TransactionFinished


class Score:
    """What the application itself saw: returned is committed, raised is aborted."""

    def __init__(self) -> None:
        self.committed = 0
        self.aborted = 0
        self._lock = threading.Lock()

    def count(self, *, committed: bool) -> None:
        """Count one flight, from any thread."""
        with self._lock:
            self.committed += committed
            self.aborted += not committed

    def __str__(self) -> str:
        return f"{self.committed:,} committed, {self.aborted:,} aborted"


class Journal:
    """What the pool's events told: how many of each, and how long the transactions took.

    Args:
        observer: Whose events.
    """

    def __init__(self, observer: Observer) -> None:
        self.events: Counter[str] = Counter()
        self.durations_ms: list[float] = []
        self._lock = threading.Lock()
        observer.subscribe("*", self._count)
        observer.subscribe("transaction.finished", self._time)

    def _count(self, event: Event) -> None:
        with self._lock:
            self.events[event.name] += 1

    def _time(self, event: TransactionFinished) -> None:
        self.durations_ms.append(event.duration_ms)


def publish(flights: Iterable[Flight], threads: int, score: Score, done: Callable[[int], object]) -> None:
    """Announce all flights.

    Args:
        flights: The flights.
        threads: How many of them to announce at once.
        score: Counts them, also when this is interrupted.
        done: Told after each that there is one more.

    Raises:
        WdDiError: A flight could neither be committed nor be cancelled; what hadn't begun is left out.
    """

    def announce(flight: Flight) -> None:
        try:
            depart(flight)
        except FlightCancelledError:
            score.count(committed=False)
        else:
            score.count(committed=True)
        done(1)

    with ThreadPoolExecutor(threads, thread_name_prefix="departures") as executor:
        try:
            for _ in executor.map(announce, flights):
                pass
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
