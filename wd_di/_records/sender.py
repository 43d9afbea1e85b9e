"""How one borrower's records get to its client, and how it waits for them."""

from __future__ import annotations

import asyncio
import time
from asyncio import _get_running_loop
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wd_di._concurrency.deadline import Deadline, check_timeout
from wd_di._concurrency.waiters import TaskWaiter
from wd_di._kafka.port import Client, Fault, FaultKind
from wd_di._kafka.topics import ASK_AFTER, PROPAGATION_MS
from wd_di._kafka.troubles import last_error
from wd_di._records.connection import ROOM_NAP
from wd_di._records.delivery import Delivery, DeliveryReport, Ledger, caused_by, waited
from wd_di._records.flushing import Flushing
from wd_di.errors import (
    AuthorizationError,
    CheckoutReturnedError,
    DeliveryError,
    DeliveryTimeoutError,
    ForkedPoolError,
    QueueFullError,
    ScopeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._concurrency.workers import Workers
    from wd_di._records.connection import Connection
    from wd_di._records.record import Prepared

HOLDER_SLICE = 0.005
"""Seconds of one flush by a holder: short, for flush also waits for records that aren't the holder's own."""
QUEUE_FULL_SLICE = 0.05
SERVE_EVERY = 128
"""Records after which whoever sends them without waiting serves the client, as raw producers are polled."""
SERVED_FOR = 0.01
"""Seconds for which the poller leaves it at that: the next time comes sooner, if many are sent."""


@dataclass(frozen=True, slots=True)
class SendPolicy:
    """What of the settings decides how records are sent."""

    pool: str
    produce_timeout_ms: int
    transactional: bool
    implicit_transactions: bool
    allow_blocking_in_loop: bool

    def deadline(self, timeout_ms: int | None = None, *, started: float | None = None) -> Deadline:
        """Return that of a call to which this was given; ``None`` is the pool's ``produce_timeout_ms``.

        Raises:
            TypeError, ValueError: It is no number of milliseconds.
        """
        if timeout_ms is None:
            return Deadline(self.produce_timeout_ms / 1000, "produce_timeout_ms", started=started)
        return Deadline(check_timeout(timeout_ms, 0) / 1000, started=started)

    def refuse_implicit(self) -> None:
        """Raise where a call outside of a transaction must not be one of its own."""
        if not self.implicit_transactions:
            raise ScopeError(
                f"{self.pool}: a transactional producer sends only inside a transaction, and implicit_transactions is "
                "off: use 'with producer.transaction()'"
            )


class Sender:
    """How one borrower sends by a connection: what is unanswered, and when that is over."""

    __slots__ = ("_flushing", "client", "connection", "ledger", "policy")

    def __init__(self, connection: Connection, policy: SendPolicy, *, transactional: bool = False) -> None:
        self.connection: Connection = connection
        self.client: Client = connection.client
        self.policy: SendPolicy = policy
        self.ledger: Ledger = Ledger(connection, policy.produce_timeout_ms, transactional=transactional)
        self._flushing: Flushing | None = None
        connection.in_flight.ledgers.add(self.ledger)

    @property
    def jobs(self) -> Workers:
        """Who does what would block a loop."""
        return self.connection.services.jobs

    @property
    def condition(self) -> str:
        """What is to be seen of it."""
        return "returned" if self.ledger.ended else f"{len(self.ledger.pending)} unanswered"

    def refuse_if_ended(self) -> None:
        """Raise if nothing can be sent here any more."""
        if self.ledger.ended:
            raise self.closed_error()

    def end(self) -> None:
        """The time is over; what is left behind is served by the pool's poller."""
        ledger = self.ledger
        ledger.ended = True
        if not ledger.pending:  # else it goes with its last record
            self.connection.in_flight.ledgers.discard(ledger)

    # -- sending -----------------------------------------------------------------------------------

    def send_and_wait(self, records: list[Prepared], deadline: Deadline) -> list[DeliveryReport]:
        """Enqueue all, and wait until the brokers have stored them."""
        if self.keeps_back(records, deadline):
            self.connection.questions.reach(deadline)
        deliveries = [self.send(record, deadline) for record in records]
        try:
            self.wait_for(deliveries, deadline)
        except BaseException:  # late, or interrupted: whoever called knows which records are in doubt
            self.ledger.forget(deliveries)
            self.connection.nudge()  # nobody else serves them now
            raise
        return self.reports(deliveries)

    async def send_and_wait_async(self, records: list[Prepared], deadline: Deadline) -> list[DeliveryReport]:
        """Enqueue all without blocking the loop, and wait until the brokers have stored them."""
        deliveries = await self.send_all_async(records, deadline)
        await self._wait_for_async(deliveries, deadline)
        return self.reports(deliveries)

    async def _wait_for_async(self, deliveries: list[Delivery], deadline: Deadline) -> None:
        try:
            await self.wait_for_async(deliveries, deadline)
        except BaseException:  # as above
            self.ledger.forget(deliveries)
            raise

    async def publish(self, record: Prepared, timeout_ms: int | None) -> DeliveryReport:
        """Enqueue one as :meth:`send_and_wait_async` does, and wait for it.

        On a shared producer, which has a poller of its own, with one future, without a timer of its own, and without a
        deadline as long as the brokers answer within a second.
        """
        started, connection = time.monotonic(), self.connection
        if not connection.shared or record[0] not in self.client.topics.answered:
            [report] = await self.send_and_wait_async([record], self.policy.deadline(timeout_ms, started=started))
            return report
        try:
            delivery = self.enqueue(record)
        except Fault:
            delivery = await self._send_async(record, self.policy.deadline(timeout_ms, started=started))
        if not connection.attended:
            connection.nudge()
        waiter = TaskWaiter()
        delivery.watch(waiter)
        try:
            if not delivery.done() and (timeout_ms is None or timeout_ms > 1000 * ASK_AFTER):
                await waiter.timed(ASK_AFTER)
        except BaseException:  # cancelled, as in send_and_wait
            self.ledger.forget([delivery])
            raise
        finally:
            delivery.unwatch(waiter)
        if not delivery.done():
            await self._wait_for_async([delivery], self.policy.deadline(timeout_ms, started=started))
        return self.reports([delivery])[0]

    def send_soon(self, record: Prepared, deadline: Deadline | None = None) -> Delivery:
        """Enqueue one, and have it served by the poller.

        Args:
            record: The record.
            deadline: For waiting until there is room; ``None`` is the pool's ``produce_timeout_ms`` from now on.
        """
        try:  # as send, in place: a call less for each record
            delivery = self.enqueue(record)
        except Fault as fault:
            refusal = fault
        else:
            self._have_collected()
            return delivery
        delivery = self._insist(record, refusal, deadline)
        self._have_collected()
        return delivery

    def send_all(self, records: list[Prepared], deadline: Deadline | None) -> list[Delivery]:
        """Enqueue all as :meth:`send_soon` does."""
        deliveries: list[Delivery] = []
        for first in range(0, len(records), SERVE_EVERY):
            try:
                for record in records[first : first + SERVE_EVERY]:
                    deliveries.append(self.send(record, deadline))  # noqa: PERF401  (those before one that fails are sent)
            finally:
                if len(deliveries) > first:
                    self._have_collected(len(deliveries) - first)
        return deliveries

    async def send_all_async(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        """Enqueue all as :meth:`send_all` does, while the loop goes on."""
        if self.keeps_back(records, deadline):
            await self.connection.questions.reach_async(deadline)
        try:
            return [await self._send_async(record, deadline) for record in records]
        finally:
            self.connection.services.nudge()

    def keeps_back(self, records: list[Prepared], deadline: Deadline) -> bool:
        """Whether a call's records had better wait until a broker can be reached.

        An unknown topic's time to appear runs from its first record on, also while there is no broker to create it. One
        that is only silent is asked where the call has more time than that, for the question takes a round trip.
        """
        client = self.client
        doubtful = client.cut_off or (client.silent and deadline.left > PROPAGATION_MS / 1000)
        return doubtful and any(client.topics.new(topic) for topic, *_ in records)

    def _have_collected(self, records: int = 1) -> None:
        """Have the poller serve the client, and now and then collect its answers here.

        If only the poller did, the two would compete for the interpreter, at half of the records' cost. What listeners
        and handlers of logging are to be told is told by the poller all the same.
        """
        connection = self.connection
        connection.unserved += records
        if connection.unserved >= SERVE_EVERY and not connection.shared:
            connection.unserved = 0
            self.client.collect()
            connection.served_until = time.monotonic() + SERVED_FOR
        connection.services.nudge()

    def send(self, record: Prepared, deadline: Deadline | None) -> Delivery:
        """Enqueue one as :meth:`send_soon` does, for who has it served in another way."""
        try:
            return self.enqueue(record)
        except Fault as fault:
            refusal = fault
        return self._insist(record, refusal, deadline)  # behind the handler: what it raises comes from no fault

    def _insist(self, record: Prepared, refusal: Fault, deadline: Deadline | None) -> Delivery:
        """Wait for room in a full queue; if the topic or partition isn't known, try once more."""
        deadline = deadline or self.policy.deadline()
        renewed = False
        while True:
            if refusal.kind is FaultKind.QUEUE_FULL:
                self._wait_for_room(record[0], deadline)
            elif renewed or refusal.kind is not FaultKind.OUTDATED or not self._renewed(record, deadline):
                raise self.refused(refusal, record[0]) from refusal
            else:
                renewed = True
            try:
                return self.enqueue(record)
            except Fault as again:
                refusal = again

    def _wait_for_room(self, topic: str, deadline: Deadline) -> None:
        if deadline.passed:
            owed = self.connection.full_at = self.client.owes()
            raise QueueFullError(
                f"{self.policy.pool}: the queue of producer {self.connection.index} stayed full ({owed} records "
                f"waiting); {topic!r} wasn't sent"
            )
        self.serve(self.client.poll, deadline.slice(QUEUE_FULL_SLICE))

    async def _send_async(self, record: Prepared, deadline: Deadline) -> Delivery:
        """Enqueue one as :meth:`send` does, while the loop goes on."""
        renewed = False
        while True:
            try:
                # On a loop neither the queue's room nor a broker's answer is waited for in here.
                return self.send(record, Deadline(0))
            except DeliveryError as error:
                fault = outdated(error)
                if fault is None or renewed:
                    raise
            except QueueFullError:
                if deadline.passed:
                    raise
                self.connection.nudge()
                await asyncio.sleep(ROOM_NAP)  # a record larger than the whole queue finds it full when it is empty
                await self.connection.drain_async(deadline)
                continue
            renewed = await self.connection.questions.renew_async(record[0], partition_of(record), deadline)
            if not renewed:
                raise self.refused(fault, record[0]) from fault

    def _renewed(self, record: Prepared, deadline: Deadline) -> bool:
        """Ask for what the client doesn't know; where that would block, ask for the next time."""
        if not deadline.passed and (_get_running_loop() is None or self.policy.allow_blocking_in_loop):
            return self.connection.questions.renew(record[0], partition_of(record), deadline)
        self.client.topics.ask_soon(record[0])  # by the poller, each once: a loop may try a thousand times
        self.connection.nudge()
        return False

    def enqueue(self, record: Prepared) -> Delivery:
        """Enqueue one, if there is room.

        A record must never slip in after the end was decided, or it would travel in the next borrower's transaction. So
        it is pending before the ledger is asked whether it has ended, as whoever ends it says so before he looks for
        what is pending: he waits for this one, or it isn't sent. Once he has seen nothing pending, whatever is seen
        later is about to be refused.

        Raises:
            Fault: The client doesn't take it.
        """
        topic, value, key, rest = record
        ledger = self.ledger
        delivery = Delivery(topic, ledger)
        try:
            ledger.records += 1  # first, and in here: no signal's handler is called before the end of a call
            ledger.pending.add(delivery)
            if ledger.ended:
                self.refuse_if_ended()
            self.client.produce(topic, value, key, delivery, rest)
        except BaseException:
            ledger.records -= 1
            ledger.pending.discard(delivery)
            if ledger.ended and not ledger.pending:
                self.connection.forget(ledger)
            raise
        return delivery

    # -- waiting -----------------------------------------------------------------------------------

    def wait_for(self, deliveries: list[Delivery], deadline: Deadline) -> None:
        """Wait for these, whatever else is queued.

        The holder of an exclusive producer flushes in short slices itself: no other thread is needed, and ``linger.ms``
        is skipped. What flush returns says nothing about these records, so only they are asked.
        """
        pending, topics = self.ledger.pending, self.client.topics
        for delivery in deliveries:
            while delivery in pending and not (deadline.passed or topics.all_in_vain(deliveries, deadline)):
                if self.connection.shared:
                    delivery.decided_by(deadline, deliveries)
                    continue
                self.serve(self.client.flush, deadline.slice(HOLDER_SLICE))
                if delivery in pending:
                    topics.patience(delivery.topic, deadline)  # so that the poller may ask
                    self.connection.nudge()
            if delivery in pending:
                break
        if pending:
            self._refuse_late(deliveries, deadline)

    async def wait_for_async(self, deliveries: list[Delivery], deadline: Deadline) -> None:
        """Wait for these without blocking the loop; a worker flushes for all who wait, so ``linger.ms`` is skipped."""
        pending = [delivery for delivery in deliveries if not delivery.done()]
        flushing = None if self.connection.shared or not pending else self._flushed()  # a shared one has its poller
        if flushing is not None:
            flushing.begin(pending)
        try:
            for delivery in pending:
                await delivery.decided(deadline, pending)
                if not delivery.done():
                    break
        finally:
            if flushing is not None:
                flushing.end(pending)
        self._refuse_late(deliveries, deadline)

    def _flushed(self) -> Flushing:
        with self.connection.offering:  # a handle may be used on two loops
            if self._flushing is None:
                self._flushing = Flushing(self.jobs, self.connection, HOLDER_SLICE)
            return self._flushing

    def _refuse_late(self, deliveries: list[Delivery], deadline: Deadline) -> None:
        pending = self.ledger.pending
        if pending and (late := [delivery for delivery in deliveries if delivery in pending]):
            first = next((each for each in late if self.client.topics.missing(each.topic)), late[0]).topic
            # Both: the brokers answer for the topic, while a broker that is away may go on being the last error.
            why = f"{self.client.topics.hint(first)}{because(self.client, deadline)}"
            failed = [delivery.failure for delivery in deliveries if delivery.failure is not None]
            also = f"; of the others {len(failed)} failed, the first: {failed[0]}" if failed else ""
            count = f"{len(late)} of {len(deliveries)} records"
            raise DeliveryTimeoutError(
                f"{self.policy.pool}: {waited(deadline)}no answer for {count} in time, the first to {first!r}; "
                f"they may still be delivered{why}{also}"
            )

    def serve(self, call: Callable[[float], None], seconds: float) -> None:
        """Serve the client from here; the poller may look elsewhere meanwhile."""
        try:
            self.connection.serve(call, seconds)
        except Fault as fault:  # it was closed by force
            raise self.closed_error() from fault

    def refused(self, fault: Fault, topic: str) -> Exception:
        """Return the public error of a record that the client didn't take."""
        if fault.kind is FaultKind.CLOSED and self.client.fault is None:  # by the pool
            return self.closed_error()
        if fault.kind is FaultKind.DENIED and fault.right is not None:
            return AuthorizationError(f"{self.policy.pool}: no right to write to {topic!r}: {fault}")
        where = f"{self.policy.pool}: producer {self.connection.index} refused a record for {topic!r}"
        if fault.right is not None:
            return AuthorizationError(f"{where}: {fault}")
        if fault.kind is not FaultKind.OUTDATED:
            return DeliveryError(f"{where}: {fault}")
        # First what it has to do, since what the brokers say of the topic may end with a question.
        later = "one that was made a moment ago is known to it soon: try again"
        return DeliveryError(f"{where}: {fault}; {later}{self.client.topics.place(topic)}")

    def closed_error(self) -> Exception:
        """Return what is raised when the time is over."""
        if self.connection.forked:
            return inherited(self.policy.pool, self.connection.index)
        return returned(self.policy.pool, self.connection.index)

    def flush(self, deadline: Deadline) -> None:
        """Wait for all that this borrower has sent."""
        self.refuse_if_ended()
        self.wait_for(list(self.ledger.pending), deadline)
        self.raise_failures()

    async def flush_async(self, deadline: Deadline) -> None:
        """Wait as :meth:`flush` does, while the loop goes on."""
        self.refuse_if_ended()
        await self.wait_for_async(list(self.ledger.pending), deadline)
        self.raise_failures()

    def raise_failures(self) -> None:
        """Raise what the borrower hasn't been told of, each once."""
        failed = list(self.ledger.failed or ())
        if failed:
            self.ledger.forget(failed)
            raise undelivered(self.policy.pool, failed, len(failed))

    def reports(self, deliveries: list[Delivery]) -> list[DeliveryReport]:
        """Return where the broker stored them, or raise what became of them."""
        if len(deliveries) == 1:
            return [deliveries[0].result(0)]
        failed = [delivery for delivery in deliveries if delivery.exception(0) is not None]
        if failed:
            raise undelivered(self.policy.pool, failed, len(deliveries))
        return [delivery.result(0) for delivery in deliveries]


def returned(pool: str, index: int) -> CheckoutReturnedError:
    """Return what is raised when a borrower's time is over."""
    return CheckoutReturnedError(f"{pool}: producer {index} has gone back to its pool: take one with pool.producer()")


def inherited(pool: str, index: int) -> ForkedPoolError:
    """Return what is raised in a forked child."""
    return ForkedPoolError(
        f"{pool}: producer {index} was lent before a fork, and is the parent's: in the child, take one with "
        "pool.producer()"
    )


def undelivered(pool: str, failed: list[Delivery], count: int) -> DeliveryError:
    """Return the error that lists what wasn't delivered."""
    text = f"{pool}: {len(failed)} of {count} records weren't delivered; the first: {failed[0].exception(0)}"
    return caused_by(failed[0], DeliveryError(text, failed))


def partition_of(record: Prepared) -> int:
    """Return the partition that was given for the record, or -1."""
    return -1 if record[3] is None else int(record[3].get("partition", -1))


def outdated(error: DeliveryError) -> Fault | None:
    """Return why the client refused a record for a topic or partition that it doesn't know, if that is what it did."""
    fault = error.__cause__
    return fault if isinstance(fault, Fault) and fault.kind is FaultKind.OUTDATED else None


def because(client: Client, deadline: Deadline, told: BaseException | None = None) -> str:
    """Return the last thing that went wrong with the client before the deadline, unless that is told already."""
    error = client.last_error_since(deadline.started)
    return last_error(error if error != str(told) else None)
