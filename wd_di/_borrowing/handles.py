"""What a borrower holds: a producer or a transaction, for threads, and its twin for tasks."""

from __future__ import annotations

import sys
from abc import abstractmethod
from asyncio import _get_running_loop
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

from wd_di._borrowing.handle import Handle
from wd_di._borrowing.unopened import Scope, stands_for
from wd_di._concurrency.caller import refuse_outside_of_a_task
from wd_di._concurrency.deadline import Deadline, check_timeout
from wd_di._hints import FIELDS, no_keyword
from wd_di._records.record import prepare, prepare_all
from wd_di._transactions.options import OPTIONS
from wd_di.errors import AbortTransaction, ScopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Unpack

    from wd_di._borrowing.handle import Lent
    from wd_di._hints import NoOthers
    from wd_di._kafka.offsets import TopicPartition
    from wd_di._records.delivery import Delivery, DeliveryReport
    from wd_di._records.record import Headers, Message, Prepared
    from wd_di._records.sender import Sender
    from wd_di._transactions.hooks import Outcome, When
    from wd_di._transactions.options import Options, TransactionOptions
    from wd_di._transactions.transaction import OpenTransaction


class TransactionScope(Scope["Transaction", "AsyncTransaction"]):
    """A transaction to come: ``with pool.transaction() as tx``. Returned: committed. Raised: aborted."""

    __slots__ = ()

    options: Options

    @property
    @abstractmethod
    def begun(self) -> OpenTransaction:
        """What is open here, from enter to exit."""

    @property
    @abstractmethod
    def repeatable(self) -> bool:
        """Whether nothing of it can have become visible, nor belongs to a transaction around it."""


class _Begins(Handle):
    """What begins transactions."""

    __slots__ = ()

    def transaction(self, **options: Unpack[TransactionOptions]) -> TransactionScope:
        """Return a transaction on this very producer; the options are those of ``ProducerPool.transaction``.

        Raises:
            NotTransactionalError: The pool has no ``transactional_id``.
        """
        if foreign := [name for name in options if name not in OPTIONS]:
            no_keyword("transaction", foreign, OPTIONS)
        return self._scope(None, **options)

    def _scope(self, within: Deadline | None, **options: Unpack[TransactionOptions]) -> TransactionScope:
        self._via.refuse_if_over()
        scope: TransactionScope = self._lease.begins(self, within, options)
        return scope


class Producer(_Begins):
    """A producer of the pool, for as long as its ``with`` block lasts.

    Keys, values and header values are ``str`` (sent as UTF-8), ``bytes`` or ``None``. On a transactional pool, outside
    of a transaction, each call is a transaction of its own and blocks until the commit.

    Attributes:
        index: The slot's, zero-based.
    """

    __slots__ = ()

    # -- producing -------------------------------------------------------------------------------

    def produce_sync(
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        timeout_ms: int | None = None,
        **_foreign: Unpack[NoOthers],
    ) -> DeliveryReport:
        """Produce one record and wait until the broker has stored it; ``linger.ms`` isn't waited for.

        Args:
            topic: The topic.
            value: The payload; ``None`` is a tombstone.
            key: The key, which decides the partition unless one is given.
            headers: Names and values; a name may come more than once in a sequence of pairs.
            partition: The partition; ``None`` lets the partitioner decide.
            timestamp_ms: Milliseconds since the epoch, from 1 on (librdkafka takes 0 for now); ``None`` is now.
            timeout_ms: Milliseconds for the whole; ``None`` is the pool's ``produce_timeout_ms``.

        Raises:
            DeliveryError: The broker refused the record, or it expired.
            DeliveryTimeoutError: No answer in time. The record may still be delivered.
            QueueFullError: The local queue stayed full; the record wasn't sent.
            AuthorizationError: No right to write to the topic.
            TypeError, ValueError: An argument can't be sent; it is named, and nothing was enqueued.
        """
        if _foreign:
            no_keyword("produce_sync", _foreign, FIELDS)
        record = prepare(topic, value, key, headers, partition, timestamp_ms)
        return self._sync([record], timeout_ms)[0]

    def produce_async(
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        timeout_ms: int | None = None,
        **_foreign: Unpack[NoOthers],
    ) -> Delivery:
        """Enqueue one record and return at once.

        What is enqueued will be sent, also when the producer has gone back to the pool meanwhile.

        Args:
            topic: The topic.
            value: The payload; ``None`` is a tombstone.
            key: The key, which decides the partition unless one is given.
            headers: Names and values; a name may come more than once in a sequence of pairs.
            partition: The partition; ``None`` lets the partitioner decide.
            timestamp_ms: Milliseconds since the epoch, from 1 on (librdkafka takes 0 for now); ``None`` is now.
            timeout_ms: Milliseconds to wait for room in a full queue; ``None`` is the pool's ``produce_timeout_ms``.

        Raises:
            QueueFullError: The local queue stayed full; the record wasn't sent.
            DeliveryError: The client refused the record at once (too large, unknown topic).
            TypeError, ValueError: An argument can't be sent; it is named, and nothing was enqueued.
        """
        if _foreign:
            no_keyword("produce_async", _foreign, FIELDS)
        record = prepare(topic, value, key, headers, partition, timestamp_ms)
        deadline = None if timeout_ms is None else self._via.policy.deadline(timeout_ms)
        sender = self._via.sending()
        if sender is not None:
            return sender.send_soon(record, deadline)
        return self._implicitly([record], deadline or self._via.policy.deadline(), answered=False)[0]

    def produce_many_sync(
        self, messages: Iterable[Message], *, timeout_ms: int | None = None, **_foreign: Unpack[NoOthers]
    ) -> list[DeliveryReport]:
        """Produce several records and wait for all; all are checked before the first is sent.

        Raises:
            DeliveryError: Some weren't delivered; ``failed`` lists them.
            DeliveryTimeoutError: Not all were answered in time; those may still be delivered.
        """
        if _foreign:
            no_keyword("produce_many_sync", _foreign, ["messages", "timeout_ms"])
        return self._sync(prepare_all(messages), timeout_ms)

    def produce_many_async(
        self, messages: Iterable[Message], *, timeout_ms: int | None = None, **_foreign: Unpack[NoOthers]
    ) -> list[Delivery]:
        """Enqueue several records; all are checked before the first is enqueued.

        Raises:
            QueueFullError: The queue stayed full; the records before that one are enqueued.
        """
        if _foreign:
            no_keyword("produce_many_async", _foreign, ["messages", "timeout_ms"])
        return self._async(prepare_all(messages), self._via.policy.deadline(timeout_ms))

    def flush(self, *, timeout_ms: int | None = None) -> None:
        """Wait until every record that this borrower produced has its answer; nobody else's records are waited for.

        Raises:
            DeliveryError: Some of them weren't delivered; ``failed`` lists them, each once.
            DeliveryTimeoutError: Some have no answer yet.
        """
        self._refuse_on_loop("flush")
        deadline, sender = self._via.policy.deadline(timeout_ms), self._via.sending()
        if sender is None:
            self._via.refuse_if_over()
        else:
            sender.flush(deadline)

    # -- how it is done ----------------------------------------------------------------------------

    def _sync(self, records: list[Prepared], timeout_ms: int | None) -> list[DeliveryReport]:
        if _get_running_loop() is not None or "trio.lowlevel" in sys.modules:
            self._refuse_on_loop("produce_sync")
        deadline, sender = self._via.policy.deadline(timeout_ms), self._via.sending()
        if sender is not None:
            return sender.send_and_wait(records, deadline)
        deliveries = self._implicitly(records, deadline, answered=True)
        return [delivery.result(0) for delivery in deliveries]

    def _async(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        sender = self._via.sending()
        if sender is not None:
            return sender.send_all(records, deadline)
        return self._implicitly(records, deadline, answered=False)

    def _implicitly(self, records: list[Prepared], deadline: Deadline, *, answered: bool) -> list[Delivery]:
        """A transaction around the call."""
        self._via.policy.refuse_implicit()
        scope = self._scope(deadline)
        with scope:
            return scope.begun.send_alone(records, deadline, answered=answered)


class AsyncProducer(_Begins):
    """A producer of the pool, for as long as its ``async with`` block lasts.

    Keys, values and header values are ``str`` (sent as UTF-8), ``bytes`` or ``None``. On a transactional pool, outside
    of a transaction, each awaited call is a transaction of its own.

    Attributes:
        index: The slot's, zero-based.
    """

    __slots__ = ()

    # -- producing -------------------------------------------------------------------------------

    async def produce_sync(
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        timeout_ms: int | None = None,
        **_foreign: Unpack[NoOthers],
    ) -> DeliveryReport:
        """Produce one record and wait until the broker has stored it.

        Arguments and errors are those of ``Producer.produce_sync``.
        Cancelled while it waits, the record may still be delivered.
        """
        if _foreign:
            no_keyword("produce_sync", _foreign, FIELDS)
        record = prepare(topic, value, key, headers, partition, timestamp_ms)
        if timeout_ms is not None:
            check_timeout(timeout_ms, 0)
        refuse_outside_of_a_task(self._via.policy.pool)
        sender = self._via.sending()
        if sender is not None:
            return await sender.publish(record, timeout_ms)
        [report] = await self._sync([record], timeout_ms)
        return report

    def produce_async(
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        **_foreign: Unpack[NoOthers],
    ) -> Delivery:
        """Enqueue one record and return at once; a plain method, so that a forgotten ``await`` loses nothing.

        Arguments as ``Producer.produce_async``. Await the delivery to learn the record's fate.

        Raises:
            QueueFullError: The local queue is full; ``await drain()`` and try again.
            DeliveryError: The client refused the record at once (too large, unknown topic).
            ScopeError: On a transactional pool outside of a transaction: only awaited calls can be one of their own.
        """
        if _foreign:
            no_keyword("produce_async", _foreign, FIELDS)
        record = prepare(topic, value, key, headers, partition, timestamp_ms)
        return self._now().send_soon(record, Deadline(0))

    async def produce_many_sync(
        self, messages: Iterable[Message], *, timeout_ms: int | None = None, **_foreign: Unpack[NoOthers]
    ) -> list[DeliveryReport]:
        """Produce several records and wait for all; all are checked before the first is sent."""
        if _foreign:
            no_keyword("produce_many_sync", _foreign, ["messages", "timeout_ms"])
        return await self._sync(prepare_all(messages), timeout_ms)

    def produce_many_async(self, messages: Iterable[Message], **_foreign: Unpack[NoOthers]) -> list[Delivery]:
        """Enqueue several records at once; all are checked before the first is enqueued."""
        if _foreign:
            no_keyword("produce_many_async", _foreign, ["messages"])
        records = prepare_all(messages)
        return self._now().send_all(records, Deadline(0))

    async def flush(self, *, timeout_ms: int | None = None) -> None:
        """Wait until every record that this borrower produced has its answer; as ``Producer.flush``."""
        deadline, sender = self._via.policy.deadline(timeout_ms), self._via.sending()
        refuse_outside_of_a_task(self._via.policy.pool)
        if sender is None:
            self._via.refuse_if_over()
        else:
            await sender.flush_async(deadline)

    async def drain(self, *, timeout_ms: int | None = None) -> None:
        """Wait until a queue that was full has room again.

        Raises:
            QueueFullError: It stayed full.
        """
        refuse_outside_of_a_task(self._via.policy.pool)
        if self._lease.connection is not None:
            await self._lease.connection.drain_async(self._via.policy.deadline(timeout_ms))

    # -- how it is done ----------------------------------------------------------------------------

    def _now(self) -> Sender:
        sender = self._via.sending()
        if sender is None:
            raise ScopeError(
                f"{self._via.policy.pool}: a transactional producer sends only inside a transaction: use 'async with "
                "producer.transaction()', or await produce_sync, which is a transaction of its own"
            )
        return sender

    async def _sync(self, records: list[Prepared], timeout_ms: int | None) -> list[DeliveryReport]:
        refuse_outside_of_a_task(self._via.policy.pool)
        deadline, sender = self._via.policy.deadline(timeout_ms), self._via.sending()
        if sender is not None:
            return await sender.send_and_wait_async(records, deadline)
        self._via.policy.refuse_implicit()
        scope = self._scope(deadline)
        async with scope:
            deliveries = await scope.begun.send_alone_async(records, deadline)
        return [delivery.result(0) for delivery in deliveries]


class InTransaction(Handle):
    """What a handle can do inside a transaction.

    Attributes:
        id: Names the transaction in errors and events: its transactional id and a number.
    """

    __slots__ = ("_transaction",)

    def __init__(self, lease: Lent, keeps: object, transaction: OpenTransaction) -> None:
        self._lease = lease
        self._keeps = keeps
        self._via = self._transaction = transaction

    @property
    def index(self) -> int:
        """The slot's, zero-based."""
        return self._transaction.connection.index

    def _condition(self) -> str:
        return self._transaction.condition

    @property
    def id(self) -> str:
        """Names the transaction in errors and events: its transactional id and a number."""
        return self._transaction.id

    @property
    def remaining_ms(self) -> int:
        """Milliseconds left to commit in: 80 % of ``transaction.timeout.ms`` from the first write on."""
        return self._transaction.remaining_ms

    def abort_only(self) -> None:
        """Decide that this transaction will abort when its scope ends, without an error."""
        self._transaction.refuse_if_ended()
        self._transaction.doom(AbortTransaction())

    def before_commit(self, fn: Callable[[], object]) -> None:
        """Call ``fn()`` before the commit, still inside the transaction; what it raises aborts."""
        self._hook("before_commit", fn)

    def after_commit(self, fn: Callable[[], object]) -> None:
        """Call ``fn()`` after a commit, once the producer is back; what it raises is an event and a log line."""
        self._hook("after_commit", fn)

    def after_abort(self, fn: Callable[[], object]) -> None:
        """Call ``fn()`` after an abort, once the producer is back; what it raises is an event and a log line."""
        self._hook("after_abort", fn)

    def after_completion(self, fn: Callable[[Outcome], object]) -> None:
        """Call ``fn(outcome)`` after any end: ``"committed"``, ``"aborted"`` or, in doubt, ``"unknown"``."""
        self._hook("after_completion", fn)

    def _hook(self, when: When, fn: Callable[..., object]) -> None:
        self._transaction.add_hook(when, fn)


class Transaction(InTransaction, Producer):
    """A producer inside an open transaction: what it produces becomes visible together, or not at all."""

    __slots__ = ()

    def _hook(self, when: When, fn: Callable[..., object]) -> None:
        if iscoroutinefunction(fn):
            raise TypeError(f"{when} of a Transaction takes a plain function, not the coroutine function {fn!r}")
        super()._hook(when, fn)

    def send_offsets(
        self, offsets: Iterable[TopicPartition], group_metadata: bytes, *, timeout_ms: int | None = None
    ) -> None:
        """Commit a consumer group's offsets with this transaction (KIP-447).

        Args:
            offsets: ``confluent_kafka.TopicPartition`` objects with the next offset to read: last read + 1.
            group_metadata: ``consumer.consumer_group_metadata()``, asked between the poll that gave the records and the
                next one: metadata of a later poll would hide a rebalance in between.
            timeout_ms: Milliseconds; ``None`` is the pool's ``commit_timeout_ms``.

        Raises:
            RebalancedError: The partitions belong to another member now. The transaction can only abort.
            AuthorizationError: No right to read with this group.
            TypeError, ValueError: An argument can't be sent; nothing was, and the transaction lives on.
        """
        self._refuse_on_loop("send_offsets")
        self._transaction.send_offsets(offsets, group_metadata, timeout_ms)


class AsyncTransaction(InTransaction, AsyncProducer):
    """A producer inside an open transaction: what it produces becomes visible together, or not at all.

    Its hooks may be plain or coroutine functions.
    """

    __slots__ = ()

    async def send_offsets(
        self, offsets: Iterable[TopicPartition], group_metadata: bytes, *, timeout_ms: int | None = None
    ) -> None:
        """Commit a consumer group's offsets with this transaction (KIP-447); as ``Transaction.send_offsets``."""
        refuse_outside_of_a_task(self._via.policy.pool)
        await self._transaction.send_offsets_async(offsets, group_metadata, timeout_ms)


stands_for((Transaction, AsyncTransaction))
