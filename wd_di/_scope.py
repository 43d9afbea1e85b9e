"""How a transaction is opened and left: recipes, propagation, and giving the slot back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict, cast, get_args

from wd_di._async_transaction import AsyncTransaction
from wd_di._checkout import owner
from wd_di._loop import outwaited, refuse_in_trio, refuse_outside_of_a_task
from wd_di._recipe import Recipe
from wd_di._retry import Retry, exception_classes
from wd_di._sender import refuse_on_loop
from wd_di._threads import check_timeout
from wd_di._transaction import Transaction
from wd_di._unit import Unit
from wd_di._watch import watch
from wd_di.errors import AbortTransaction, NotTransactionalError, PropagationError, ScopeError, TransactionError

if TYPE_CHECKING:
    from types import TracebackType

    from wd_di._checkout import Desk, Hold
    from wd_di._recipe import Scope
    from wd_di._threads import Deadline
    from wd_di._unit import Rules

Propagation = Literal["join", "new", "mandatory", "never"]


class TransactionOptions(TypedDict, total=False):
    """The options of ``ProducerPool.transaction`` and ``PoolResource.transaction_with``."""

    timeout_ms: int | None
    propagation: Propagation
    commit_on: tuple[type[Exception], ...]
    retry: Retry | None


@dataclass(frozen=True, slots=True)
class Options:
    """A scope's options, checked when the recipe is made."""

    timeout_ms: int | None = None
    propagation: Propagation = "join"
    commit_on: tuple[type[Exception], ...] = ()
    retry: Retry | None = None

    def __post_init__(self) -> None:
        check_timeout(self.timeout_ms, 0)
        if self.propagation not in get_args(Propagation):
            raise ValueError(f"propagation is one of {', '.join(get_args(Propagation))}, not {self.propagation!r}")
        exception_classes("commit_on", self.commit_on)
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"retry is a wd_di.Retry, not {type(self.retry).__name__}")


class TransactionScope(Recipe[Transaction, AsyncTransaction]):
    """A transaction to come: ``with pool.transaction() as tx``. Returned: committed. Raised: aborted."""

    __slots__ = ("_bound", "_desk", "_rules", "keeps", "options", "within")

    def __init__(self, desk: Desk, rules: Rules, options: Options, bound: Hold | None = None) -> None:
        super().__init__()
        self.keeps: object = None  # the handle it was asked of: with its last one a claim ends
        self.within: Deadline | None = None  # of a call that is a transaction of its own
        self._desk = desk
        self._rules = rules
        self._bound = bound
        self.options: Options = options

    def begin(self, *, ambient: bool = True) -> Run:
        """Return a fresh scope."""
        return Run(self._desk, self._rules, self.options, self._bound, ambient=ambient, within=self.within)

    def _fresh(self) -> Scope[Transaction, AsyncTransaction]:
        if self.options.retry is not None:
            raise ScopeError(f"{self!r} has a retry, which needs a function to call again: pool.run(fn) or @inject")
        return super()._fresh()

    def __repr__(self) -> str:
        return f"transaction of pool {self._desk.keeper.name!r}"


class Run:
    """One run of a scope, from enter to exit."""

    __slots__ = (
        "__weakref__",
        "_ambient",
        "_borrower",
        "_bound",
        "_desk",
        "_hold",
        "_joined",
        "_options",
        "_rules",
        "_within",
        "unit",
    )

    def __init__(
        self,
        desk: Desk,
        rules: Rules,
        options: Options,
        bound: Hold | None,
        *,
        ambient: bool,
        within: Deadline | None = None,
    ) -> None:
        self._desk = desk
        self._rules = rules
        self._options = options
        self._bound = bound
        self._ambient = ambient
        self._within = within
        self._hold: Hold | None = None
        self._borrower: Desk | None = None
        self._joined = False
        self.unit: Unit | None = None

    @property
    def outermost(self) -> bool:
        """Whether this run began the transaction instead of joining one."""
        return not self._joined

    def __enter__(self) -> Transaction:
        refuse_in_trio(self._rules.terms.pool)
        held = self._look()
        try:
            if not self._joined:
                refuse_on_loop("a transaction", self._rules.terms)
                held = self._hold = self._taken(held)
                self._begin(held)
            return cast("Transaction", self._current(held).handle())
        except BaseException as error:  # Python leaves only what it has entered
            _make_sure(self._hold, self.unit, self._borrower, error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        unit = self.unit
        assert unit is not None  # noqa: S101  (Python leaves only what it has entered)
        if self._joined:
            self._mark(unit, error)
            return False
        try:
            return self._finish(unit, error, self._options.commit_on)
        except BaseException as raised:
            _make_sure(self._hold, unit, self._borrower, raised)
            raise
        finally:
            unit.run_hooks()

    async def __aenter__(self) -> AsyncTransaction:
        refuse_outside_of_a_task(self._rules.terms.pool)
        held = self._look()
        try:
            if not self._joined:
                held = self._hold = await self._taken_async(held)
                self._begin(held)  # local, 0.07 ms: not worth a hop to a worker
            return cast("AsyncTransaction", self._current(held).async_handle())
        except BaseException as error:  # as above
            if self._hold is not None and self.unit is not None and self._hold.unit is self.unit:
                await self.__aexit__(type(error), error, None)
            _make_sure(self._hold, self.unit, self._borrower, error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        unit = self.unit
        assert unit is not None  # noqa: S101  (as above)
        if self._joined:
            self._mark(unit, error)
            return False
        try:
            return await self._finish_async(unit, error)
        except GeneratorExit:  # its loop was closed under it: the job goes on, and nobody could await the hooks
            unit.hooks.forget()
            raise
        finally:
            await unit.run_hooks_async()

    # -- in ----------------------------------------------------------------------------------------

    def _look(self) -> Hold | None:
        """Join what is open in the caller's context, if that is wanted; else the claim to begin on, if there is one."""
        self._refuse_plain()
        held = self._bound or self._desk.current()
        open_ = held.open_unit() if held is not None else None
        if open_ is not None and self._joins():
            self._joined, self.unit = True, open_
            return held
        if self._options.propagation == "mandatory":
            raise PropagationError(f"{self._rules.terms.pool}: propagation is 'mandatory', and no transaction is open")
        return held if open_ is None and (self._ambient or self._bound) else None

    def _refuse_plain(self) -> None:
        terms = self._rules.terms
        if not terms.transactional:
            raise NotTransactionalError(
                f"{terms.pool}: this pool has no transactional_id, so it has no transactions: set one, for example "
                "'shop-orders-{instance}-{index}'"
            )

    def _joins(self) -> bool:
        """Whether an open transaction of the caller is to be used.

        Raises:
            PropagationError: It must not be there.
        """
        if self._options.propagation == "never":
            raise PropagationError(f"{self._rules.terms.pool}: propagation is 'never', and a transaction is open")
        return self._options.propagation == "mandatory" or (self._options.propagation == "join" and self._ambient)

    def _begin(self, hold: Hold) -> None:
        unit = None
        try:
            self._refuse_unfit(hold)
            unit = Unit(hold, self._rules, next(_numbers), owner())
            unit.begin()
            self.unit = unit
            unit.watch = hold.watch
            if self._borrower is None:
                unit.watch = watch(self, unit.let_go, partial(hold.end_unit, unit), hold)
        except BaseException as error:
            _make_sure(hold, unit, self._borrower, error)
            if unit is not None:
                unit.run_hooks()
            raise

    def _taken(self, held: Hold | None) -> Hold:
        """The claim to begin on: a new one, or the one at hand, with another producer if the broker forgot its id."""
        if held is None:
            return self._borrow()
        if self._desk.flaw(held) is not None:
            self._desk.exchange(held, self._patience_ms())
        return held

    async def _taken_async(self, held: Hold | None) -> Hold:
        if held is None:
            return await self._borrow_async()
        if self._desk.flaw(held) is not None:
            await self._desk.exchange_async(held, self._patience_ms())
        return held

    def _patience_ms(self) -> int | None:
        """Milliseconds to wait for another producer: the pool's own, and no more than the call has left."""
        if self._within is None:
            return self._options.timeout_ms
        return min(self._desk.keeper.settings.timeout_ms, int(self._within.left * 1000))

    def _borrow(self) -> Hold:
        hold = self._desk.borrow(self._options.timeout_ms, ambient=self._ambient, scope=self)
        self._borrower = self._desk
        return hold

    async def _borrow_async(self) -> Hold:
        hold = await self._desk.borrow_async(self._options.timeout_ms, ambient=self._ambient, scope=self)
        self._borrower = self._desk
        return hold

    @staticmethod
    def _current(hold: Hold | None) -> Hold:
        assert hold is not None  # noqa: S101  (joined or borrowed)
        return hold

    def _refuse_unfit(self, hold: Hold) -> None:
        hold.sender.refuse_if_ended()
        if hold.retirement is not None:
            raise TransactionError(
                f"{self._rules.terms.pool}: producer {hold.slot.index} can't begin another transaction "
                f"({hold.retirement.reason}): leave its 'with' block and take a new one"
            )

    # -- out ---------------------------------------------------------------------------------------

    def _mark(self, unit: Unit, error: BaseException | None) -> None:
        """An exception that crosses an inner boundary dooms the whole: half of it must not be committed."""
        if error is None or isinstance(error, self._options.commit_on):
            return
        if isinstance(error, AbortTransaction):
            unit.abort_only = True
        elif unit.inner_error is None:
            unit.inner_error = error

    async def _finish_async(self, unit: Unit, error: BaseException | None) -> bool:
        jobs, hooked = self._rules.terms.jobs, None
        if error is None or isinstance(error, self._options.commit_on):
            hooked = await unit.before_commit_async()
        # The job gives the slot back itself: the loop may be closed by then.
        if hooked is None:
            return await outwaited(jobs, lambda: self._finish(unit, error, self._options.commit_on))
        await outwaited(jobs, lambda: self._finish(unit, hooked, ()))
        raise hooked

    def _finish(self, unit: Unit, error: BaseException | None, commit_on: tuple[type[Exception], ...]) -> bool:
        try:
            swallowed = unit.finish(error, commit_on)
            _leave(self._hold, unit, self._borrower)
        except BaseException as raised:
            _make_sure(self._hold, unit, self._borrower, raised)
            raise
        return swallowed


def _leave(hold: Hold | None, unit: Unit | None, borrower: Desk | None) -> None:
    """Give the slot back to where it was borrowed for this transaction, if it was; harmless when it is back."""
    assert hold is not None  # noqa: S101  (borrowed or bound)
    if unit is not None:
        hold.retirement = hold.retirement or unit.retirement
        if unit.heard:
            hold.core.heard_of(hold.slot)
    if borrower is not None:
        borrower.give_back(hold)
    else:
        hold.end_if_over()


def _make_sure(hold: Hold | None, unit: Unit | None, borrower: Desk | None, error: BaseException) -> None:
    """End what has begun; harmless when it has ended, for an exception of a signal's may come between any two steps."""
    if hold is None:
        return
    try:
        if unit is not None:
            unit.finish(error, ())
    finally:
        _leave(hold, unit, borrower)


_numbers = itertools.count(1)
