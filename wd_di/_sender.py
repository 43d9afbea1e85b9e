"""How one borrower's records get to its client, and how it waits for them."""

from __future__ import annotations

import time
from asyncio import _get_running_loop
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wd_di._client import Client, Fault, Kind
from wd_di._delivery import Delivery, DeliveryReport, Ledger
from wd_di._loop import on_loop
from wd_di._topics import PROPAGATION_MS
from wd_di._troubles import last_error
from wd_di.errors import (
    AuthorizationError,
    CheckoutReturnedError,
    DeliveryError,
    DeliveryTimeoutError,
    QueueFullError,
    ScopeError,
    WdDiError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._core import Retirement
    from wd_di._record import Prepared
    from wd_di._threads import Deadline, Workers

HOLDER_SLICE = 0.005
"""Seconds of one flush by a holder: short, for flush also waits for records that aren't the holder's own."""
QUEUE_FULL_SLICE = 0.05


@dataclass(slots=True)
class Terms:
    """What all borrowers of one pool have in common."""

    pool: str
    produce_timeout_ms: int
    shared: bool
    transactional: bool
    implicit_transactions: bool
    allow_blocking_in_loop: bool
    nudge: Callable[[], None]
    jobs: Workers

    def refuse_implicit(self) -> None:
        """Raise where a call outside of a transaction must not be one of its own."""
        if not self.implicit_transactions:
            raise ScopeError(
                f"{self.pool}: a transactional producer sends only inside a transaction, and implicit_transactions is "
                "off: use 'with producer.transaction()'"
            )


class Sender:
    """The claim of one borrower on a client: who may send, what is unanswered, and when it is over."""

    __slots__ = ("_awaited", "_flushing", "client", "index", "ledger", "terms", "vacant")

    def __init__(self, index: int, client: Client, terms: Terms, *, transactional: bool = False) -> None:
        self.index: int = index
        self.client: Client = client
        self.terms: Terms = terms
        self.ledger: Ledger = Ledger(terms.produce_timeout_ms, transactional=transactional)
        self.vacant: Retirement | None = None  # why it went back, where its borrower asks for another one
        self._awaited: set[Delivery] = set()
        self._flushing = False
        client.outbox.open(self.ledger)

    def refuse_if_ended(self) -> None:
        """Raise if nothing can be sent here any more."""
        if self.ledger.ended:
            raise self.closed_error()

    def refuse_if_over(self) -> None:
        """Raise if this borrower's time is over, and not only that of a producer whose successor it asks for."""
        if self.ledger.ended and self.vacant is None:
            raise self.closed_error()

    def end(self) -> None:
        """The time is over; what is left behind is served by the pool's poller."""
        with self.ledger.gate:
            self.ledger.ended, self.vacant = True, None
        self.client.outbox.end(self.ledger)

    def keeps_back(self, records: list[Prepared], deadline: Deadline) -> bool:
        """Whether a call's records had better wait until a broker can be reached.

        An unknown topic's time to appear runs from its first record on, also while there is no broker to create it. One
        that is only silent is asked where the call has more time than that, for the question takes a round trip.
        """
        client = self.client
        doubtful = client.cut_off or (client.silent and deadline.left > PROPAGATION_MS / 1000)
        return doubtful and any(client.topics.new(topic) for topic, _ in records)

    def send_all(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        """Enqueue all, waiting for room in a full queue."""
        return [self.send(topic, record, deadline) for topic, record in records]

    def send(self, topic: str, record: dict[str, Any], deadline: Deadline) -> Delivery:
        """Enqueue one, waiting for room in a full queue; if its topic or partition isn't known, try once more."""
        try:
            return self._send(topic, record, deadline)
        except DeliveryError as error:
            fault = outdated(error)
            if fault is None:
                raise
        if self._renewed(topic, record.get("partition", -1), deadline):
            return self._send(topic, record, deadline)
        raise self.refused(fault, topic) from fault

    def _renewed(self, topic: str, partition: int, deadline: Deadline) -> bool:
        """Ask for what the client doesn't know; where that would block, ask for the next time."""
        if not deadline.passed and (_get_running_loop() is None or self.terms.allow_blocking_in_loop):
            return self.client.renew(topic, partition, deadline)
        self.client.topics.ask_soon(topic)  # by the poller, each once: a loop may try a thousand times
        self.terms.nudge()
        return False

    def _send(self, topic: str, record: dict[str, Any], deadline: Deadline) -> Delivery:
        delivery = Delivery(topic, self.ledger, self.client.outbox)
        while not self.offer(delivery, topic, record):
            if deadline.passed:
                self.client.full_at = self.client.owes()
                raise QueueFullError(
                    f"{self.terms.pool}: the queue of producer {self.index} stayed full "
                    f"({self.client.owes()} records waiting); {topic!r} wasn't sent"
                )
            self.serve(self.client.poll, deadline.slice(QUEUE_FULL_SLICE))
        self.terms.nudge()
        return delivery

    def offer(self, delivery: Delivery, topic: str, record: dict[str, Any]) -> bool:
        """Enqueue, unless the queue is full.

        Under the ledger's gate: a record must never slip in after the end was decided, or it would travel in the next
        borrower's transaction.
        """
        ledger = self.ledger
        with ledger.gate:
            self.refuse_if_ended()
            ledger.pending.add(delivery)
            try:
                self.client.produce(delivery, topic, **record)
            except BaseException as error:
                ledger.pending.discard(delivery)
                if not isinstance(error, Fault):
                    raise
                if error.kind is Kind.QUEUE_FULL:
                    return False
                raise self.refused(error, topic) from error
            ledger.records += 1
            return True

    def settle(self, deliveries: list[Delivery], deadline: Deadline) -> None:
        """Wait for these, whatever else is queued.

        The holder of an exclusive producer flushes in short slices itself: no other thread is needed, and ``linger.ms``
        is skipped. What flush returns says nothing about these records, so only they are asked.
        """
        topics = self.client.topics
        for delivery in deliveries:
            while not (delivery.done() or deadline.passed or topics.all_in_vain(deliveries, deadline)):
                if self.terms.shared:
                    # Asking for its error would count as telling it.
                    delivery._wait(deadline, deliveries)  # noqa: SLF001
                else:
                    self.serve(self.client.flush, deadline.slice(HOLDER_SLICE))
                    topics.patience(delivery.topic, deadline)  # so that the poller may ask
            if not delivery.done():
                break
        self._refuse_late(deliveries, deadline)

    async def settle_async(self, deliveries: list[Delivery], deadline: Deadline) -> None:
        """Wait for these without blocking the loop; a worker flushes for all who wait, so ``linger.ms`` is skipped."""
        pending = [delivery for delivery in deliveries if not delivery.done()]
        self._flush_for(pending)
        try:
            for delivery in pending:
                await delivery.decided(deadline, pending)
                if not delivery.done():
                    break
        finally:
            with self.ledger.gate:
                self._awaited.difference_update(pending)
        self._refuse_late(deliveries, deadline)

    def _flush_for(self, pending: list[Delivery]) -> None:
        """Keep one worker flushing for as long as anybody waits; a shared producer has a poller of its own."""
        if not pending or self.terms.shared:
            return
        with self.ledger.gate:
            self._awaited.update(pending)
            if self._flushing:
                return
            self._flushing = True
        self.terms.jobs.submit(self._flush_awaited)

    def _flush_awaited(self) -> None:
        try:
            while self._still_awaited():
                self.serve(self.client.flush, HOLDER_SLICE)
        except WdDiError:  # closed by force; those who wait hear of it from their deliveries
            with self.ledger.gate:
                self._flushing = False

    def _still_awaited(self) -> bool:
        with self.ledger.gate:
            self._awaited = {delivery for delivery in self._awaited if not delivery.done()}
            self._flushing = bool(self._awaited)
            return self._flushing

    def _refuse_late(self, deliveries: list[Delivery], deadline: Deadline) -> None:
        late = [delivery for delivery in deliveries if not delivery.done()]
        if late:
            first = next((each for each in late if self.client.topics.missing(each.topic)), late[0]).topic
            # Both: the brokers answer for the topic, while a broker that is away may go on being the last error.
            why = f"{self.client.topics.hint(first)}{because(self.client, deadline)}"
            failed = [delivery._error for delivery in deliveries if delivery._error is not None]  # noqa: SLF001
            also = f"; of the others {len(failed)} failed, the first: {failed[0]}" if failed else ""
            raise DeliveryTimeoutError(
                f"{self.terms.pool}: no answer for {len(late)} of {len(deliveries)} records in time, the first to "
                f"{first!r}; they may still be delivered{why}{also}"
            )

    def serve(self, call: Callable[[float], None], seconds: float) -> None:
        """Serve the client from here; the poller may look elsewhere meanwhile."""
        outbox = self.client.outbox
        outbox.served_until = time.monotonic() + seconds
        try:
            call(seconds)
        except Fault as fault:  # it was closed by force
            raise self.closed_error() from fault
        finally:
            if not self.terms.shared:  # that has a thread of its own inside
                outbox.served_until = 0.0

    def refused(self, fault: Fault, topic: str) -> Exception:
        """Return the public error of a record that the client didn't take."""
        if fault.kind is Kind.CLOSED:
            return self.closed_error()
        if fault.kind is Kind.DENIED:
            return AuthorizationError(f"{self.terms.pool}: no right to write to {topic!r}: {fault}")
        where = f"{self.terms.pool}: producer {self.index} refused a record for {topic!r}"
        if fault.kind is not Kind.OUTDATED:
            return DeliveryError(f"{where}: {fault}")
        # First what it has to do, since what the brokers say of the topic may end with a question.
        later = "one that was made a moment ago is known to it soon: try again"
        return DeliveryError(f"{where}: {fault}; {later}{self.client.topics.place(topic)}")

    def closed_error(self) -> Exception:
        """Return what is raised when the time is over."""
        return CheckoutReturnedError(
            f"{self.terms.pool}: producer {self.index} has gone back to its pool: take one with pool.producer()"
        )

    def flush(self, deadline: Deadline) -> None:
        """Wait for all that this borrower has sent."""
        self.refuse_if_over()
        self.settle(list(self.ledger.pending), deadline)
        self.raise_failures()

    def raise_failures(self) -> None:
        """Raise what the borrower hasn't been told of, each once."""
        failed = list(self.ledger.failed)
        self.ledger.forget(failed)
        if failed:
            raise undelivered(self.terms.pool, failed, len(failed))

    def reports(self, deliveries: list[Delivery]) -> list[DeliveryReport]:
        """Return where the broker stored them, or raise what became of them."""
        if len(deliveries) == 1:
            return [deliveries[0].result(0)]
        failed = [delivery for delivery in deliveries if delivery.exception(0) is not None]
        if failed:
            raise undelivered(self.terms.pool, failed, len(deliveries))
        return [delivery.result(0) for delivery in deliveries]


def refuse_on_loop(what: str, terms: Terms, instead: str = "use 'async with' and await its calls") -> None:
    """Refuse a call that would block the event loop which runs in this thread."""
    if on_loop() and not terms.allow_blocking_in_loop:
        raise ScopeError(
            f"{terms.pool}: {what} would block the event loop that runs in this thread: {instead}, move it to "
            "asyncio.to_thread, or set allow_blocking_in_loop=True in a notebook"
        )


def undelivered(pool: str, failed: list[Delivery], count: int) -> DeliveryError:
    """Return the error that lists what wasn't delivered."""
    first = failed[0].exception(0)
    return DeliveryError(f"{pool}: {len(failed)} of {count} records weren't delivered; the first: {first}", failed)


def outdated(error: DeliveryError) -> Fault | None:
    """Return why the client refused a record for a topic or partition that it doesn't know, if that is what it did."""
    fault = error.__cause__
    return fault if isinstance(fault, Fault) and fault.kind is Kind.OUTDATED else None


def because(client: Client, deadline: Deadline, told: BaseException | None = None) -> str:
    """Return the last thing that went wrong with the client before the deadline, unless that is told already."""
    error = client.last_error_since(deadline.started)
    return last_error(error if error != str(told) else None)
