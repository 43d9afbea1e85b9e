"""How a transaction is opened and left: recipes, propagation, and giving the slot back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from wd_di._checkout import owner
from wd_di._recipe import Recipe
from wd_di._sender import refuse_on_loop
from wd_di._threads import check_timeout
from wd_di._transaction import Transaction
from wd_di._unit import Unit
from wd_di.errors import AbortTransaction, NotTransactionalError, PropagationError, ScopeError, TransactionError

if TYPE_CHECKING:
    from types import TracebackType

    from wd_di._checkout import Desk, Hold
    from wd_di._retry import Retry
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
        for kind in self.commit_on if isinstance(self.commit_on, tuple) else (self.commit_on,):
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise TypeError(f"commit_on is a tuple of Exception classes, not {kind!r}")


class TransactionScope(Recipe[Transaction]):
    """A transaction to come: ``with pool.transaction() as tx``. Returned: committed. Raised: aborted."""

    __slots__ = ("_bound", "_desk", "_rules", "options")

    def __init__(self, desk: Desk, rules: Rules, options: Options, bound: Hold | None = None) -> None:
        super().__init__()
        self._desk = desk
        self._rules = rules
        self._bound = bound
        self.options: Options = options

    def begin(self, *, ambient: bool = True) -> Run:
        """Return a fresh scope."""
        return Run(self._desk, self._rules, self.options, self._bound, ambient=ambient)

    def __enter__(self) -> Transaction:
        if self.options.retry is not None:
            raise ScopeError(f"{self!r} has a retry, which needs a function to call again: pool.run(fn) or @inject")
        return super().__enter__()

    def __repr__(self) -> str:
        return f"transaction of pool {self._desk.keeper.name!r}"


class Run:
    """One run of a scope, from enter to exit."""

    __slots__ = ("_ambient", "_borrowed", "_bound", "_desk", "_hold", "_joined", "_options", "_rules", "unit")

    def __init__(self, desk: Desk, rules: Rules, options: Options, bound: Hold | None, *, ambient: bool) -> None:
        self._desk = desk
        self._rules = rules
        self._options = options
        self._bound = bound
        self._ambient = ambient
        self._hold: Hold | None = None
        self._borrowed = False
        self._joined = False
        self.unit: Unit | None = None

    @property
    def outermost(self) -> bool:
        """Whether this run began the transaction instead of joining one."""
        return not self._joined

    def __enter__(self) -> Transaction:
        refuse_on_loop("a transaction", self._rules.terms)
        self._refuse_plain()
        held = self._bound or self._desk.current()
        open_ = self._open_on(held)
        if open_ is not None and self._joins():
            self._joined = True
            self.unit = open_
        else:
            self.unit = self._begin(held if open_ is None and (self._ambient or self._bound) else None)
        return self._face(self.unit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        unit = self.unit
        assert unit is not None  # noqa: S101  (it was entered)
        if self._joined:
            self._mark(unit, error)
            return False
        try:
            return unit.finish(error, self._options.commit_on)
        finally:
            self._leave(unit)

    # -- in ----------------------------------------------------------------------------------------

    def _refuse_plain(self) -> None:
        terms = self._rules.terms
        if not terms.transactional:
            raise NotTransactionalError(f"{terms.pool}: this pool has no transactional_id, so it has no transactions")

    def _open_on(self, held: Hold | None) -> Unit | None:
        open_ = held.unit if held is not None else None
        if open_ is not None and open_.owner is not owner():
            raise ScopeError(f"{self._rules.terms.pool}: transaction {open_.id} is open in another thread or task")
        return open_

    def _joins(self) -> bool:
        """Whether an open transaction of the caller is to be used.

        Raises:
            PropagationError: It must not be there.
        """
        if self._options.propagation == "never":
            raise PropagationError(f"{self._rules.terms.pool}: propagation is 'never', and a transaction is open")
        return self._options.propagation == "mandatory" or (self._options.propagation == "join" and self._ambient)

    def _begin(self, held: Hold | None) -> Unit:
        if self._options.propagation == "mandatory":
            raise PropagationError(f"{self._rules.terms.pool}: propagation is 'mandatory', and no transaction is open")
        hold = self._hold = held or self._borrow()
        hold.sender.refuse_if_ended()
        if hold.retirement is not None:
            raise self._retired(hold)
        unit = Unit(hold, self._rules, next(_numbers), owner())
        try:
            unit.face = Transaction(hold, unit)
            unit.begin()
        except BaseException:
            self._leave(unit)
            raise
        return unit

    @staticmethod
    def _face(unit: Unit) -> Transaction:
        assert unit.face is not None  # noqa: S101  (it was given at the begin)
        return unit.face

    def _borrow(self) -> Hold:
        self._borrowed = True
        return self._desk.borrow(self._options.timeout_ms, ambient=self._ambient)

    def _retired(self, hold: Hold) -> TransactionError:
        reason = hold.retirement.reason if hold.retirement is not None else ""
        return TransactionError(
            f"{self._rules.terms.pool}: producer {hold.slot.index} can't begin another transaction ({reason}): "
            "leave its 'with' block and take a new one"
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

    def _leave(self, unit: Unit) -> None:
        hold = self._hold
        assert hold is not None  # noqa: S101  (there is a transaction)
        hold.retirement = hold.retirement or unit.retirement
        if self._borrowed:
            self._desk.give_back(hold)
        unit.run_hooks()


_numbers = itertools.count(1)
