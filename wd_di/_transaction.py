"""What a borrower holds inside a transaction."""

from __future__ import annotations

from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

from wd_di._handle import InTransaction
from wd_di._producer import Producer
from wd_di._sender import refuse_on_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from confluent_kafka import TopicPartition

    from wd_di._handle import Held
    from wd_di._hooks import When
    from wd_di._unit import Unit


class Transaction(InTransaction, Producer):
    """A producer inside an open transaction: what it produces becomes visible together, or not at all."""

    __slots__ = ("_unit",)

    def __init__(self, held: Held, unit: Unit) -> None:
        super().__init__(held)
        self._unit = unit

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
        refuse_on_loop("send_offsets", self._unit.terms)
        self._unit.send_offsets(offsets, group_metadata, timeout_ms)
