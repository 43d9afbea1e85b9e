"""How one borrower's records get to its client, and how it waits for them."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wd_di._concurrency.deadline import Deadline
from wd_di._kafka.port import Client, Fault, FaultKind
from wd_di._kafka.topics import PROPAGATION_MS
from wd_di._kafka.troubles import last_error
from wd_di._records.connection import ROOM_NAP
from wd_di._records.delivery import Delivery, DeliveryReport, Ledger, caused_by, waited
from wd_di.errors import (
    AuthorizationError,
    CheckoutReturnedError,
    DeliveryError,
    DeliveryTimeoutError,
    ForkedPoolError,
    QueueFullError,
    ScopeError,
    WdDiError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._concurrency.workers import Workers
    from wd_di._records.connection import Connection
    from wd_di._records.record import Prepared

HOLDER_SLICE = 0.005
"""Seconds of one flush by a holder: short, for flush also waits for records that aren't the holder's own."""
QUEUE_FULL_SLICE = 0.05


@dataclass(frozen=True, slots=True)
class SendPolicy:
    """What of the settings decides how records are sent."""

    pool: str
    produce_timeout_ms: int
    transactional: bool
    implicit_transactions: bool
    allow_blocking_in_loop: bool

    def refuse_implicit(self) -> None:
        """Raise where a call outside of a transaction must not be one of its own."""
        if not self.implicit_transactions:
            raise ScopeError(
                f"{self.pool}: a transactional producer sends only inside a transaction, and implicit_transactions is "
                "off: use 'with producer.transaction()'"
            )


class Sender:
    """How one borrower sends by a connection: what is unanswered, and when that is over."""

    __slots__ = ("_awaited", "_flushing", "client", "connection", "ledger", "policy")

    def __init__(self, connection: Connection, policy: SendPolicy, *, transactional: bool = False) -> None:
        self.connection: Connection = connection
        self.client: Client = connection.client
        self.policy: SendPolicy = policy
        self.ledger: Ledger = Ledger(connection, policy.produce_timeout_ms, transactional=transactional)
        self._awaited: set[Delivery] = set()
        self._flushing = False
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
        with ledger.gate:
            ledger.ended = True
        if not ledger.pending:  # else it goes with its last record
            self.connection.in_flight.ledgers.discard(ledger)

    # -- sending -----------------------------------------------------------------------------------

    def send_and_wait(self, records: list[Prepared], deadline: Deadline) -> list[DeliveryReport]:
        """Enqueue all, and wait until the brokers have stored them."""
        if self.keeps_back(records, deadline):
            self.connection.questions.reach(deadline)
        deliveries: list[Delivery] = []
        for topic, record in records:  # no list of its own: on Python 3.11 that is a call
            deliveries.append(self.send(topic, record, deadline))
        try:
            self.wait_for(deliveries, deadline)
        except BaseException:  # late, or interrupted: whoever called knows which records are in doubt
            self.ledger.forget(deliveries)
            raise
        return self.reports(deliveries)

    async def send_and_wait_async(self, records: list[Prepared], deadline: Deadline) -> list[DeliveryReport]:
        """Enqueue all without blocking the loop, and wait until the brokers have stored them."""
        deliveries = await self.send_all_async(records, deadline)
        try:
            await self.wait_for_async(deliveries, deadline)
        except BaseException:  # as above
            self.ledger.forget(deliveries)
            raise
        return self.reports(deliveries)

    def send_all(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        """Enqueue all, waiting for room in a full queue."""
        return [self.send(topic, record, deadline) for topic, record in records]

    async def send_all_async(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        """Enqueue all as :meth:`send_all` does, while the loop goes on."""
        if self.keeps_back(records, deadline):
            await self.connection.questions.reach_async(deadline)
        return [await self._send_async(topic, record, deadline) for topic, record in records]

    def keeps_back(self, records: list[Prepared], deadline: Deadline) -> bool:
        """Whether a call's records had better wait until a broker can be reached.

        An unknown topic's time to appear runs from its first record on, also while there is no broker to create it. One
        that is only silent is asked where the call has more time than that, for the question takes a round trip.
        """
        client = self.client
        doubtful = client.cut_off or (client.silent and deadline.left > PROPAGATION_MS / 1000)
        return doubtful and any(client.topics.new(topic) for topic, _ in records)

    def send(self, topic: str, record: dict[str, Any], deadline: Deadline) -> Delivery:
        """Enqueue one, waiting for room in a full queue; if its topic or partition isn't known, try once more."""
        try:
            return self._enqueue(topic, record, deadline)
        except DeliveryError as error:
            fault = outdated(error)
            if fault is None:
                raise
        if self._renewed(topic, record.get("partition", -1), deadline):
            return self._enqueue(topic, record, deadline)
        raise self.refused(fault, topic) from fault

    async def _send_async(self, topic: str, record: dict[str, Any], deadline: Deadline) -> Delivery:
        """Enqueue one as :meth:`send` does, while the loop goes on."""
        renewed = False
        while True:
            try:
                # On a loop neither the queue's room nor a broker's answer is waited for in here.
                return self.send(topic, record, Deadline(0))
            except DeliveryError as error:
                fault = outdated(error)
                if fault is None or renewed:
                    raise
            except QueueFullError:
                if deadline.passed:
                    raise
                await asyncio.sleep(ROOM_NAP)  # a record larger than the whole queue finds it full when it is empty
                await self.connection.drain_async(deadline)
                continue
            renewed = await self.connection.questions.renew_async(topic, record.get("partition", -1), deadline)
            if not renewed:
                raise self.refused(fault, topic) from fault

    def _renewed(self, topic: str, partition: int, deadline: Deadline) -> bool:
        """Ask for what the client doesn't know; where that would block, ask for the next time."""
        if not deadline.passed and (_get_running_loop() is None or self.policy.allow_blocking_in_loop):
            return self.connection.questions.renew(topic, partition, deadline)
        self.client.topics.ask_soon(topic)  # by the poller, each once: a loop may try a thousand times
        self.connection.nudge()
        return False

    def _enqueue(self, topic: str, record: dict[str, Any], deadline: Deadline) -> Delivery:
        """Enqueue, when there is room.

        Under the ledger's gate: a record must never slip in after the end was decided, or it would travel in the next
        borrower's transaction.
        """
        ledger = self.ledger
        delivery = Delivery(topic, ledger)
        while True:
            with ledger.gate:
                if ledger.ended:
                    raise self.closed_error()
                ledger.pending.add(delivery)
                try:
                    self.client.produce(topic, on_delivery=delivery.arrive, **record)
                except BaseException as error:
                    ledger.pending.discard(delivery)
                    if not isinstance(error, Fault):
                        raise
                    if error.kind is not FaultKind.QUEUE_FULL:
                        raise self.refused(error, topic) from error
                else:
                    ledger.records += 1
                    break
            if deadline.passed:
                owed = self.connection.full_at = self.client.owes()
                raise QueueFullError(
                    f"{self.policy.pool}: the queue of producer {self.connection.index} stayed full ({owed} records "
                    f"waiting); {topic!r} wasn't sent"
                )
            self.serve(self.client.poll, deadline.slice(QUEUE_FULL_SLICE))
        self.connection.services.nudge()
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
            if delivery in pending:
                break
        if pending:
            self._refuse_late(deliveries, deadline)

    async def wait_for_async(self, deliveries: list[Delivery], deadline: Deadline) -> None:
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
        if not pending or self.connection.shared:
            return
        with self.ledger.gate:
            self._awaited.update(pending)
            if self._flushing:
                return
            self._flushing = True
        self.jobs.submit(self._flush_awaited)

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
        failed = list(self.ledger.failed)
        self.ledger.forget(failed)
        if failed:
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


def outdated(error: DeliveryError) -> Fault | None:
    """Return why the client refused a record for a topic or partition that it doesn't know, if that is what it did."""
    fault = error.__cause__
    return fault if isinstance(fault, Fault) and fault.kind is FaultKind.OUTDATED else None


def because(client: Client, deadline: Deadline, told: BaseException | None = None) -> str:
    """Return the last thing that went wrong with the client before the deadline, unless that is told already."""
    error = client.last_error_since(deadline.started)
    return last_error(error if error != str(told) else None)
