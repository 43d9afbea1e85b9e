"""One transaction from begin to its outcome: the state machine, and what happens at each way out."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.tasks import outwaited
from wd_di._kafka.offsets import checked_offsets
from wd_di._kafka.port import BREATH, SLICE, Fault, FaultKind
from wd_di._records.connection import Retirement
from wd_di._records.sender import Sender, because
from wd_di._transactions.failures import Failures
from wd_di._transactions.hooks import Hooks, Outcome, When
from wd_di.errors import (
    AbortTransaction,
    DeliveryError,
    TransactionAbortedError,
    TransactionClosedError,
    TransactionError,
    TransactionTimedOutError,
    WdDiError,
)
from wd_di.events import (
    ErrorOccurred,
    TransactionAborted,
    TransactionCommitted,
    TransactionFinished,
    TransactionStarted,
    log_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._records.connection import Connection
    from wd_di._records.delivery import Delivery, DeliveryReport
    from wd_di._records.record import Prepared
    from wd_di._records.sender import SendPolicy
    from wd_di.events import RetirementReason

SOFT_LIMIT = 0.8
"""Share of ``transaction.timeout.ms`` after which we end the transaction, before the coordinator fences us."""
FLUSH_BEFORE_ABORT = 1.0


@dataclass(frozen=True, slots=True)
class TransactionPolicy:
    """What of the settings decides how transactions end. Durations in seconds."""

    transaction_timeout: float
    commit_timeout: float
    abort_timeout: float


Phase = Literal["new", "open", "ending", "committing", "committed", "aborting", "aborted"]
"""Where a transaction is; its last phase tells the outcome.

``ending``: nothing more is written, and its records are waited for. ``committing``: only the broker's answer decides;
without one this is the last, in doubt. ``aborting`` is the last if the broker doesn't confirm the abort: then it ends
the transaction by its time-out. Words, since asking a table for an enum's member costs a call.
"""

_OUTCOMES: dict[str, Outcome] = {
    "committing": "unknown",
    "committed": "committed",
    "aborting": "aborted",
    "aborted": "aborted",
}


class Lent(Protocol):
    """What a transaction is open on."""

    def transaction_ended(self) -> None:
        """Another one may begin."""


class OpenTransaction(Sender):
    """What one transaction has sent, what is known of its fate, and how it ends.

    Attributes:
        id: Names it in errors and events: its transactional id and a number.
        owner: The thread or task that has opened it.
        heard: Whether the coordinator certainly heard of the id, which keeps it from expiring.
        hooks: What is to be done before its commit and after its end, if anything is.
        phase: Where it is.
        doomed_by: Why it will abort, however its block ends.
        retirement: Why its producer must not be handed out again.
        first_write: When the coordinator's clock was started.
    """

    __slots__ = (
        "_answered_by",
        "_began",
        "_closed",
        "_interrupt",
        "_lent",
        "_limits",
        "_offsets_sent",
        "doomed_by",
        "first_write",
        "heard",
        "hooks",
        "id",
        "owner",
        "phase",
        "retirement",
    )

    def __init__(
        self,
        lent: Lent,
        connection: Connection,
        policy: SendPolicy,
        limits: TransactionPolicy,
        *,
        number: int,
        owner: object,
    ) -> None:
        super().__init__(connection, policy, transactional=True)
        self.id: str = f"{self.client.transactional_id}#{number}"
        self.owner: object = owner
        self.phase: Phase = "new"
        self.doomed_by: BaseException | None = None
        self.retirement: Retirement | None = None
        self.first_write: float | None = None
        self.heard: bool = False
        self.hooks: Hooks | None = None
        self._lent = lent
        self._limits = limits
        self._began = time.monotonic()
        self._answered_by: Deadline | None = None  # of a call that is a transaction of its own
        self._interrupt: BaseException | None = None
        self._offsets_sent = False
        self._closed = False

    # -- in, and out -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin on the client; local, nothing is sent."""
        try:
            self.client.begin()
            self.phase = "open"
        except Fault as fault:
            error = self.failures.of_fault("begin", fault)
            error.safe_to_retry = isinstance(error, TransactionAbortedError)
            raise error from fault

    def begun(self) -> None:
        """Tell of it."""
        if self.connection.services.observer.wants(TransactionStarted):
            self._emit(TransactionStarted)

    def not_begun(self, raised: BaseException) -> None:
        """A producer that can't begin is retired."""
        self.retirement = self._retirement("begin failed", raised)
        if self.phase == "new":  # nothing was begun that would have to be aborted
            self.phase = "aborted"
        self._close(raised)

    def finish(self, error: BaseException | None, commit_on: tuple[type[Exception], ...]) -> bool:
        """Commit or abort by how the block ended, once; whether its exception is swallowed.

        Raises:
            TransactionError: The commit failed, or its outcome is unknown.
            DeliveryError: A record of the transaction wasn't delivered; it was aborted.
        """
        well = error is None or isinstance(error, commit_on)
        problem: BaseException | None = None if well else error
        with self.connection.ending:  # once: after that the producer may be somebody else's
            if self._closed:
                if well:
                    raise self.closed_error()
                return False
            try:
                if self.phase == "new":  # an interrupt came before its begin
                    return False
                if well:
                    self._leave_well()
                    return False
                self.abort(error)
                return isinstance(error, AbortTransaction)
            except BaseException as raised:
                problem = raised
                raise
            finally:
                self._close(problem)
                problem = None  # its traceback leads to this frame, and so to the scope, which should go at once

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    def doom(self, reason: BaseException) -> None:
        """Let it abort, however its block ends: without an error for ``AbortTransaction``, else for the first reason.

        What failed in an inner boundary mustn't be committed by half, whoever swallows it.
        """
        if self.doomed_by is None or isinstance(reason, AbortTransaction):
            self.doomed_by = reason

    def _leave_well(self) -> None:
        if self.hooks is not None:
            self._before_commit(self.hooks)
        if self.first_write is not None and self.doomed_by is None:
            self._refuse_if_late()
        cause = self.doomed_by
        if cause is None:
            self._commit()
        elif isinstance(cause, AbortTransaction):
            self.abort(None)
        else:
            self.abort(cause)
            if isinstance(cause, TransactionTimedOutError):
                raise cause
            raise self.failures.swallowed(cause) from cause

    def _close(self, problem: BaseException | None) -> None:
        self._closed = True
        self._lent.transaction_ended()
        self.end()
        if self.phase not in _OUTCOMES:
            self.phase = "aborting"
        outcome = _OUTCOMES[self.phase]
        if outcome == "unknown":
            self.connection.doubtful = True
            self.retirement = self.retirement or Retirement("commit in doubt", problem)
        if self.connection.in_flight.out_of_step:
            self.retirement = self.retirement or Retirement("record refused", problem)
        if self.connection.services.observer.wants(TransactionFinished):
            self._emit(
                TransactionFinished,
                outcome=outcome,
                records=self.ledger.records,
                duration_ms=self._duration_ms(),
                error=problem,
            )

    # -- commit ------------------------------------------------------------------------------------

    def _commit(self) -> None:
        self._end_writing()
        deadline, answered_by = Deadline(self._limits.commit_timeout), self._answered_by
        sooner = answered_by is not None and answered_by.left < deadline.left
        if self.ledger.records or self.client.fault is not None:
            self._flush_all(answered_by if answered_by is not None and sooner else deadline)
        try:
            self._end_transaction(deadline)
        except TransactionError as error:
            if self._interrupt is not None:
                raise self._interrupt from error  # who asks the program to stop must not end in a handler of errors
            raise
        self.phase = "committed"
        self.heard = self.ledger.records > 0 or self._offsets_sent
        if self.connection.services.observer.wants(TransactionCommitted):
            self._emit(TransactionCommitted, records=self.ledger.records, duration_ms=self._duration_ms())
        if self._interrupt is not None:
            raise self._interrupt

    def _end_writing(self) -> None:
        with self.connection.offering, self.ledger.gate:
            self.ledger.ended = True
        if self.phase == "open":
            self.phase = "ending"

    def _flush_all(self, deadline: Deadline) -> None:
        """Phase (a): every record is answered, or the transaction aborts. Its outcome is known either way."""
        reserve = min(self._limits.abort_timeout, deadline.seconds / 3)
        try:
            self._drain(Deadline(max(0.0, deadline.left - reserve)), lambda: bool(self._in_vain(deadline)))
        except BaseException as raised:
            self.abort(raised, deadline)
            raise
        problem = self._unflushed(deadline)
        if problem is not None:
            self.abort(problem, deadline)
            raise problem

    def _in_vain(self, deadline: Deadline) -> list[Delivery]:
        """The records without an answer whose topic isn't there."""
        late = tuple(self.ledger.pending)
        if late:
            self.client.topics.patience(late[0].topic, deadline)  # so that the poller may ask
        return self.client.topics.all_in_vain(late, deadline)

    def _unflushed(self, deadline: Deadline) -> Exception | None:
        """Why phase (b) must not begin."""
        ledger, topics, fault = self.ledger, self.client.topics, self.client.fault
        late = tuple(ledger.pending)  # asked first: what fails meanwhile moves from here to the failed
        if fault is not None:
            return self.failures.of_fault("flush", fault)
        if ledger.failed:
            return self.failures.undelivered(list(ledger.failed), self.client.reason())
        if lost := self._in_vain(deadline):
            return self.failures.homeless(lost, topics.hint(lost[0].topic))
        if late:
            why = f"{topics.hint(late[0].topic)}{because(self.client, deadline)}"  # both: as in a sender
            name = "timeout_ms" if deadline is self._answered_by else "commit_timeout_ms"
            text = f"{len(late)} of {ledger.records} records had no answer in time ({name} is "
            return self.failures.error(TransactionAbortedError, f"{text}{deadline.seconds * 1000:.0f}){why}")
        return None

    def _end_transaction(self, deadline: Deadline) -> None:
        """Phase (b): the same call again until it answers. From here on only the answer decides, so never abort."""
        self.phase = "committing"
        asked = False
        while not self._answered(deadline, asked=asked):
            asked = True
        if self.client.fault is not None:
            self.retirement = self._retirement("commit failed", self.client.fault)

    def _answered(self, deadline: Deadline, *, asked: bool) -> bool:
        """One try of the commit; false if the same call must be made again."""
        try:
            if asked:
                self.client.poll(deadline.slice(BREATH))
            self.client.commit(min(SLICE, deadline.left))
        except Fault as fault:
            if fault.kind is not FaultKind.RETRIABLE:
                self._commit_refused(fault, deadline, asked=asked)
            if deadline.passed:
                waited = f"no answer within {self._limits.commit_timeout * 1000:.0f} ms"
                raise self.failures.in_doubt(f"{waited}{because(self.client, deadline)}") from fault
            return False
        except BaseException as raised:
            if isinstance(raised, Exception):
                raise
            self._outwait(raised, deadline)
            return False
        return True

    def _outwait(self, interrupt: BaseException, deadline: Deadline) -> None:
        """Keep a first Ctrl-C, or a greenlet's kill, until the answer has come; a second one gives up, in doubt."""
        if self._interrupt is not None:
            raise self.failures.in_doubt(f"interrupted twice{because(self.client, deadline)}") from interrupt
        self._interrupt = interrupt

    def _commit_refused(self, fault: Fault, deadline: Deadline, *, asked: bool) -> None:
        """The broker's answer was no. Refused and abortable is a known outcome; a fatal one may follow a lost yes."""
        failures = self.failures
        if fault.requires_abort or (fault.kind is FaultKind.CLOSED and not asked):
            refused = failures.of_fault("commit", fault)
            self.abort(refused, deadline)
            raise refused from fault
        self.retirement = self._retirement("commit failed", fault)
        fenced = fault.kind is FaultKind.FENCED
        error = failures.of_fault("commit", fault) if fenced else failures.in_doubt(str(fault))
        error.outcome, error.safe_to_retry = "unknown", False
        raise error from fault

    # -- abort -------------------------------------------------------------------------------------

    def abort(self, cause: BaseException | None, deadline: Deadline | None = None) -> None:
        """Abort; a failure is an event and a note on ``cause``, never its replacement.

        Flush first: an abort soon after a produce turns fatal, since EndTxn may overtake the partition's registration
        (librdkafka#4849). So aborted records do reach the log, and only ``read_committed`` hides them.
        """
        self._end_writing()
        self.phase = "aborting"
        self.ledger.aborted = True
        reason = self.client.reason()
        if reason is not None and reason.expired:
            # An id that the broker forgot is known again only to a new producer; its siblings rested as long.
            self.retirement = Retirement("transactional.id expired", reason, expired=True)
        deadline = deadline or Deadline(self._limits.abort_timeout)
        if self.client.fault is not None:
            # Not by raising it: it may be the cause of what is being handled, and would become its own.
            self._abort_failed(self.client.fault, cause, deadline)
        else:
            self._try_to_abort(deadline, cause)
        self._emit(TransactionAborted, records=self.ledger.records, duration_ms=self._duration_ms(), cause=cause)

    def _try_to_abort(self, deadline: Deadline, cause: BaseException | None) -> None:
        try:
            self._drain(Deadline(min(FLUSH_BEFORE_ABORT, deadline.left / 2)), self._all_homeless)
            self._again(self.client.abort, deadline)
            self.client.poll(0)
            self.phase = "aborted"
        except BaseException as raised:
            self._abort_failed(raised, cause, deadline)
            if not isinstance(raised, WdDiError):  # a signal's, which may be the time limit of a task queue
                raise

    def _all_homeless(self) -> bool:
        """Whether flushing is no use: no partition is registered for what never got one."""
        return all(self.client.topics.missing(delivery.topic) for delivery in tuple(self.ledger.pending))

    def _abort_failed(self, raised: BaseException, cause: BaseException | None, deadline: Deadline) -> None:
        self.retirement = self._retirement("abort failed", raised)
        why = f"{raised}{because(self.client, deadline, raised)}"
        text = f"{self.policy.pool}: transaction {self.id} couldn't be aborted ({why}); its producer is retired"
        if cause is not None:
            cause.add_note(text)
        if isinstance(cause, TransactionError):
            cause.safe_to_retry = False
        if not (isinstance(cause, TransactionError) and raised is self.client.fault):  # else it is told already
            self._report("abort", raised if isinstance(raised, Exception) else RuntimeError(text))

    # -- for its handles ---------------------------------------------------------------------------

    def sending(self) -> Sender:
        """Who sends: it does."""
        return self

    def refuse_if_over(self) -> None:
        """Raise if it has ended."""
        self.refuse_if_ended()

    # -- writing -----------------------------------------------------------------------------------

    def send(self, topic: str, record: dict[str, Any], deadline: Deadline) -> Delivery:
        """Enqueue one, unless the transaction is over or about to be."""
        self._note_write()
        try:
            return super().send(topic, record, deadline)
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
            self.client.reach(deadline)
        if answered:
            self._answered_by = deadline
        return self.send_all(records, deadline)

    async def send_alone_async(self, records: list[Prepared], deadline: Deadline) -> list[Delivery]:
        """Enqueue all as :meth:`send_alone` does, while the loop goes on."""
        self._answered_by = deadline
        return await self.send_all_async(records, deadline)

    def send_offsets(self, offsets: Any, group_metadata: Any, timeout_ms: int | None) -> None:
        """Add a consumer group's offsets; the broker's refusal dooms the transaction, whoever swallows it.

        Raises:
            TypeError, ValueError: They can't be sent; nothing was, and the transaction lives on.
        """
        deadline = Deadline.of_ms(timeout_ms, int(self._limits.commit_timeout * 1000))
        self.refuse_if_ended()
        offsets = checked_offsets(offsets)
        self._note_write()
        try:
            self._again(lambda seconds: self._offer_offsets(offsets, group_metadata, seconds), deadline)
        except Fault as fault:
            error = self.failures.of_offsets(fault)
            self.doom(error)
            raise error from fault
        except (TypeError, ValueError):
            self._forget_write()
            raise
        self._offsets_sent = True

    async def send_offsets_async(self, offsets: Any, group_metadata: Any, timeout_ms: int | None) -> None:
        """Add them as :meth:`send_offsets` does, while the loop goes on."""
        await outwaited(self.jobs, lambda: self.send_offsets(offsets, group_metadata, timeout_ms))

    def _offer_offsets(self, offsets: Any, group_metadata: Any, seconds: float) -> None:
        # As a record, they must not slip into the next transaction. But not under the gate: this blocks, and a task
        # that produces meanwhile must not.
        with self.connection.offering:
            self.refuse_if_ended()
            self.client.send_offsets(offsets, group_metadata, seconds)

    def _drain(self, deadline: Deadline, in_vain: Callable[[], bool]) -> None:
        """Flush in slices until every record of this transaction has its answer, or that is in vain."""
        while self.ledger.pending and not (deadline.passed or self.client.fault is not None or in_vain()):
            self.serve(self.client.flush, deadline.slice(SLICE))

    def _again(self, call: Callable[[float], None], deadline: Deadline) -> None:
        """The same call in slices while the client says that it may be repeated."""
        while True:
            try:
                call(deadline.slice(SLICE))
            except Fault as fault:
                if fault.kind is not FaultKind.RETRIABLE or deadline.passed:
                    raise
                self.client.poll(deadline.slice(BREATH))
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
        ended = _OUTCOMES.get(self.phase, "ending")
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
        )

    def _retirement(self, reason: RetirementReason, error: BaseException) -> Retirement:
        fault = self.client.fault or error
        return Retirement(reason, error, fenced=isinstance(fault, Fault) and fault.kind is FaultKind.FENCED)

    # -- hooks and events --------------------------------------------------------------------------

    def add_hook(self, when: When, fn: Callable[..., object]) -> None:
        """Keep what is to be called then."""
        self.refuse_if_ended()
        if self.hooks is None:
            self.hooks = Hooks()
        self.hooks.add(when, fn)

    def _before_commit(self, hooks: Hooks) -> None:
        try:
            hooks.run_before_commit(self._is_doomed)
        except AbortTransaction as reason:
            self.doom(reason)
        except BaseException as raised:
            self.abort(raised)
            raise

    async def before_commit_async(self) -> BaseException | None:
        """Run the hooks of a task on its loop, before a worker finishes; what one raised."""
        if self.hooks is None:
            return None
        try:
            await self.hooks.run_before_commit_async(self._is_doomed)
        except AbortTransaction as reason:
            self.doom(reason)
        except BaseException as raised:  # noqa: BLE001  (the transaction must end first; then it is raised)
            return raised
        return None

    def _is_doomed(self) -> bool:
        return self.doomed_by is not None

    def run_hooks(self) -> None:
        """Run what waits for the outcome; called when the slot is back and no transaction is current."""
        if self.hooks is not None:
            self.hooks.run_after(_OUTCOMES.get(self.phase, "aborted"), self._report)

    async def run_hooks_async(self) -> None:
        """Run them on the loop of the task."""
        if self.hooks is not None:
            await self.hooks.run_after_async(_OUTCOMES.get(self.phase, "aborted"), self._report)

    def forget_hooks(self) -> None:
        """Run none of them: nobody could wait for them any more."""
        self.hooks = None

    def _report(self, where: str, error: BaseException) -> None:
        if sys.is_finalizing():  # the pool is closed, and has told what became of it
            return
        pool = self.policy.pool
        log_error(f"{pool}.{where}", f"{pool}: {where} of transaction {self.id} failed", error)
        self.connection.services.observer.emit(
            ErrorOccurred, pool=pool, index=self.connection.index, where=f"transaction.{where}", error=error
        )

    def _emit(self, event: type[Any], **fields: object) -> None:
        self.connection.services.observer.emit(
            event,
            pool=self.policy.pool,
            index=self.connection.index,
            transactional_id=self.client.transactional_id,
            transaction_id=self.id,
            **fields,
        )

    # -- the clock ---------------------------------------------------------------------------------

    @property
    def remaining_ms(self) -> int:
        """Milliseconds left to commit in."""
        if self.first_write is None:
            return int(self._limits.transaction_timeout * SOFT_LIMIT * 1000)
        # Rounded up: at 0 the next call is refused.
        return max(0, math.ceil((self._limits.transaction_timeout * SOFT_LIMIT - self._age()) * 1000))

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
        if not (self.ledger.records or self._offsets_sent):
            self.first_write = None

    def _refuse_if_late(self) -> None:
        if self.first_write is not None and self._age() > self._limits.transaction_timeout * SOFT_LIMIT:
            error = self.failures.too_late("aborted at 80 % of it, before the broker would fence this producer")
            self.doom(error)
            raise error

    def _age(self) -> float:
        """Seconds since the first write, which is when the coordinator's clock starts."""
        return 0.0 if self.first_write is None else time.monotonic() - self.first_write

    def _duration_ms(self) -> float:
        return (time.monotonic() - self._began) * 1000
