"""What a borrower holds: the four ways to produce, and waiting for what was produced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wd_di._handle import Handle
from wd_di._hints import FIELDS, no_keyword
from wd_di._record import prepare, prepare_all
from wd_di._sender import refuse_on_loop

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Unpack

    from wd_di._delivery import Delivery, DeliveryReport, Message
    from wd_di._hints import NoOthers
    from wd_di._record import Headers, Prepared
    from wd_di._threads import Deadline


class Producer(Handle):
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
        record = prepare(topic, value, key, headers=headers, partition=partition, timestamp_ms=timestamp_ms)
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
        record = prepare(topic, value, key, headers=headers, partition=partition, timestamp_ms=timestamp_ms)
        return self._async([record], self._deadline(timeout_ms))[0]

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
        return self._async(prepare_all(messages), self._deadline(timeout_ms))

    def flush(self, *, timeout_ms: int | None = None) -> None:
        """Wait until every record that this borrower produced has its answer; nobody else's records are waited for.

        Raises:
            DeliveryError: Some of them weren't delivered; ``failed`` lists them, each once.
            DeliveryTimeoutError: Some have no answer yet.
        """
        refuse_on_loop("flush", self._sender.terms)
        (self._sending() or self._sender).flush(self._deadline(timeout_ms))

    # -- how it is done ----------------------------------------------------------------------------

    def _sync(self, records: list[Prepared], timeout_ms: int | None) -> list[DeliveryReport]:
        refuse_on_loop("produce_sync", self._sender.terms)
        deadline, sender = self._deadline(timeout_ms), self._sending()
        if sender is None:
            deliveries = self._implicitly(records, deadline, answered_by=deadline)
            return [delivery.result(0) for delivery in deliveries]
        if sender.keeps_back(records, deadline):
            sender.client.reach(deadline)
        deliveries = sender.send_all(records, deadline)
        try:
            sender.settle(deliveries, deadline)
        except BaseException:  # late, or interrupted: whoever called knows which records are in doubt
            sender.ledger.forget(deliveries)
            raise
        return sender.reports(deliveries)

    def _async(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        sender = self._sending()
        return self._implicitly(records, deadline) if sender is None else sender.send_all(records, deadline)

    def _implicitly(
        self, records: list[Prepared], deadline: Deadline, *, answered_by: Deadline | None = None
    ) -> list[Delivery]:
        """A transaction around the call."""
        self._sender.terms.refuse_implicit()
        scope = self.transaction()
        scope.within = deadline
        with scope as tx:
            if tx._unit.keeps_back(records, deadline):  # noqa: SLF001  (its own kind)
                tx._unit.client.reach(deadline)  # noqa: SLF001
            tx._unit.answered_by = answered_by  # noqa: SLF001
            deliveries: list[Delivery] = tx._async(records, deadline)  # noqa: SLF001
        return deliveries
