"""How a transaction is opened and left, joins another one, and is run again."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
import weakref
from asyncio import _get_running_loop
from functools import partial
from threading import current_thread
from typing import TYPE_CHECKING, NoReturn, TypeVar

from wd_di._borrowing.handles import AsyncProducer, AsyncTransaction, Producer, Transaction, TransactionScope
from wd_di._borrowing.lease import Lease, Opened
from wd_di._borrowing.unopened import open_already
from wd_di._concurrency.caller import caller, refuse_in_trio, refuse_on_loop, refuse_outside_of_a_task
from wd_di._concurrency.tasks import outwaited
from wd_di._transactions.options import DEFAULTS, Attempts, Options
from wd_di._transactions.transaction import OpenTransaction
from wd_di.errors import NotTransactionalError, PropagationError, ScopeError, TransactionError, uncopyable
from wd_di.events import TransactionStarted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from wd_di._borrowing.checkout import Lender
    from wd_di._concurrency.deadline import Deadline
    from wd_di._transactions.options import TransactionOptions

R = TypeVar("R")

_numbers = itertools.count(1)


class TransactionRun(TransactionScope):
    """A transaction of a pool's, or of a producer that is held already.

    Args:
        lender: Who has slots.
        options: Its options.
        lease: The lease that it shall run on.
        keeps: The handle that it was asked of: with the last one that lease ends.
        within: The deadline of a call that is a transaction of its own.
        ambient: Whether nested calls of the same thread or task join it.
        again: Whether this is one of the runs that a retry makes.

    Attributes:
        transaction: The one that was begun, or joined.
    """

    __slots__ = (
        "__weakref__",
        "_again",
        "_ambient",
        "_borrowed",
        "_bound",
        "_handle",
        "_joined",
        "_keeps",
        "_lease",
        "_lender",
        "_open",
        "_within",
        "options",
        "transaction",
    )

    def __init__(
        self,
        lender: Lender,
        options: Options,
        *,
        lease: Lease | None = None,
        keeps: object = None,
        within: Deadline | None = None,
        ambient: bool = True,
        again: bool = False,
    ) -> None:
        self._lender = lender
        self.options: Options = options
        self._bound = lease
        self._keeps = keeps
        self._within = within
        self._ambient = ambient
        self._again = again
        self._open = self._joined = self._borrowed = False
        self._lease: Lease | None = None
        self._handle: Transaction | AsyncTransaction | None = None
        self.transaction: OpenTransaction | None = None

    def begin(self, *, ambient: bool = True) -> TransactionRun:
        """Return another one like it, unopened."""
        return TransactionRun(
            self._lender,
            self.options,
            lease=self._bound,
            keeps=self._keeps,
            within=self._within,
            ambient=ambient,
            again=True,
        )

    @property
    def begun(self) -> OpenTransaction:
        """What is open here, from enter to exit.

        Raises:
            ScopeError: Nothing is.
        """
        if self.transaction is None:
            raise ScopeError(f"{self!r} isn't open")
        return self.transaction

    @property
    def repeatable(self) -> bool:
        """Whether nothing of it can have become visible, nor belongs to a transaction around it."""
        return not self._joined and (self.transaction is None or self.transaction.phase == "aborted")

    def __enter__(self) -> Transaction:
        lender = self._lender
        if "trio.lowlevel" in sys.modules:
            refuse_in_trio(lender.name)
        held = self._look()
        try:
            if held is not None and self._joined:
                return held.handle(Producer, Transaction)  # type: ignore[return-value]  # a transaction is open there
            on_loop = _get_running_loop() is not None
            if on_loop and not lender.policies.sending.allow_blocking_in_loop:
                refuse_on_loop("a transaction", lender.name)
            if held is None:
                greenlet = sys.modules.get("greenlet")  # as in caller(), in place
                apart = on_loop or (greenlet is not None and greenlet.getcurrent().parent is not None)
                held = Lease(lender, caller() if apart else current_thread())
                self._lease, self._borrowed = held, True
                if not lender.take(held, self, self._ambient):
                    lender.wait(held, self.options.timeout_ms, self._ambient)
            else:
                self._lease = held
                if held.over or lender.flaw(held) is not None:
                    lender.exchange(held, self._patience_ms())
            transaction = self._prepare(held)
            handle = self._handle = Transaction(held, None, transaction)
            self._begin(held, transaction, handle)
        except BaseException as error:  # Python leaves only what it has entered
            self._open = False
            self._make_sure(error)
            raise
        return handle

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        transaction, is_open, self._open = self.transaction, self._open, False
        if transaction is None or not is_open:  # Python leaves only what it has entered, and once
            return False
        if self._joined:
            self._mark(transaction, error)
            return False
        try:
            return self._finish(transaction, error, self.options.commit_on)
        except BaseException as raised:
            self._make_sure(raised)
            raise
        finally:
            self._handle = None
            if transaction.hooks is not None:
                transaction.run_hooks()

    async def __aenter__(self) -> AsyncTransaction:
        lender = self._lender
        refuse_outside_of_a_task(lender.name)
        held = self._look()
        try:
            if held is not None and self._joined:
                return held.handle(AsyncProducer, AsyncTransaction)  # type: ignore[return-value]  # as above
            if held is None:
                held = Lease(lender, caller())
                self._lease, self._borrowed = held, True
                if not lender.take(held, self, self._ambient):
                    await lender.wait_async(held, self.options.timeout_ms, self._ambient)
            else:
                self._lease = held
                if held.over or lender.flaw(held) is not None:
                    await lender.exchange_async(held, self._patience_ms())
            transaction = self._prepare(held)
            handle = self._handle = AsyncTransaction(held, None, transaction)
            self._begin(held, transaction, handle)  # local, 0.07 ms: not worth a hop to a worker
        except BaseException as error:  # as above
            if self.transaction is not None and not self._joined and not self.transaction.closed:
                await self.__aexit__(type(error), error, None)
            self._open = False
            self._make_sure(error)
            raise
        return handle

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        transaction, is_open, self._open = self.transaction, self._open, False
        if transaction is None or not is_open:  # Python leaves only what it has entered, and once
            return False
        if self._joined:
            self._mark(transaction, error)
            return False
        try:
            return await self._finish_async(transaction, error)
        except GeneratorExit:  # its loop was closed under it: the job goes on, and nobody could await the hooks
            transaction.forget_hooks()
            raise
        finally:
            self._handle = None
            await transaction.run_hooks_async()

    def __reduce__(self) -> NoReturn:
        instead = "it belongs to its pool. Ask the process's own pool for another"
        raise uncopyable(self, instead, known_as="TransactionScope")

    def __repr__(self) -> str:
        return f"transaction of pool {self._lender.name!r}"

    # -- in ----------------------------------------------------------------------------------------

    def _look(self) -> Lease | None:
        """Join what is open in the caller's context, if that is wanted; else the lease to begin on, if there is one."""
        pool, propagation = self._lender.name, self.options.propagation
        if self.options.retry is not None and not self._again:
            raise ScopeError(f"{self!r} has a retry, which needs a function to call again: pool.run(fn) or @inject")
        if self._open:
            raise open_already(self)
        if not self._lender.policies.sending.transactional:
            raise NotTransactionalError(
                f"{pool}: this pool has no transactional_id, so it has no transactions: set one, for example "
                "'shop-orders-{instance}-{index}'"
            )
        self._joined = self._borrowed = False
        self._lease = self._handle = self.transaction = None
        held = self._bound
        if held is None and self._lender.held:
            held = self._lender.current()
        open_ = held.open_transaction() if held is not None else None
        if open_ is not None and propagation == "never":
            raise PropagationError(f"{pool}: propagation is 'never', and a transaction is open")
        if open_ is None and propagation == "mandatory":
            raise PropagationError(f"{pool}: propagation is 'mandatory', and no transaction is open")
        self._open = True  # from now on, since entering may wait, and others come meanwhile
        if open_ is not None and (propagation == "mandatory" or (propagation == "join" and self._ambient)):
            self._joined, self.transaction = True, open_
            return held
        return held if open_ is None and (self._ambient or self._bound is not None) else None

    def _patience_ms(self) -> int | None:
        """Milliseconds to wait for another producer: the pool's own, and no more than the call has left."""
        if self._within is None:
            return self.options.timeout_ms
        return min(self._lender.policies.settings.timeout_ms, int(self._within.left * 1000))

    def _prepare(self, lease: Lease) -> OpenTransaction:
        """Return what begins on the lease's producer, if that is fit."""
        policies, connection = self._lender.policies, lease.connection
        if lease.over or connection is None:
            raise lease.returned()
        if lease.retirement is not None:
            raise TransactionError(
                f"{self._lender.name}: producer {lease.slot.index} can't begin another transaction "
                f"({lease.retirement.reason}): leave its 'with' block and take a new one"
            )
        self.transaction = OpenTransaction(
            lease,
            connection,
            policies.sending,
            policies.transactions,
            number=next(_numbers),
            owner=lease.owner if self._borrowed else caller(),
        )
        return self.transaction

    def _begin(self, lease: Lease, transaction: OpenTransaction, handle: object) -> None:
        """Begin; from here on nested calls find it, and it ends when nobody can end it any more.

        Under the slot's gate: a checkout that ends in another thread mustn't give back what has just begun.
        """
        try:
            lease.touched = True
            with lease.slot.gate if lease.table is self._lender.table else lease.gate:
                lease.refuse_if_ended()
                transaction.begin()
            if self._borrowed:
                ref = lease.ref = weakref.ref(handle, lease.abandoned)
            else:
                ref = weakref.ref(handle, lease.transaction_abandoned)
            lease.opened = Opened(transaction, self, ref, bound=not self._borrowed)
            if TransactionStarted in transaction.connection.heard:
                transaction.tell_begun()
        except BaseException as raised:
            transaction.not_begun(raised)
            self._make_sure(raised)
            transaction.run_hooks()
            raise

    # -- out ---------------------------------------------------------------------------------------

    def _mark(self, transaction: OpenTransaction, error: BaseException | None) -> None:
        """An exception that crosses an inner boundary dooms the whole: half of it must not be committed."""
        if error is not None and not isinstance(error, self.options.commit_on):
            transaction.doom(error)

    async def _finish_async(self, transaction: OpenTransaction, error: BaseException | None) -> bool:
        jobs, hooked = self._lender.jobs, None
        if error is None or isinstance(error, self.options.commit_on):
            hooked = await transaction.before_commit_async()
        # The job gives the slot back itself: the loop may be closed by then.
        if hooked is not None:
            await outwaited(jobs, lambda: self._finish(transaction, hooked, ()))
            raise hooked
        finish = partial(self._finish, transaction, error, self.options.commit_on)
        try:
            return await outwaited(jobs, finish, on_cancel=transaction.give_up)
        except asyncio.CancelledError as cancelled:
            transaction.tell_outcome(cancelled)
            raise

    def _finish(
        self, transaction: OpenTransaction, error: BaseException | None, commit_on: tuple[type[Exception], ...]
    ) -> bool:
        try:
            swallowed = transaction.finish(error, commit_on)
            self._give_back(transaction)
        except BaseException as raised:
            self._make_sure(raised)
            raise
        return swallowed

    def _give_back(self, transaction: OpenTransaction | None) -> None:
        """Give the slot back, if it was borrowed for this transaction.

        Harmless when it is back: after a signal's exception it is done again.
        """
        lease = self._lease
        if lease is None:
            return
        if transaction is not None:
            lease.retirement = lease.retirement or transaction.retirement
            if transaction.heard and lease.table is self._lender.table:
                lease.table.heard_of(lease.slot)
        if not self._borrowed:
            lease.end_if_over()
        elif lease.connection is not None:
            self._lender.give_back(lease)

    def _make_sure(self, error: BaseException) -> None:
        """End what has begun; harmless when it has ended, for a signal's exception may come between any two steps."""
        if self._joined:
            return
        transaction = self.transaction
        try:
            if transaction is not None:
                transaction.finish(error, ())
                transaction.tell_outcome(error)
        finally:
            self._give_back(transaction)


def begin_on(
    lender: Lender, lease: Lease, handle: object, within: Deadline | None, options: TransactionOptions
) -> TransactionRun:
    """Return a transaction to come on a lease."""
    return TransactionRun(lender, Options(**options) if options else DEFAULTS, lease=lease, keeps=handle, within=within)


def run(scope: TransactionScope, fn: Callable[[Transaction], R]) -> R | None:
    """Call ``fn(tx)`` inside the scope, again if the scope's retry says so; ``None`` if it was aborted by signal."""
    attempts = Attempts(scope.options.retry)
    while True:
        attempt = scope.begin()
        try:
            with attempt as tx:
                return fn(tx)
        except Exception as error:  # noqa: BLE001  (it is raised, if there is no next run)
            pause = attempts.failed(error, repeatable=attempt.repeatable)
        else:
            return None
        time.sleep(pause)


async def run_async(scope: TransactionScope, fn: Callable[[AsyncTransaction], Awaitable[R]]) -> R | None:
    """Await ``fn(tx)`` inside the scope, as :func:`run` calls it."""
    refuse_outside_of_a_task(repr(scope))
    attempts = Attempts(scope.options.retry)
    while True:
        attempt = scope.begin()
        try:
            async with attempt as tx:
                return await fn(tx)
        except Exception as error:  # noqa: BLE001  (as above)
            pause = attempts.failed(error, repeatable=attempt.repeatable)
        else:
            return None
        await asyncio.sleep(pause)
