"""One transaction from begin to its outcome: the state machine, and what happens at each way out."""

from __future__ import annotations

import math
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from wd_di._client import BREATH, SLICE, Fault, Kind, checked_offsets
from wd_di._core import Retirement
from wd_di._hooks import Hooks, Outcome
from wd_di._sender import Sender, Terms, because
from wd_di._threads import Deadline
from wd_di.errors import (
    AbortTransaction,
    AuthorizationError,
    CommitOutcomeUnknownError,
    DeliveryError,
    FencedError,
    RebalancedError,
    TransactionAbortedError,
    TransactionClosedError,
    TransactionError,
    TransactionTimedOutError,
    UnexpectedAbortError,
    WdDiError,
)
from wd_di.events import (
    ErrorOccurred,
    Observer,
    TransactionAborted,
    TransactionCommitted,
    TransactionFinished,
    TransactionStarted,
    log_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._async_transaction import AsyncTransaction
    from wd_di._delivery import Delivery, DeliveryReport
    from wd_di._transaction import Transaction
    from wd_di._watch import Watch

SOFT_LIMIT = 0.8
"""Share of ``transaction.timeout.ms`` after which we end the transaction, before the coordinator fences us."""
FLUSH_BEFORE_ABORT = 1.0


@dataclass(slots=True)
class Rules:
    """The pool's settings for transactions. Durations in seconds."""

    terms: Terms
    observer: Observer
    transaction_timeout: float
    commit_timeout: float
    abort_timeout: float


class Open(Protocol):
    """The claim that a transaction runs under, which says what is open on it."""

    sender: Sender
    unit: Unit | None


class Unit(Sender):
    """What one transaction has sent, what is known of its fate, and how it ends."""

    __slots__ = (
        "_began",
        "_held",
        "_interrupt",
        "_lent",
        "_offering",
        "_offsets_sent",
        "_outcome",
        "_rules",
        "abort_confirmed",
        "abort_only",
        "answered_by",
        "async_face",
        "ending",
        "face",
        "first_write",
        "hooks",
        "id",
        "inner_error",
        "owner",
        "retirement",
        "watch",
    )

    def __init__(self, held: Open, rules: Rules, number: int, owner: object) -> None:
        super().__init__(held.sender.index, held.sender.client, rules.terms, transactional=True)
        self.id: str = f"{self.client.transactional_id}#{number}"
        self.owner: object = owner
        self.face: Transaction | None = None
        self.async_face: AsyncTransaction | None = None
        self.hooks: Hooks = Hooks()
        self.first_write: float | None = None
        self.abort_only: bool = False
        self.answered_by: Deadline | None = None  # of a call that is a transaction of its own
        self.abort_confirmed: bool = False
        self.inner_error: BaseException | None = None
        self.retirement: Retirement | None = None
        self.watch: Watch | None = None
        self._held = held
        self._lent = held.sender  # the claim may come by another one
        self._rules = rules
        self._began = time.monotonic()
        self._outcome: Outcome | None = None
        self._interrupt: BaseException | None = None
        self._offsets_sent = False
        self._offering = threading.RLock()  # re-entrant, for a listener may end it from inside
        self.ending: threading.RLock = threading.RLock()  # for the scope, the collector and the poller

    # -- the state machine, for the scope ----------------------------------------------------------

    def begin(self) -> None:
        """Begin on the client; a producer that can't begin is retired."""
        try:
            self._begin()
            self._held.unit = self
            self._emit(TransactionStarted)
        except BaseException as raised:
            self._held.unit = None
            self.retirement = self._retirement("begin", raised)
            self._close(raised)
            raise

    def finish(self, error: BaseException | None, commit_on: tuple[type[Exception], ...]) -> bool:
        """Commit or abort by how the block ended; whether its exception is swallowed.

        Raises:
            TransactionError: The commit failed, or its outcome is unknown.
            DeliveryError: A record of the transaction wasn't delivered; it was aborted.
        """
        well = error is None or isinstance(error, commit_on)
        problem: BaseException | None = None if well else error
        with self.ending:  # once: after that the producer may be somebody else's
            if self._held.unit is not self:
                if well:
                    raise self.closed_error()
                return False
            try:
                if well:
                    self._leave_well()
                    return False
                self.abort(error)
                return isinstance(error, AbortTransaction)
            except BaseException as raised:
                problem = raised
                raise
            finally:
                self._held.unit = None
                self._close(problem)
                problem = None  # its traceback leads to this frame, and so to the scope, which should go at once

    def _begin(self) -> None:
        try:
            # Under the gate: a checkout that ends in another thread must not give back a producer that has just begun.
            with self._lent.ledger.gate:
                self._lent.refuse_if_ended()
                self.client.begin()
        except Fault as fault:
            error = self._failed("begin", fault)
            error.safe_to_retry = isinstance(error, TransactionAbortedError)
            raise error from fault

    def _leave_well(self) -> None:
        self._before_commit()
        if self.abort_only:
            self.abort(None)
        elif self.inner_error is not None:
            self._unexpected_abort(self.inner_error)
        else:
            self._commit()

    def _before_commit(self) -> None:
        try:
            self.hooks.run_before_commit(self._doomed)
            if not self._doomed():
                self._refuse_if_late()
        except AbortTransaction:
            self.abort_only = True
        except BaseException as raised:
            self.abort(raised)
            raise

    async def before_commit_async(self) -> BaseException | None:
        """Run the hooks of a task on its loop, before a worker finishes; what one raised."""
        try:
            await self.hooks.run_before_commit_async(self._doomed)
        except AbortTransaction:
            self.abort_only = True
        except BaseException as raised:  # noqa: BLE001  (the transaction must end first; then it is raised)
            return raised
        return None

    def _doomed(self) -> bool:
        return self.abort_only or self.inner_error is not None

    def _unexpected_abort(self, cause: BaseException) -> None:
        self.abort(cause)
        if isinstance(cause, TransactionTimedOutError):
            raise cause
        raise UnexpectedAbortError(
            f"{self.terms.pool}: transaction {self.id} was aborted: something in it failed with {cause!r}, which "
            "was swallowed"
        ) from cause

    # -- commit ------------------------------------------------------------------------------------

    def _commit(self) -> None:
        self._end_writing()
        deadline, answered_by = Deadline(self._rules.commit_timeout), self.answered_by
        sooner = answered_by is not None and answered_by.left < deadline.left
        self._flush_all(answered_by if answered_by is not None and sooner else deadline)
        try:
            self._end_transaction(deadline)
        except TransactionError as error:
            if self._interrupt is not None:
                raise self._interrupt from error  # who asks the program to stop must not end in a handler of errors
            raise
        self._outcome = "committed"
        self._emit(TransactionCommitted, records=self.ledger.records, duration_ms=self._duration_ms())
        if self._interrupt is not None:
            raise self._interrupt

    def _flush_all(self, deadline: Deadline) -> None:
        """Phase (a): every record is answered, or the transaction aborts. Its outcome is known either way."""
        reserve = min(self._rules.abort_timeout, deadline.seconds / 3)
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
        ledger, fault = self.ledger, self.client.fault
        late = tuple(ledger.pending)  # asked first: what fails meanwhile moves from here to the failed
        if fault is not None:
            return self._failed("flush", fault)
        if ledger.failed:
            return self._undelivered(list(ledger.failed))
        if lost := self._in_vain(deadline):
            return self._homeless(lost)
        if late:
            why = f"{self.client.topics.hint(late[0].topic)}{because(self.client, deadline)}"  # both: as in a sender
            name = "timeout_ms" if deadline is self.answered_by else "commit_timeout_ms"
            text = f"{len(late)} of {ledger.records} records had no answer in time ({name} is "
            text += f"{deadline.seconds * 1000:.0f}){why}"
            return self._error(TransactionAbortedError, text)
        return None

    def _homeless(self, lost: list[Delivery]) -> DeliveryError:
        """The error for records that the abort takes back, since their topic isn't there."""
        text = f"{self.terms.pool}: {len(lost)} of {self.ledger.records} records weren't delivered"
        first = f"a record for {lost[0].topic!r} had no answer{self.client.topics.hint(lost[0].topic)}"
        return DeliveryError(f"{text}, transaction {self.id} was aborted; the first: {first}", lost)

    def _undelivered(self, failed: list[Delivery]) -> DeliveryError:
        first, reason = failed[0].exception(0), self.client.reason()
        text = f"{self.terms.pool}: {len(failed)} of {self.ledger.records} records weren't delivered"
        why = f"; {reason}" if reason is not None else ""
        error = DeliveryError(f"{text}, transaction {self.id} was aborted; the first: {first}{why}", failed)
        error.__cause__ = first
        failed[0]._keep_another()  # noqa: SLF001  (this one has become a cause)
        return error

    def _end_transaction(self, deadline: Deadline) -> None:
        """Phase (b): the same call again until it answers. From here on only the answer decides, so never abort."""
        self._outcome = "unknown"
        asked = False
        while not self._answered(deadline, asked=asked):
            asked = True
        if self.client.fault is not None:
            self.retirement = self._retirement("commit", self.client.fault)

    def _answered(self, deadline: Deadline, *, asked: bool) -> bool:
        """One try of the commit; false if the same call must be made again."""
        try:
            if asked:
                self.client.poll(deadline.slice(BREATH))
            self.client.commit(deadline.slice(SLICE))
        except Fault as fault:
            if fault.kind is not Kind.RETRIABLE:
                self._commit_refused(fault, deadline, asked=asked)
            if deadline.passed:
                text = f"no answer within {self._rules.commit_timeout * 1000:.0f} ms{because(self.client, deadline)}"
                raise self._in_doubt(text) from fault
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
            raise self._in_doubt(f"interrupted twice{because(self.client, deadline)}") from interrupt
        self._interrupt = interrupt

    def _commit_refused(self, fault: Fault, deadline: Deadline, *, asked: bool) -> None:
        """The broker's answer was no. Refused and abortable is a known outcome; a fatal one may follow a lost yes."""
        if fault.requires_abort or (fault.kind is Kind.CLOSED and not asked):
            refused = self._failed("commit", fault)
            self.abort(refused, deadline)
            raise refused from fault
        self.retirement = self._retirement("commit", fault)
        error = self._failed("commit", fault) if fault.kind is Kind.FENCED else self._in_doubt(str(fault))
        error.outcome, error.safe_to_retry = "unknown", False
        raise error from fault

    def _in_doubt(self, text: str) -> TransactionError:
        return self._error(
            CommitOutcomeUnknownError,
            f"the outcome is unknown, {text}; its {self.ledger.records} records are all visible or all hidden",
        )

    # -- abort -------------------------------------------------------------------------------------

    def abort(self, cause: BaseException | None, deadline: Deadline | None = None) -> None:
        """Abort; a failure is an event and a note on ``cause``, never its replacement.

        Flush first: an abort soon after a produce turns fatal, since EndTxn may overtake the partition's registration
        (librdkafka#4849). So aborted records do reach the log, and only ``read_committed`` hides them.
        """
        self._end_writing()
        self._outcome = "aborted"
        self.ledger.aborted = True
        self._retire_if_expired()
        deadline = deadline or Deadline(self._rules.abort_timeout)
        if self.client.fault is not None:
            # Not by raising it: it may be the cause of what is being handled, and would become its own.
            self._abort_failed(self.client.fault, cause, deadline)
        else:
            self._try_to_abort(deadline, cause)
        self._emit(TransactionAborted, records=self.ledger.records, duration_ms=self._duration_ms(), cause=cause)

    def _retire_if_expired(self) -> None:
        """An id that the broker forgot is known again only to a new producer; its siblings rested as long."""
        reason = self.client.reason()
        if reason is not None and reason.expired:
            self.retirement = Retirement("transactional.id expired", reason, expired=True)

    def _try_to_abort(self, deadline: Deadline, cause: BaseException | None) -> None:
        try:
            self._drain(Deadline(min(FLUSH_BEFORE_ABORT, deadline.left / 2)), self._all_homeless)
            self._again(self.client.abort, deadline)
            self.client.poll(0)
            self.abort_confirmed = True
        except BaseException as raised:
            self._abort_failed(raised, cause, deadline)
            if not isinstance(raised, WdDiError):  # a signal's, which may be the time limit of a task queue
                raise

    def _all_homeless(self) -> bool:
        """Whether flushing is no use: no partition is registered for what never got one."""
        return all(self.client.topics.missing(delivery.topic) for delivery in tuple(self.ledger.pending))

    def _abort_failed(self, raised: BaseException, cause: BaseException | None, deadline: Deadline) -> None:
        self.retirement = self._retirement("abort", raised)
        why = f"{raised}{because(self.client, deadline, raised)}"
        text = f"{self.terms.pool}: transaction {self.id} couldn't be aborted ({why}); its producer is retired"
        if cause is not None:
            cause.add_note(text)
        if isinstance(cause, TransactionError):
            cause.safe_to_retry = False
        if not (isinstance(cause, TransactionError) and raised is self.client.fault):  # else it is told already
            self._report("abort", raised if isinstance(raised, Exception) else RuntimeError(text))

    # -- offsets -----------------------------------------------------------------------------------

    def send_offsets(self, offsets: Any, group_metadata: Any, timeout_ms: int | None) -> None:
        """Add a consumer group's offsets; the broker's refusal dooms the transaction, whoever swallows it.

        Raises:
            TypeError, ValueError: They can't be sent; nothing was, and the transaction lives on.
        """
        deadline = Deadline.of_ms(timeout_ms, int(self._rules.commit_timeout * 1000))
        self.refuse_if_ended()
        offsets = checked_offsets(offsets)
        self._note_write()
        try:
            self._again(lambda seconds: self._offer_offsets(offsets, group_metadata, seconds), deadline)
        except Fault as fault:
            error = self._offsets_refused(fault)
            self.inner_error = self.inner_error or error
            raise error from fault
        except (TypeError, ValueError):
            self._forget_write()
            raise
        self._offsets_sent = True

    # -- shared steps ------------------------------------------------------------------------------

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
                if fault.kind is not Kind.RETRIABLE or deadline.passed:
                    raise
                self.client.poll(deadline.slice(BREATH))
            else:
                return

    def _offer_offsets(self, offsets: Any, group_metadata: Any, seconds: float) -> None:
        # As a record, they must not slip into the next transaction. But not under the gate: this blocks, and a task
        # that produces meanwhile must not.
        with self._offering:
            self.refuse_if_ended()
            self.client.send_offsets(offsets, group_metadata, seconds)

    def _offsets_refused(self, fault: Fault) -> Exception:
        if fault.kind is Kind.DENIED:
            return AuthorizationError(f"{self.terms.pool}: transaction {self.id}: send_offsets: {fault}")
        return self._failed("send_offsets", fault)

    def _end_writing(self) -> None:
        with self._offering, self.ledger.gate:
            self.ledger.ended = True

    def _close(self, problem: BaseException | None) -> None:
        self.watch = None
        self.end()
        outcome = self._outcome = self._outcome or "aborted"
        if outcome == "unknown":
            self.client.doubtful = True
            self.retirement = self.retirement or Retirement("commit in doubt", problem)
        if self.client.out_of_step:
            self.retirement = self.retirement or Retirement("record refused", problem)
        self._emit(
            TransactionFinished,
            outcome=outcome,
            records=self.ledger.records,
            duration_ms=self._duration_ms(),
            error=problem,
        )

    def let_go(self) -> object:
        """Return what works with it, and forget that."""
        face = self.async_face or self.face
        self.face = self.async_face = None
        return face

    # -- what a sender asks ------------------------------------------------------------------------

    def send(self, topic: str, record: dict[str, Any], deadline: Deadline) -> Delivery:
        """Enqueue one, unless the transaction is over or about to be."""
        self._note_write()
        try:
            return super().send(topic, record, deadline)
        except BaseException:
            self._forget_write()
            raise

    def reports(self, deliveries: list[Delivery]) -> list[DeliveryReport]:
        """Return where the broker stored them, or raise what became of them or of the producer."""
        try:
            return super().reports(deliveries)
        except DeliveryError as error:
            if self.client.fault is None:
                raise
            raise self._failed("produce", self.client.fault) from error  # the record failed because the producer did

    def refused(self, fault: Fault, topic: str) -> Exception:
        """Return the public error of a record that the client didn't take."""
        if self.client.fault is None:
            return super().refused(fault, topic)
        return self._failed("produce", self.client.fault)

    def closed_error(self) -> Exception:
        """Return what is raised when the time is over."""
        return TransactionClosedError(
            f"{self.terms.pool}: transaction {self.id} has ended: {self._outcome or 'ending'}"
        )

    # -- telling -----------------------------------------------------------------------------------

    def run_hooks(self) -> None:
        """Run what waits for the outcome; called when the slot is back and no transaction is current."""
        self.hooks.run_after(self._outcome or "aborted", self._report)

    async def run_hooks_async(self) -> None:
        """Run them on the loop of the task."""
        await self.hooks.run_after_async(self._outcome or "aborted", self._report)

    def _report(self, where: str, error: BaseException) -> None:
        if sys.is_finalizing():  # the pool is closed, and has told what became of it
            return
        log_error(f"{self.terms.pool}.{where}", f"{self.terms.pool}: {where} of transaction {self.id} failed", error)
        self._rules.observer.emit(
            ErrorOccurred, pool=self.terms.pool, index=self.index, where=f"transaction.{where}", error=error
        )

    def _emit(self, event: type[Any], **fields: object) -> None:
        if self._rules.observer.wants(event):
            self._rules.observer.emit(
                event,
                pool=self.terms.pool,
                index=self.index,
                transactional_id=self.client.transactional_id,
                transaction_id=self.id,
                **fields,
            )

    def _failed(self, what: str, fault: Fault) -> TransactionError:
        """The public error of a fault."""
        if fault.kind is Kind.REBALANCED:
            return self._error(RebalancedError, f"{what}: the consumer group has rebalanced: {fault}")
        if fault.kind is Kind.FENCED and self._age() >= self._rules.transaction_timeout:
            return self._too_late(f"the broker aborted it: {fault}")
        if fault.kind is Kind.FENCED:
            return self._error(FencedError, self._fenced_text(what, fault))
        return self._error(TransactionAbortedError, f"{what} failed: {fault}")

    def _fenced_text(self, what: str, fault: Fault) -> str:
        return (
            f"{what}: fenced after {self._age():.1f} s: another producer took over transactional.id "
            f"{self.client.transactional_id!r} of this pool's slot {self.index}. Two owners have the same "
            f"transactional_id or instance in their settings; give each replica its own ({fault})"
        )

    def _too_late(self, text: str) -> TransactionError:
        limit = f"{self._rules.transaction_timeout * 1000:.0f}"
        return self._error(
            TransactionTimedOutError, f"open for {self._age():.1f} s, transaction.timeout.ms is {limit}; {text}"
        )

    def _error(self, kind: type[TransactionError], text: str) -> TransactionError:
        return kind(f"{self.terms.pool}: transaction {self.id}: {text}")

    def _retirement(self, what: str, error: BaseException) -> Retirement:
        fault = self.client.fault or error
        return Retirement(f"{what} failed", error, fenced=isinstance(fault, Fault) and fault.kind is Kind.FENCED)

    # -- the clock ---------------------------------------------------------------------------------

    @property
    def heard(self) -> bool:
        """Whether the coordinator certainly heard of the id, which keeps it from expiring."""
        return self._outcome == "committed" and (self.ledger.records > 0 or self._offsets_sent)

    @property
    def remaining_ms(self) -> int:
        """Milliseconds left to commit in."""
        if self.first_write is None:
            return int(self._rules.transaction_timeout * SOFT_LIMIT * 1000)
        # Rounded up: at 0 the next call is refused.
        return max(0, math.ceil((self._rules.transaction_timeout * SOFT_LIMIT - self._age()) * 1000))

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
        if self.first_write is not None and self._age() > self._rules.transaction_timeout * SOFT_LIMIT:
            error = self._too_late("aborted at 80 % of it, before the broker would fence this producer")
            self.inner_error = self.inner_error or error
            raise error

    def _age(self) -> float:
        """Seconds since the first write, which is when the coordinator's clock starts."""
        return 0.0 if self.first_write is None else time.monotonic() - self.first_write

    def _duration_ms(self) -> float:
        return (time.monotonic() - self._began) * 1000
