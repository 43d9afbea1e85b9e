"""What a borrower holds: the four ways to produce, and waiting for what was produced."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wd_di._client import Client, Fault, Kind
from wd_di._delivery import Delivery, DeliveryReport, HeaderValue, Ledger, Message
from wd_di._threads import Deadline
from wd_di.errors import AuthorizationError, CheckoutReturnedError, DeliveryError, DeliveryTimeoutError, ProduceError
from wd_di.errors import QueueFullError, ScopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wd_di._scope import TransactionScope
    from wd_di._transaction import Transaction

HOLDER_SLICE = 0.005
"""Seconds of one flush by a holder: short, for flush also waits for records that aren't the holder's own."""
QUEUE_FULL_SLICE = 0.05

Text = str | bytes | None
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


class Producer:
    """A producer of the pool, for as long as its ``with`` block lasts.

    Keys, values and header values are ``str`` (sent as UTF-8), ``bytes`` or ``None``; a value of ``None`` is a tombstone.
    On a transactional pool, outside of a transaction, each call is a transaction of its own and blocks until the commit.
    """

    __slots__ = ("_client", "_ledger", "_open_scope", "_terms", "index")

    def __init__(self, index: int, client: Client, terms: Terms, open_scope: OpenScope) -> None:
        self.index = index
        self._client = client
        self._terms = terms
        self._open_scope = open_scope
        self._ledger = self._new_ledger()
        client.outbox.open(self._ledger)

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
        return self._sync([Message(topic, value, key, headers, partition, timestamp_ms)], timeout_ms)[0]

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
        """Enqueue one record and return at once; the arguments are those of :meth:`produce_sync`.

        What is enqueued will be sent, also when the producer has gone back to the pool meanwhile.

        Args:
            timeout_ms: Milliseconds to wait for room in a full queue.

        Raises:
            QueueFullError: The local queue stayed full; the record wasn't sent.
            ProduceError: The client refused the record at once (too large, unknown topic).
        """
        tx = self._transaction()
        if tx is not None:
            return tx.produce_async(
                topic, value, key, headers=headers, partition=partition, timestamp_ms=timestamp_ms, timeout_ms=timeout_ms
            )
        if self._outside_transaction():
            return self._implicitly([Message(topic, value, key, headers, partition, timestamp_ms)], timeout_ms)[0]
        record = _record(topic, value, key, headers, partition, timestamp_ms)
        return self._enqueue(topic, record, Deadline.of_ms(timeout_ms, self._terms.produce_timeout_ms))

    def produce_many_sync(
        self, messages: Iterable[Message], *, timeout_ms: int | None = None
    ) -> list[DeliveryReport]:
        """Produce several records and wait for all; all are checked before the first is sent.

        Raises:
            DeliveryError: Some weren't delivered; ``failed`` lists them.
            DeliveryTimeoutError: Not all were answered in time; those may still be delivered.
        """
        return self._sync(list(messages), timeout_ms)

    def produce_many_async(self, messages: Iterable[Message], *, timeout_ms: int | None = None) -> list[Delivery]:
        """Enqueue several records; all are checked before the first is enqueued.

        Raises:
            QueueFullError: The queue stayed full; the records before that one are enqueued.
        """
        messages = list(messages)
        tx = self._transaction()
        if tx is not None:
            return tx.produce_many_async(messages, timeout_ms=timeout_ms)
        if self._outside_transaction():
            return self._implicitly(messages, timeout_ms)
        return self._enqueue_all(messages, Deadline.of_ms(timeout_ms, self._terms.produce_timeout_ms))

    def flush(self, *, timeout_ms: int | None = None) -> None:
        """Wait until every record that this borrower produced has its answer; nobody else's records are waited for.

        Raises:
            DeliveryError: Some of them weren't delivered; ``failed`` lists them, each once.
            DeliveryTimeoutError: Some have no answer yet.
        """
        self._refuse_on_loop("flush")
        self._settled(list(self._ledger.pending), Deadline.of_ms(timeout_ms, self._terms.produce_timeout_ms))
        failed, self._ledger.failed = self._ledger.failed, []
        if failed:
            raise _undelivered(self._terms.pool, failed, len(failed))

    def transaction(self, **options: Any) -> TransactionScope:
        """Return a transaction on this very producer; the options are those of ``ProducerPool.transaction``.

        Raises:
            NotTransactionalError: The pool has no ``transactional_id``.
        """
        return self._open_scope.scope(self, **options)

    # -- how it is done ----------------------------------------------------------------------------

    def _new_ledger(self) -> Ledger:
        return Ledger(self._terms.produce_timeout_ms)

    def _transaction(self) -> Transaction | None:
        """The transaction that is open on this producer, which everything produced meanwhile belongs to."""
        return self._open_scope.transaction

    def _outside_transaction(self) -> bool:
        """Whether a call here must be a transaction of its own."""
        return self._terms.transactional

    def _sync(self, messages: list[Message], timeout_ms: int | None) -> list[DeliveryReport]:
        self._refuse_on_loop("produce_sync")
        deadline = Deadline.of_ms(timeout_ms, self._terms.produce_timeout_ms)
        tx = self._transaction()
        if tx is not None:
            return tx._sync(messages, timeout_ms)  # noqa: SLF001  (its own kind)
        if self._outside_transaction():
            return [delivery.result(0) for delivery in self._implicitly(messages, timeout_ms)]
        deliveries = self._enqueue_all(messages, deadline)
        self._settled(deliveries, deadline)
        return self._reports(deliveries)

    def _reports(self, deliveries: list[Delivery]) -> list[DeliveryReport]:
        if len(deliveries) == 1 and (error := deliveries[0].exception(0)) is not None:
            raise error
        failed = [delivery for delivery in deliveries if delivery.exception(0) is not None]
        if failed:
            raise _undelivered(self._terms.pool, failed, len(deliveries))
        return [delivery.result(0) for delivery in deliveries]

    def _implicitly(self, messages: list[Message], timeout_ms: int | None) -> list[Delivery]:
        """A transaction around the call."""
        if not self._terms.implicit_transactions:
            raise ScopeError(
                f"{self._terms.pool}: a transactional producer sends only inside a transaction, and "
                "implicit_transactions is off: use 'with producer.transaction()'"
            )
        with self.transaction() as tx:
            deliveries: list[Delivery] = tx.produce_many_async(messages, timeout_ms=timeout_ms)
        return deliveries

    def _enqueue_all(self, messages: Sequence[Message], deadline: Deadline) -> list[Delivery]:
        records = [_record(m.topic, m.value, m.key, m.headers, m.partition, m.timestamp_ms) for m in messages]
        return [self._enqueue(m.topic, record, deadline) for m, record in zip(messages, records, strict=True)]

    def _enqueue(self, topic: str, record: dict[str, Any], deadline: Deadline) -> Delivery:
        delivery = Delivery(topic, self._ledger, self._client.outbox)
        while not self._offered(delivery, topic, record):
            if deadline.passed:
                raise QueueFullError(
                    f"{self._terms.pool}: the queue of producer {self.index} stayed full "
                    f"({self._client.owes()} records waiting); {topic!r} wasn't sent"
                )
            self._client.poll(deadline.slice(QUEUE_FULL_SLICE))
        self._terms.nudge()
        return delivery

    def _offered(self, delivery: Delivery, topic: str, record: dict[str, Any]) -> bool:
        """Enqueue, unless the queue is full.

        Under the ledger's gate: a record must never slip in after the end was decided, or it would travel in the next
        borrower's transaction.
        """
        ledger = self._ledger
        with ledger.gate:
            if ledger.ended:
                raise self._ended()
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
                    delivery.exception(int(deadline.left * 1000) + 1)
                else:
                    self._client.flush(deadline.slice(HOLDER_SLICE))
        late = [delivery for delivery in deliveries if not delivery.done()]
        if late:
            raise DeliveryTimeoutError(
                f"{self._terms.pool}: no answer for {len(late)} of {len(deliveries)} records in time, the first to "
                f"{late[0].topic!r}; they may still be delivered{_because(self._client)}"
            )

    def _refused(self, fault: Fault, topic: str) -> Exception:
        """The public error of a record that the client didn't take."""
        if fault.kind is Kind.CLOSED:
            return self._ended()
        if fault.kind is Kind.DENIED:
            return AuthorizationError(f"{self._terms.pool}: no right to write to {topic!r}: {fault}")
        text = f"{self._terms.pool}: producer {self.index} refused a record for {topic!r}: {fault}"
        return DeliveryError(text) if fault.kind is not Kind.RETRIABLE else ProduceError(text)

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


class OpenScope:
    """What a producer needs to know of transactions: which one is open on it, and how to get one."""

    __slots__ = ("scope", "transaction")

    def __init__(self, scope: Callable[..., TransactionScope]) -> None:
        self.scope = scope
        self.transaction: Transaction | None = None


def refuse_on_loop(what: str, terms: Terms) -> None:
    """Refuse a call that would block the event loop which runs in this thread."""
    if _get_running_loop() is not None and not terms.allow_blocking_in_loop:
        raise ScopeError(
            f"{terms.pool}: {what} would block the event loop that runs in this thread: call it through "
            "asyncio.to_thread, or set allow_blocking_in_loop=True in a notebook"
        )


def _record(
    topic: str, value: Text, key: Text, headers: Headers | None, partition: int | None, timestamp_ms: int | None
) -> dict[str, Any]:
    if not isinstance(topic, str) or not topic:
        raise TypeError(f"topic is a non-empty str, not {topic!r}" if topic == "" else _kind("topic", topic, "a str"))
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
