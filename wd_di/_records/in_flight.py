"""What one client owes an answer for, and who is told when it comes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from wd_di._concurrency.waiters import Batches, wake_all
from wd_di._records.delivery import DECIDED, Delivery, another, report_of
from wd_di.events import MessageAcknowledged, MessageFailed, MessagePurged, Observer, log_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._kafka.port import Noted, OutOfStep, Verdict
    from wd_di._records.delivery import Ledger, Place


class InFlight:
    """All that one client owes an answer for.

    ``noted`` is filled by librdkafka's callbacks, inside its calls; :meth:`take_in` empties it outside of them, so that
    no waiter, listener or callback ever runs inside a client call and hides its result. What was stored and nobody has
    to be told of is decided where it comes, see :meth:`Delivery.arrive`.

    Attributes:
        stored: Whether such a record was stored since the last look.
        out_of_step: Why client and broker may number the producer's records differently, if they may.
    """

    __slots__ = ("_index", "_observer", "_pool", "ledgers", "noted", "out_of_step", "stored")

    def __init__(self, pool: str, index: int, observer: Observer) -> None:
        self.noted: deque[Noted] = deque()
        self.stored: bool = False
        self.ledgers: set[Ledger] = set()
        self.out_of_step: OutOfStep | None = None
        self._pool = pool
        self._index = index
        self._observer = observer

    @property
    def outstanding(self) -> bool:
        """Whether any record has no answer yet."""
        return any(ledger.pending for ledger in tuple(self.ledgers))

    def undecided(self) -> list[Delivery]:
        """Every record without an answer."""
        return [delivery for ledger in tuple(self.ledgers) for delivery in tuple(ledger.pending)]

    def take_in(self, verdict: Callable[[Any, str], Verdict]) -> bool:
        """Decide everything that was noted; whether a record was stored. Each loop is woken once for all of its tasks.

        Args:
            verdict: Says what the error of a record's answer means, given the record's topic.
        """
        noted, stored = self.noted, False
        batches: Batches = {}
        try:
            while noted:
                try:
                    who, error, ack = noted.popleft()
                except IndexError:  # another thread takes in, too
                    break
                if not isinstance(who, Delivery):  # an error that concerns no record, in its turn among the answers
                    who(error, stored=stored or ack)  # or before it was noted
                    stored = False
                elif ack is DECIDED:
                    who.tell(batches)
                elif error is None:
                    stored = True
                    place = (ack.partition(), ack.offset(), ack.timestamp(), ack.latency())
                    who.decide(place, batches)
                    if self._observer.wants(MessageAcknowledged):
                        self._tell_stored(who.topic, place)
                else:
                    self._fail(who, verdict(error, who.topic), batches)
        finally:
            if batches:
                wake_all(batches)
        if self.stored:
            self.stored = False  # first: what comes meanwhile is told with this
            return True
        return stored

    def give_up(self, fate: Verdict) -> int:
        """Decide what no callback will ever decide, since the client is gone; how many."""
        lost = self.undecided()
        batches: Batches = {}
        for delivery in lost:  # each its own error: whoever raises one adds to its traceback
            self._fail(delivery, fate._replace(error=another(fate.error)), batches)
        wake_all(batches)
        return len(lost)

    def _fail(self, delivery: Delivery, fate: Verdict, batches: Batches) -> None:
        if self.out_of_step is None or fate.out_of_step == "record unanswered":  # which says more
            self.out_of_step = fate.out_of_step
        missed = delivery.decide_failed(fate.outcome, fate.error, batches)
        if fate.outcome == "purged":
            self._observer.emit(MessagePurged, pool=self._pool, index=self._index, topic=delivery.topic)
        else:
            self._observer.emit(
                MessageFailed, pool=self._pool, index=self._index, topic=delivery.topic, error=fate.error
            )
        if missed:
            lost = f"{self._pool}: a record was lost after its producer went back"
            log_error(f"{self._pool}.delivery", lost, fate.error)

    def _tell_stored(self, topic: str, place: Place) -> None:
        report = report_of(topic, place)
        self._observer.emit(
            MessageAcknowledged,
            pool=self._pool,
            index=self._index,
            topic=report.topic,
            partition=report.partition,
            offset=report.offset,
            timestamp_ms=report.timestamp_ms,
            latency_ms=report.latency_ms,
        )
