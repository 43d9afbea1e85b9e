"""How a transaction is committed or aborted, and what is known then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from wd_di._concurrency.deadline import Deadline
from wd_di._kafka.port import BREATH, SLICE, Fault, FaultKind
from wd_di._records.connection import FLUSH_BEFORE_ABORT, Retirement
from wd_di._records.sender import because
from wd_di._transactions.positions import note_commit
from wd_di._transactions.resolution import Doubt
from wd_di._transactions.writing import AGAIN, Phase, Writing
from wd_di.errors import (
    FencedError,
    TransactionAbortedError,
    TransactionError,
    TransactionTimedOutError,
    WdDiError,
)
from wd_di.events import (
    ErrorOccurred,
    TransactionAborted,
    TransactionCommitted,
    TransactionResolved,
    log_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._records.delivery import Delivery
    from wd_di.errors import Resolution
    from wd_di.events import RetirementReason

LAST_WORD = 1.0
"""Seconds for the answer to a commit that a time limit has interrupted: known is better than in time."""
GRACE = 0.1
"""Seconds beyond ``resolve_timeout_ms`` in which the reason may come why nothing was found out."""


class Ending(Writing):
    """A transaction as far as it is ended."""

    __slots__ = ()

    # Said again, or pyright takes what is assigned here for other types than those that Writing gave them.
    phase: Phase
    retirement: Retirement | None
    heard: bool

    # -- commit ------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit.

        Raises:
            TransactionError: It wasn't, or it isn't known whether it was.
            DeliveryError: A record wasn't delivered; it was aborted.
        """
        self._end_writing()
        deadline, answered_by = Deadline(self._limits.commit_timeout, "commit_timeout_ms"), self._answered_by
        if answered_by is not None and answered_by.left < deadline.left:
            deadline = answered_by
        if self.connection.errand is not None and not self.connection.at_rest(deadline):
            late = self._offsets_late(deadline)
            self.abort(late)
            raise late
        if self.ledger.records or self.client.fault is not None:
            self._flush_all(deadline)
        # Phase (b): the same call again until it answers. From here on only the answer decides, so never abort.
        self.phase, began = "committing", time.monotonic()
        problem = self._answer(deadline)
        if problem is not None:
            raise self._interrupt or problem from (problem.__cause__ if self._interrupt is None else problem)
        took = time.monotonic() - began  # mostly that tells nothing new, and each transaction is spared a call
        if took >= AGAIN["end"] or took < self.connection.services.least.get("end", AGAIN["end"]):
            self._note_time("end", took)
        self.phase = "committed"
        self.heard = self.ledger.records > 0 or bool(self.moves)
        if self.moves:
            note_commit(self.connection, self.moves)
        if TransactionCommitted in self.connection.heard:
            self._emit(TransactionCommitted, records=self.ledger.records, duration_ms=self._duration_ms())
        if self._interrupt is not None:
            raise self._interrupt

    def _answer(self, deadline: Deadline) -> TransactionError | None:
        """Ask until the answer is there; what it raises, if it isn't a yes."""
        asked = False
        try:
            while not self._answered(deadline, asked=asked):
                asked = True
            if self.client.fault is not None:
                self.retirement = self._retirement("commit failed", self.client.fault)
        except TransactionError as error:
            return self._resolved(error) if error.outcome == "unknown" else error
        except BaseException as raised:  # of a signal's handler, and wanted at once
            if not self.client.in_transaction:
                self._interrupt = self._interrupt or raised
                return None
            self._given_up = True
            if (found := self._look()) is not None:
                self._tell_resolved(found)
            raise
        return None

    def _end_writing(self) -> None:
        with self.connection.offering:
            self.ledger.ended = True  # before anybody looks for what is pending: see Sender.enqueue

    def _flush_all(self, deadline: Deadline) -> None:
        """Phase (a): every record is answered, or the transaction aborts. Its outcome is known either way."""
        reserve = min(self._limits.abort_timeout, deadline.seconds / 3)
        try:
            late = self._drain(Deadline(max(0.0, deadline.left - reserve)), lambda: bool(self._in_vain(deadline)))
        except BaseException as raised:  # mostly Ctrl-C, after which an abort has its own time, not a commit's
            self.abort(raised, Deadline(deadline.slice(self._limits.abort_timeout)))
            raise
        problem = self._unflushed(late, deadline)
        if problem is not None:
            self.abort(problem, deadline)
            raise problem

    def _in_vain(self, deadline: Deadline) -> list[Delivery]:
        """The records without an answer whose topic isn't there."""
        late = tuple(self.ledger.pending)
        if late:
            self.client.topics.patience(late[0].topic, deadline)  # so that the poller may ask
        return self.client.topics.all_in_vain(late, deadline)

    def _unflushed(self, late: tuple[Delivery, ...], deadline: Deadline) -> Exception | None:
        """Why phase (b) must not begin, though it may begin with these unanswered if they have failed meanwhile."""
        ledger, topics, fault = self.ledger, self.client.topics, self.client.fault
        if fault is not None:
            return self.failures.of_fault("flush", fault)
        if ledger.failed:
            return self.failures.undelivered(list(ledger.failed), self.client.reason())
        if lost := topics.all_in_vain(late, deadline):
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
            self.client.commit(deadline.left)
        except Fault as fault:
            if fault.kind is not FaultKind.RETRIABLE:
                self._commit_refused(fault, deadline, asked=asked)
            if deadline.left < BREATH:  # librdkafka counts milliseconds, and the last call had all that was left
                waited = f"no answer within {deadline.seconds * 1000:.0f} ms"
                if isinstance(self._interrupt, Exception):
                    waited = f"no answer within {LAST_WORD:g} s after {type(self._interrupt).__name__}"
                raise self.failures.in_doubt(f"{waited}{because(self.client, deadline)}") from fault
            return False
        except WdDiError:
            raise
        except BaseException as raised:  # noqa: BLE001  (it goes on when the answer has come)
            self._outwait(raised, deadline)
            return not self.client.in_transaction
        return True

    def _outwait(self, interrupt: BaseException, deadline: Deadline) -> None:
        """Keep a first Ctrl-C, or a greenlet's kill, until the answer has come; a second one gives up, in doubt."""
        self._note_interrupt(interrupt, deadline)
        if self._given_up and self.client.in_transaction:
            raise self.failures.in_doubt(f"interrupted twice{because(self.client, deadline)}") from interrupt

    def _note_interrupt(self, interrupt: BaseException, deadline: Deadline) -> None:
        """Keep the first one; for no longer than the last word's time, if it may be a time limit's."""
        self._given_up = self._interrupt is not None
        self._interrupt = self._interrupt or interrupt
        if isinstance(interrupt, Exception):
            deadline.shorten(LAST_WORD)

    def _resolved(self, doubt: TransactionError) -> TransactionError | None:
        """Find out what became of a commit without an answer, and return what it raises: nothing, if it was a yes."""
        fenced = isinstance(doubt, FencedError | TransactionTimedOutError)
        resolution = self._look(fenced=fenced)
        known = resolution is not None and resolution.outcome != "unknown"
        if self.retirement is None:
            self.retirement = Retirement("commit in doubt", doubt)
        self.retirement = self.retirement._replace(spent=known and not fenced)
        if resolution is None:
            return self.failures.looked_for(doubt) if self._limits.resolve_timeout else doubt
        self._tell_resolved(resolution)
        if resolution.outcome == "committed":
            return None
        error = self.failures.resolved(doubt, resolution)
        if resolution.outcome == "aborted":
            self.phase = "aborted"
            self.ledger.aborted = True
            self._emit(TransactionAborted, records=self.ledger.records, duration_ms=self._duration_ms(), cause=error)
        return error

    def _look(self, *, fenced: bool = False) -> Resolution | None:
        """Look for the outcome; nothing, if that isn't wanted, or if a worker goes on with it and tells."""
        self.connection.doubtful = True
        deadline = Deadline(self._limits.resolve_timeout, "resolve_timeout_ms")
        if not deadline.seconds or self.connection.forked:  # the id is the parent's
            return None
        doubt = Doubt(self.connection, self.ledger, self.moves, fenced=fenced)
        errand = doubt.look(deadline)
        patience = Deadline(deadline.seconds + GRACE)  # at its deadline the worker says why it has found out nothing
        if isinstance(self._interrupt, Exception):  # the commit has had its time
            patience.shorten(0)
        elif self._answered_by is not None:
            patience.shorten(self._answered_by.left)
        while not (self._given_up or patience.passed or errand.known(0)):
            try:
                errand.known(patience.slice(SLICE))  # whose task is cancelled meanwhile gives up, too
            except BaseException as raised:  # noqa: BLE001  (as in _answered)
                self._note_interrupt(raised, patience)
        hurried = isinstance(self._interrupt, Exception) or (self._answered_by is not None and self._answered_by.passed)
        if not (self._given_up or hurried):
            return errand.get() if errand.known(0) else doubt.unknown("no answer came in time")
        return None if errand.when_known(lambda: self._tell_resolved(errand.get())) else errand.get()

    def give_up(self) -> None:
        """Its task is cancelled: the commit is outwaited, but not what becomes of one that has no answer."""
        self._given_up = True

    def _tell_resolved(self, found: Resolution) -> None:
        self._emit(
            TransactionResolved,
            outcome=found.outcome,
            way=found.way,
            told=found.told,
            duration_ms=found.duration_ms,
        )

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
        (librdkafka#4849). So aborted records do reach the log, and only ``read_committed`` hides them. What still has
        no answer is left to the next producer of this id, see :meth:`Connection.abortable`.
        """
        self._end_writing()
        self.phase = "aborting"
        self.ledger.aborted = True
        reason = self.client.reason()
        if reason is not None and reason.expired:
            # An id that the broker forgot is known again only to a new producer; its siblings rested as long.
            self.retirement = Retirement("transactional.id expired", reason, expired=True)
        deadline = deadline or Deadline(self._limits.abort_timeout)
        if self.client.fault is not None and self.client.fault.kind is FaultKind.CLOSED:
            # confluent-kafka aborts what is open before it closes.
            self.phase, self.retirement = "aborted", self.retirement or self._retirement("broken", self.client.fault)
        elif self.client.fault is not None:
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
            late = self._drain(Deadline(min(FLUSH_BEFORE_ABORT, deadline.left / 2)), self._all_homeless)
            if self.client.fault is not None:
                self._abort_failed(self.client.fault, cause, deadline)
                return
            if not late and self.connection.abortable(besides=self.ledger):
                began = time.monotonic()
                self._again(lambda _: self.client.abort(deadline.left), deadline)
                self._note_time("end", time.monotonic() - began)
                self.client.poll(0)
            else:
                self.retirement = self.retirement or Retirement("record unanswered", cause, spent=True)
                self.connection.leave_open()
            self.phase = "aborted"  # its commit was never asked for, and nobody is left who could
        except BaseException as raised:
            self._abort_failed(raised, cause, deadline)
            if not isinstance(raised, WdDiError):  # a signal's, which may be the time limit of a task queue
                raise

    def _at_rest(self, deadline: Deadline) -> bool:
        """Wait for the end of a send_offsets that was interrupted, or is another thread's; not again of a late one."""
        return self.connection.at_rest(Deadline(0) if self.retirement is not None else deadline)

    def _all_homeless(self) -> bool:
        """Whether flushing is no use."""
        return all(self.client.topics.missing(delivery.topic) for delivery in tuple(self.ledger.pending))

    def _abort_failed(self, raised: BaseException, cause: BaseException | None, deadline: Deadline) -> None:
        self.connection.doubtful = True
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
        fenced = isinstance(fault, Fault) and fault.kind is FaultKind.FENCED
        # The broker's own time-out looks the same to the client, and is nobody else's doing.
        return Retirement(reason, error, fenced=fenced and self._age() < self._limits.transaction_timeout)

    def _drain(self, deadline: Deadline, in_vain: Callable[[], bool]) -> tuple[Delivery, ...]:
        """Flush in slices until every record of this transaction has its answer, or that is in vain; those without one.

        Asked once: what is pending after there was nothing is a write that came too late, see :meth:`Sender.enqueue`.
        """
        while (late := tuple(self.ledger.pending)) and not (
            deadline.passed or self.client.fault is not None or in_vain()
        ):
            self.serve(self.client.flush, deadline.slice(SLICE))
        return late

    # -- telling -----------------------------------------------------------------------------------

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
