"""One transaction from begin to its outcome: the state machine, and what happens at each way out."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from wd_di._concurrency.deadline import Deadline
from wd_di._kafka.port import BREATH, SLICE, Fault, FaultKind
from wd_di._records.connection import Retirement
from wd_di._records.sender import because
from wd_di._transactions.hooks import Hooks, When
from wd_di._transactions.writing import OUTCOMES, Phase, TransactionPolicy, Writing
from wd_di.errors import (
    AbortTransaction,
    TransactionAbortedError,
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
    from wd_di._records.delivery import Delivery
    from wd_di._records.sender import SendPolicy
    from wd_di.events import RetirementReason

FLUSH_BEFORE_ABORT = 1.0


class Lent(Protocol):
    """What a transaction is open on."""

    def transaction_ended(self) -> None:
        """Another one may begin."""


class OpenTransaction(Writing):
    """What one transaction has sent, what is known of its fate, and how it ends.

    Attributes:
        heard: Whether the coordinator certainly heard of the id, which keeps it from expiring.
        hooks: What is to be done before its commit and after its end, if anything is.
    """

    __slots__ = ("_began", "_closed", "_interrupt", "_lent", "heard", "hooks")

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
        super().__init__(connection, policy, limits, number=number, owner=owner)
        self.heard: bool = False
        self.hooks: Hooks | None = None
        self._lent = lent
        self._began = time.monotonic()
        self._interrupt: BaseException | None = None
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

    def tell_begun(self) -> None:
        """Tell of it; if anybody listens, for this is called in each transaction."""
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

    def _leave_well(self) -> None:
        if self.hooks is not None:
            self._before_commit(self.hooks)
        if self.first_write is not None and self.doomed_by is None:
            try:
                self._refuse_if_late()
            except TransactionTimedOutError as late:
                self.abort(late)
                raise
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
        if self.phase not in OUTCOMES:
            self.phase = "aborting"
        outcome = OUTCOMES[self.phase]
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
        deadline, answered_by = Deadline(self._limits.commit_timeout, "commit_timeout_ms"), self._answered_by
        sooner = answered_by is not None and answered_by.left < deadline.left
        if self.connection.errand is not None and not self.connection.at_rest(deadline):
            late = self._offsets_late(deadline)
            self.abort(late)
            raise late
        if self.ledger.records or self.client.fault is not None:
            self._flush_all(answered_by if answered_by is not None and sooner else deadline)
        # Phase (b): the same call again until it answers. From here on only the answer decides, so never abort.
        self.phase: Phase = "committing"
        asked = False
        try:
            while not self._answered(deadline, asked=asked):
                asked = True
            if self.client.fault is not None:
                self.retirement = self._retirement("commit failed", self.client.fault)
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
            text = f"{len(late)} of {ledger.records} records had no answer in time ({deadline.setting} is "
            return self.failures.error(TransactionAbortedError, f"{text}{deadline.seconds * 1000:.0f}){why}")
        return None

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
        elif not self._at_rest(deadline):
            # What answers late would meet an abort; the next producer of this id aborts, as soon as there may be one.
            self._abort_failed(Fault(FaultKind.RETRIABLE, "send_offsets has no answer yet"), cause, deadline)
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

    def _at_rest(self, deadline: Deadline) -> bool:
        """Wait for the end of a send_offsets that was interrupted, or is another thread's; not again of a late one."""
        return self.connection.at_rest(Deadline(0) if self.retirement is not None else deadline)

    def _all_homeless(self) -> bool:
        """Whether flushing is no use: no partition is registered for what never got one."""
        return all(self.client.topics.missing(delivery.topic) for delivery in tuple(self.ledger.pending))

    def _abort_failed(self, raised: BaseException, cause: BaseException | None, deadline: Deadline) -> None:
        if self.retirement is None or self.retirement.reason != "send_offsets timed out":  # which says it all
            self.retirement = self._retirement("abort failed", raised)
        why = f"{raised}{because(self.client, deadline, raised)}"
        text = f"{self.policy.pool}: transaction {self.id} couldn't be aborted ({why}); its producer is retired"
        if cause is not None:
            cause.add_note(text)
        if isinstance(cause, TransactionError):
            cause.safe_to_retry = False
        if not (isinstance(cause, TransactionError) and raised is self.client.fault):  # else it is told already
            self._report("abort", raised if isinstance(raised, Exception) else RuntimeError(text))

    def _retirement(self, reason: RetirementReason, error: BaseException) -> Retirement:
        fault = self.client.fault or error
        return Retirement(reason, error, fenced=isinstance(fault, Fault) and fault.kind is FaultKind.FENCED)

    def _drain(self, deadline: Deadline, in_vain: Callable[[], bool]) -> None:
        """Flush in slices until every record of this transaction has its answer, or that is in vain."""
        while self.ledger.pending and not (deadline.passed or self.client.fault is not None or in_vain()):
            self.serve(self.client.flush, deadline.slice(SLICE))

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
            self.hooks.run_after(OUTCOMES.get(self.phase, "aborted"), self._report)

    async def run_hooks_async(self) -> None:
        """Run them on the loop of the task."""
        if self.hooks is not None:
            await self.hooks.run_after_async(OUTCOMES.get(self.phase, "aborted"), self._report)

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

    def _duration_ms(self) -> float:
        return (time.monotonic() - self._began) * 1000
