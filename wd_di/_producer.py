"""What a borrower holds: the four ways to produce, and waiting for what was produced."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from wd_di._client import Client, Fault, Kind
from wd_di._delivery import Delivery, DeliveryReport, HeaderValue, Ledger, Message
from wd_di._threads import Deadline
from wd_di.errors import (
    AuthorizationError,
    CheckoutReturnedError,
    DeliveryError,
    DeliveryTimeoutError,
    QueueFullError,
    ScopeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Unpack

    from wd_di._core import Slot
    from wd_di._scope import TransactionOptions, TransactionScope
    from wd_di._transaction import Transaction

HOLDER_SLICE = 0.005
"""Seconds of one flush by a holder: short, for flush also waits for records that aren't the holder's own."""
QUEUE_FULL_SLICE = 0.05

Text = str | bytes | None
Prepared = tuple[str, dict[str, Any]]
"""A topic, and a checked record in the client's words."""
Headers = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]
_TEXT = frozenset({str, bytes, type(None)})


@dataclass(slots=True)
class Terms:
    """What all borrowers of one pool have in common. It hands out scopes, so that nothing here needs transactions."""

    pool: str
    produce_timeout_ms: int
    shared: bool
    transactional: bool
    implicit_transactions: bool
    allow_blocking_in_loop: bool
    nudge: Callable[[], None]


class Held(Protocol):
    """What a producer knows of the claim it works under; nothing here needs to know how transactions are made."""

    slot: Slot
    owner: object
    client: Client
    producer: Producer
    transaction: Transaction | None

    def scope(self, **options: Unpack[TransactionOptions]) -> TransactionScope: ...


class Producer:
    """A producer of the pool, for as long as its ``with`` block lasts.

    Keys, values and header values are ``str`` (sent as UTF-8), ``bytes`` or ``None``. On a transactional pool, outside
    of a transaction, each call is a transaction of its own and blocks until the commit.
    """

    __slots__ = ("_client", "_held", "_ledger", "_terms", "index")

    def __init__(self, held: Held, terms: Terms) -> None:
        self.index: int = held.slot.index
        self._client = held.client
        self._terms = terms
        self._held = held
        self._ledger = self._new_ledger()
        self._client.outbox.open(self._ledger)

    # -- producing -------------------------------------------------------------------------------

    def produce_sync(
        self,
        topic: str,
        value: Text = None,
        key: Text = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        timeout_ms: int | None = None,
    ) -> DeliveryReport:
        """Produce one record and wait until the broker has stored it; ``linger.ms`` isn't waited for.

        Args:
            topic: The topic.
            value: The payload; ``None`` is a tombstone.
            key: The key, which decides the partition unless one is given.
            headers: Names and values; a name may come more than once in a sequence of pairs.
            partition: The partition; ``None`` lets the partitioner decide.
            timestamp_ms: Milliseconds since the epoch; ``None`` is now.
            timeout_ms: Milliseconds for the whole; ``None`` is the pool's ``produce_timeout_ms``.

        Raises:
            DeliveryError: The broker refused the record, or it expired.
            DeliveryTimeoutError: No answer in time. The record may still be delivered.
            QueueFullError: The local queue stayed full; the record wasn't sent.
            AuthorizationError: No right to write to the topic.
        """
        record = _record(value, key, headers, partition=partition, timestamp_ms=timestamp_ms)
        return self._sync([(_topic(topic), record)], timeout_ms)[0]

    def produce_async(
        self,
        topic: str,
        value: Text = None,
        key: Text = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        timeout_ms: int | None = None,
    ) -> Delivery:
        """Enqueue one record and return at once.

        What is enqueued will be sent, also when the producer has gone back to the pool meanwhile.

        Args:
            topic: The topic.
            value: The payload; ``None`` is a tombstone.
            key: The key, which decides the partition unless one is given.
            headers: Names and values; a name may come more than once in a sequence of pairs.
            partition: The partition; ``None`` lets the partitioner decide.
            timestamp_ms: Milliseconds since the epoch; ``None`` is now.
            timeout_ms: Milliseconds to wait for room in a full queue; ``None`` is the pool's ``produce_timeout_ms``.

        Raises:
            QueueFullError: The local queue stayed full; the record wasn't sent.
            DeliveryError: The client refused the record at once (too large, unknown topic).
        """
        record = _record(value, key, headers, partition=partition, timestamp_ms=timestamp_ms)
        return self._async([(_topic(topic), record)], timeout_ms)[0]

    def produce_many_sync(self, messages: Iterable[Message], *, timeout_ms: int | None = None) -> list[DeliveryReport]:
        """Produce several records and wait for all; all are checked before the first is sent.

        Raises:
            DeliveryError: Some weren't delivered; ``failed`` lists them.
            DeliveryTimeoutError: Not all were answered in time; those may still be delivered.
        """
        return self._sync(_prepared(messages), timeout_ms)

    def produce_many_async(self, messages: Iterable[Message], *, timeout_ms: int | None = None) -> list[Delivery]:
        """Enqueue several records; all are checked before the first is enqueued.

        Raises:
            QueueFullError: The queue stayed full; the records before that one are enqueued.
        """
        return self._async(_prepared(messages), timeout_ms)

    def flush(self, *, timeout_ms: int | None = None) -> None:
        """Wait until every record that this borrower produced has its answer; nobody else's records are waited for.

        Raises:
            DeliveryError: Some of them weren't delivered; ``failed`` lists them, each once.
            DeliveryTimeoutError: Some have no answer yet.
        """
        self._refuse_on_loop("flush")
        deadline = Deadline.of_ms(timeout_ms, self._terms.produce_timeout_ms)
        borrower = self._transaction() or self
        borrower._flush(deadline)  # noqa: SLF001  (its own kind)

    def transaction(self, **options: Unpack[TransactionOptions]) -> TransactionScope:
        """Return a transaction on this very producer; the options are those of ``ProducerPool.transaction``.

        Raises:
            NotTransactionalError: The pool has no ``transactional_id``.
        """
        return self._held.scope(**options)

    @property
    def gate(self) -> AbstractContextManager[object]:
        """What the pool holds while it decides something that must not happen after this producer's end."""
        return self._ledger.gate

    def refuse_if_ended(self) -> None:
        """Raise if this producer has gone back, or this transaction has ended."""
        if self._ledger.ended:
            raise self._ended()

    # -- how it is done ----------------------------------------------------------------------------

    def _new_ledger(self) -> Ledger:
        return Ledger(self._terms.produce_timeout_ms)

    def _transaction(self) -> Transaction | None:
        """The transaction that is open on this producer, which everything produced meanwhile belongs to."""
        return self._held.transaction

    def _outside_transaction(self) -> bool:
        """Whether a call here must be a transaction of its own."""
        return self._terms.transactional

    def _sync(self, records: list[Prepared], timeout_ms: int | None) -> list[DeliveryReport]:
        self._refuse_on_loop("produce_sync")
        deadline = Deadline.of_ms(timeout_ms, self._terms.produce_timeout_ms)
        borrower = self._transaction() or self
        if borrower._outside_transaction():  # noqa: SLF001  (its own kind)
            return [delivery.result(0) for delivery in self._implicitly(records, deadline)]
        deliveries = borrower._enqueue_all(records, deadline)  # noqa: SLF001
        self._settled(deliveries, deadline)
        return borrower._reports(deliveries)  # noqa: SLF001

    def _async(self, records: list[Prepared], timeout_ms: int | None) -> list[Delivery]:
        deadline = Deadline.of_ms(timeout_ms, self._terms.produce_timeout_ms)
        borrower = self._transaction() or self
        if borrower._outside_transaction():  # noqa: SLF001  (its own kind)
            return self._implicitly(records, deadline)
        return borrower._enqueue_all(records, deadline)  # noqa: SLF001

    def _flush(self, deadline: Deadline) -> None:
        self.refuse_if_ended()
        self._settled(list(self._ledger.pending), deadline)
        failed = list(self._ledger.failed)
        self._ledger.forget(failed)
        if failed:
            raise _undelivered(self._terms.pool, failed, len(failed))

    def _reports(self, deliveries: list[Delivery]) -> list[DeliveryReport]:
        failed = [delivery for delivery in deliveries if delivery.exception(0) is not None]
        self._ledger.forget(failed)
        if len(deliveries) == 1 and (error := deliveries[0].exception(0)) is not None:
            raise error
        if failed:
            raise _undelivered(self._terms.pool, failed, len(deliveries))
        return [delivery.result(0) for delivery in deliveries]

    def _implicitly(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        """A transaction around the call."""
        if not self._terms.implicit_transactions:
            raise ScopeError(
                f"{self._terms.pool}: a transactional producer sends only inside a transaction, and "
                "implicit_transactions is off: use 'with producer.transaction()'"
            )
        with self.transaction() as tx:
            deliveries: list[Delivery] = tx._enqueue_all(records, deadline)  # noqa: SLF001
        return deliveries

    def _enqueue_all(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        return [self._enqueue(topic, record, deadline) for topic, record in records]

    def _enqueue(self, topic: str, record: dict[str, Any], deadline: Deadline) -> Delivery:
        delivery = Delivery(topic, self._ledger, self._client.outbox)
        while not self._offered(delivery, topic, record):
            if deadline.passed:
                raise QueueFullError(
                    f"{self._terms.pool}: the queue of producer {self.index} stayed full "
                    f"({self._client.owes()} records waiting); {topic!r} wasn't sent"
                )
            self._serve(self._client.poll, deadline.slice(QUEUE_FULL_SLICE))
        self._terms.nudge()
        return delivery

    def _offered(self, delivery: Delivery, topic: str, record: dict[str, Any]) -> bool:
        """Enqueue, unless the queue is full.

        Under the ledger's gate: a record must never slip in after the end was decided, or it would travel in the next
        borrower's transaction.
        """
        ledger = self._ledger
        with ledger.gate:
            self.refuse_if_ended()
            ledger.pending.add(delivery)
            try:
                self._client.produce(delivery, topic, **record)
            except BaseException as error:
                ledger.pending.discard(delivery)
                if isinstance(error, Fault) and error.kind is Kind.QUEUE_FULL:
                    return False
                raise self._refused(error, topic) if isinstance(error, Fault) else error from error
            ledger.records += 1
            return True

    def _settled(self, deliveries: list[Delivery], deadline: Deadline) -> None:
        """Wait for these, whatever else is queued.

        The holder of an exclusive producer flushes in short slices itself: no other thread is needed, and ``linger.ms``
        is skipped. What flush returns says nothing about these records, so only they are asked.
        """
        for delivery in deliveries:
            while not delivery.done() and not deadline.passed:
                if self._terms.shared:
                    with suppress(DeliveryTimeoutError):
                        delivery.exception(int(deadline.left * 1000) + 1)
                else:
                    self._serve(self._client.flush, deadline.slice(HOLDER_SLICE))
        late = [delivery for delivery in deliveries if not delivery.done()]
        if late:
            raise DeliveryTimeoutError(
                f"{self._terms.pool}: no answer for {len(late)} of {len(deliveries)} records in time, the first to "
                f"{late[0].topic!r}; they may still be delivered{_because(self._client)}"
            )

    def _serve(self, call: Callable[[float], None], seconds: float) -> None:
        """Serve the client from here; the poller may look elsewhere meanwhile."""
        outbox = self._client.outbox
        outbox.served = True
        try:
            call(seconds)
        except Fault as fault:  # it was closed by force
            raise self._ended() from fault
        finally:
            outbox.served = self._terms.shared

    def _refused(self, fault: Fault, topic: str) -> Exception:
        """The public error of a record that the client didn't take."""
        if fault.kind is Kind.CLOSED:
            return self._ended()
        if fault.kind is Kind.DENIED:
            return AuthorizationError(f"{self._terms.pool}: no right to write to {topic!r}: {fault}")
        return DeliveryError(f"{self._terms.pool}: producer {self.index} refused a record for {topic!r}: {fault}")

    def _ended(self) -> Exception:
        return CheckoutReturnedError(
            f"{self._terms.pool}: producer {self.index} has gone back to its pool: take one with pool.producer()"
        )

    def _refuse_on_loop(self, what: str) -> None:
        refuse_on_loop(what, self._terms)

    def _end(self) -> None:
        """The checkout is over; what it left behind is served by the pool's poller."""
        with self._ledger.gate:
            self._ledger.ended = True
        self._client.outbox.end(self._ledger)

    def __repr__(self) -> str:
        state = "returned" if self._ledger.ended else f"{len(self._ledger.pending)} unanswered"
        return f"<{type(self).__name__} {self.index} of {self._terms.pool!r}, {state}>"


def refuse_on_loop(what: str, terms: Terms) -> None:
    """Refuse a call that would block the event loop which runs in this thread."""
    if _get_running_loop() is not None and not terms.allow_blocking_in_loop:
        raise ScopeError(
            f"{terms.pool}: {what} would block the event loop that runs in this thread: call it through "
            "asyncio.to_thread, or set allow_blocking_in_loop=True in a notebook"
        )


def _prepared(messages: Iterable[Message]) -> list[Prepared]:
    return [
        (_topic(m.topic), _record(m.value, m.key, m.headers, partition=m.partition, timestamp_ms=m.timestamp_ms))
        for m in messages
    ]


def _topic(topic: str) -> str:
    if not isinstance(topic, str):
        raise TypeError(_kind("topic", topic, "a str"))
    if not topic:
        raise ValueError("topic is empty")
    return topic


def _record(
    value: Text, key: Text, headers: Headers | None, *, partition: int | None, timestamp_ms: int | None
) -> dict[str, Any]:
    if type(value) not in _TEXT:
        raise TypeError(_kind("value", value, "str, bytes or None"))
    if type(key) not in _TEXT:
        raise TypeError(_kind("key", key, "str, bytes or None"))
    return {
        "value": value,
        "key": key,
        "partition": -1 if partition is None else _whole("partition", partition),
        "timestamp": 0 if timestamp_ms is None else _whole("timestamp_ms", timestamp_ms),
        "headers": None if headers is None else _headers(headers),
    }


def _whole(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(_kind(name, value, "an int"))
    if value < 0:
        raise ValueError(f"{name} is {value}: it can't be negative (leave it out to let Kafka choose)")
    return value


def _headers(headers: Headers) -> list[tuple[str, HeaderValue]]:
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:  # noqa: PLR2004  (a pair)
            raise TypeError(_kind("headers", pair, "a mapping or (name, value) pairs"))
        name, value = pair
        if not isinstance(name, str):
            raise TypeError(_kind("a header's name", name, "a str"))
        if type(value) not in _TEXT:
            raise TypeError(_kind(f"header {name!r}", value, "str, bytes or None"))
    return pairs


def _kind(field: str, value: object, wanted: str) -> str:
    return f"{field} is {wanted}, not {type(value).__name__}"


def _undelivered(pool: str, failed: list[Delivery], count: int) -> DeliveryError:
    first = failed[0].exception(0)
    return DeliveryError(f"{pool}: {len(failed)} of {count} records weren't delivered; the first: {first}", failed)


def _because(client: Client) -> str:
    return f" (last error: {client.last_error})" if client.last_error else ""
