"""What a transaction that went wrong raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wd_di._kafka.port import Fault, FaultKind
from wd_di._records.delivery import caused_by
from wd_di.errors import (
    AuthorizationError,
    CommitOutcomeUnknownError,
    DeliveryError,
    FencedError,
    RebalancedError,
    TransactionAbortedError,
    TransactionError,
    TransactionTimedOutError,
    UnexpectedAbortError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._records.delivery import Delivery
    from wd_di.errors import Resolution


@dataclass(frozen=True, slots=True)
class Failures:
    """Makes the errors of one transaction.

    Attributes:
        pool: The pool's name.
        id: The transaction's.
        index: The slot's.
        transactional_id: The producer's.
        age: Seconds since the first write.
        timeout: Seconds after which the coordinator aborts it.
        records: How many it has sent.
        rivals: Says who else of this host has the producer's id.
    """

    pool: str
    id: str
    index: int
    transactional_id: str | None
    age: float
    timeout: float
    records: int
    rivals: Callable[[], str]

    def error(self, kind: type[TransactionError], text: str) -> TransactionError:
        """Return an error of this kind."""
        return kind(f"{self.pool}: transaction {self.id}: {text}")

    def of_fault(self, what: str, fault: Fault) -> TransactionError:
        """Return the public error of a fault."""
        if fault.kind is FaultKind.REBALANCED:
            return self.error(RebalancedError, f"{what}: the consumer group has rebalanced: {fault}")
        if fault.kind is FaultKind.FENCED and self.age >= self.timeout:
            return self.too_late(f"the broker aborted it: {fault}")
        if fault.kind is not FaultKind.FENCED:
            return self.error(TransactionAbortedError, f"{what} failed: {fault}")
        rivals = self.rivals()
        who = f": {rivals}" if rivals else ""
        return self.error(
            FencedError,
            f"{what}: fenced after {self.age:.1f} s: another producer took over transactional.id "
            f"{self.transactional_id!r} of this pool's slot {self.index}{who}. Two owners have the same "
            f"transactional_id or instance in their settings; give each replica its own ({fault})",
        )

    def of_offsets(self, fault: Fault) -> Exception:
        """Return the public error of offsets that were refused."""
        if fault.right is not None:
            return AuthorizationError(f"{self.pool}: transaction {self.id}: send_offsets: {fault}")
        return self.of_fault("send_offsets", fault)

    def too_late(self, text: str) -> TransactionError:
        """Return the error of one that was open for too long."""
        limit = f"{self.timeout * 1000:.0f}"
        return self.error(
            TransactionTimedOutError, f"open for {self.age:.1f} s, transaction.timeout.ms is {limit}; {text}"
        )

    def in_doubt(self, text: str) -> TransactionError:
        """Return the error of a commit without an answer."""
        return self.error(
            CommitOutcomeUnknownError,
            f"the outcome is unknown, {text}; its {self.records} records are all visible or all hidden",
        )

    def looked_for(self, doubt: TransactionError) -> TransactionError:
        """Return the error of a commit whose outcome somebody else is finding out."""
        doubt.args = (f"{doubt}; it is being looked for, and transaction.resolved will tell",)
        return doubt

    def resolved(self, doubt: TransactionError, found: Resolution) -> TransactionError:
        """Return the error of a commit whose outcome was looked for, and is no yes."""
        after = f"after {found.duration_ms:.0f} ms"
        error = doubt
        if found.outcome == "unknown":
            doubt.args = (f"{doubt}; it couldn't be found out, {after}: {found.told}",)
        elif isinstance(doubt, CommitOutcomeUnknownError):
            error = self.error(TransactionAbortedError, f"its commit wasn't done: {found.told} (found out {after})")
            error.__cause__ = doubt
        else:
            doubt.args = (f"{doubt}; it was aborted: {found.told} (found out {after})",)
        error.outcome = "unknown" if found.outcome == "unknown" else "aborted"
        error.resolution = found
        return error

    def swallowed(self, cause: BaseException) -> UnexpectedAbortError:
        """Return the error of a block that ended well, though something in it had failed."""
        return UnexpectedAbortError(
            f"{self.pool}: transaction {self.id} was aborted: something in it failed with {cause!r}, which "
            "was swallowed"
        )

    def homeless(self, lost: list[Delivery], hint: str) -> DeliveryError:
        """Return the error for records that the abort takes back, since their topic isn't there."""
        first = f"a record for {lost[0].topic!r} had no answer{hint}"
        return self._undelivered(lost, first)

    def undelivered(self, failed: list[Delivery], reason: Fault | None) -> DeliveryError:
        """Return the error for records that failed, and maybe the reason that they don't know of."""
        first = failed[0].exception(0)
        told = reason is None or str(reason) in str(first)
        return caused_by(failed[0], self._undelivered(failed, str(first) if told else f"{first}; {reason}"))

    def _undelivered(self, lost: list[Delivery], first: str) -> DeliveryError:
        text = f"{self.pool}: {len(lost)} of {self.records} records weren't delivered"
        return DeliveryError(f"{text}, transaction {self.id} was aborted; the first: {first}", lost)
