"""What is written in a transaction, until when it may be, and what it raises."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.errands import Errand
from wd_di._kafka.offsets import checked_offsets
from wd_di._kafka.port import BREATH, SLICE, Fault, FaultKind
from wd_di._kafka.translation import answered
from wd_di._records.connection import Retirement
from wd_di._records.sender import Sender, because
from wd_di._transactions.failures import Failures
from wd_di._transactions.positions import Move, note_before
from wd_di.errors import (
    AbortTransaction,
    DeliveryError,
    ForkedPoolError,
    TransactionAbortedError,
    TransactionClosedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wd_di._kafka.offsets import TopicPartition
    from wd_di._records.connection import Connection, Requested
    from wd_di._records.delivery import Delivery, DeliveryReport
    from wd_di._records.record import Prepared
    from wd_di._records.sender import SendPolicy
    from wd_di._transactions.hooks import Outcome
    from wd_di.errors import TransactionError

AGAIN: dict[Requested, float] = {"offsets": 0.5, "end": 1.0}
"""Seconds after which librdkafka may have sent a request a second time; offsets after so long at the earliest."""
FAR = 1.5
"""Seconds that a pool's brokers are taken to be away at most, as the least that such a request has ever taken."""
SOFT_LIMIT = 0.8
"""Share of ``transaction.timeout.ms`` after which we end the transaction, before the coordinator fences us."""


@dataclass(frozen=True, slots=True)
class TransactionPolicy:
    """What of the settings decides how transactions end. Durations in seconds."""

    transaction_timeout: float
    commit_timeout: float
    abort_timeout: float
    resolve_timeout: float


Phase = Literal["new", "open", "committing", "committed", "aborting", "aborted"]
"""Where a transaction is; its last phase tells the outcome.

``open``: also while its records are waited for, when nothing more is written. ``committing``: only the broker's answer
decides; without one this is the last, in doubt. ``aborting`` is the last if the broker doesn't confirm the abort: then
it ends the transaction by its time-out. Words, since asking a table for an enum's member costs a call.
"""

OUTCOMES: dict[str, Outcome] = {
    "committing": "unknown",
    "committed": "committed",
    "aborting": "aborted",
    "aborted": "aborted",
}


class Writing(Sender):
    """A transaction as far as it is written.

    Attributes:
        id: Names it in errors and events: its transactional id and a number.
        owner: The thread or task that has opened it.
        phase: Where it is.
        doomed_by: Why it will abort, however its block ends.
        first_write: When the coordinator's clock was started.
        retirement: Why its producer must not be handed out again.
        moves: What it takes along of consumer groups.
        heard: Whether the coordinator certainly heard of the id, which keeps it from expiring.
    """

    __slots__ = (
        "_answered_by",
        "_began",
        "_given_up",
        "_interrupt",
        "_limits",
        "_sent_twice",
        "_soft_limit",
        "doomed_by",
        "first_write",
        "heard",
        "id",
        "moves",
        "owner",
        "phase",
        "retirement",
    )

    def __init__(
        self, connection: Connection, policy: SendPolicy, limits: TransactionPolicy, *, number: int, owner: object
    ) -> None:
        super().__init__(connection, policy, transactional=True)
        self.id: str = f"{self.client.transactional_id}#{number}"
        self.owner: object = owner
        self.phase: Phase = "new"
        self.doomed_by: BaseException | None = None
        self.first_write: float | None = None
        self.retirement: Retirement | None = None
        self._sent_twice: bool = False
        self._limits = limits
        self._soft_limit = limits.transaction_timeout * SOFT_LIMIT
        self.heard: bool = False
        self._began = time.monotonic()
        self._interrupt: BaseException | None = None
        self._given_up = False  # whoever waited for the commit's outcome was interrupted twice
        self._answered_by: Deadline | None = None  # of a call that is a transaction of its own
        self.moves: list[Move] = []

    def doom(self, reason: BaseException) -> None:
        """Let it abort, however its block ends: without an error for ``AbortTransaction``, else for the first reason.

        What failed in an inner boundary mustn't be committed by half, whoever swallows it.
        """
        if self.doomed_by is None or isinstance(reason, AbortTransaction):
            self.doomed_by = reason

    # -- for its handles ---------------------------------------------------------------------------

    def sending(self) -> Sender:
        """Who sends: it does."""
        return self

    def refuse_if_over(self) -> None:
        """Raise if it has ended."""
        self.refuse_if_ended()

    # -- writing -----------------------------------------------------------------------------------

    def enqueue(self, record: Prepared) -> Delivery:
        """Enqueue one, unless the transaction is over or about to be."""
        if self.first_write is None:
            self._note_write()
        elif time.monotonic() > self.first_write + self._soft_limit:
            self._note_write()  # which refuses it
        try:
            return super().enqueue(record)
        except BaseException:
            self._forget_write()
            raise

    def send_alone(self, records: list[Prepared], deadline: Deadline, *, answered: bool) -> list[Delivery]:
        """Enqueue all that a call sends which is a transaction of its own.

        Args:
            records: The records.
            deadline: The call's.
            answered: Whether the call waits for the brokers' answers: then its deadline is the commit's, too.
        """
        if self.keeps_back(records, deadline):
            self.connection.questions.reach(deadline)
        if answered:
            self._answered_by = deadline
        return self.send_all(records, deadline)

    async def send_alone_async(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        """Enqueue all as :meth:`send_alone` does, while the loop goes on."""
        self._answered_by = deadline
        return await self.send_all_async(records, deadline)

    def send_offsets(self, offsets: object, group_metadata: object, timeout_ms: int | None) -> None:
        """Add a consumer group's offsets; the broker's refusal dooms the transaction, whoever swallows it.

        Raises:
            TypeError, ValueError: They can't be sent; nothing was, and the transaction lives on.
            TransactionAbortedError: No answer came in time, or the broker refused them.
        """
        deadline = self._offsets_deadline(timeout_ms)
        for errand in self._offering(offsets, group_metadata, deadline):
            errand.known(deadline.left)

    async def send_offsets_async(self, offsets: object, group_metadata: object, timeout_ms: int | None) -> None:
        """Add them as :meth:`send_offsets` does, while the loop goes on."""
        deadline = self._offsets_deadline(timeout_ms)
        for errand in self._offering(offsets, group_metadata, deadline):
            await errand.known_async(deadline.left)

    def _offsets_deadline(self, timeout_ms: int | None) -> Deadline:
        return Deadline.of_ms(timeout_ms, int(self._limits.commit_timeout * 1000))

    def _offering(self, offsets: object, group_metadata: object, deadline: Deadline) -> Iterator[Errand[None]]:
        """Add them, and yield what is to be waited for meanwhile; see :meth:`send_offsets`.

        A worker makes the call: librdkafka keeps no deadline in this one, however short (seen in 2.16.0). As a record,
        they must not slip into the next transaction: whoever ends this one waits for the worker.
        """
        self.refuse_if_ended()
        checked = checked_offsets(offsets)
        self._note_write()
        move = next((each for each in self.moves if each.member == group_metadata), None) or Move(group_metadata)
        offer: Errand[None] = Errand(lambda: self._send_offsets(move, checked, deadline), endless=True)
        while not offer.known(0):
            errand = self._entrusted(offer)
            if deadline.passed:
                raise self._offsets_late(deadline)
            yield errand
        try:
            offer.get()
        except Fault as fault:
            error = self.failures.of_offsets(fault)
            self.doom(error)
            raise error from fault
        except (TypeError, ValueError):
            self._forget_write()
            raise
        move.add(checked)
        if move not in self.moves:
            self.moves.append(move)

    def _entrusted(self, offer: Errand[None]) -> Errand[Any]:
        """Let a worker make the offer when it has no other one; which one it has."""
        connection = self.connection
        with connection.offering:
            if connection.errand is not offer:
                self.refuse_if_ended()
                if connection.at_rest(Deadline(0)):
                    connection.entrust(offer)
            return connection.errand or offer

    def _send_offsets(self, move: Move, offsets: list[TopicPartition], deadline: Deadline) -> None:
        if self._limits.resolve_timeout:
            note_before(self.connection, move, offsets, deadline)
        began = time.monotonic()
        try:
            self._again(partial(self._offer, offsets, move.member), deadline, before=self.refuse_if_ended)
        finally:
            self._note_time("offsets", time.monotonic() - began)

    def _offer(self, offsets: list[TopicPartition], member: object, seconds: float) -> None:
        try:
            self.client.send_offsets(offsets, member, seconds)
        except Fault as fault:
            self._sent_twice |= not answered(fault)
            raise

    def _note_time(self, what: Requested, took: float) -> None:
        """Let this transaction be its producer's last, if a request that took so long may have been sent twice.

        The first one may still be on its way, and count for the next transaction: the broker knows them by the
        producer's epoch alone, which only a new init raises.
        """
        least = self.connection.services.least
        usual = min(least[what], FAR) if what in least else 0.0
        self._sent_twice |= took >= AGAIN[what] + usual
        least[what] = min(took, least.get(what, took))

    def _offsets_late(self, deadline: Deadline) -> TransactionError:
        why = f"send_offsets had no answer within {deadline.seconds * 1000:.0f} ms"
        error = self.failures.error(TransactionAbortedError, f"{why}{because(self.client, deadline)}")
        self.doom(error)
        self.retirement = self.retirement or Retirement("send_offsets timed out", error)
        return error

    def _again(self, call: Callable[[float], None], deadline: Deadline, *, before: Callable[[], object] = int) -> None:
        """The same call in slices while the client says that it may be repeated; ``before`` is called in between."""
        while True:
            try:
                call(deadline.slice(SLICE))
            except Fault as fault:
                if fault.kind is not FaultKind.RETRIABLE or deadline.passed:
                    raise
                self.client.poll(deadline.slice(BREATH))
                before()
            else:
                return

    # -- what its records raise --------------------------------------------------------------------

    def reports(self, deliveries: list[Delivery]) -> list[DeliveryReport]:
        """Return where the broker stored them, or raise what became of them or of the producer."""
        try:
            return super().reports(deliveries)
        except DeliveryError as error:
            if self.client.fault is None:
                raise
            # The record failed because the producer did.
            raise self.failures.of_fault("produce", self.client.fault) from error

    def refused(self, fault: Fault, topic: str) -> Exception:
        """Return the public error of a record that the client didn't take."""
        if self.client.fault is None:
            return super().refused(fault, topic)
        return self.failures.of_fault("produce", self.client.fault)

    def closed_error(self) -> Exception:
        """Return what is raised when the time is over."""
        if self.connection.forked:
            return ForkedPoolError(
                f"{self.policy.pool}: transaction {self.id} was begun before a fork, and is the parent's: in the "
                "child, open another one"
            )
        ended = OUTCOMES.get(self.phase, "ending")
        return TransactionClosedError(f"{self.policy.pool}: transaction {self.id} has ended: {ended}")

    @property
    def failures(self) -> Failures:
        """What makes its errors, as things are now."""
        return Failures(
            pool=self.policy.pool,
            id=self.id,
            index=self.connection.index,
            transactional_id=self.client.transactional_id,
            age=self._age(),
            timeout=self._limits.transaction_timeout,
            records=self.ledger.records,
            rivals=self.connection.rivals,
        )

    # -- the clock ---------------------------------------------------------------------------------

    @property
    def remaining_ms(self) -> int:
        """Milliseconds left to commit in."""
        if self.first_write is None:
            return int(self._soft_limit * 1000)
        # Rounded up: at 0 the next call is refused.
        return max(0, math.ceil((self._soft_limit - self._age()) * 1000))

    def backdate(self, seconds: float) -> None:
        """Let its first write have been so long ago; for fakes, which don't wait."""
        self.first_write = time.monotonic() - seconds

    def _note_write(self) -> None:
        self.refuse_if_ended()
        if self.first_write is None:
            self.first_write = time.monotonic()
        else:
            self._refuse_if_late()

    def _forget_write(self) -> None:
        """What was refused before it reached the client hasn't started the coordinator's clock."""
        if not (self.ledger.records or self.moves):
            self.first_write = None

    def _refuse_if_late(self) -> None:
        if self._age() > self._soft_limit:
            error = self.failures.too_late("aborted at 80 % of it, before the broker would fence this producer")
            self.doom(error)
            raise error

    def _age(self) -> float:
        """Seconds since the first write, which is when the coordinator's clock starts."""
        return 0.0 if self.first_write is None else time.monotonic() - self.first_write
