"""What a borrower holds inside a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wd_di._producer import Producer
from wd_di._sender import refuse_on_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._hooks import Outcome, When
    from wd_di._producer import Held
    from wd_di._unit import Unit


class Transaction(Producer):
    """A producer inside an open transaction: what it produces becomes visible together, or not at all.

    Attributes:
        id: Names the transaction in errors and events: its transactional id and a number.
    """

    __slots__ = ("_unit", "id")

    def __init__(self, held: Held, unit: Unit) -> None:
        super().__init__(held, unit)
        self.id: str = unit.id
        self._unit = unit

    # -- for the borrower --------------------------------------------------------------------------

    @property
    def remaining_ms(self) -> int:
        """The milliseconds that are left to commit in, out of 80 % of ``transaction.timeout.ms`` since the first write."""
        return self._unit.remaining_ms

    def abort_only(self) -> None:
        """Decide that this transaction will abort when its scope ends, without an error."""
        self._unit.refuse_if_ended()
        self._unit.abort_only = True

    def send_offsets(self, offsets: Any, group_metadata: Any, *, timeout_ms: int | None = None) -> None:
        """Commit a consumer group's offsets with this transaction (KIP-447).

        Args:
            offsets: ``confluent_kafka.TopicPartition`` objects with the next offset to read: last read + 1.
            group_metadata: ``consumer.consumer_group_metadata()``, asked between the poll that gave the records and the
                next one: metadata of a later poll would hide a rebalance in between.
            timeout_ms: Milliseconds; ``None`` is the pool's ``commit_timeout_ms``.

        Raises:
            RebalancedError: The partitions belong to another member now. The transaction can only abort.
            AuthorizationError: No right to read with this group.
        """
        refuse_on_loop("send_offsets", self._unit.terms)
        self._unit.send_offsets(offsets, group_metadata, timeout_ms)

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
        self._unit.refuse_if_ended()
        self._unit.hooks.add(when, fn)

    def _sending(self) -> Unit:
        return self._unit
