"""One transaction from begin to its outcome: the state machine, and what happens at each way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wd_di._kafka.port import Fault
from wd_di._records.connection import Retirement
from wd_di._transactions.ending import Ending
from wd_di._transactions.hooks import Hooks, When
from wd_di._transactions.writing import OUTCOMES, Phase, TransactionPolicy
from wd_di.errors import (
    AbortTransaction,
    CommitOutcomeUnknownError,
    TransactionTimedOutError,
    WdDiError,
)
from wd_di.events import TransactionFinished, TransactionStarted

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._records.connection import Connection
    from wd_di._records.sender import SendPolicy

NOT_TO_END = ("new", "committing", "committed", "aborted")
"""Phases with nothing to commit or abort: an interrupt came before the begin, or right before the close."""


class Lent(Protocol):
    """What a transaction is open on."""

    def transaction_ended(self) -> None:
        """Another one may begin."""


class OpenTransaction(Ending):
    """What one transaction has sent, what is known of its fate, and how it ends.

    Attributes:
        hooks: What is to be done before its commit and after its end, if anything is.
    """

    __slots__ = ("_closed", "_lent", "hooks")

    phase: Phase  # as in Ending
    retirement: Retirement | None

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
        self.hooks: Hooks | None = None
        self._lent = lent
        self._closed = False

    # -- in, and out -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin on the client; local, nothing is sent."""
        try:
            self.client.begin()
            self.phase = "open"
        except Fault as fault:
            raise self.failures.of_fault("begin", fault) from fault

    def tell_begun(self) -> None:
        """Tell of it; if anybody listens, for this is called in each transaction."""
        self._emit(TransactionStarted)

    def not_begun(self, raised: BaseException) -> None:
        """A producer that can't begin is retired."""
        self.retirement = self._retirement("begin failed", raised)
        if self.phase == "new":  # nothing was begun that would have to be aborted
            self.phase = "aborted"

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
                if self.phase in NOT_TO_END:
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

    def tell_outcome(self, raised: BaseException) -> None:
        """Note on what somebody else's code has raised, as a signal's handler, what is known of the outcome."""
        if isinstance(raised, WdDiError):
            return
        outcome = OUTCOMES.get(self.phase, "aborted")
        if outcome != "unknown":
            note = f"{self.policy.pool}: transaction {self.id} was {outcome}"
        elif isinstance(raised.__cause__, CommitOutcomeUnknownError):
            note = str(raised.__cause__)
        else:
            note = str(self.failures.in_doubt("interrupted before the answer came"))
        if note not in getattr(raised, "__notes__", ()):
            raised.add_note(note)

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
            self.commit()
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
        if self.phase == "committing" and not self.client.in_transaction:
            self.phase = "committed"  # a signal came right behind the answer
        elif self.phase not in OUTCOMES:
            self.phase = "aborting"
        outcome = OUTCOMES[self.phase]
        if outcome == "unknown":
            self.connection.doubtful = True
            self.retirement = self.retirement or Retirement("commit in doubt", problem)
        if self.connection.in_flight.out_of_step is not None:
            self.retirement = self.retirement or Retirement(self.connection.in_flight.out_of_step, problem, spent=True)
        if self._sent_twice:
            self.retirement = self.retirement or Retirement("sent twice", problem, spent=True)
        if TransactionFinished in self.connection.heard:
            self._emit(
                TransactionFinished,
                outcome=outcome,
                records=self.ledger.records,
                duration_ms=self._duration_ms(),
                error=problem,
            )

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
        """Run what waits for the outcome, once; called when the slot is back and no transaction is current."""
        hooks, self.hooks = self.hooks, None
        if hooks is not None:
            hooks.run_after(OUTCOMES.get(self.phase, "aborted"), self._report)

    async def run_hooks_async(self) -> None:
        """Run them on the loop of the task."""
        hooks, self.hooks = self.hooks, None
        if hooks is not None:
            await hooks.run_after_async(OUTCOMES.get(self.phase, "aborted"), self._report)

    def leave_to_parent(self) -> None:
        """In a forked child: it is the parent's to end, and to tell of its end."""
        self._closed, self.hooks = True, None

    def forget_hooks(self) -> None:
        """Run none of them: nobody could wait for them any more."""
        self.hooks = None
