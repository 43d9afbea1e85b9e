"""What a task holds inside a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wd_di._async_producer import AsyncProducer
from wd_di._handle import InTransaction
from wd_di._loop import outwaited, refuse_outside_of_a_task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka import TopicPartition

    from wd_di._handle import Held
    from wd_di._unit import Unit


class AsyncTransaction(InTransaction, AsyncProducer):
    """A producer inside an open transaction: what it produces becomes visible together, or not at all.

    Its hooks may be plain or coroutine functions.
    """

    __slots__ = ("_unit",)

    def __init__(self, held: Held, unit: Unit) -> None:
        super().__init__(held)
        self._unit = unit

    async def send_offsets(
        self, offsets: Iterable[TopicPartition], group_metadata: bytes, *, timeout_ms: int | None = None
    ) -> None:
        """Commit a consumer group's offsets with this transaction (KIP-447); as ``Transaction.send_offsets``."""
        refuse_outside_of_a_task(self._unit.terms.pool)
        await outwaited(self._unit.terms.jobs, lambda: self._unit.send_offsets(offsets, group_metadata, timeout_ms))
