"""What a task holds: the same four ways to produce, without ever blocking its loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wd_di._handle import Handle
from wd_di._hints import FIELDS, no_keyword
from wd_di._loop import outwaited, refuse_outside_of_a_task
from wd_di._record import prepare, prepare_all
from wd_di._sender import outdated
from wd_di._threads import Deadline
from wd_di.errors import DeliveryError, QueueFullError, ScopeError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Unpack

    from wd_di._delivery import Delivery, DeliveryReport, Message
    from wd_di._hints import NoOthers
    from wd_di._record import Headers, Prepared
    from wd_di._sender import Sender

ROOM = 0.9
"""Share of what a full queue held, below which there is room again."""
ROOM_NAP = 0.005


class AsyncProducer(Handle):
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
        record = prepare(topic, value, key, headers=headers, partition=partition, timestamp_ms=timestamp_ms)
        return (await self._sync([record], timeout_ms))[0]

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
        record = prepare(topic, value, key, headers=headers, partition=partition, timestamp_ms=timestamp_ms)
        return self._now([record])[0]

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
        return self._now(prepare_all(messages))

    async def flush(self, *, timeout_ms: int | None = None) -> None:
        """Wait until every record that this borrower produced has its answer; as ``Producer.flush``."""
        refuse_outside_of_a_task(self._sender.terms.pool)
        sender = self._sending() or self._sender
        sender.refuse_if_over()
        await sender.settle_async(list(sender.ledger.pending), self._deadline(timeout_ms))
        sender.raise_failures()

    async def drain(self, *, timeout_ms: int | None = None) -> None:
        """Wait until a queue that was full has room again.

        Raises:
            QueueFullError: It stayed full.
        """
        refuse_outside_of_a_task(self._sender.terms.pool)
        sender, deadline = self._sender, self._deadline(timeout_ms)
        while sender.client.full_at is not None and sender.client.owes() > sender.client.full_at * ROOM:
            if deadline.passed:
                raise QueueFullError(f"{sender.terms.pool}: the queue of producer {self.index} stayed full")
            await asyncio.sleep(ROOM_NAP)
        sender.client.full_at = None

    # -- how it is done ----------------------------------------------------------------------------

    def _now(self, records: list[Prepared]) -> list[Delivery]:
        sender = self._sending()
        if sender is None:
            raise ScopeError(
                f"{self._sender.terms.pool}: a transactional producer sends only inside a transaction: use 'async with "
                "producer.transaction()', or await produce_sync, which is a transaction of its own"
            )
        return sender.send_all(records, Deadline(0))

    async def _sync(self, records: list[Prepared], timeout_ms: int | None) -> list[DeliveryReport]:
        refuse_outside_of_a_task(self._sender.terms.pool)
        deadline, sender = self._deadline(timeout_ms), self._sending()
        if sender is None:
            return await self._implicitly(records, deadline)
        if sender.keeps_back(records, deadline):
            await outwaited(sender.terms.jobs, lambda: sender.client.reach(deadline))
        deliveries = [await self._send(sender, record, deadline) for record in records]
        try:
            await sender.settle_async(deliveries, deadline)
        except BaseException:  # late, or interrupted: whoever called knows which records are in doubt
            sender.ledger.forget(deliveries)
            raise
        return sender.reports(deliveries)

    async def _send(self, sender: Sender, record: Prepared, deadline: Deadline) -> Delivery:
        renewed = False
        while True:
            try:
                return sender.send(*record, Deadline(0))
            except DeliveryError as error:
                fault = outdated(error)
                if fault is None or renewed:
                    raise
            except QueueFullError:
                if deadline.passed:
                    raise
                await asyncio.sleep(ROOM_NAP)  # a record larger than the whole queue finds it full when it is empty
                await self.drain(timeout_ms=int(deadline.left * 1000))
                continue
            renewed = await self._renewed(sender, record, deadline)
            if not renewed:
                raise sender.refused(fault, record[0]) from fault

    async def _renewed(self, sender: Sender, record: Prepared, deadline: Deadline) -> bool:
        topic, fields = record
        partition = fields.get("partition", -1)
        return await outwaited(sender.terms.jobs, lambda: sender.client.renew(topic, partition, deadline))

    async def _implicitly(self, records: list[Prepared], deadline: Deadline) -> list[DeliveryReport]:
        self._sender.terms.refuse_implicit()
        scope = self.transaction()
        scope.within = deadline
        async with scope as tx:
            unit = tx._unit  # noqa: SLF001  (its own kind)
            if unit.keeps_back(records, deadline):
                await outwaited(unit.terms.jobs, lambda: unit.client.reach(deadline))
            unit.answered_by = deadline
            deliveries = [await self._send(unit, record, deadline) for record in records]
        return [delivery.result(0) for delivery in deliveries]
